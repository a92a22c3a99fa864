"""Policies of one subscription: retry, timeout, predicate, dedupe, breaker, rate; what a handler decides."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from contracts.bus import (
    EventBus,
    RetryPolicy,
    RetryRule,
)
from contracts.event import EventResult
from contracts.message import PluginEvent
from contracts.messages.delivery import DeliveryDiscarded, GroupPaused

from .order import soon
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
            assert wanted - 0.001 <= pause <= 1.5 * wanted + rig.tick + rig.lateness
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

    async def test_resuming_frees_what_was_parked_until_then_alone(self, rig: Rig) -> None:
        """What a rule has parked is due at once; what waits for its time goes on waiting for it."""
        rules = (RetryRule(errors=("Blip",), action="pause"),)
        bus = await rig.open()
        policy = soon(rig, rules=rules, first_delay=40 * rig.tick)

        def act(n: int, attempt: int) -> None:
            if attempt == 1:
                raise ValueError("later") if n == 1 else Blip("down")

        probe = await rig.on(bus, act, retry=policy)
        await rig.publish(bus, 1)
        await rig.until(lambda: probe.starts)
        await rig.publish(bus, 2)
        await rig.until(lambda: _is_paused(rig, bus))
        await bus.resume_group("shop.handle")
        await rig.until(lambda: (2, 2) in probe.starts)
        await rig.pause()
        assert probe.starts == [(1, 1), (2, 1), (2, 2)]
        await rig.quiet(bus)
        assert probe.starts[3:] == [(1, 2)]
        assert probe.times[3] - probe.times[0] >= 40 * rig.tick - 0.01

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


async def _is_paused(rig: Rig, bus: EventBus) -> bool:
    return (await rig.info(bus)).paused is not None
