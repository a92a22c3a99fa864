"""Replay: a second cursor of one group in one partition, over what is still retained. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from contracts.message import Message
from contracts.patterns import matches


class Log(Protocol):
    """What a partition still retains."""

    base: int
    """Sequence of the first event that is kept."""

    def read(self, start: int) -> Iterator[Message]:
        """What is kept from `start` on."""


class Replay:
    """The events of `log` from `start` up to `end` that one of `patterns` selects."""

    __slots__ = ("_cursor", "_end", "_log", "_patterns", "left")

    def __init__(self, log: Log, start: int, end: int, patterns: tuple[str, ...]) -> None:
        self._log = log
        self._cursor = max(start, log.base)
        self._end = end
        self._patterns = patterns
        self.left = sum(1 for _ in self._selected(end))
        """How many are still to be taken."""

    def take(self, limit: int) -> list[Message]:
        taken: list[Message] = []
        if limit > 0:
            for message in self._selected(self._end):
                taken.append(message)
                self._cursor = message.sequence + 1
                if len(taken) == limit:
                    break
        self.left -= len(taken)
        return taken

    def skip_to(self, sequence: int) -> int:
        """What is below is about to go from the log; how many it misses by that."""
        missed = sum(1 for _ in self._selected(min(sequence, self._end)))
        self._cursor = max(self._cursor, sequence)
        self.left -= missed
        return missed

    def _selected(self, end: int) -> Iterator[Message]:
        for message in self._log.read(self._cursor):
            if message.sequence >= end:
                return
            if any(matches(pattern, message.type) for pattern in self._patterns):
                yield message


def quota(concurrency: int) -> int:
    """How many replayed deliveries may run at once; three live ones are taken for each."""
    return max(1, concurrency // 4)
