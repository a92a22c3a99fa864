"""Dead letters as a backend in memory keeps them: with what redrive needs. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

from contracts.bus import DeadLetter, DeadLetterSelection
from contracts.errors import ErrorInfo
from contracts.message import Message

from .groups import GroupPartition


@dataclass(slots=True, eq=False)
class DeadEntry:
    """A dead letter as the broker keeps it: with what redrive needs."""

    id: str
    part: GroupPartition
    message: Message
    plugin_id: str
    generation: int
    reason: str
    error: ErrorInfo | None
    attempts: int
    last_ns: int

    def letter(self) -> DeadLetter:
        message = self.message
        return DeadLetter(
            id=self.id,
            group=self.part.group,
            plugin_id=self.plugin_id,
            generation=self.generation,
            reason=self.reason,
            error=self.error,
            attempts=self.attempts,
            first_at=_moment(message.time_ns),
            last_at=_moment(self.last_ns),
            envelope=message.envelope,
            version=message.version,
            data=message.data.decode(),
        )


class DeadLetters:
    """The dead letters of one group; bounded, the oldest go."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[str, DeadEntry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: DeadEntry) -> int:
        """How many had to go for it."""
        self._entries[entry.id] = entry
        dropped = max(0, len(self._entries) - self._limit)
        for _ in range(dropped):
            self._entries.popitem(last=False)
        return dropped

    def select(self, selection: DeadLetterSelection) -> list[DeadEntry]:
        """The newest first."""
        if selection.ids is None:
            return list(reversed(self._entries.values()))
        wanted = set(selection.ids)
        return [entry for entry in reversed(self._entries.values()) if entry.id in wanted]

    def remove(self, entry: DeadEntry) -> None:
        del self._entries[entry.id]


def _moment(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)
