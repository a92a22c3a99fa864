"""Predicates: what a handler does not want to see, and what becomes of one that raises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.bus import RetryPolicy
from contracts.message import PluginEvent
from contracts.subscription import RetryRule

from .conftest import SOON, Timed, number, on


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
