"""`kernel.event.*`: the catalogue of event types, and replays."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from datetime import datetime

from contracts import messages
from contracts.bus import Call, CatalogEntry, GroupInfo
from contracts.errors import InvalidOption
from contracts.event import Event, event_schema
from contracts.messages import CancelReplay, EventTypeInfo, ListEventTypes, ReplayEvents, ReplayResult
from contracts.patterns import check_pattern, matches

from .desk import CommandDesk
from .groups import find_group


class EventCommands:
    def __init__(self, desk: CommandDesk) -> None:
        self._desk = desk

    async def open(self) -> None:
        await self._desk.provide(ListEventTypes, self._types)
        await self._desk.provide(ReplayEvents, self._replay)
        await self._desk.provide(CancelReplay, self._cancel)

    async def _types(self, query: ListEventTypes, call: Call) -> tuple[EventTypeInfo, ...]:
        pattern = None if query.pattern is None else check_pattern(query.pattern)
        known = [*self._desk.bus.types(), *own_types()]
        entries = [entry for entry in known if pattern is None or matches(pattern, entry.type)]
        return joined(entries, await self._desk.bus.groups())

    async def _replay(self, query: ReplayEvents, call: Call) -> ReplayResult:
        await find_group(self._desk, query.group)
        if isinstance(query.start, datetime) and isinstance(query.end, datetime) and query.end <= query.start:
            raise InvalidOption(
                f"the replay would end at {query.end}, before it begins at {query.start}",
                fix="an earlier start, or a later end",
            )
        events = await self._desk.bus.replay(query.group, start=query.start, end=query.end)
        self._desk.audit(
            call, "event.replay", query.group, start=query.start, end=query.end or "now", events=events
        )
        return ReplayResult(group=query.group, events=events)

    async def _cancel(self, query: CancelReplay, call: Call) -> ReplayResult:
        await find_group(self._desk, query.group)
        events = await self._desk.bus.cancel_replay(query.group)
        self._desk.audit(call, "event.cancel_replay", query.group, events=events)
        return ReplayResult(group=query.group, events=events)


@functools.cache
def own_types() -> tuple[CatalogEntry, ...]:
    """What the kernel and the bus themselves publish, as the catalogue would have it."""
    return tuple(
        CatalogEntry(
            type=event.__event_type__,
            version=event.__event_version__,
            description=inspect.cleandoc(event.__doc__ or ""),
            json_schema=event_schema(event),
            plugin_id="bus" if event.__event_type__.startswith("bus.") else "kernel",
        )
        for event in vars(messages).values()
        if isinstance(event, type) and issubclass(event, Event) and event.__event_type__
    )


def joined(entries: Iterable[CatalogEntry], groups: Iterable[GroupInfo]) -> tuple[EventTypeInfo, ...]:
    """One answer for each type and version: what those who publish it say of it comes first."""
    by_version: dict[tuple[str, int], list[CatalogEntry]] = {}
    for entry in entries:
        by_version.setdefault((entry.type, entry.version), []).append(entry)
    known = list(groups)
    return tuple(
        _type_info(sorted(declared, key=lambda entry: not entry.published), known)
        for _, declared in sorted(by_version.items())
    )


def _type_info(declared: list[CatalogEntry], groups: list[GroupInfo]) -> EventTypeInfo:
    first = declared[0]
    return EventTypeInfo(
        type=first.type,
        version=first.version,
        description=first.description,
        json_schema=first.json_schema,
        publishers=tuple(sorted({entry.plugin_id for entry in declared if entry.published})),
        handlers=tuple(
            sorted(g.group for g in groups if any(matches(pattern, first.type) for pattern in g.patterns))
        ),
    )
