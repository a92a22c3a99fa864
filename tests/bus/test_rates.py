"""Rate limits: how starts are spread, and what may happen to events that wait for their turn."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.policy.rate import Rate
from contracts.bus import RateLimit, RetryPolicy
from contracts.subscription import RetryRule

from .conftest import Timed, wall


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
