"""Dead letters as a backend in memory keeps them: with what redrive needs. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from contracts.bus import DeadLetter, DeadLetterSelection
from contracts.envelope import moment_of, nanoseconds_of
from contracts.errors import ErrorInfo
from contracts.message import Message

from ..groups import GroupPartition


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
    number: int
    """In the order in which they came, of all groups: what lists are sorted by."""
    traceparent: str | None = None

    @classmethod
    def of(cls, letter: DeadLetter, message: Message, part: GroupPartition, number: int) -> DeadEntry:
        """What was exported elsewhere."""
        return cls(
            letter.id, part, message, letter.plugin_id, letter.generation, letter.reason, letter.error,
            letter.attempts, nanoseconds_of(letter.last_at), number, letter.traceparent,
        )  # fmt: skip

    def letter(self) -> DeadLetter:
        message = self.message
        text, raw = _readable(message.data)
        return DeadLetter(
            id=self.id,
            group=self.part.group,
            plugin_id=self.plugin_id,
            generation=self.generation,
            reason=self.reason,
            error=self.error,
            attempts=self.attempts,
            first_at=moment_of(message.time_ns),
            last_at=moment_of(self.last_ns),
            envelope=message.envelope,
            version=message.version,
            data=text,
            data_base64=raw,
            traceparent=self.traceparent or message.traceparent,
        )

    @property
    def age_key(self) -> tuple[int, int]:
        """Sorts what was given up first before the rest, in whatever order an import added it."""
        return self.last_ns, self.number


class DeadLetters:
    """The dead letters of one group; bounded, the oldest go."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[str, DeadEntry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, id: str) -> bool:
        return id in self._entries

    def add(self, entry: DeadEntry) -> int:
        """How many had to go for it."""
        self._entries[entry.id] = entry
        dropped = max(0, len(self._entries) - self._limit)
        for _ in range(dropped):
            del self._entries[next(iter(self._entries))]
        return dropped

    def select(self, selection: DeadLetterSelection, now: datetime) -> list[DeadEntry]:
        """Those that fit."""
        found: Iterable[DeadEntry] = self._entries.values()
        if selection.ids is not None:
            found = [self._entries[id] for id in dict.fromkeys(selection.ids) if id in self._entries]
        if _asks_for_more(selection):
            return [entry for entry in found if selection.fits(entry.letter(), now)]
        return list(found)

    def remove(self, entry: DeadEntry) -> None:
        del self._entries[entry.id]


def _asks_for_more(selection: DeadLetterSelection) -> bool:
    """Whether more than group and ids must be looked at, for which the letter must be made."""
    return any(value is not None and name not in ("ids", "group") for name, value in selection)


def _readable(data: bytes) -> tuple[str, str | None]:
    """Text, or else base64."""
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return "", base64.b64encode(data).decode()
