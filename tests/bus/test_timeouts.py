"""Handler timeouts: one sweeper, no timer for each message, and handlers that will not listen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from contracts.bus import RetryPolicy
from contracts.event import Event, EventResult
from contracts.message import PluginEvent

ONCE = RetryPolicy(attempts=1)


class Late(Event, type="late.answer"):
    n: int


async def hang() -> None:
    await asyncio.Event().wait()


async def test_a_handler_that_runs_too_long_is_cancelled_and_tried_again(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """A timeout counts as a failed attempt; the place where the handler waited is kept."""
    handler = recorder(lambda n, attempt: hang() if attempt == 1 else None)
    await rig.on(bus, handler, timeout=7, retry=RetryPolicy(first_delay=0))
    start = asyncio.get_running_loop().time()
    await rig.publish(bus, 1)
    await bus.quiet()
    assert handler.seen == [(1, 1), (1, 2)]
    assert asyncio.get_running_loop().time() - start == pytest.approx(7, abs=0.01)


async def test_the_dead_letter_of_a_timeout_shows_where_it_hung(rig: Any, bus: Any, recorder: Any) -> None:
    """The traceback leads into the handler."""
    await rig.on(bus, recorder(lambda n, attempt: hang()), timeout=1, retry=ONCE)
    await rig.publish(bus, 1)
    await bus.quiet()
    [letter] = await bus.dead_letters()
    assert letter.error.matches("HandlerTimeout")
    assert "in hang" in letter.error.traceback


@pytest.mark.parametrize("lanes", [1, 3])
async def test_each_attempt_has_its_own_deadline(rig: Any, bus: Any, recorder: Any, lanes: int) -> None:
    """A backlog that takes longer than the timeout in all is not late: attempts are measured, not waits."""
    handler = recorder(lambda n, attempt: asyncio.sleep(6))
    await rig.on(bus, handler, timeout=7, concurrency=lanes)
    await rig.publish(bus, *range(10), key="k")
    await bus.quiet()
    assert handler.done == list(range(10))


async def test_timeouts_of_different_handlers_are_kept_side_by_side(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """A short timeout that comes into force while a long one runs is kept too, and the other way round."""
    loop = asyncio.get_running_loop()
    slow, quick = recorder(lambda n, attempt: hang()), recorder(lambda n, attempt: hang())
    await rig.on(bus, slow, group="a.h", timeout=50, retry=ONCE)
    start = loop.time()
    await rig.publish(bus, 1)
    await asyncio.sleep(10)
    await rig.on(bus, quick, group="b.h", timeout=2, retry=ONCE)
    await bus.quiet()
    ends = {letter.group: letter.last_at.timestamp() for letter in await bus.dead_letters()}
    offset = rig.clock.time_ns() / 1e9 - loop.time()
    assert ends["b.h"] - offset - start == pytest.approx(12, abs=0.01)
    assert ends["a.h"] - offset - start == pytest.approx(50, abs=0.01)


async def test_a_handler_that_swallows_its_cancellation_has_failed_all_the_same(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """Returning after the deadline does not count as success, and what was returned is not published."""

    async def stubborn(event: PluginEvent) -> EventResult | None:
        if event.attempt == 1:
            try:
                await hang()
            except asyncio.CancelledError:
                return EventResult.ok(Late(n=99))
        finished.append(event.attempt)
        return None

    finished: list[int] = []
    late = recorder()
    await rig.on(bus, stubborn, timeout=3)
    await rig.on(bus, late, "late.*", group="x.h")
    await rig.publish(bus, 1, 2)
    await bus.quiet()
    assert finished == [2, 2]
    assert late.seen == []


async def test_a_handler_that_keeps_swallowing_is_cancelled_again(rig: Any, bus: Any) -> None:
    """Insisting: one cancellation a second until it gives in; its lane works on afterwards."""
    swallowed = 0

    async def handle(event: PluginEvent) -> None:
        nonlocal swallowed
        while event.attempt == 1 and swallowed < 4:
            try:
                await hang()
            except asyncio.CancelledError:
                swallowed += 1

    await rig.on(bus, handle, timeout=3)
    await rig.publish(bus, 1, key="k")
    await bus.quiet()
    assert swallowed == 4
    info = await rig.info()
    assert (info.handled, info.failed) == (1, 1)


async def test_a_timeout_that_is_turned_into_another_error_is_a_timeout(rig: Any, bus: Any) -> None:
    """What a handler makes of its cancellation does not hide that it ran too long."""

    async def handle(event: PluginEvent) -> None:
        try:
            await hang()
        except asyncio.CancelledError:
            raise ValueError("interrupted") from None

    await rig.on(bus, handle, timeout=3, retry=ONCE)
    await rig.publish(bus, 1)
    await bus.quiet()
    [letter] = await bus.dead_letters()
    assert letter.error.matches("HandlerTimeout")
    assert "interrupted" in letter.error.traceback


async def test_an_error_of_its_own_timeout_is_an_ordinary_error(rig: Any, bus: Any) -> None:
    """`TimeoutError` of something that the handler waited for is not the bus's timeout."""

    async def handle(event: PluginEvent) -> None:
        async with asyncio.timeout(1):
            await hang()

    await rig.on(bus, handle, timeout=30, retry=ONCE)
    await rig.publish(bus, 1)
    await bus.quiet()
    [letter] = await bus.dead_letters()
    assert letter.error.type == "TimeoutError"


async def test_completion_at_the_very_deadline_is_one_outcome(rig: Any, bus: Any, recorder: Any) -> None:
    """A handler that ends in the turn in which its time is over is settled once, and the lane goes on."""
    handler = recorder(lambda n, attempt: asyncio.sleep(5))
    await rig.on(bus, handler, timeout=5, retry=ONCE)
    await rig.publish(bus, *range(5))
    await bus.quiet()
    info = await rig.info()
    assert info.handled + info.dead == 5
    assert info.in_flight == info.waiting == info.parked == 0


async def test_a_handler_that_never_ends_is_left_alone_at_close(
    rig: Any, bus: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing does not hang; it says which handler it was, and the event is delivered to the next owner."""
    release = asyncio.Event()

    async def deaf(event: PluginEvent) -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    other = await rig.open("b")
    await rig.on(bus, deaf, timeout=1_000)
    await rig.publish(bus, 1)
    await asyncio.sleep(1)
    await bus.close(grace=0)
    assert any(
        record.levelno == logging.ERROR and "shop.handle" in record.getMessage() for record in caplog.records
    )
    assert (await rig.info()).waiting == 1
    release.set()
    seen = []

    async def handle(event: PluginEvent) -> None:
        seen.append(event.id)

    await rig.on(other, handle)
    await other.quiet()
    assert len(seen) == 1
