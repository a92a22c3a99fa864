"""Inspection: what groups, topics and the catalogue tell."""

from __future__ import annotations

import asyncio

from contracts.bus import CatalogEntry

from .backend import needs
from .order import soon
from .probe import Gate, fail_if
from .rig import Rig
from .suite import Suite


class Inspection(Suite):
    """The numbers add up."""

    async def test_groups_tell_their_state(self, rig: Rig) -> None:
        """Waiting, in flight, parked, dead, handled, failed, peak, age: all add up."""

        def act(n: int, attempt: int) -> object:
            fail_if(n in (1, 2))
            return gate(n) if n == 3 else None

        bus, gate = await rig.open(), Gate()
        probe = await rig.on(bus, act, retry=soon(rig, first_delay=60, attempts=2))
        await rig.publish(bus, 0, key="a")
        await rig.publish(bus, 1, key="b")
        await rig.publish(bus, 3, 4, 5, key="c")
        await rig.until(lambda: gate.waiting and (1, 1) in probe.starts)
        info = await rig.info(bus)
        assert (info.group, info.plugin_id, info.patterns) == ("shop.handle", "shop", ("orders.**",))
        assert (info.handled, info.failed, info.parked, info.dead) == (1, 1, 1, 0)
        assert info.waiting + info.in_flight == 3
        assert info.peak >= 1
        assert info.oldest_age is not None
        assert 0 <= info.oldest_age < 60
        assert info.owners == {"a": 1}
        gate.open()
        await rig.until(lambda: len(probe.done) == 4)
        info = await rig.info(bus)
        assert (info.handled, info.waiting, info.in_flight) == (4, 0, 0)
        assert info.rate > 0

    async def test_ages_and_rates_are_in_seconds(self, rig: Rig) -> None:
        """Of the oldest that is kept, and of the oldest without an outcome; events taken per second."""
        bus, gap = await rig.open(), 2 * rig.tick
        probe = await rig.on(bus, lambda n, attempt: fail_if(n == 5), retry=soon(rig, first_delay=3_600))
        begins = [rig.now()]
        for n in range(40):
            await rig.publish(bus, n)
            begins.append(rig.now())
            await asyncio.sleep(gap)
        await rig.until(lambda: len(probe.starts) == 40)
        before = rig.now()
        info = await rig.info(bus)
        [topic] = [topic for topic in await bus.topics() if topic.topic == "orders"]
        passed = (rig.now() - begins[0]).total_seconds()
        for age, n in ((info.oldest_age, 5), (topic.oldest_age, 0)):
            assert age is not None
            least, most = (before - begins[n + 1]).total_seconds(), (rig.now() - begins[n]).total_seconds()
            assert least - 0.01 <= age <= most + 0.01
        for rate in (info.rate, topic.rate):
            assert 20 / passed <= rate <= 80 / passed

    async def test_topics_tell_their_state(self, rig: Rig) -> None:
        """Partitions, events kept, published, limit, age."""
        bus = await rig.open()
        await rig.on(bus)
        await rig.publish(bus, *range(10))
        await rig.publish(bus, 1, type="bills.item")
        await rig.quiet(bus)
        await rig.pause(1)
        topics = {topic.topic: topic for topic in await bus.topics()}
        assert [topic.topic for topic in await bus.topics()] == sorted(topics)
        orders = topics["orders"]
        assert (orders.partitions, orders.events, orders.published) == (1, 10, 10)
        assert (orders.limit, orders.peak) == (rig.backend.limits.limit, 10)
        assert orders.holder is None
        assert orders.oldest_age is not None
        assert orders.rate > 0

    async def test_the_bus_tells_what_it_is(self, rig: Rig) -> None:
        """All replicas of a connected backend, its own among them; as durable as it is persistent."""
        one, other = await rig.open("one"), await rig.open("other")
        assert [(await bus.info()).replicas for bus in (one, other)] == [("one", "other")] * 2
        info = await one.info()
        assert info.connected
        assert info.backend
        assert info.address
        assert (info.durability != "none") == one.features.persistent
        await other.close()
        assert (await one.info()).replicas == ("one",)
        assert not (await other.info()).connected

    @needs(partitions={"orders": 3})
    async def test_partitions_are_recorded_for_each_topic(self, rig: Rig) -> None:
        """As the limits say by name; others, and the reserved ones, have one."""
        bus = await rig.open()
        probe = await rig.on(bus, None, "**", concurrency=3)
        for n in range(30):
            await rig.publish(bus, n, key=f"k{n % 5}")
        await rig.publish(bus, 1, type="bills.item")
        await rig.quiet(bus)
        found = {topic.topic: topic.partitions for topic in await bus.topics()}
        assert (found["orders"], found["bills"]) == (3, 1)
        assert len(probe.starts) == 31
        rig.judge()

    async def test_the_catalogue_lists_types_until_they_are_taken_out(self, rig: Rig) -> None:
        """One entry for each plugin that declares a type; by type and version; removal is safe twice."""
        bus = await rig.open()

        def entry(plugin: str, version: int) -> CatalogEntry:
            return CatalogEntry(type="orders.item", version=version, plugin_id=plugin)

        remove = bus.add_types([entry("shop", 2), entry("shop", 1)])
        keep = bus.add_types([entry("mail", 1)])
        listed = [(one.version, one.plugin_id) for one in bus.types()]
        assert sorted(listed) == [(1, "mail"), (1, "shop"), (2, "shop")]
        assert [version for version, _ in listed] == [1, 1, 2]
        remove()
        remove()
        assert [one.plugin_id for one in bus.types()] == ["mail"]
        keep()
        assert bus.types() == []
