"""Broadcast: every replica handles every event, and holds nothing back."""

from __future__ import annotations

from contracts.bus import EventBus
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

    @needs(limit=20, retain=5, retain_seconds=0, young_seconds=0)
    async def test_broadcast_holds_nothing_back(self, rig: Rig) -> None:
        """A slow one does not fill the topic; what it misses is counted and announced as a gap."""
        bus, gate = await rig.open(), Gate()
        news = rig.listen(bus)
        probe = await rig.on(bus, gate, broadcast=True)
        await rig.publish(bus, 0)
        await rig.until(lambda: gate.waiting)
        await rig.publish(bus, *range(1, 2_000), key="k", timeout=rig.backend.patience)
        gate.open()
        await rig.until(lambda: 1_999 in probe.done)
        await rig.until(lambda: sum(gap.count for gap in news.of(GapFound)) + len(probe.done) == 2_000)
        assert probe.numbers == sorted(set(probe.numbers))
        assert {gap.group for gap in news.of(GapFound)} == {"shop.handle@a"}


async def _is_dead(rig: Rig, bus: EventBus, group: str) -> bool:
    return (await rig.info(bus, group)).dead > 0
