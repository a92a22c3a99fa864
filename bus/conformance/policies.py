"""Policies of one subscription: retry, timeout, predicate, dedupe, breaker, rate; what a handler decides."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from contracts.bus import (
    DEFAULT_TIMEOUT,
    CircuitBreaker,
    DeadLetterSelection,
    EventBus,
    RateLimit,
    RetryPolicy,
    RetryRule,
)
from contracts.event import EventResult
from contracts.message import PluginEvent
from contracts.messages.delivery import BreakerClosed, BreakerOpened, DeliveryDiscarded, GroupPaused

from .backend import needs
from .order import soon
from .probe import Gate
from .rig import Item, Rig
from .suite import Suite


class Blip(ConnectionError):
    """A subclass, so that rules have something to fit by its base."""


def failing(error: Exception, times: int = 1_000) -> Any:
    """Raise `error` in the first `times` attempts of each event."""

    def act(n: int, attempt: int) -> None:
        if attempt <= times:
            raise error

    return act


class Policies(Suite):
    """Each policy does what its options say, and nothing to other groups."""

    # --- retry -----------------------------------------------------------------------------------

    async def test_backoff_grows_and_is_never_shortened(self, rig: Rig) -> None:
        """The pauses are first_delay * factor**n up to max_delay, lengthened by at most the jitter."""
        bus, unit = await rig.open(), 2 * rig.tick
        policy = RetryPolicy(attempts=5, first_delay=unit, factor=2, max_delay=4 * unit, jitter=0.5)
        probe = await rig.on(bus, failing(ValueError("no")), retry=policy)
        await rig.publish(bus, 1)
        await rig.quiet(bus)
        assert probe.starts == [(1, attempt) for attempt in range(1, 6)]
        pauses = [after - before for before, after in itertools.pairwise(probe.times)]
        for pause, wanted in zip(pauses, (unit, 2 * unit, 4 * unit, 4 * unit), strict=True):
            assert wanted - 0.001 <= pause <= 1.5 * wanted + rig.tick
        [letter] = await bus.dead_letters()
        assert (letter.reason, letter.attempts) == ("attempts", 5)
        assert (await rig.info(bus)).failed == 5

    async def test_rules_decide_in_order_by_name_and_base(self, rig: Rig) -> None:
        """The first that fits; a rule for a base class fits its subclasses; none: parked with backoff."""
        rules = (
            RetryRule(errors=("Blip",), action="discard"),
            RetryRule(errors=(ConnectionError,), action="dead_letter"),
            RetryRule(errors=("builtins.ConnectionError",), action="discard"),
        )
        errors = [Blip("x"), ConnectionResetError("y"), LookupError("z")]
        bus = await rig.open()
        news = rig.listen(bus)

        def act(n: int, attempt: int) -> None:
            if n < 3 and attempt == 1:
                raise errors[n]

        probe = await rig.on(bus, act, retry=soon(rig, rules=rules))
        await rig.publish(bus, 0, 1, 2, 3, key="k")
        await rig.quiet(bus)
        assert probe.starts == [(0, 1), (1, 1), (2, 1), (2, 2), (3, 1)]
        [letter] = await bus.dead_letters()
        assert (letter.envelope.id, letter.reason, letter.attempts) == ("e2-1", "asked", 1)
        await rig.until(lambda: news.of(DeliveryDiscarded))
        [discarded] = news.of(DeliveryDiscarded)
        assert (discarded.group, discarded.event_id) == ("shop.handle", "e1-0")
        assert (await rig.info(bus)).discarded == 1

    async def test_retry_in_place_is_bounded_to_a_second(self, rig: Rig) -> None:
        """When the pauses in place have used it up, the delivery is parked; attempts count on."""
        rules = (RetryRule(errors=("Blip",), action="retry", delay=0.4),)
        bus = await rig.open()
        probe = await rig.on(
            bus, failing(Blip("down"), 4), retry=RetryPolicy(first_delay=2, factor=1, jitter=0, rules=rules)
        )
        await rig.publish(bus, 1, key="k")
        await rig.quiet(bus)
        assert [attempt for _, attempt in probe.starts] == [1, 2, 3, 4, 5]
        pauses = [after - before for before, after in itertools.pairwise(probe.times)]
        assert all(0.39 < pause < 1 for pause in pauses[:2])
        assert pauses[2] > 1.9

    async def test_a_rule_may_pause_the_group(self, rig: Rig) -> None:
        """The delivery is parked until the group is resumed, and then comes first of its key."""
        rules = (RetryRule(errors=("Blip",), action="pause"),)
        bus = await rig.open()
        news = rig.listen(bus)
        probe = await rig.on(bus, failing(Blip("down"), 1), retry=RetryPolicy(rules=rules))
        await rig.publish(bus, 1, 2, key="k")
        await rig.until(lambda: news.of(GroupPaused))
        await rig.pause()
        info = await rig.info(bus)
        assert (probe.starts, info.paused is not None, info.handled) == ([(1, 1)], True, 0)
        await bus.resume_group("shop.handle")
        await rig.until(lambda: (2, 1) in probe.starts)
        await bus.resume_group("shop.handle")
        await rig.quiet(bus)
        assert probe.starts == [(1, 1), (1, 2), (2, 1), (2, 2)]
        rig.judge()

    async def test_a_timeout_is_a_failed_attempt(self, rig: Rig) -> None:
        """The handler is cancelled, its lane is free, the error is a HandlerTimeout."""
        bus = await rig.open()

        async def act(n: int, attempt: int) -> None:
            if n == 1:
                await asyncio.sleep(1_000)

        probe = await rig.on(bus, act, timeout=2 * rig.tick, retry=soon(rig, attempts=2))
        await rig.publish(bus, 1, 2, key="k")
        await rig.quiet(bus)
        assert probe.starts == [(1, 1), (1, 2), (2, 1)]
        assert probe.running == 0
        [letter] = await bus.dead_letters()
        assert letter.error is not None
        assert letter.error.matches("HandlerTimeout")

    # --- what the handler decides ----------------------------------------------------------------

    async def test_the_handler_decides(self, rig: Rig) -> None:
        """Retry after a time, discard, dead letter: done as it says; the others are not touched."""
        bus = await rig.open()
        decisions = {
            1: EventResult.retry("busy", after=3 * rig.tick),
            2: EventResult.discard("not ours"),
            3: EventResult.dead_letter("broken"),
            4: EventResult.ok(),
        }

        def act(n: int, attempt: int) -> EventResult | None:
            return decisions[n] if attempt == 1 else None

        probe = await rig.on(bus, act)
        await rig.publish(bus, 1, 2, 3, 4)
        await rig.quiet(bus)
        assert sorted(probe.starts) == [(1, 1), (1, 2), (2, 1), (3, 1), (4, 1)]
        [letter] = await bus.dead_letters()
        assert (letter.envelope.id, letter.reason) == ("e3-3", "asked")
        assert letter.error is not None
        assert "broken" in str(letter.error)
        info = await rig.info(bus)
        assert (info.discarded, info.dead, info.failed) == (1, 1, 1)
        rig.judge()

    @pytest.mark.parametrize(
        ("text", "version", "reason"),
        [('{"n":"many"}', 1, "schema"), ("no json {", 1, "decode"), ('{"n":1}', 9, "version_ahead")],
    )
    async def test_data_that_cannot_fit_are_dead_at_once(
        self, rig: Rig, text: str, version: int, reason: str
    ) -> None:
        """One attempt, the reason, the raw data; the next event of the key is not delayed."""
        bus, seen = await rig.open(), list[int]()

        async def handle(event: PluginEvent) -> None:
            seen.append(event.as_(Item).n)

        await rig.subscribe(bus, handle)
        await rig.publish(bus, 1, key="k", text=text, version=version)
        await rig.publish(bus, 2, key="k")
        await rig.quiet(bus)
        assert seen == [2]
        [letter] = await bus.dead_letters()
        assert (letter.reason, letter.attempts, letter.raw, letter.version) == (
            reason,
            1,
            text.encode(),
            version,
        )

    # --- flow ------------------------------------------------------------------------------------

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
        await _publish_again(rig, a)
        await rig.quiet(a)
        assert (once.numbers.count(1), twice.numbers.count(1)) == (1, 2)
        assert (await rig.info(a)).repeated == 1
        await rig.crash(a)
        heir = await rig.on(b, dedupe=True)
        await _publish_again(rig, b)
        await rig.quiet(b)
        assert heir.numbers.count(1) == 0
        assert heir.numbers.count(10) > 0

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

        breaker = CircuitBreaker(minimum=4, ratio=0.5, window=60, pause=20 * rig.tick)
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


async def _publish_again(rig: Rig, bus: EventBus) -> None:
    """Event `x` once more, as soon as the publishers' window (here as small as can be) has forgotten it."""
    await rig.publish(bus, 1, id="x")
    for _ in range(6):
        await rig.publish(bus, *range(10, 20))
        await asyncio.sleep(
            DEFAULT_TIMEOUT + 1
        )  # no window is shorter than the longest deadline of a publish
        [receipt] = await rig.publish(bus, 1, id="x")
        if not receipt.duplicate:
            return
    raise AssertionError("the window of one id and no seconds never ends")
