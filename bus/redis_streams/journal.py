"""What became of deliveries at one place, until Redis knows of it: numbered calls of `settle`. Pure.

One call is one transaction. Whatever is noted while a call is under way goes into the next one; a call whose
answer was lost is sent again as it is, and Redis knows by its number whether it was done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from .layout import Names

Word = bytes | str | int
_BLOCK = 500
"""Entries of one XACK: Lua hands on a few thousand arguments at most."""
_BEFORE = 4
"""Words of a call that stand before the topic in the script's ARGV, which counts from 1."""
_OPERATIONS = 5
"""Words of a call before its first operation: topic, number, three limits."""
_ENTRY = re.compile(rb"\d+-\d+")


class Journal:
    """Notes of one place. The order of a call: first what is plainly acknowledged, which passes also when the
    memory of Redis is full; then what moves; then what may only go when that has arrived."""

    __slots__ = (
        "_done",
        "_late",
        "_marks",
        "_moves",
        "_number",
        "_progress",
        "_topic",
        "acks",
        "is_plain",
        "unconfirmed",
    )

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._number = 0
        self.unconfirmed: list[Word] | None = None
        """A call whose answer has not come."""
        self.is_plain = False
        """It acknowledges and counts, and nothing else."""
        self.acks: list[bytes] = []
        self._moves: list[tuple[bytes | str, ...]] = []
        self._late: list[tuple[str, bytes]] = []
        self._marks: dict[bytes, str] = {}
        self._done: list[str] = []
        self._progress: str | None = None

    # --- notes --------------------------------------------------------------------------------------

    def ack(self, entry: bytes) -> None:
        """It is settled."""
        self.acks.append(entry)

    def ack_all(self, entries: Iterable[bytes]) -> None:
        self.acks += entries

    def keep(self, name: bytes, slip: bytes, message: bytes = b"") -> None:
        """It waits in the lot (no message: it is there already)."""
        self._moves.append(("keep", name, slip, message))

    def bury(self, name: bytes, meta: dict[str, Any], message: bytes, *, in_lot: bool) -> None:
        """It is a dead letter; only if that is written may its place go."""
        self._moves.append(("bury", json.dumps({"of": name.decode(), "lot": in_lot, **meta}), message))

    def ack_moved(self, entry: bytes) -> None:
        """It is settled, once what was moved has arrived."""
        self._late.append(("ack", entry))

    def leave(self, name: bytes) -> None:
        """It is out of the lot."""
        self._late.append(("leave", name))

    def mark(self, entry: bytes, note: str) -> None:
        """Starts of a suspect; an empty note: there is nothing to remember of it any more."""
        self._marks[entry] = note

    def done(self, key: str) -> None:
        """For dedupe."""
        self._done.append(key)

    def replay_came(self, note: str) -> None:
        """How far a replay is."""
        self._progress = note

    def forget_moves(self) -> None:
        """A place that has none in Redis: only dead letters are written."""
        self.acks, self._late, self._done, self._marks = [], [], [], {}
        self._moves = [move for move in self._moves if move[0] == "bury"]

    # --- questions ------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether Redis does not know of everything yet."""
        return self.unconfirmed is not None or bool(
            self.acks or self._moves or self._late or self._marks or self._done or self._progress
        )

    @property
    def unsent(self) -> int:
        """Settlements that have not been sent."""
        again = sum(move[0] == "keep" and not move[3] for move in self._moves)
        return len(self.acks) + len(self._late) + again

    def entries(self) -> set[bytes]:
        """Entries that are settled here, while Redis may not know."""
        sent = {word for word in self.unconfirmed or () if isinstance(word, bytes)}
        names = sent.union(self.acks, (name for _, name in self._late))
        return {name for name in names if _ENTRY.fullmatch(name)}

    # --- calls ----------------------------------------------------------------------------------------

    def call(self, limits: Sequence[int], counts: dict[str, int]) -> list[Word] | None:
        """The next call, or the one that is not confirmed again; None: there is nothing to say."""
        if self.unconfirmed is None:
            self.is_plain = not (self._moves or self._late or self._marks or self._done or self._progress)
            operations = self._settlements() + self._rest(counts)
            if operations:
                self._number += 1
                self.unconfirmed = [self._topic, self._number, *limits, *operations]
        return self.unconfirmed

    def commands(self, names: Names, group: str, fence: bytes) -> tuple[list[tuple[Word, ...]], list[int]]:
        """What `settle.lua` would do for the call that is not confirmed, if it is plain; and for each command
        where its operation stands in the script's ARGV. The number is remembered as the script does."""
        call = self.unconfirmed or []
        commands, positions, at = list[tuple[Word, ...]](), list[int](), _OPERATIONS
        while at < len(call):
            positions.append(at + _BEFORE)
            if call[at] == "ack":
                end = at + 2 + int(call[at + 1])
                commands.append(("XACK", names.stream, group, *call[at + 2 : end]))
            else:
                end = at + 3
                commands.append(("HINCRBY", names.tally, *call[at + 1 : end]))
            at = end
        commands.append(("HSET", names.tally, f"no:{self._topic}", b"%b %d" % (fence, self._number)))
        return commands, positions

    def confirmed(self, failed: Sequence[Any]) -> tuple[list[str], dict[str, int]]:
        """It is done, but for what failed, which comes again: why, and counters that were not added."""
        call, self.unconfirmed = self.unconfirmed or [], None
        whys, counts = [], dict[str, int]()
        for at, why in zip(failed[::2], failed[1::2], strict=True):
            whys.append(why.decode())
            self._again(call[at - _BEFORE :], counts)
        return whys, counts

    def _settlements(self) -> list[Word]:
        acks, self.acks = self.acks, []
        words = _blocks("ack", acks)
        moves, self._moves = self._moves, []
        for move in moves:
            words += move
        late, self._late = self._late, []
        words += _blocks("ack", [name for op, name in late if op == "ack"])
        for op, name in late:
            if op == "leave":
                words += (op, name)
        return words

    def _rest(self, counts: dict[str, int]) -> list[Word]:
        words = list[Word]()
        marks, self._marks = self._marks, {}
        for entry, note in marks.items():
            words += ("mark", entry, note)
        done, self._done = self._done, []
        words += _blocks("done", done)
        progress, self._progress = self._progress, None
        if progress is not None:
            words += ("replay", self._topic, progress)
        for name, by in counts.items():
            words += ("count", name, by)
        return words

    def _again(self, words: list[Any], counts: dict[str, int]) -> None:
        """The operation that begins here was not carried out."""
        match words:
            case ["ack", count, *entries]:
                self.acks += entries[:count]
            case ["keep", name, slip, message, *_]:
                self.keep(name, slip, message)
                if message and name[:1].isdigit():
                    self.ack_moved(name)
            case ["bury", meta, message, *_]:
                self._moves.append(("bury", meta, message))
                found = json.loads(meta)
                self._late.append(("leave" if found["lot"] else "ack", found["of"].encode()))
            case ["leave", name, *_]:
                self.leave(name)
            case ["mark", entry, note, *_]:
                self._marks.setdefault(entry, note)
            case ["done", count, *keys]:
                self._done += keys[:count]
            case ["replay", _, note, *_]:
                self._progress = self._progress or note
            case ["count", name, by, *_]:
                counts[name] = by
            case _:
                raise AssertionError(f"no operation begins with {words[:1]}")


def _blocks(operation: str, names: Sequence[bytes | str]) -> list[Word]:
    words = list[Word]()
    for at in range(0, len(names), _BLOCK):
        block = names[at : at + _BLOCK]
        words += (operation, len(block), *block)
    return words
