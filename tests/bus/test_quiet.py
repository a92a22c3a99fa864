"""Quiet: everything since a mark, and everything that it caused, has a final outcome."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.bus import RetryPolicy
from contracts.event import Event, EventResult
from contracts.message import PluginEvent


class Next(Event, type="chain.next"):
    left: int


async def test_nothing_published_is_quiet(bus: Any) -> None:
    """At once."""
    await bus.quiet()
    await bus.quiet(bus.mark())


async def test_quiet_waits_for_a_whole_chain(rig: Any, bus: Any) -> None:
    """Returned events, events published by handlers, and what they cause in turn."""
    handled = []

    async def handle(event: PluginEvent) -> EventResult | None:
        left = event.data["left"]
        handled.append(left)
        await asyncio.sleep(1)
        return EventResult.ok(Next(left=left - 1)) if left else None

    await rig.on(bus, handle, "chain.*")
    await bus.publish(Next(left=5), source="/test")
    await bus.quiet()
    assert handled == [5, 4, 3, 2, 1, 0]


async def test_parked_is_not_final(rig: Any, bus: Any, recorder: Any) -> None:
    """Quiet comes when the last retry has succeeded."""

    def act(n: int, attempt: int) -> None:
        if attempt < 3:
            raise ValueError

    handler = recorder(act)
    await rig.on(bus, handler, retry=RetryPolicy(first_delay=600))
    await rig.publish(bus, 1)
    await bus.quiet()
    assert handler.done == [1]


async def test_a_group_that_nobody_handles_is_not_quiet(rig: Any, bus: Any, recorder: Any) -> None:
    """A waiting event has no outcome; dropping the group gives it up."""
    await bus.declare_group(rig.spec())
    await rig.publish(bus, 1)
    waiting = asyncio.create_task(bus.quiet())
    await asyncio.sleep(1)
    assert not waiting.done()
    await bus.drop_group("shop.handle")
    await waiting


async def test_quiet_since_a_mark_ignores_what_was_before(rig: Any, bus: Any, recorder: Any) -> None:
    """An old event that is stuck does not count."""
    handler = recorder(lambda n, attempt: asyncio.sleep(1_000) if n == 1 else None)
    await rig.on(bus, handler, concurrency=2, timeout=5_000)
    await rig.publish(bus, 1)
    await asyncio.sleep(1)
    mark = bus.mark()
    await bus.quiet(mark)
    await rig.publish(bus, 2)
    await bus.quiet(mark)
    assert handler.done == [2]
    await bus.quiet()
    assert handler.done == [2, 1]


async def test_quiet_waits_for_announcements(rig: Any, bus: Any, recorder: Any) -> None:
    """What the bus says of a dead letter is published, and handled, before it is quiet."""
    handler = recorder()
    await rig.on(bus, recorder(lambda n, a: EventResult.dead_letter("no")))
    await rig.on(bus, handler, "bus.**", group="x.h")
    await rig.publish(bus, 1)
    await bus.quiet()
    assert [event.type for event in handler.events] == ["bus.dead_lettered"]


async def test_quiet_waits_for_what_is_delayed(rig: Any, bus: Any, recorder: Any) -> None:
    """A delayed event was published and has no outcome yet."""
    handler = recorder()
    await rig.on(bus, handler)
    await rig.publish(bus, 1, delay=50)
    await bus.quiet()
    assert handler.done == [1]


async def test_quiet_without_any_group_is_immediate(rig: Any, bus: Any) -> None:
    """An event that no group selects has nothing to wait for."""
    await rig.publish(bus, 1)
    await bus.quiet()


async def test_a_cancelled_quiet_leaves_nothing(rig: Any, bus: Any, recorder: Any) -> None:
    """And the others that wait are still told."""
    await rig.on(bus, recorder(lambda n, attempt: asyncio.sleep(10)))
    await rig.publish(bus, 1)
    first, second = asyncio.create_task(bus.quiet()), asyncio.create_task(bus.quiet())
    await asyncio.sleep(1)
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
