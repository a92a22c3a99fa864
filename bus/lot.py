"""The lot of one group in one partition: deliveries that must wait, out of everybody's way. Pure.

A key that has something in the lot is *blocked*: its later events queue behind, in its *slot*. Of a slot
only the head is ever let out, and the slot holds its key back until that one is final.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from contracts.errors import ErrorInfo
from contracts.message import Message

SlotKey = str | int
"""The key that a slot holds back; for a delivery without one, its sequence."""


@dataclass(slots=True, eq=False)
class Entry:
    """What is known of a delivery that did not go the straight way."""

    message: Message
    attempts: int = 0
    """Starts of the handler that count."""
    due: float | None = None
    """Not before (monotonic seconds); None: at once."""
    error: ErrorInfo | None = None
    suspect: bool = False
    """Its owner died with it: each start is counted before it runs."""
    redriven: bool = False
    """It was a dead letter."""
    replayed: bool = False
    """It is delivered once more."""
    slot: Slot | None = None
    """Where in the lot it came from, while it is out of it."""
    stored: Any = None
    """What a persistent backend notes of it."""


class Slot:
    """One key's queue."""

    __slots__ = ("entries", "key", "out")

    def __init__(self, key: SlotKey) -> None:
        self.key = key
        self.entries: deque[Entry] = deque()
        self.out = 0
        """How many of it were taken and are not settled."""

    @property
    def can_go(self) -> bool:
        return bool(self.entries) and not self.out and self.entries[0].due is None


class Lot:
    """Slots, and when their heads are due."""

    __slots__ = ("_due", "_held", "_ready", "_slots", "_ties", "parked")

    def __init__(self) -> None:
        self.parked = 0
        """How many entries are in it."""
        self._slots: dict[SlotKey, Slot] = {}
        self._ready: deque[Slot] = deque()
        self._due: list[tuple[float, int, Slot, Entry]] = []
        self._held: list[tuple[float, int, Slot, Entry]] = []
        self._ties = itertools.count()

    @property
    def is_empty(self) -> bool:
        """Nobody is blocked."""
        return not self._slots

    @property
    def has_ready(self) -> bool:
        """`take` may find something."""
        return bool(self._ready)

    def is_blocked(self, key: SlotKey) -> bool:
        return key in self._slots

    def park(self, entry: Entry, key: SlotKey, due: float) -> None:
        """Before everything of its key, until `due`; infinity: until `release_held`."""
        self._wait(entry, self._put_first(entry, key), due)

    def put_back(self, entry: Entry, key: SlotKey) -> None:
        """Before everything of its key, at once."""
        self._go_on(self._put_first(entry, key))

    def append(self, entry: Entry, key: SlotKey, due: float | None = None) -> None:
        """Behind everything of its key, and not before `due`."""
        slot = self._slot(entry, key)
        slot.entries.append(entry)
        self.parked += 1
        if due is not None:
            self._wait(entry, slot, due)
        self._go_on(slot)

    def take(self, limit: int) -> list[Entry]:
        """Heads that may go. Each must come back by one of the three above, or `leave`."""
        taken: list[Entry] = []
        while self._ready and len(taken) < limit:
            slot = self._ready.popleft()
            if slot.can_go:
                entry = slot.entries.popleft()
                entry.slot = slot
                slot.out += 1
                self.parked -= 1
                taken.append(entry)
        return taken

    def take_out(self, entry: Entry, key: SlotKey) -> None:
        """Take this one, wherever in its slot it is: it was taken before, by an owner who is gone."""
        slot = self._slots[key]
        slot.entries.remove(entry)
        entry.slot = slot
        slot.out += 1
        self.parked -= 1

    def slot_of(self, key: SlotKey) -> Slot:
        """The slot of a key that is blocked."""
        return self._slots[key]

    def leave(self, entry: Entry) -> None:
        """What was taken is final: the next of its key may go."""
        slot, entry.slot = entry.slot, None
        if slot is not None:
            slot.out -= 1
            self._go_on(slot)

    def release_due(self, now: float) -> None:
        """Let go what is due by `now`."""
        while self._due and self._due[0][0] <= now:
            item = heapq.heappop(self._due)
            if _is_waiting(item):
                item[3].due = None
                self._go_on(item[2])

    def release_held(self) -> None:
        """Let go what was parked without an end."""
        held, self._held = self._held, []
        for item in held:
            if _is_waiting(item):
                item[3].due = None
                self._go_on(item[2])

    @property
    def next_due(self) -> float | None:
        """When `release_due` has something to do."""
        while self._due and not _is_waiting(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def entries(self) -> Iterator[Entry]:
        return itertools.chain.from_iterable(slot.entries for slot in self._slots.values())

    def _wait(self, entry: Entry, slot: Slot, due: float) -> None:
        entry.due = due
        item = (due, next(self._ties), slot, entry)
        if due == math.inf:
            self._held.append(item)
        else:
            heapq.heappush(self._due, item)

    def _put_first(self, entry: Entry, key: SlotKey) -> Slot:
        slot = self._slot(entry, key)
        slot.entries.appendleft(entry)
        self.parked += 1
        return slot

    def _slot(self, entry: Entry, key: SlotKey) -> Slot:
        """Where it belongs: where it came from, or the slot of its key."""
        slot, entry.slot = entry.slot, None
        if slot is None:
            return self._slots.setdefault(key, Slot(key))
        slot.out -= 1
        return slot

    def _go_on(self, slot: Slot) -> None:
        if slot.can_go:
            self._ready.append(slot)
        elif not (slot.entries or slot.out):
            self._slots.pop(slot.key, None)


def _is_waiting(item: tuple[float, int, Slot, Entry]) -> bool:
    return item[3].due == item[0]  # else it was released, handed back or parked anew
