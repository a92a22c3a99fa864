"""What somebody meets who opens a bus: one clear message, or a bus that works."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bus.conformance.rig import SOURCE, now
from bus.redis_streams import RedisBus, open_bus
from contracts.bus import BusLimits, SubscriptionSpec
from contracts.errors import BusError, PlugbusError
from contracts.event import EventData
from contracts.message import PluginEvent

AT_ONCE = 5.0
"""Seconds after which a person thinks that it hangs."""
PASSWORD = "s3cret%/:@"
LIMITS = BusLimits(lease=1.0, partitions=1)
EVENT = EventData(type="orders.item", data='{"n": 1}')


def check_message(error: PlugbusError) -> None:
    """What was wrong, where, and one thing to do, on at most a screen; and never a password."""
    text = error.explain()
    assert error.message
    assert error.fix
    assert len(text.splitlines()) <= 6
    assert len(text) < 2_000
    assert PASSWORD not in text
    assert "Traceback" not in text


def tasks_of_buses() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("plugbus:")}


async def refusal_of(url: str, **options: Any) -> BusError:
    """Why it cannot be opened; and that nothing is left of the attempt, and a second one says the same."""
    errors = []
    for _ in range(2):
        bus = open_bus(url, limits=LIMITS, **options)
        began = now()
        with pytest.raises(BusError) as caught:
            await bus.open()
        assert now() - began < AT_ONCE
        assert not tasks_of_buses()
        await bus.close()
        check_message(caught.value)
        errors.append(caught.value)
    assert errors[0].is_final == errors[1].is_final
    return errors[0]


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[RedisBus]:
    bus = open_bus(url, limits=LIMITS, **options)
    await bus.open()
    try:
        yield bus
    finally:
        await bus.close(0)


async def works(bus: RedisBus) -> None:
    """An event goes through."""
    seen = asyncio.Event()

    async def handle(event: PluginEvent) -> None:
        seen.set()

    await bus.subscribe(
        SubscriptionSpec(group="shop.handle", plugin_id="shop", handler="handle", patterns=("orders.**",)),
        handle,
    )
    await bus.publish(EVENT, source=SOURCE)
    await asyncio.wait_for(seen.wait(), AT_ONCE)
