"""Replay on Redis: a second cursor of one group in one partition, read ahead in small pages.

Where it is stands in Redis, so it goes on with the next owner. What was read and is not final is read again
after a crash.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Any

from contracts.message import Message

from .layout import entry_of, order_of, sequence_of
from .packing import StoredMessage, unpack
from .scripts import script
from .wire import Lost, Refused

if TYPE_CHECKING:
    from .core import Core
    from .hosting import RedisHosting
    from .place import RedisPlace

_PAGE = 100


class RedisReplay:
    """Has the shape of `bus.replay.Replay`; `fill` reads ahead."""

    def __init__(self, core: Core, hosting: RedisHosting, place: RedisPlace, note: dict[str, Any]) -> None:
        self._core = core
        self._hosting = hosting
        self._place = place
        self.id: str = note["id"]
        self._at = note["at"].encode()
        """Behind which entry it goes on, should we die."""
        self._read = self._at
        """Behind which entry is read next."""
        self._end: str = note["to"]
        """The last entry that belongs to it."""
        self.left: int = note["left"]
        self._settled_left = self.left
        self._buffer: deque[StoredMessage] = deque()
        self._open: dict[bytes, None] = {}
        self._task: asyncio.Task[None] | None = None
        self.is_over = False

    # --- the shape ------------------------------------------------------------------------------------

    def take(self, limit: int) -> list[Message]:
        taken: list[Message] = []
        while self._buffer and len(taken) < limit:
            message = self._buffer.popleft()
            self._open[message.entry] = None
            taken.append(message)
        self.left = max(0, self.left - len(taken))
        if len(self._buffer) < _PAGE // 2:
            self.fill()
        return taken

    def skip_to(self, sequence: int) -> int:
        """What is trimmed before its turn is found when it is read."""
        return 0

    # --- where it is ----------------------------------------------------------------------------------

    def settled(self, entry: bytes) -> None:
        """It need not come again after a crash."""
        self._open.pop(entry, None)
        self._settled_left = max(0, self._settled_left - 1)
        first = next(iter(self._open), None)
        if first is not None:
            self._at = entry_of(order_of(first) - 1)
        elif order_of(entry) > order_of(self._at):
            self._at = entry

    def note(self) -> str:
        """As it stands in Redis."""
        note: dict[str, Any] = {
            "id": self.id, "at": self._at.decode(), "to": self._end, "left": self._settled_left
        }  # fmt: skip
        if self.is_over and not self._open and not self._buffer:
            note["over"] = True
        return json.dumps(note)

    # --- reading ahead --------------------------------------------------------------------------------

    def fill(self) -> None:
        if not self.is_over and (self._task is None or self._task.done()):
            name = f"plugbus:redis:replay:{self._place.group}"
            self._task = self._core.spawn(self._fill(), name)

    def stop(self) -> None:
        self.is_over = True
        self._buffer.clear()
        self.left = 0

    async def _fill(self) -> None:
        place, hosting, core = self._place, self._hosting, self._core
        try:
            await core.link.ready(core.link.control)
            [entries] = await core.link.control.call(
                script("range"), (core.keys.stream(place.topic, place.number),), self._read, self._end, _PAGE
            )
        except (Lost, Refused):
            core.later(0.1, self.fill)
            return
        if self.is_over:
            return
        for entry, fields in entries:
            missed = sequence_of(entry) - sequence_of(self._read) - 1
            if missed > 0 and self._read != b"0-0" and fields[0] == b"t":
                place.missed += missed
                self.left, self._settled_left = (
                    max(0, self.left - missed),
                    max(0, self._settled_left - missed),
                )
            self._read = entry
            if fields[0] == b"t" and hosting.selects(fields[1]):
                try:
                    self._buffer.append(unpack(fields, entry))
                except Exception:  # noqa: BLE001 - it is among the dead letters of the group already
                    self.left, self._settled_left = self.left - 1, self._settled_left - 1
        if len(entries) < _PAGE:
            self.is_over = True
            self.left = len(self._buffer)
            if not self._buffer and not self._open:
                place.journal.replay_came(self.note())
                core.reader.settle_soon(place)
        if any(message.expires_ns is not None for message in self._buffer):
            place.expect_expiry()
        hosting.replay()
        hosting.loop.wake()


async def restore_replay(core: Core, hosting: RedisHosting, place: RedisPlace) -> None:
    """Go on with a replay that stands in Redis, begin one that is new, end one that is gone."""
    raw = await core.link.control.ask("HGET", core.keys.replay(place.group, place.number), place.topic)
    note = json.loads(raw) if raw else None
    known = place.replay
    if isinstance(known, RedisReplay):
        if note is not None and note["id"] == known.id:
            return
        known.stop()
        place.replay = None
    if note is not None and not place.holding.is_lost:
        replay = RedisReplay(core, hosting, place, note)
        place.replay = replay  # type: ignore[assignment]
        place.missed += note.get("missed", 0)
        replay.fill()
    hosting.replay()
