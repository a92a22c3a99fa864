"""What stands before the start of a handler: predicate, dedupe, circuit breaker, rate."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.policy.breaker import Breaker, Turn
from bus.policy.dedupe import Settled
from bus.policy.rate import Rate
from contracts.bus import BusLimits, CircuitBreaker, DeadLetterSelection, Predicate, RateLimit, RetryPolicy
from contracts.errors import StormDetected
from contracts.event import EventData, EventResult
from contracts.message import PluginEvent
from contracts.subscription import RetryRule

SOON = RetryPolicy(first_delay=1, factor=1, jitter=0, attempts=1_000)


def number(event: PluginEvent) -> int:
    return int(event.data["n"])  # type: ignore[call-overload,index,arg-type]


class Timed:
    """Writes down when it was started, of which event; `act` may fail or wait."""

    def __init__(self, act: Callable[[int, int], Any] | None = None) -> None:
        self.act = act
        self.starts: list[tuple[float, int]] = []
        self.begin = asyncio.get_running_loop().time()
        self.running = self.most = 0

    async def __call__(self, event: PluginEvent) -> EventResult | None:
        now = asyncio.get_running_loop().time() - self.begin
        self.starts.append((round(now, 6), number(event)))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            result = None if self.act is None else self.act(number(event), event.attempt)
            if asyncio.iscoroutine(result):
                await result
            return result if isinstance(result, EventResult) else None
        finally:
            self.running -= 1

    @property
    def times(self) -> list[float]:
        return [start for start, _ in self.starts]

    @property
    def numbers(self) -> list[int]:
        return [n for _, n in self.starts]


async def on(rig: Any, bus: Any, handler: Any, where: Predicate | None = None, **options: Any) -> Any:
    return await bus.subscribe(rig.spec(**options), handler, where=where)


# --- predicate -----------------------------------------------------------------------------------


async def test_what_the_predicate_refuses_is_acknowledged_and_counted(rig: Any, bus: Any) -> None:
    """Without a start; the rest goes on in its order."""
    handler = Timed()
    await on(rig, bus, handler, where=lambda event: number(event) % 2 == 0)
    await rig.publish(bus, *range(6), key="k")
    await bus.quiet()
    info = await rig.info()
    assert handler.numbers == [0, 2, 4]
    assert (info.filtered, info.handled, info.failed) == (3, 6, 0)


@pytest.mark.parametrize("lanes", [1, 3])
async def test_a_predicate_that_raises_is_a_failed_attempt(rig: Any, bus: Any, lanes: int) -> None:
    """Judged by the retry policy like any other; the handler is not started, later events of the key wait."""

    def where(event: PluginEvent) -> bool:
        asked.append((number(event), event.attempt))
        if number(event) == 1 and event.attempt < 3:
            raise LookupError("no table yet")
        return True

    asked: list[tuple[int, int]] = []
    handler = Timed()
    await on(rig, bus, handler, where=where, retry=SOON, concurrency=lanes)
    await rig.publish(bus, 1, 2, key="k")
    await bus.quiet()
    assert asked == [(1, 1), (1, 2), (1, 3), (2, 1)]
    assert handler.starts == [(2.0, 1), (2.0, 2)]
    assert (await rig.info()).failed == 2


async def test_a_predicate_that_raises_can_be_retried_in_place_or_pause(rig: Any, bus: Any) -> None:
    """The rules see its error, and the attempt counts."""

    def where(event: PluginEvent) -> bool:
        if event.attempt == 1:
            raise LookupError("no table yet")
        if event.attempt == 2:
            raise PermissionError("no key")
        return True

    rules = (
        RetryRule(errors=("LookupError",), action="retry", delay=0.5),
        RetryRule(errors=("PermissionError",), action="pause"),
    )
    handler = Timed()
    await on(rig, bus, handler, where=where, retry=RetryPolicy(rules=rules))
    await rig.publish(bus, 1)
    await asyncio.sleep(1)
    info = await rig.info()
    assert (info.paused is not None, info.parked, info.failed, info.stale) == (True, 1, 2, 0)
    await bus.resume_group("shop.handle")
    await bus.quiet()
    assert handler.starts == [(1.0, 1)]


async def test_a_predicate_can_pause_its_group(rig: Any, bus: Any) -> None:
    """Its delivery is parked until the group is resumed, and that was one attempt."""

    def where(event: PluginEvent) -> bool:
        if event.attempt == 1:
            raise PermissionError("no key")
        return True

    rule = RetryRule(errors=("PermissionError",), action="pause")
    handler = Timed()
    await on(rig, bus, handler, where=where, retry=RetryPolicy(rules=(rule,)))
    await rig.publish(bus, 1, 2)
    await asyncio.sleep(10)
    info = await rig.info()
    assert (info.paused is not None, info.parked, info.failed, info.stale) == (True, 1, 1, 0)
    await bus.resume_group("shop.handle")
    await asyncio.sleep(10)
    await bus.resume_group("shop.handle")
    await bus.quiet()
    assert sorted(handler.starts) == [(10.0, 1), (20.0, 2)]


# --- dedupe --------------------------------------------------------------------------------------


def test_settled_ids_are_remembered_by_time_and_count() -> None:
    """At least as long as promised, at most twice as many."""
    settled = Settled(seconds=100, count=3)
    settled.add("s", "a", 50.0)
    assert settled.contains("s", "a", 149.0)
    assert not settled.contains("s", "b", 149.0)
    assert not settled.contains("t", "a", 149.0)
    assert not settled.contains("s", "a", 260.0)
    settled.add("s", "last", 400.0)
    assert not settled.contains("s", "last", 601.0)
    for n in range(50):
        settled.add("s", str(n), 700.0)
        assert all(settled.contains("s", str(kept), 700.0) for kept in range(max(0, n - 2), n + 1))
        assert len(settled) <= 6


def forget_ids(rig: Any) -> None:
    """So short a memory of published ids that a second copy gets through to the groups."""
    rig.make_broker(limits=BusLimits(window=1, window_seconds=0))


async def twice(rig: Any, bus: Any, n: int = 1, **options: Any) -> None:
    """One event, published again after the idempotency window."""
    await rig.publish(bus, n, id=f"id{n}", **options)
    await asyncio.sleep(60)
    receipt = await rig.publish(bus, n, id=f"id{n}", **options)
    assert not receipt[0].duplicate
    await bus.quiet()


async def test_a_second_delivery_of_a_settled_event_is_suppressed(rig: Any) -> None:
    """It is acknowledged and counted; other sources and other ids are not concerned."""
    forget_ids(rig)
    bus, handler, plain = await rig.open(), Timed(), Timed()
    await rig.on(bus, handler, dedupe=True)
    await rig.on(bus, plain, group="shop.plain")
    await twice(rig, bus)
    await bus.publish(item(2), source="/other", id="id1")
    await bus.quiet()
    info = await rig.info()
    assert handler.numbers == [1, 2]
    assert plain.numbers == [1, 1, 2]
    assert (info.repeated, info.handled) == (1, 3)


def item(n: int) -> EventData:
    return EventData(type="orders.item", data=f'{{"n": {n}}}')


@pytest.mark.parametrize("end", ["dead_letter", "discard", "raise"])
async def test_every_final_outcome_settles(rig: Any, end: str) -> None:
    """Dead and discarded events are not handled again either."""

    def act(n: int, attempt: int) -> EventResult:
        if end == "raise":
            raise ValueError("no")
        return EventResult.discard("no") if end == "discard" else EventResult.dead_letter("no")

    forget_ids(rig)
    bus, handler = await rig.open(), Timed(act)
    await rig.on(bus, handler, dedupe=True, retry=RetryPolicy(attempts=1))
    await twice(rig, bus)
    assert handler.numbers == [1]
    assert (await rig.info()).repeated == 1


async def test_an_expired_event_is_settled(rig: Any) -> None:
    """Its second copy is suppressed, although that would not have expired."""
    forget_ids(rig)
    bus, handler = await rig.open(), Timed()
    await rig.publish(bus, 1, id="id1", expires=wall(rig, 1))
    await asyncio.sleep(60)
    await rig.publish(bus, 1, id="id1")
    await rig.on(bus, handler, dedupe=True)
    await bus.quiet()
    info = await rig.info()
    assert (handler.numbers, info.expired, info.repeated) == ([], 1, 1)


def wall(rig: Any, seconds: float) -> datetime:
    return datetime.fromtimestamp(rig.clock.time_ns() / 1e9 + seconds, UTC)


async def test_a_failed_attempt_is_not_settled(rig: Any, bus: Any) -> None:
    """It is tried again, and the copy after the success is suppressed."""

    def act(n: int, attempt: int) -> None:
        if attempt == 1:
            raise ValueError("no")

    handler = Timed(act)
    await rig.on(bus, handler, dedupe=True, retry=SOON)
    await rig.publish(bus, 1)
    await bus.quiet()
    assert handler.numbers == [1, 1]
    assert (await rig.info()).repeated == 0


async def test_dedupe_is_the_groups_not_the_replicas(rig: Any) -> None:
    """What one replica has settled another one does not handle again."""
    forget_ids(rig)
    bus, other, handler = await rig.open("a"), await rig.open("b"), Timed()
    await rig.on(bus, handler, dedupe=True)
    await rig.publish(bus, 1, id="id1")
    await bus.quiet()
    await bus.close()
    await rig.on(other, handler, dedupe=True)
    await asyncio.sleep(60)
    await rig.publish(other, 1, id="id1")
    await other.quiet()
    assert handler.numbers == [1]


async def test_redrive_and_replay_are_not_suppressed(rig: Any, bus: Any) -> None:
    """Somebody has asked for them."""

    def act(n: int, attempt: int) -> None:
        if len(handler.starts) == 1:
            raise ValueError("no")

    handler = Timed(act)
    await rig.on(bus, handler, dedupe=True, retry=RetryPolicy(attempts=1))
    await rig.publish(bus, 1)
    await bus.quiet()
    assert await bus.redrive(DeadLetterSelection(group="shop.handle")) == 1
    await bus.quiet()
    assert handler.numbers == [1, 1]
    assert await bus.replay("shop.handle") == 1
    await bus.quiet()
    assert handler.numbers == [1, 1, 1]
    assert (await rig.info()).repeated == 0


async def test_an_expired_event_is_not_replayed(rig: Any, bus: Any) -> None:
    """A replay starts nothing whose time is over."""
    handler = Timed()
    await rig.publish(bus, 1, expires=wall(rig, 5))
    await rig.on(bus, handler, start="new")
    await asyncio.sleep(10)
    await bus.replay("shop.handle")
    await bus.quiet()
    assert (handler.numbers, (await rig.info()).expired) == ([], 1)


# --- rate ----------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.floats(0.1, 10), st.lists(st.floats(0, 3, allow_subnormal=False), max_size=40))
def test_no_window_holds_more_starts_than_the_limit(limit: int, per: float, gaps: list[float]) -> None:
    """Whenever starts are asked for; and none waits longer than it must."""
    rate, now, starts = Rate(RateLimit(limit=limit, per=per)), 100.0, list[float]()
    for gap in gaps:
        now += gap
        due = rate.take(now)
        if due is not None:
            assert due == starts[-limit] + per
            now = due
            assert rate.take(now) is None
        starts.append(now)
    assert all(starts[index] >= starts[index - limit] + per for index in range(limit, len(starts)))


@pytest.mark.parametrize("lanes", [1, 4])
async def test_starts_are_spread_over_the_windows(rig: Any, bus: Any, lanes: int) -> None:
    """At most three in any ten seconds, as many at once as may be, in order; nothing is lost."""
    handler = Timed()
    await rig.on(bus, handler, rate=RateLimit(limit=3, per=10), concurrency=lanes)
    await rig.publish(bus, *range(8))
    await bus.quiet()
    assert handler.times == [0, 0, 0, 10, 10, 10, 20, 20]
    assert sorted(handler.numbers) == list(range(8))


async def test_the_window_slides(rig: Any, bus: Any) -> None:
    """It is not a clock that ticks: each start is free again when its own time is over."""
    handler = Timed()
    await rig.on(bus, handler, rate=RateLimit(limit=2, per=10))
    await rig.publish(bus, 0)
    await asyncio.sleep(9)
    await rig.publish(bus, 1, 2, 3)
    await bus.quiet()
    assert handler.times == [0, 9, 10, 19]


async def test_turns_are_taken_in_the_order_of_asking(rig: Any, bus: Any) -> None:
    """A lane that comes just when a turn is free does not overtake one that has waited for it."""
    handler = Timed(lambda n, attempt: asyncio.sleep(10))
    await rig.on(bus, handler, rate=RateLimit(limit=1, per=10), concurrency=2)
    await rig.publish(bus, 0, 1, 2, key="a")
    await rig.publish(bus, 9, key="b")
    await bus.quiet()
    assert handler.starts == [(0, 0), (10, 9), (20, 1), (30, 2)]


async def test_attempts_count_as_starts(rig: Any, bus: Any) -> None:
    """Also those in place, and those after a failure."""

    def act(n: int, attempt: int) -> None:
        if attempt < 3:
            raise ConnectionError("no")

    rule = RetryRule(errors=("ConnectionError",), action="retry", delay=0.1)
    handler = Timed(act)
    await rig.on(bus, handler, rate=RateLimit(limit=1, per=5), retry=RetryPolicy(rules=(rule,)))
    await rig.publish(bus, 1, 2, key="k")
    await bus.quiet()
    assert handler.starts == [(0, 1), (5, 1), (10, 1), (15, 2), (20, 2), (25, 2)]


async def test_what_waits_for_its_turn_has_no_deadline_yet(rig: Any, bus: Any) -> None:
    """The handler's timeout begins with its start, and holds after a wait."""
    handler = Timed(lambda n, attempt: asyncio.sleep(0.5 if n < 3 else 9))
    once = RetryPolicy(attempts=1)
    await rig.on(bus, handler, rate=RateLimit(limit=1, per=20), timeout=1, retry=once)
    await rig.publish(bus, 1, 2, 3)
    await bus.quiet()
    info = await rig.info()
    assert (info.handled, info.dead) == (2, 1)
    assert asyncio.get_running_loop().time() - handler.begin == pytest.approx(41, abs=0.01)


@pytest.mark.parametrize("lanes", [1, 4])
async def test_closing_does_not_wait_for_the_rate(rig: Any, bus: Any, lanes: int) -> None:
    """What waits for its turn was not started: it goes to the next owner at once, with no attempt counted."""
    other, handler = await rig.open("b"), Timed()
    await rig.on(bus, handler, rate=RateLimit(limit=1, per=1_000), concurrency=lanes)
    await rig.publish(bus, *range(6))
    await asyncio.sleep(1)
    assert (await rig.info()).in_flight > 0
    await bus.close()
    assert handler.times == [0]
    await rig.on(other, handler, concurrency=lanes)
    await other.quiet()
    assert sorted(handler.numbers) == list(range(6))
    assert set(handler.times) == {0, 1}
    assert (await rig.info()).stale == 0


@pytest.mark.parametrize("lanes", [1, 4])
async def test_a_partition_moves_although_its_events_wait_for_the_rate(rig: Any, lanes: int) -> None:
    """What has not started is handed over at once to a replica that joins, whose rate is its own."""
    rig.make_broker(partitions=8)
    bus, other = await rig.open("a"), await rig.open("b")
    slow, quick = Timed(), Timed()
    await rig.on(bus, slow, rate=RateLimit(limit=1, per=1_000), concurrency=lanes)
    for n in range(40):
        await rig.publish(bus, n, key=f"k{n}")
    await asyncio.sleep(1)
    await rig.on(other, quick, rate=RateLimit(limit=40, per=1_000), concurrency=lanes)
    await asyncio.sleep(1)
    owners = (await rig.info()).owners
    assert set(owners) == {"a", "b"}
    assert quick.times
    assert set(quick.times) == {1}
    assert slow.times == [0]
    await bus.close()
    await other.quiet()
    assert sorted(slow.numbers + quick.numbers) == list(range(40))


@pytest.mark.parametrize("lanes", [1, 4])
async def test_a_crash_while_waiting_for_the_rate_starts_nothing(rig: Any, bus: Any, lanes: int) -> None:
    """And leaves nothing behind."""
    other, handler = await rig.open("b"), Timed()
    await rig.on(bus, handler, rate=RateLimit(limit=1, per=1_000), concurrency=lanes)
    await rig.publish(bus, *range(6))
    await asyncio.sleep(1)
    bus.kill()
    await bus.close()
    await rig.on(other, handler)
    await other.quiet()
    assert sorted(handler.numbers) == list(range(6))


async def test_what_kills_its_owners_is_found_behind_policies_too(rig: Any) -> None:
    """Each start of a suspect is counted before it runs; waiting for a turn is no start."""
    handler = Timed(lambda n, attempt: asyncio.sleep(1_000))
    rate, once = RateLimit(limit=1, per=50), RetryPolicy(attempts=3)
    first = await rig.open("first")
    await rig.publish(first, 1)
    for name in ("b", "c", "d", "e"):
        bus = await rig.open(name)
        await rig.on(bus, handler, rate=rate, retry=once)
        await asyncio.sleep(1)
        bus.kill()
        await bus.close()
    await rig.on(first, handler, rate=rate, retry=once)
    await first.quiet()
    [letter] = await first.dead_letters()
    assert (handler.numbers, letter.attempts >= 3) == ([1] * 4, True)


async def test_a_paused_group_gives_up_its_turn(rig: Any, bus: Any) -> None:
    """What waited does not start when its turn would have come, and starts when it is resumed."""
    handler = Timed()
    await rig.on(bus, handler, rate=RateLimit(limit=1, per=10))
    await rig.publish(bus, 1, 2, key="k")
    await asyncio.sleep(1)
    await bus.pause_group("shop.handle")
    assert (await rig.info()).in_flight == 0
    await asyncio.sleep(99)
    await bus.resume_group("shop.handle")
    await bus.quiet()
    assert handler.starts == [(0, 1), (100, 2)]


async def test_what_expires_while_it_waits_is_not_started(rig: Any, bus: Any) -> None:
    """It is looked at again when its turn comes, and takes no turn."""
    handler = Timed()
    await rig.on(bus, handler, rate=RateLimit(limit=1, per=10))
    await rig.publish(bus, 1)
    await rig.publish(bus, 2, expires=wall(rig, 5))
    await rig.publish(bus, 3)
    await bus.quiet()
    assert handler.starts == [(0, 1), (10, 3)]
    assert (await rig.info()).expired == 1


async def test_what_is_filtered_takes_no_turn(rig: Any, bus: Any) -> None:
    """The predicate comes before the rate."""
    handler = Timed()
    await on(rig, bus, handler, where=lambda event: number(event) > 4, rate=RateLimit(limit=1, per=10))
    await rig.publish(bus, *range(7))
    await bus.quiet()
    assert handler.starts == [(0, 5), (10, 6)]


# --- breaker -------------------------------------------------------------------------------------

BREAKER = CircuitBreaker(minimum=4, ratio=0.5, window=60, pause=30)


def test_the_breaker_counts_what_ended_in_its_window() -> None:
    """It opens at the share of failures, but not before the minimum."""
    breaker = Breaker(BREAKER)
    assert breaker.end("a", failed=True, now=100) is None
    assert breaker.end("b", failed=True, now=101) is None
    assert breaker.end("c", failed=False, now=165) is None  # the first two are too old
    assert breaker.end("d", failed=True, now=166) is None
    assert breaker.end("e", failed=False, now=167) is None
    assert not breaker.is_open
    assert breaker.end("f", failed=True, now=168) is Turn.OPENED
    assert breaker.count(168) == (4, 2)


def test_a_success_that_completes_the_minimum_opens_it_too() -> None:
    """What counts is the share, not which attempt came last."""
    breaker = Breaker(BREAKER)
    ends = [breaker.end(n, failed=n < 3, now=100) for n in range(4)]
    assert ends == [None, None, None, Turn.OPENED]


def test_one_attempt_decides_when_the_pause_is_over() -> None:
    """Success closes, failure opens again, one without a verdict is replaced; all others are ignored."""
    breaker = Breaker(BREAKER)
    for n in range(4):
        breaker.end(n, failed=True, now=100)
    assert breaker.due(110) == 130
    assert breaker.end("late", failed=False, now=110) is None
    assert breaker.due(130) is None
    breaker.start("probe")
    assert breaker.due(131) == math.inf
    breaker.give_up("probe")
    assert breaker.due(131) is None
    breaker.start("second")
    assert breaker.end("late", failed=False, now=132) is None
    assert breaker.end("second", failed=True, now=133) is None
    assert breaker.due(134) == 163
    breaker.start("third")
    assert breaker.end("third", failed=False, now=164) is Turn.CLOSED
    assert not breaker.is_open
    assert breaker.due(164) is None
    assert breaker.end("new", failed=True, now=165) is None


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=200))
def test_what_a_breaker_counts_is_bounded_and_never_older_than_the_window(
    ends: list[tuple[float, bool]],
) -> None:
    """It may forget up to a part in 32 of the window too early, never too late."""
    breaker = Breaker(CircuitBreaker(minimum=1_000, window=64))
    now, known = 100.0, list[tuple[float, bool]]()
    for gap, failed in ends:
        now += gap
        breaker.end(None, failed, now)
        known.append((now, failed))
        inside = [fell for when, fell in known if when >= now - 64]
        surely = [fell for when, fell in known if when >= now - 62]
        attempts, failures = breaker.count(now)
        assert len(surely) <= attempts <= len(inside)
        assert sum(surely) <= failures <= sum(inside)


@pytest.mark.parametrize("lanes", [1, 4])
async def test_a_breaker_stops_a_handler_that_mostly_fails(rig: Any, bus: Any, lanes: int) -> None:
    """One attempt after each pause, until one succeeds; then all the rest. Nothing is lost or dead."""

    def act(n: int, attempt: int) -> None:
        if asyncio.get_running_loop().time() < handler.begin + 75:
            raise ConnectionError("down")

    handler = Timed(act)
    await rig.on(bus, handler, breaker=BREAKER, retry=SOON, concurrency=lanes)
    await rig.publish(bus, *range(20))
    await asyncio.sleep(29)
    info = await rig.info()
    assert len(handler.starts) == 4
    assert info.open_breakers == ("a",)
    await asyncio.sleep(45)
    assert handler.times[4:] == [30, 60]
    await bus.quiet()
    info = await rig.info()
    assert (info.handled, info.dead, info.open_breakers) == (20, 0, ())
    assert set(handler.times[6:]) == {90}
    assert len(handler.starts) == 4 + 2 + 20


async def test_a_breaker_tells_when_it_opens_and_closes(rig: Any, bus: Any, recorder: Any) -> None:
    """Once each, with the replica and what was counted."""

    def act(n: int, attempt: int) -> None:
        if asyncio.get_running_loop().time() < handler.begin + 40:
            raise ConnectionError("down")

    handler, told = Timed(act), recorder()
    await rig.on(bus, told, "bus.breaker_opened", "bus.breaker_closed", group="x.told")
    await rig.on(bus, handler, breaker=BREAKER, retry=SOON)
    await rig.publish(bus, *range(6))
    await bus.quiet()
    assert [event.type for event in told.events] == ["bus.breaker_opened", "bus.breaker_closed"]
    assert told.events[0].data == {
        "group": "shop.handle", "plugin_id": "shop", "replica": "a",
        "failed": 4, "attempts": 4, "pause": 30.0,
    }  # fmt: skip


async def test_only_one_lane_tries_when_the_pause_is_over(rig: Any, bus: Any) -> None:
    """However many wait, and however long the attempt takes."""

    def act(n: int, attempt: int) -> Any:
        if len(handler.starts) <= 4:
            raise ConnectionError("down")
        return asyncio.sleep(10)

    handler = Timed(act)
    await rig.on(bus, handler, breaker=BREAKER, retry=SOON, concurrency=5)
    await rig.publish(bus, *range(9))
    await bus.quiet()
    assert handler.times[:6] == [0, 0, 0, 0, 30, 40]
    assert handler.most == 5
    assert (await rig.info()).handled == 9


async def test_a_probe_that_is_cut_by_a_pause_or_a_storm_is_replaced(rig: Any, bus: Any) -> None:
    """An attempt that ends without a verdict does not keep the breaker half-open for ever."""

    def act(n: int, attempt: int) -> None:
        if len(handler.starts) <= 4:
            raise ConnectionError("down")
        if len(handler.starts) == 5:
            raise StormDetected("round and round")

    handler = Timed(act)
    await rig.on(bus, handler, breaker=BREAKER, retry=SOON)
    await rig.publish(bus, *range(6))
    await asyncio.sleep(50)
    assert (await rig.info()).paused is not None
    await bus.resume_group("shop.handle")
    await bus.quiet()
    info = await rig.info()
    assert (info.handled, info.open_breakers) == (6, ())
    assert handler.times[5] == 50


@pytest.mark.parametrize("lanes", [1, 3])
async def test_closing_does_not_wait_for_a_breaker(rig: Any, bus: Any, lanes: int) -> None:
    """What waits goes to the next owner, whose own breaker is closed."""

    def act(n: int, attempt: int) -> None:
        if asyncio.get_running_loop().time() < handler.begin + 1:
            raise ConnectionError("down")

    other, handler = await rig.open("b"), Timed(act)
    long = CircuitBreaker(minimum=2, pause=10_000)
    await rig.on(bus, handler, breaker=long, retry=SOON, concurrency=lanes)
    await rig.publish(bus, *range(6))
    await asyncio.sleep(5)
    await bus.close()
    assert len(handler.starts) <= 2 + lanes
    await rig.on(other, handler, breaker=long, retry=SOON, concurrency=lanes)
    await other.quiet()
    assert (await rig.info()).handled == 6
    assert asyncio.get_running_loop().time() - handler.begin == pytest.approx(5, abs=0.01)


async def test_order_within_a_key_is_kept_by_all_of_them_together(rig: Any, bus: Any) -> None:
    """Predicate, dedupe, breaker and rate at once, with failures, on several lanes."""

    def act(n: int, attempt: int) -> None:
        if n % 5 == 0 and attempt == 1:
            raise ConnectionError("down")
        done.append(n)

    done: list[int] = []
    handler = Timed(act)
    await on(
        rig, bus, handler, where=lambda event: number(event) % 7 != 0, dedupe=True, retry=SOON, concurrency=4,
        rate=RateLimit(limit=4, per=1), breaker=CircuitBreaker(minimum=2, ratio=0.3, window=5, pause=3),
    )  # fmt: skip
    for n in range(60):
        await rig.publish(bus, n, key=f"k{n % 3}")
    await bus.quiet()
    wanted = [n for n in range(60) if n % 7]
    assert sorted(done) == wanted
    for remainder in range(3):
        of_key = [n for n in done if n % 3 == remainder]
        assert of_key == sorted(of_key)
    fifth_later = zip(handler.times, handler.times[4:], strict=False)
    assert all(later >= earlier + 1 - 1e-6 for earlier, later in fifth_later)
