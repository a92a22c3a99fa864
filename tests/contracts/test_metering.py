"""Counting the steps of a coroutine without changing anything else of it."""

from __future__ import annotations

import asyncio
import time

import pytest

from contracts.metering import Meter


async def test_only_steps_are_counted() -> None:
    """Not the waits between them."""
    meter = Meter()

    async def work() -> int:
        time.sleep(0.01)  # noqa: ASYNC251 - it is to occupy the loop
        await asyncio.sleep(0.02)
        return 7

    assert await meter.steps(work()) == 7
    assert 0.01 <= meter.loop_seconds < 0.02


async def test_it_is_a_coroutine_for_tasks_and_for_await() -> None:
    """Errors, cancellation and closing reach the inner one; a task shows its name."""
    meter, cancelled = Meter(), asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    task = asyncio.create_task(meter.steps(hang()))
    assert "hang" in repr(task)
    await asyncio.sleep(0)
    assert task.get_stack()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()
    with pytest.raises(KeyError):
        await meter.steps(fail())
    unstarted = hang()
    meter.steps(unstarted).close()
    assert unstarted.cr_frame is None
