"""Circuit breakers: a handler that mostly fails is left alone for a while, and tried by one attempt."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.policy.breaker import Breaker, Turn
from contracts.bus import CircuitBreaker
from contracts.errors import StormDetected

from .conftest import SOON, Timed

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
