"""What concerns the whole backend and no replica in particular: groups, topics, dead letters, replay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from contracts.bus import (
    CatalogEntry,
    DeadLetter,
    DeadLetterSelection,
    GroupInfo,
    SubscriptionSpec,
    TopicInfo,
)

from ..replay import Replay
from .inspection import topic_info
from .ranges import ranges
from .replica import Replica

_EVERYTHING = DeadLetterSelection()
_AT_ONCE = 250
"""Topics that are looked at in one step of the event loop: some milliseconds."""


class Administration(Replica):
    """The part of `contracts.bus.EventBus` that any bus on a broker answers alike.

    What only looks works on a closed bus too.
    """

    # --- groups -----------------------------------------------------------------------------------

    async def declare_group(self, spec: SubscriptionSpec) -> None:
        """A broadcast subscription keeps no group: its options are checked, no more."""
        self._check_open()
        if spec.options.broadcast:
            self.broker.table.check(spec)
        else:
            self.broker.table.declare(spec)

    async def drop_group(self, group: str, *, reason: str = "") -> None:
        self._check_open()
        tasks = self.broker.table.drop(group, reason)
        others = [task for task in tasks if task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others)

    async def pause_group(self, group: str, *, reason: str = "") -> bool:
        self._check_open()
        return self.broker.table.pause(group, reason)

    async def resume_group(self, group: str) -> bool:
        self._check_open()
        return self.broker.table.resume(group)

    async def groups(self) -> list[GroupInfo]:
        now, now_ns = self.broker.clock.monotonic(), self.broker.clock.time_ns()
        return [self.broker.groups[name].info(now, now_ns) for name in sorted(self.broker.groups)]

    async def topics(self) -> list[TopicInfo]:
        now_ns, limit = self.broker.clock.time_ns(), self.broker.limits.limit
        infos = []
        for number, partitions in enumerate(self.broker.topics()):
            infos.append(topic_info(partitions, limit, now_ns))
            if not (number + 1) % _AT_ONCE:
                await asyncio.sleep(0)
        return sorted(infos, key=lambda info: info.topic)

    # --- replay -----------------------------------------------------------------------------------

    async def replay(
        self, group: str, *, start: str | datetime = "oldest", end: str | datetime | None = None
    ) -> int:
        self._check_open()
        found = self.broker.table.find(group)
        spans = ranges(self.broker, start, end)
        self.broker.table.end_replay(found)
        for partition, (first, last) in spans.items():
            part = found.parts.get(partition)
            if part is not None:
                part.missed += max(0, min(last, partition.base) - first)
                part.begin_replay(Replay(partition, first, last, found.spec.patterns))
        return found.replaying

    async def cancel_replay(self, group: str) -> int:
        self._check_open()
        left = self.broker.table.end_replay(self.broker.table.find(group))
        self.broker.watch.look_if_on()
        return left

    # --- dead letters -----------------------------------------------------------------------------

    async def dead_letters(
        self, selection: DeadLetterSelection = _EVERYTHING, *, limit: int = 100, after: str | None = None
    ) -> list[DeadLetter]:
        return self.broker.losses.list(selection, limit, after)

    async def count_dead_letters(self, selection: DeadLetterSelection = _EVERYTHING) -> int:
        return self.broker.losses.count(selection)

    async def redrive(self, selection: DeadLetterSelection, *, rate: float | None = None) -> int:
        self._check_open()
        return self.broker.losses.redrive(selection, rate)

    async def discard(self, selection: DeadLetterSelection) -> int:
        self._check_open()
        return self.broker.losses.discard(selection)

    async def import_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        self._check_open()
        return self.broker.losses.add(letters, self.broker.part_for)

    # --- catalogue --------------------------------------------------------------------------------

    def add_types(self, entries: Sequence[CatalogEntry]) -> Callable[[], None]:
        catalog, living = self.broker.catalog, {*self.broker.members.hearts, self.replica}
        catalog.clear_up({entry.plugin_id for entry in entries}, living)
        take_out = catalog.add(entries, self.replica)
        published = {entry.type for entry in entries if entry.published}

        def undo() -> None:
            take_out()
            self.broker.let_go(published)

        return undo

    def types(self) -> list[CatalogEntry]:
        return self.broker.catalog.entries()
