"""Flow: what comes before an attempt (predicate, dedupe, breaker, rate), and how many run at once."""

from __future__ import annotations

import asyncio

from contracts.bus import (
    DEFAULT_TIMEOUT,
    CircuitBreaker,
    DeadLetterSelection,
    EventBus,
    RateLimit,
)
from contracts.messages.delivery import BreakerClosed, BreakerOpened

from .backend import needs
from .order import soon
from .probe import Gate
from .rig import Rig
from .suite import Suite


class Flow(Suite):
    """Nothing is lost that has to wait, and nothing starts that must not."""

    async def test_a_predicate_filters_before_the_handler(self, rig: Rig) -> None:
        """What it does not want is acknowledged and counted, never started."""
        bus = await rig.open()
        probe = await rig.on(bus, where=lambda event: event.data["n"] % 2 == 0)  # type: ignore[index, call-overload, operator]
        other = await rig.on(bus, group="mail.all")
        await rig.publish(bus, *range(10), key="k")
        await rig.quiet(bus)
        assert (probe.numbers, len(other.numbers)) == ([0, 2, 4, 6, 8], 10)
        info = await rig.info(bus)
        assert (info.filtered, info.failed, info.waiting) == (5, 0, 0)

    async def test_a_predicate_that_raises_is_a_failed_attempt(self, rig: Rig) -> None:
        """It is repeated and in the end a dead letter, without a start of the handler."""
        bus = await rig.open()
        probe = await rig.on(bus, where=lambda event: bool(1 / 0), retry=soon(rig, attempts=2))
        await rig.publish(bus, 1)
        await rig.quiet(bus)
        assert probe.starts == []
        [letter] = await bus.dead_letters()
        assert (letter.reason, letter.attempts) == ("attempts", 2)
        assert letter.error is not None
        assert letter.error.matches("ZeroDivisionError")

    @needs(window=1, window_seconds=0, lease=1.0)
    async def test_dedupe_suppresses_what_was_settled(self, rig: Rig) -> None:
        """The same (source, id) beyond the publishers' window reaches a deduping group once; also a heir."""
        a, b = await rig.open("a"), await rig.open("b")
        once = await rig.on(a, dedupe=True)
        twice = await rig.on(b, group="mail.all")
        await rig.publish(a, 1, id="x")
        times = 1 + await _publish_again(rig, a)
        await rig.quiet(a)
        assert (once.numbers.count(1), twice.numbers.count(1)) == (1, times)
        assert (await rig.info(a)).repeated == times - 1
        await rig.crash(a)
        heir = await rig.on(b, dedupe=True)
        await _publish_again(rig, b)
        await rig.quiet(b)
        assert heir.numbers.count(1) == 0
        assert heir.numbers.count(10) > 0

    @needs(window=1, window_seconds=0, dedupe=20, dedupe_seconds=3_600)
    async def test_dedupe_remembers_so_many(self, rig: Rig) -> None:
        """The last `dedupe` that were settled are suppressed; a multiple of that is not remembered."""
        bus = await rig.open()
        await _see_dedupe_end(rig, bus, others=10, seconds=0.0)
        await _see_dedupe_end(rig, bus, others=100, seconds=0.0, is_forgotten=True)

    @needs(window=1, window_seconds=0, dedupe=1_000, dedupe_seconds=20)
    async def test_dedupe_remembers_so_long(self, rig: Rig) -> None:
        """For `dedupe_seconds`, and not for a multiple of that."""
        bus = await rig.open()
        await _see_dedupe_end(rig, bus, others=10, seconds=0.0)
        await _see_dedupe_end(rig, bus, others=10, seconds=45.0, is_forgotten=True)

    async def test_dedupe_does_not_suppress_what_failed(self, rig: Rig) -> None:
        """A retry and a redrive are no second delivery of something settled."""
        bus = await rig.open()
        broken = [True]

        def act(n: int, attempt: int) -> None:
            if broken:
                raise ValueError("no")

        probe = await rig.on(bus, act, dedupe=True, retry=soon(rig, attempts=2))
        await rig.publish(bus, 1)
        await rig.quiet(bus)
        broken.clear()
        assert await bus.redrive(DeadLetterSelection()) == 1
        await rig.quiet(bus)
        assert (probe.starts, probe.done) == ([(1, 1), (1, 2), (1, 1)], [1])

    async def test_a_rate_limits_starts(self, rig: Rig) -> None:
        """At most `limit` in any `per` seconds; the rest wait and lose nothing, retries count too."""
        per = 4 * rig.tick
        bus = await rig.open()
        probe = await rig.on(bus, concurrency=10, rate=RateLimit(limit=5, per=per))
        await rig.publish(bus, *range(20))
        await rig.quiet(bus)
        assert sorted(probe.numbers) == list(range(20))
        for first, sixth in zip(probe.times, probe.times[5:], strict=False):
            assert sixth - first >= per - 0.002
        rig.judge()

    async def test_a_breaker_stops_what_mostly_fails_and_tries_again(self, rig: Rig) -> None:
        """Open: nothing starts, nothing is lost, attempts are not used up. After the pause one is tried."""
        bus, broken = await rig.open(), [True]
        news = rig.listen(bus)

        def act(n: int, attempt: int) -> None:
            if broken:
                raise ConnectionError("down")

        breaker = CircuitBreaker(minimum=4, ratio=0.5, window=60, pause=20 * rig.tick + rig.lateness)
        probe = await rig.on(bus, act, breaker=breaker, retry=soon(rig, attempts=3))
        await rig.publish(bus, *range(50))
        await rig.until(lambda: news.of(BreakerOpened))
        [opened] = news.of(BreakerOpened)
        assert (opened.group, opened.replica, opened.failed) == ("shop.handle", "a", 4)
        await rig.pause(8)
        assert len(probe.starts) == 4
        assert (await rig.info(bus)).open_breakers == ("a",)
        await rig.until(lambda: len(probe.starts) == 5)
        await rig.pause(8)
        assert len(probe.starts) == 5, "one attempt after the pause; it failed, so it is open again"
        broken.clear()
        await rig.quiet(bus)
        assert sorted(probe.done) == list(range(50))
        await rig.until(lambda: news.of(BreakerClosed))
        assert (await rig.info(bus)).open_breakers == ()
        rig.judge()

    async def test_a_breaker_tries_one_attempt_though_there_are_many_lanes(self, rig: Rig) -> None:
        """After the pause one lane starts, and the others wait for how it ends."""
        bus, gate, broken = await rig.open(), Gate(), [True]
        news = rig.listen(bus)

        async def act(n: int, attempt: int) -> None:
            if not news.of(BreakerOpened):
                raise ConnectionError("down")
            await gate()
            if broken:
                raise ConnectionError("still down")

        breaker = CircuitBreaker(minimum=4, ratio=0.5, window=600, pause=10 * rig.tick)
        probe = await rig.on(bus, act, concurrency=5, breaker=breaker, retry=soon(rig, attempts=100))
        await rig.publish(bus, *range(30))
        await rig.until(lambda: gate.waiting)
        await rig.pause(20)
        assert probe.running == 1
        started = len(probe.starts)
        gate.open()
        await rig.until(lambda: len(probe.starts) > started)
        await rig.pause(1)
        assert len(probe.starts) == started + 1, "it failed: open again for its pause, then one more"
        broken.clear()
        await rig.quiet(bus)
        assert sorted(probe.done) == list(range(30))

    async def test_concurrency_is_bounded(self, rig: Rig) -> None:
        """Never more handlers at once than lanes, and all of them are used."""
        bus, gate = await rig.open(), Gate()
        probe = await rig.on(bus, gate, concurrency=7)
        await rig.publish(bus, *range(50))
        await rig.until(lambda: probe.running == 7)
        await rig.pause(1)
        assert probe.running == 7
        gate.open()
        await rig.quiet(bus)
        assert probe.most == 7
        rig.judge()


async def _see_dedupe_end(
    rig: Rig, bus: EventBus, *, others: int, seconds: float, is_forgotten: bool = False
) -> None:
    """Settle an event, then so many others, wait, and look what becomes of the same one again."""
    probe = await rig.on(bus, dedupe=True, start="new")
    await rig.publish(bus, 1, id=f"x{others}{seconds}")
    await rig.publish(bus, *range(100, 100 + others))
    await rig.quiet(bus)
    await asyncio.sleep(seconds)
    times = 1 + await _publish_again(rig, bus, f"x{others}{seconds}")
    await rig.quiet(bus)
    assert probe.numbers.count(1) == (times if is_forgotten else 1)
    await probe.subscription.remove()
    await bus.drop_group(probe.group)


async def _publish_again(rig: Rig, bus: EventBus, id: str = "x") -> int:
    """Event 1 once more, as soon as the publishers' window (here as small as can be) has forgotten its id.

    How many more events that made: none where the backend remembers for longer, as it may.
    """
    for _ in range(3):
        # No window is shorter than the longest deadline of a publish.
        await asyncio.sleep(DEFAULT_TIMEOUT + 1)
        await rig.publish(bus, *range(10, 13))
        [receipt] = await rig.publish(bus, 1, id=id)
        if not receipt.duplicate:
            return 1
    return 0
