"""Broadcast: every replica handles every event, and holds nothing back."""

from __future__ import annotations

from contracts.bus import EventBus
from contracts.event import EventResult
from contracts.messages.delivery import (
    DeadLettered,
    GapFound,
)

from .backend import needs
from .order import soon
from .probe import Gate, fail_if
from .rig import Rig
from .suite import Suite


class Broadcast(Suite):
    """Each replica has a group of its own that ends with its subscription."""

    async def test_broadcast_reaches_every_replica_from_now_on(self, rig: Rig) -> None:
        """Each replica handles every event once, from its subscribing on; no place is kept when it ends."""
        a, b = await rig.open("a"), await rig.open("b")
        await rig.publish(a, 0)
        first = await rig.on(a, broadcast=True)
        second = await rig.on(b, broadcast=True)
        await rig.publish(a, 1, 2, key="k")
        await rig.until(lambda: len(first.done) == len(second.done) == 2)
        states = {info.group: info.state for info in await a.groups()}
        assert states == {"shop.handle@a": "ephemeral", "shop.handle@b": "ephemeral"}
        await first.subscription.remove()
        await rig.publish(a, 3)
        again = await rig.on(a, broadcast=True)
        await rig.publish(a, 4)
        await rig.until(lambda: again.done and len(second.done) == 4)
        assert (first.numbers, second.numbers, again.numbers) == ([1, 2], [1, 2, 3, 4], [4])

    async def test_broadcast_retries_on_its_own_replica(self, rig: Rig) -> None:
        """A failure on one replica repeats nothing on the other."""
        a, b = await rig.open("a"), await rig.open("b")

        def act(n: int, attempt: int) -> None:
            fail_if(attempt == 1)

        first = await rig.on(a, act, broadcast=True, retry=soon(rig))
        second = await rig.on(b, broadcast=True)
        await rig.publish(a, 1)
        await rig.until(lambda: first.done and second.done)
        assert (first.starts, second.starts) == ([(1, 1), (1, 2)], [(1, 1)])

    @needs(lease=1.0)
    async def test_a_broadcast_group_ends_with_its_replica(self, rig: Rig) -> None:
        """When the replica has crashed its group is gone; one of that name begins anew."""
        a, b = await rig.open("a"), await rig.open("b")
        await rig.on(a, broadcast=True)
        second = await rig.on(b, broadcast=True)
        assert [info.group for info in await b.groups()] == ["shop.handle@a", "shop.handle@b"]
        await rig.crash(a)

        async def is_gone() -> bool:
            return [info.group for info in await b.groups()] == ["shop.handle@b"]

        await rig.until(is_gone)
        await rig.publish(b, 1)
        again = await rig.on(await rig.open("a"), broadcast=True)
        await rig.publish(b, 2)
        await rig.until(lambda: len(second.done) == 2 and again.done)
        assert again.numbers == [2]

    async def test_failures_of_those_who_read_the_bus_s_own_events_are_not_announced(self, rig: Rig) -> None:
        """Else each announcement would cause the next, for ever."""
        bus = await rig.open()
        await rig.on(
            bus, lambda n, attempt: fail_if(True), "bus.**", group="mail.alarm", retry=soon(rig, attempts=1)
        )
        await rig.on(bus, lambda n, attempt: fail_if(True), retry=soon(rig, attempts=1))
        news = rig.listen(bus)
        await rig.publish(bus, 1)
        await rig.until(lambda: _is_dead(rig, bus, "mail.alarm"))
        await rig.pause()
        await rig.quiet(bus)
        assert [told.group for told in news.of(DeadLettered)] == ["shop.handle"]
        assert (await rig.info(bus, "mail.alarm")).dead == 1

    @needs(announcements=5, limit=20, retain=0, retain_seconds=0, young_seconds=0)
    async def test_nobody_waits_for_announcements(self, rig: Rig) -> None:
        """With the topic `bus` full, work goes on; so many wait, and the others are dropped."""
        bus, gate = await rig.open(), Gate()
        told = await rig.on(bus, gate, "bus.*", group="mail.told")
        probe = await rig.on(bus, lambda n, attempt: EventResult.discard("no"), concurrency=10)
        await rig.publish(bus, *range(300), timeout=rig.backend.patience)
        await rig.until(lambda: len(probe.done) == 300)
        await rig.pause()
        assert (await rig.info(bus)).discarded == 300
        [topic] = [topic for topic in await bus.topics() if topic.topic == "bus"]
        assert 20 <= topic.events <= 40
        gate.open()
        await rig.quiet(bus)
        await rig.pause()
        await rig.quiet(bus)
        assert len(told.done) <= 45, "at most twice the limit, and those that waited"

    @needs(limit=150, retain=100, retain_seconds=3_600, young_seconds=0)
    async def test_broadcast_holds_nothing_back(self, rig: Rig) -> None:
        """A slow one does not fill the topic; what it misses is counted and announced as a gap."""
        # So few are missed that there is room for as many announcements.
        bus, gate = await rig.open(), Gate()
        news = rig.listen(bus)
        probe = await rig.on(bus, gate, broadcast=True)
        await rig.publish(bus, 0)
        await rig.until(lambda: gate.waiting)
        await rig.publish(bus, *range(1, 160), key="k", timeout=rig.backend.patience)
        gate.open()
        await rig.until(lambda: 159 in probe.done)
        await rig.until(lambda: sum(gap.count for gap in news.of(GapFound)) + len(probe.done) == 160)
        assert len(probe.done) <= 151
        assert probe.numbers == sorted(set(probe.numbers))
        assert {gap.group for gap in news.of(GapFound)} == {"shop.handle@a"}


async def _is_dead(rig: Rig, bus: EventBus, group: str) -> bool:
    return (await rig.info(bus, group)).dead > 0
