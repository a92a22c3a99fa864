"""One partition of a topic: its log, numbered without gaps, and who reads it.

The log serves groups that come late, tails and the limit of the topic. What a group has yet to handle it
holds itself (`groups.py`), so that nobody skips over events that are not his.
"""

from __future__ import annotations

import bisect
import itertools
from collections import deque
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from contracts.bus import DEFAULT_TIMEOUT, BusLimits
from contracts.message import Message

from ..groups import GroupPartition
from ..rates import Rate
from ..window import IdWindow
from .census import oldest_need

if TYPE_CHECKING:
    from .watch import RoomWaiter

_SECOND = 1_000_000_000
_DIGITS = 19
"""No sequence has so many."""


class Partition:
    """The log of one partition."""

    __slots__ = (
        "_limits", "_peak", "_stamps", "base", "ids", "look_at", "messages", "next_stamp", "number", "parts",
        "prefix", "rate", "topic", "waiters", "window",
    )  # fmt: skip

    def __init__(
        self, topic: str, number: int, limits: BusLimits, incarnation: str = "",
        longest_timeout: float = DEFAULT_TIMEOUT,
    ) -> None:  # fmt: skip
        self.topic = topic
        self.number = number
        self.prefix = f"{topic}/{number}:"
        """Of positions."""
        self.ids = f"{incarnation}-{topic}-{number}-"
        """Of the ids of events whose publisher gave none: unique, and no work until somebody asks."""
        self._limits = limits
        self.messages: list[Message] = []
        self.base = 0
        """Sequence of the first message that is kept."""
        self.window = IdWindow(limits.window_seconds, limits.window, longest_timeout)
        self.rate = Rate()
        self._peak = 0
        self.parts: list[GroupPartition] = []
        """The groups' places in it."""
        self.waiters: deque[RoomWaiter] = deque()
        """Publishes that wait for room, in order."""
        self.look_at = 0
        """Length from which `append` must be preceded by `has_room`."""
        self._stamps: list[tuple[int, int]] = []  # (sequence, when it was appended), at most one a second
        self.next_stamp = 0
        """From then on the next message must be stamped."""
        self._plan()

    def stamp(self, sequence: int, now_ns: int) -> None:
        """Note when `sequence` came, at most once a second: by that the age of what is kept is judged."""
        self._stamps.append((sequence, now_ns))
        self.rate.note(now_ns / _SECOND, sequence)
        self.next_stamp = now_ns + _SECOND

    @property
    def end(self) -> int:
        """The sequence that the next message gets."""
        return self.base + len(self.messages)

    def read(self, start: int) -> Iterator[Message]:
        """What is kept from `start` on."""
        for index in range(max(0, start - self.base), len(self.messages)):
            yield self.messages[index]

    def sequence_at(self, when_ns: int) -> int:
        """Of the first event that was published at `when_ns` or later."""
        block = max(0, bisect.bisect_right(self._stamps, when_ns, key=_time) - 1)
        first, last = ([sequence for sequence, _ in self._stamps[block : block + 2]] + [self.end] * 2)[:2]
        following = itertools.islice(self.read(first), max(0, last - max(first, self.base)))
        return next((message.sequence for message in following if message.time_ns >= when_ns), last)

    def has_room(self, now_ns: int, factor: int = 1) -> bool:
        """Trim what nobody needs; whether the log is below its limit (`factor` times it)."""
        self.trim(now_ns)
        return len(self.messages) < self._limits.limit * factor

    def find(self, source: str, id: str, now: float) -> str | None:
        """The position of an event that was published lately, or None.

        Ids that the broker made itself are not remembered (nobody but a caller with a receipt can know
        one): they say where in the log to look, so publishing without an id pays nothing for the window.
        The window knows those that somebody gave again, e.g. with a source of his own.
        """
        if id.startswith(self.ids):
            number = id.removeprefix(self.ids)
            index = int(number) - self.base if number.isdecimal() and len(number) < _DIGITS else -1
            if 0 <= index < len(self.messages):
                message = self.messages[index]
                if message.id == id and message.source == source:
                    return f"{self.prefix}{message.sequence}"
        return self.window.find(source, id, now)

    def holder(self) -> GroupPartition | None:
        """The group whose oldest need holds the log."""
        needs = [(oldest_need(part), part.group, part) for part in self.parts]
        held = [(need, group, part) for need, group, part in needs if need is not None]
        return min(held, key=lambda item: item[:2])[2] if held else None

    def holder_now(self, now_ns: int) -> GroupPartition | None:
        """The group that keeps the log from being trimmed now."""
        holder = self.holder()
        need = None if holder is None else oldest_need(holder)
        return holder if need is not None and need < self._free_before(now_ns) else None

    def let_go(self, types: Collection[str]) -> None:
        """Keep what events of `types` say, and no object of them: that would keep a class, and code of its
        generation with it."""
        for message in self.messages:
            if message.type in types:
                message.let_go()

    @property
    def peak(self) -> int:
        """The most that it ever kept."""
        return max(self._peak, len(self.messages))

    # --- retention --------------------------------------------------------------------------------

    def trim(self, now_ns: int) -> None:
        """Let go of what is too old or too much, never of what a group still needs."""
        end = self._free_before(now_ns)
        if end > self.base:
            self._drop_before(min([end, *self._needs()]))
        self._plan()

    def _free_before(self, now_ns: int) -> int:
        """What is below may go, if nobody needs it."""
        half = self._limits.limit // 2
        too_many = self.end - min(self._limits.retain, half)
        seconds = self._limits.young_seconds
        young = self._appended_before(now_ns - int(seconds * _SECOND)) if seconds else self.end
        return min(max(self._too_old(now_ns), too_many), max(young, self.end - half))

    def _needs(self) -> Iterator[int]:
        for part in self.parts:
            need = oldest_need(part)
            if need is not None:
                yield need

    def _too_old(self, now_ns: int) -> int:
        return self._appended_before(now_ns - int(self._limits.retain_seconds * _SECOND))

    def _appended_before(self, when_ns: int) -> int:
        """Everything below this sequence was appended before `when_ns` (to the second)."""
        first_not = bisect.bisect_right(self._stamps, when_ns - _SECOND, key=_time)
        return self._stamps[first_not][0] if first_not < len(self._stamps) else self.end

    def _drop_before(self, sequence: int) -> None:
        count = sequence - self.base
        if count > 0:
            self._peak = self.peak
            for part in self.parts:
                part.trimmed(sequence)
            del self.messages[:count]
            self.base = sequence
            passed = bisect.bisect_right(self._stamps, sequence, key=_sequence)
            del self._stamps[: max(0, passed - 1)]

    def _plan(self) -> None:
        """Look again when the log has grown by a part of what it holds: trimming moves the rest."""
        limits, length = self._limits, len(self.messages)
        grown = max(length, limits.retain) + max(64, limits.retain // 8)
        self.look_at = 0 if self.waiters else min(grown, limits.limit)


def _sequence(stamp: tuple[int, int]) -> int:
    return stamp[0]


def _time(stamp: tuple[int, int]) -> int:
    return stamp[1]
