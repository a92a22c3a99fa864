"""Clocks: what runs on the monotonic one, what on the wall clock, and what a jump of the latter shifts."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from contracts.bus import DEFAULT_TIMEOUT, CircuitBreaker, RateLimit, RetryPolicy
from contracts.errors import BusFull
from contracts.messages.delivery import BreakerOpened, OwnerLost

from .backend import NOTICED, needs
from .order import soon
from .ownership import LEASE
from .probe import Gate, fail_if
from .rig import Rig, now
from .suite import Suite

HOUR = 3_600.0

both_ways = pytest.mark.parametrize("jump", [HOUR, -HOUR])


class Clocks(Suite):
    """The wall clock jumps by an hour, forward or back, where the backend can be told it.

    Where it cannot, the same must come true in real time, and what only a jump brings about must not.
    """

    # --- the monotonic clock ---------------------------------------------------------------------

    @both_ways
    async def test_backoff_does_not_follow_the_wall_clock(self, rig: Rig, jump: float) -> None:
        """A parked delivery comes again after its pause, no sooner and no later, traffic or not."""
        bus, unit = await rig.open(), 10 * rig.tick
        policy = RetryPolicy(attempts=4, first_delay=unit, factor=1, jitter=0)
        probe = await rig.on(bus, lambda n, attempt: fail_if(n == 1 and attempt < 4), retry=policy)
        await rig.publish(bus, 1)
        for attempt in (1, 2, 3):
            await rig.until(lambda: (1, attempt) in probe.starts)  # noqa: B023 - awaited here
            await rig.pause(2)
            rig.shift(jump)
            await rig.publish(bus, 10 + attempt)
        await rig.quiet(bus)
        times = [at for at, n in zip(probe.times, probe.numbers, strict=True) if n == 1]
        for before, after in itertools.pairwise(times):
            assert unit - 0.001 <= after - before <= unit + 4 * rig.tick

    @both_ways
    async def test_rates_do_not_follow_the_wall_clock(self, rig: Rig, jump: float) -> None:
        """A jump frees no start before its turn, and holds none back."""
        bus, per = await rig.open(), 10 * rig.tick
        probe = await rig.on(bus, concurrency=10, rate=RateLimit(limit=5, per=per))
        await rig.publish(bus, *range(10))
        await rig.until(lambda: len(probe.starts) == 5)
        await rig.pause(1)
        rig.shift(jump)
        await rig.publish(bus, *range(10, 15))
        await rig.quiet(bus)
        for first, sixth in zip(probe.times, probe.times[5:], strict=False):
            assert sixth - first >= per - 0.002
        assert probe.times[-1] - probe.times[0] <= 2 * per + 4 * rig.tick + rig.lateness

    @both_ways
    async def test_breakers_do_not_follow_the_wall_clock(self, rig: Rig, jump: float) -> None:
        """Open for its pause, no shorter and no longer; failures of before the jump still count."""
        bus, pause = await rig.open(), 20 * rig.tick + rig.lateness
        news, broken = rig.listen(bus), [True]
        breaker = CircuitBreaker(minimum=4, ratio=0.5, window=60, pause=pause)
        probe = await rig.on(
            bus, lambda n, attempt: fail_if(bool(broken)), breaker=breaker, retry=soon(rig, attempts=9)
        )
        await rig.publish(bus, 0, 1)
        await rig.until(lambda: len(probe.starts) >= 2)
        rig.shift(jump)
        await rig.publish(bus, 2, 3, 4)
        await rig.until(lambda: news.of(BreakerOpened))
        opened, started = now(), len(probe.starts)
        assert started == 4
        rig.shift(jump)
        await rig.publish(bus, 5)
        await rig.pause(10)
        assert len(probe.starts) == started
        broken.clear()
        await rig.until(lambda: len(probe.starts) > started)
        assert probe.times[started] - opened <= pause + 4 * rig.tick + rig.lateness
        await rig.quiet(bus)

    @both_ways
    @needs(lease=LEASE)
    async def test_leases_do_not_follow_the_wall_clock(self, rig: Rig, jump: float) -> None:
        """Nobody who beats is taken for gone, and who is gone is noticed after his lease."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
        news = rig.listen(b)
        first = await rig.on(a, gate)
        await rig.publish(b, 0, 1, key="k")
        await rig.until(lambda: gate.waiting)
        heir = await rig.on(b)
        for seconds in (jump, -jump, jump):
            rig.shift(seconds)
            await asyncio.sleep(LEASE / 2)
        assert (news.of(OwnerLost), heir.starts, first.starts) == ([], [], [(0, 1)])
        rig.suspend(a)
        began = now()
        rig.shift(jump)
        await rig.until(lambda: heir.starts)
        assert LEASE / 2 <= now() - began <= 2 * LEASE + 4 * rig.tick
        await rig.quiet(b)
        rig.wake(a)
        gate.open()
        await rig.until(lambda: not first.running)
        rig.judge(repeats=1)

    @both_ways
    @needs(limit=5, retain=0, retain_seconds=0, young_seconds=0)
    async def test_deadlines_do_not_follow_the_wall_clock(self, rig: Rig, jump: float) -> None:
        """Of a handler's attempt, and of a publish that waits for room."""
        bus, span = await rig.open(), 10 * rig.tick
        ends: list[float] = []

        async def hang(n: int, attempt: int) -> None:
            began = now()
            try:
                await asyncio.sleep(1_000)
            finally:
                ends.append(now() - began)

        probe = await rig.on(bus, hang, timeout=span, retry=soon(rig, attempts=1))
        await rig.publish(bus, 0)
        await rig.until(lambda: probe.starts)
        rig.shift(jump)
        await rig.until(lambda: ends)
        assert span - 0.01 <= ends[0] <= span + 4 * rig.tick
        await bus.pause_group("shop.handle")
        await rig.pause(2)
        waiting = (await rig.info(bus)).waiting
        await rig.publish(bus, *range(1, 6 - waiting))
        began = now()
        publishing = asyncio.ensure_future(rig.publish(bus, 6, timeout=span))
        await rig.pause(2)
        rig.shift(jump)
        with pytest.raises(BusFull):
            await publishing
        assert span - 0.01 <= now() - began <= span + 4 * rig.tick

    @both_ways
    @needs(window_seconds=60)
    async def test_the_window_does_not_follow_the_wall_clock(self, rig: Rig, jump: float) -> None:
        """What was published a moment ago is a duplicate, whatever time it is."""
        bus = await rig.open()
        await rig.publish(bus, 1, id="x")
        rig.shift(jump)
        [again] = await rig.publish(bus, 1, id="x")
        assert again.duplicate
        await asyncio.sleep(DEFAULT_TIMEOUT + 1)
        rig.shift(-2 * jump)
        [again] = await rig.publish(bus, 1, id="x")
        assert again.duplicate

    # --- the wall clock --------------------------------------------------------------------------

    async def test_delay_follows_the_wall_clock(self, rig: Rig) -> None:
        """An event for later comes when the wall clock says so: sooner or later by the jump."""
        bus = await rig.open()
        probe = await rig.on(bus)
        await rig.publish(bus, 1, delay=HOUR)
        await rig.publish(bus, 2, at=rig.now(HOUR))
        await rig.pause()
        assert probe.starts == []
        if rig.shift(HOUR + 1):
            await asyncio.wait_for(bus.quiet(), NOTICED)
            assert sorted(probe.numbers) == [1, 2]
        await rig.publish(bus, 3, delay=8 * rig.tick)
        shifted = rig.shift(-HOUR)
        await rig.pause(16)
        assert (3 in probe.numbers) != shifted
        if rig.shift(HOUR):
            await asyncio.wait_for(bus.quiet(), NOTICED)
        assert 3 in probe.numbers

    async def test_expiry_follows_the_wall_clock(self, rig: Rig) -> None:
        """What has expired by the wall clock is not started, and what has not is."""
        bus = await rig.open()
        probe = await rig.on(bus)
        await bus.pause_group("shop.handle")
        await rig.publish(bus, 1, expires=rig.now(HOUR / 2))
        shifted = rig.shift(HOUR)
        await bus.resume_group("shop.handle")
        await rig.quiet(bus)
        assert probe.numbers == ([] if shifted else [1])
        await bus.pause_group("shop.handle")
        await rig.publish(bus, 2, expires=rig.now(4 * rig.tick))
        rig.shift(-HOUR)
        await rig.pause(6)
        await bus.resume_group("shop.handle")
        await rig.quiet(bus)
        assert (2 in probe.numbers) == shifted
        assert (await rig.info(bus)).expired == 1

    async def test_time_follows_the_wall_clock(self, rig: Rig) -> None:
        """Events, and the ages that are told, go by it."""
        bus = await rig.open()
        probe = await rig.on(bus)
        await rig.publish(bus, 1)
        shifted = rig.shift(-HOUR)
        before = rig.now()
        await rig.publish(bus, 2)
        await rig.quiet(bus)
        first, second = (event.envelope.time for event in probe.events)
        assert before <= second <= rig.now()
        assert (second < first) == shifted
