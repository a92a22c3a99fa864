"""Inspection: what groups, topics and the catalogue tell."""

from __future__ import annotations

import asyncio

from pydantic import JsonValue

from contracts.bus import CatalogEntry, EventBus
from contracts.metrics import HistogramPoint
from contracts.tracing import TRACING

from .backend import needs
from .order import soon
from .probe import Gate, fail_if
from .rig import Rig
from .suite import Suite


def _points(bus: EventBus, name: str) -> dict[tuple[str, ...], float]:
    """Of one metric: what is counted for which operation, topic, group and error."""
    names = (
        "messaging.operation.name", "messaging.destination.name", "messaging.consumer.group.name",
        "plugbus.outcome", "error.type",
    )  # fmt: skip
    [metric] = [metric for metric in bus.metrics() if metric.name == name]
    found = dict[tuple[str, ...], float]()
    for point in metric.points:
        told = [(name, str(point.attributes[name])) for name in names if name in point.attributes]
        key = tuple(text.rpartition(".")[2] if name == "error.type" else text for name, text in told)
        found[key] = point.count if isinstance(point, HistogramPoint) else point.value
    return found


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

    async def test_what_was_sent_and_handled_is_measured_while_flows_are_traced(self, rig: Rig) -> None:
        """By the messaging conventions, for each replica by itself; what fails is told apart by its error."""
        bus, other = await rig.open("a"), await rig.open("b")
        probe = await rig.on(
            bus, lambda n, attempt: fail_if(n == 1 and attempt == 1),
            retry=soon(rig, first_delay=rig.tick, attempts=2),
        )  # fmt: skip
        await rig.publish(bus, 0)
        await rig.until(lambda: probe.done == [0])
        assert _points(bus, "messaging.client.sent.messages") == {}
        TRACING.turn_on()
        try:
            await rig.publish(bus, 1, 2)
            await rig.publish(other, 3)
            await rig.until(lambda: sorted(probe.done) == [0, 1, 2, 3])
        finally:
            TRACING.turn_off()
        sent = {("publish", "orders"): 2}
        assert _points(bus, "messaging.client.sent.messages") == sent
        assert _points(bus, "messaging.client.operation.duration") == sent
        assert _points(other, "messaging.client.sent.messages") == {("publish", "orders"): 1}
        handled = {
            ("process", "orders", "shop.handle"): 3,
            ("process", "orders", "shop.handle", "ValueError"): 1,
        }
        assert _points(bus, "messaging.client.consumed.messages") == handled
        assert _points(bus, "messaging.process.duration") == handled
        assert _points(bus, "plugbus.attempts.failed") == {("shop.handle", "retry"): 1}
        assert _points(other, "messaging.process.duration") == {}

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

    async def test_all_replicas_see_the_types_of_each(self, rig: Rig) -> None:
        """One that came before, and one that comes later; each entry tells who declares it."""
        one, other = await rig.open("one"), await rig.open("other")
        schema: dict[str, JsonValue] = {"type": "object", "description": "ünïcode"}
        entry = CatalogEntry(type="orders.item", version=2, plugin_id="shop", json_schema=schema)
        remove = one.add_types([entry])
        assert _declared(one) == [("orders.item", 2, "shop", ("one",))]
        await rig.until(lambda: _declared(other) == _declared(one))
        [seen] = other.types()
        assert seen == entry.model_copy(update={"replicas": ("one",)})
        later = await rig.open("later")
        await rig.until(lambda: _declared(later) == _declared(one))
        remove_other = other.add_types([entry])
        await rig.until(lambda: all(_where(bus) == [("one", "other")] for bus in (one, other, later)))
        remove()
        await rig.until(lambda: all(_where(bus) == [("other",)] for bus in (one, other, later)))
        remove_other()
        await rig.until(lambda: not any(bus.types() for bus in (one, other, later)))

    async def test_types_outlive_the_replica_that_vanishes(self, rig: Rig) -> None:
        """Until somebody declares types of the same plugin: then what it says now is all."""
        one, other = await rig.open("one"), await rig.open("other")
        one.add_types([CatalogEntry(type="orders.item", version=n, plugin_id="shop") for n in (1, 2)])
        one.add_types([CatalogEntry(type="bills.item", version=1, plugin_id="bills")])
        left = [("bills.item", 1, "bills", ("one",))]
        left += [("orders.item", n, "shop", ("one",)) for n in (1, 2)]
        await rig.until(lambda: _declared(other) == left)
        await rig.crash(one)

        async def is_alone() -> bool:
            return (await other.info()).replicas == ("other",)

        await rig.until(is_alone)
        later = await rig.open("later")
        await rig.until(lambda: _declared(later) == _declared(other) == left)
        other.add_types([CatalogEntry(type="orders.item", version=2, plugin_id="shop")])
        left[1:] = [("orders.item", 2, "shop", ("other",))]
        await rig.until(lambda: _declared(later) == _declared(other) == left)

    async def test_types_that_are_taken_out_before_the_end_are_gone(self, rig: Rig) -> None:
        """Closing right behind it forgets nothing of it; what is not taken out stays."""
        one, other = await rig.open("one"), await rig.open("other")
        one.add_types([CatalogEntry(type="bills.item", version=1, plugin_id="bills")])
        remove = one.add_types([CatalogEntry(type="orders.item", version=1, plugin_id="shop")])
        await rig.until(lambda: len(other.types()) == 2)
        remove()
        await rig.close(one)
        await rig.until(lambda: _declared(other) == [("bills.item", 1, "bills", ("one",))])


def _declared(bus: EventBus) -> list[tuple[str, int, str, tuple[str, ...]]]:
    return [(one.type, one.version, one.plugin_id, one.replicas) for one in bus.types()]


def _where(bus: EventBus) -> list[tuple[str, ...]]:
    return [one.replicas for one in bus.types()]
