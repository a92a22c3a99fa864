"""Tails of the memory bus: a cursor on each log, no queue of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from contracts.bus import TailItem
from contracts.message import Message
from contracts.patterns import matches

from ..checks import nanoseconds
from ..topics import may_select
from .partition import Partition
from .positions import OLDEST, Cursors, ends, read_position, write_position

if TYPE_CHECKING:
    from .broker import MemoryBroker

_AT_ONCE = 1_000


class MemoryTail:
    """See `contracts.bus.Tail`. What it misses because of trimming comes as `missed` of the next item."""

    def __init__(
        self,
        broker: MemoryBroker,
        patterns: tuple[str, ...],
        position: str | datetime | None,
        closed: Callable[[MemoryTail], None],
    ) -> None:
        self.patterns = patterns
        self._broker = broker
        self._closed = closed
        self._cursors, self._missed = _start(broker, position)
        self._sleeper: asyncio.Future[None] | None = None
        self._open = True
        self._turn = 0

    def __aiter__(self) -> MemoryTail:
        return self

    async def __anext__(self) -> TailItem:
        while self._open:
            item = self._next()
            if item is not None:
                return item
            self._sleeper = asyncio.get_running_loop().create_future()
            try:
                await self._sleeper
            finally:
                self._sleeper = None
        raise StopAsyncIteration

    def read_nowait(self) -> list[TailItem]:
        items: list[TailItem] = []
        while self._open and len(items) < _AT_ONCE and (item := self._next()) is not None:
            items.append(item)
        return items

    def close(self) -> None:
        if self._open:
            self._open = False
            self._closed(self)
            self.wake()

    def wake(self) -> None:
        """Something that it selects was published."""
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def _next(self) -> TailItem | None:
        """The next event that it selects; the partitions take turns."""
        partitions = [partition for partition in self._broker.all_partitions() if self._reads(partition)]
        for step in range(len(partitions)):
            partition = partitions[(self._turn + step) % len(partitions)]
            message = self._advance(partition)
            if message is not None:
                self._turn += step + 1
                return self._item(partition, message)
        return None

    def _advance(self, partition: Partition) -> Message | None:
        cursor = self._cursors.get(partition.prefix, 0)
        if cursor < partition.base:
            self._missed += partition.base - cursor
        for message in partition.read(cursor):
            if any(matches(pattern, message.type) for pattern in self.patterns):
                self._cursors[partition.prefix] = message.sequence + 1
                return message
        self._cursors[partition.prefix] = partition.end
        return None

    def _reads(self, partition: Partition) -> bool:
        topic = partition.topic
        return any(may_select(pattern, topic) for pattern in self.patterns)

    def _item(self, partition: Partition, message: Message) -> TailItem:
        missed, self._missed = self._missed, 0
        return TailItem(
            envelope=message.envelope,
            version=message.version,
            data=message.data.decode(),
            position=write_position(self._broker.incarnation, self._cursors, partition.prefix),
            missed=missed,
        )


def _start(broker: MemoryBroker, position: str | datetime | None) -> tuple[Cursors, int]:
    """Where to begin, and how many events are known to be missed already."""
    if position is None:
        return ends(broker.all_partitions()), 0
    if isinstance(position, datetime):
        when_ns = nanoseconds(position, "position")
        return {partition.prefix: partition.sequence_at(when_ns) for partition in broker.all_partitions()}, 0
    oldest = {partition.prefix: partition.base for partition in broker.all_partitions()}
    if position == OLDEST:
        return oldest, 0
    incarnation, cursors = read_position(position)
    if incarnation != broker.incarnation:  # of a broker that is gone: at least one was missed
        return oldest, 1
    return cursors, 0
