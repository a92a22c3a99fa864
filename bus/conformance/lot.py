"""The lot: what waits in it, what goes on beside it, and what happens when it is full."""

from __future__ import annotations

from contracts.event import EventResult

from .backend import needs
from .order import soon
from .probe import fail_if
from .rig import Rig
from .suite import Suite


class Lot(Suite):
    """A key that waits is in nobody's way."""

    @needs(limit=500, retain=0, retain_seconds=0, young_seconds=0)
    async def test_hot_blocked_key(self, rig: Rig) -> None:
        """Ten thousand events of a key that waits, among a hundred good keys: these go on, room is freed."""

        def act(n: int, attempt: int) -> EventResult | None:
            return EventResult.retry("later", after=3_600) if n == 0 else None

        bus = await rig.open()
        probe = await rig.on(bus, act)
        for n in range(10_000):
            await rig.publish(bus, n, key="hot", timeout=rig.backend.patience)
            if n % 100 == 0:
                await rig.publish(bus, 100_000 + n, key=f"good{n}", timeout=rig.backend.patience)
        await rig.until(lambda: len(probe.starts) == 101)

        async def is_parked() -> bool:
            info = await rig.info(bus)
            return (info.parked, info.handled) == (10_000, 100)

        await rig.until(is_parked)
        [topic] = [topic for topic in await bus.topics() if topic.topic == "orders"]
        assert topic.events <= 500
        rig.judge(lossy=True)

    @needs(lot=100)
    async def test_a_full_lot_stops_reading_and_loses_nothing(self, rig: Rig) -> None:
        """At its bound the partition is read no further, but for what was taken already."""
        failing = [True]

        def act(n: int, attempt: int) -> None:
            if n == 0 and failing:
                raise ValueError("not yet")

        bus = await rig.open()
        probe = await rig.on(bus, act, retry=soon(rig, attempts=1_000, first_delay=4 * rig.tick))
        await rig.publish(bus, *range(4_000), key="k")
        await rig.until(lambda: len(probe.starts) >= 2)
        info = await rig.info(bus)
        assert 100 <= info.parked < 2_000
        assert info.waiting + info.parked + info.in_flight == 4_000
        failing.clear()
        await rig.quiet(bus)
        assert probe.done == list(range(4_000))
        rig.judge()

    @needs(lot=20)
    async def test_beside_a_full_lot_other_keys_go_as_far_as_was_read(self, rig: Rig) -> None:
        """What came before the lot was full is handled; when it has room again, reading goes on."""
        failing = {"x", "y"}

        def act(n: int, attempt: int) -> None:
            fail_if(("x" in failing and n // 1_000 == 1) or ("y" in failing and n // 1_000 == 2))

        bus = await rig.open()
        await bus.declare_group(rig.spec())
        for n in range(30):  # the lot is full at the tenth of x and of y
            await rig.publish(bus, 1_000 + n, key="x")
            await rig.publish(bus, n, key=f"good{n % 3}")
            await rig.publish(bus, 2_000 + n, key="y")
        await rig.publish(bus, *range(10_000, 14_000), key="good")
        probe = await rig.on(
            bus, act, concurrency=4, retry=soon(rig, attempts=1_000, first_delay=4 * rig.tick)
        )
        await rig.until(lambda: {n for n in probe.done if n < 1_000} >= set(range(9)))
        await rig.pause()
        assert len(probe.done) < 2_000, "it is read on though the lot is full"
        failing.discard("x")
        await rig.until(lambda: {n for n in probe.done if n < 1_000} >= set(range(18)))
        assert not [n for n in probe.done if 2_000 <= n < 10_000]
        failing.clear()
        await rig.quiet(bus)
        assert len(probe.done) == 4_090
        rig.judge()
