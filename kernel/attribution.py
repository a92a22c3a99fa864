"""What each plugin has done and taken: the figures of bus, host and kernel put together."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from contracts.bus import EventBus, GroupInfo
from contracts.errors import BusError
from contracts.health import PerformanceMetrics
from contracts.plugin import PluginStatus

from .registry import PluginRecord

PATIENCE = 3.0
"""Seconds after which the depth of queues is left out."""


def figures_of(record: PluginRecord, pending: Mapping[str, int] | None = None) -> PerformanceMetrics | None:
    """Of a started plugin. `pending`: by plugin; None: nobody knows."""
    generation = record.current
    if generation is None or record.status is not PluginStatus.STARTED:
        return None
    meter, usage, last = generation.port.meter, generation.host.usage(), generation.health.last
    return PerformanceMetrics(
        seconds=round(time.monotonic() - generation.began, 3),
        handled=meter.handled,
        failed=meter.failed,
        published=meter.published,
        calls=meter.calls,
        handler_seconds=round(meter.handler_seconds, 6),
        loop_seconds=round(meter.loop_seconds + usage.loop_seconds, 6),
        pending=None if pending is None else pending.get(record.plugin_id, 0),
        tasks=usage.tasks,
        memory_bytes=usage.memory_bytes,
        stalls=generation.stalls,
        extra=last.figures.extra if last else {},
    )


def pending_of(groups: Iterable[GroupInfo]) -> dict[str, int]:
    """Events without an outcome, by plugin: waiting, in flight and parked."""
    found: Counter[str] = Counter()
    for group in groups:
        found[group.plugin_id] += group.waiting + group.in_flight + group.parked
    return dict(found)


async def ask_pending(bus: EventBus) -> dict[str, int] | None:
    """The same, of the bus as it is now; None where it does not answer."""
    try:
        async with asyncio.timeout(PATIENCE):
            return pending_of(await bus.groups())
    except (TimeoutError, BusError):
        return None
