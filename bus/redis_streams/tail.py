"""Tails of the Redis bus: a cursor on each stream, and a small page that was read ahead."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from contracts.bus import TailItem
from contracts.patterns import matches

from ..checks import nanoseconds
from ..topics import may_select
from .layout import FIRST, sequence_of
from .packing import StoredMessage, parse_kind, unpack
from .positions import OLDEST, Cursors, read_position, write_position
from .scripts import script
from .unreadable import raw_of, unreadable
from .wire import Lost, Refused

if TYPE_CHECKING:
    from .core import Core

log = logging.getLogger("plugbus.bus")

_AT_ONCE = 1_000
_PAGE = 200
_AHEAD = 256
"""Items that are read before somebody asks for them."""


_Asked = tuple[list[tuple[str, int]], asyncio.Future[list[Any]]]
"""Streams, and what was asked of them."""


@dataclass(eq=False, slots=True)
class TailPlace:
    """Where a tail is in one stream; the bell's listener."""

    tail: RedisTail
    topic: str
    number: int
    last: bytes
    is_dry: bool = False
    knows_number: bool = True
    """The number of `last` tells how many were missed after it."""
    fields: list[bytes] | None = None
    """What `last` holds."""

    @property
    def name(self) -> str:
        return f"{self.topic}/{self.number}"

    def hungry(self) -> None:
        self.tail.wake()


class RedisTail:
    """See `contracts.bus.Tail`. What it misses because of trimming comes as `missed` of the next item."""

    def __init__(
        self, core: Core, patterns: tuple[str, ...], position: str | datetime | None,
        closed: Callable[[RedisTail], None],
    ) -> None:  # fmt: skip
        self.patterns = patterns
        self._core = core
        self._closed = closed
        self._cursors: Cursors = {}
        self._missed = 0
        self._from: bytes | None = FIRST
        """Where a stream is begun that is not named; None: where it ends now."""
        self._begin(position)
        self._places: dict[tuple[str, int], TailPlace] = {}
        self._buffer: deque[TailItem] = deque()
        self._sleeper: asyncio.Future[None] | None = None
        self._more = asyncio.Event()
        self._is_open = True
        self._turn = 0
        # What is asked here is written at once: what is published from now on comes behind it.
        self._ends: _Asked | None = self._ask_ends() if self._from is None else None
        self._more.set()
        self._task = core.spawn(self._run(), "plugbus:redis:tail")

    def _begin(self, position: str | datetime | None) -> None:
        if position is None:
            self._from = None
        elif isinstance(position, datetime):
            self._from = b"%d-0" % max(0, nanoseconds(position, "position") // 1_000_000)
            self._exactly_from_ns: int | None = nanoseconds(position, "position")
        elif position != OLDEST:
            incarnation, cursors, _ = read_position(position)
            if incarnation == self._core.registry.incarnation:
                self._cursors = cursors
            else:
                self._missed = 1  # of data that are gone: at least one was missed

    # --- reading --------------------------------------------------------------------------------------

    def __aiter__(self) -> RedisTail:
        return self

    async def __anext__(self) -> TailItem:
        while self._is_open:
            if self._buffer:
                item = self._buffer.popleft()
                self._more.set()
                return item
            self._sleeper = asyncio.get_running_loop().create_future()
            try:
                await self._sleeper
            finally:
                self._sleeper = None
        raise StopAsyncIteration

    def read_nowait(self) -> list[TailItem]:
        items: list[TailItem] = []
        while self._is_open and self._buffer and len(items) < _AT_ONCE:
            items.append(self._buffer.popleft())
        self._more.set()
        return items

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            for place in self._places.values():
                self._core.bell.forget(place)
            self._task.cancel()
            self._closed(self)
            self._rouse()

    def wake(self) -> None:
        """There may be something to read."""
        self._more.set()

    def _rouse(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    # --- the pump ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while self._is_open:
            await self._more.wait()
            self._more.clear()
            try:
                await self._core.link.ready(self._core.link.control)
                await self._know_ends()
                self._find_places()
                while self._is_open and len(self._buffer) < _AHEAD and await self._read_some():
                    pass
            except Lost:
                self._more.set()
            except Refused as error:
                log.debug("a tail: %s", error)
                self._core.later(0.2, self._more.set)

    def _ask_ends(self) -> _Asked:
        """The end of every stream that there is, as the server sees it now."""
        core = self._core
        names = [
            (topic, p) for topic, count in core.registry.view.topics.items() if self._reads(topic)
            for p in range(count)
        ]  # fmt: skip
        wire = core.link.control
        return names, wire.send(
            ("HGETALL", core.keys.topics), *(("XINFO", "STREAM", core.keys.stream(*name)) for name in names)
        )

    async def _know_ends(self) -> None:
        if self._ends is None:
            return
        names, asked = self._ends
        try:
            topics, *infos = await asked
        except Lost:
            self._ends = self._ask_ends()
            raise
        self._ends = None
        for (topic, p), info in zip(names, infos, strict=True):
            self._cursors[f"{topic}/{p}"] = _end_of(info)
        for name, count in zip(topics[::2], topics[1::2], strict=True):
            topic = name.decode()
            for p in range(int(count)):
                if self._reads(topic) and f"{topic}/{p}" not in self._cursors:
                    info = await self._core.link.control.send(
                        ("XINFO", "STREAM", self._core.keys.stream(topic, p))
                    )
                    self._cursors[f"{topic}/{p}"] = _end_of(info[0])
        self._from = FIRST  # topics that are born from now on are read from their first event

    def _find_places(self) -> None:
        for topic, count in self._core.registry.view.topics.items():
            if self._reads(topic):
                for p in range(count):
                    if (topic, p) not in self._places:
                        begin = self._cursors.get(f"{topic}/{p}")
                        knows = begin is not None or self._from == FIRST
                        place = TailPlace(self, topic, p, begin or self._from or FIRST, knows_number=knows)
                        self._places[topic, p] = place

    def _reads(self, topic: str) -> bool:
        return any(may_select(pattern, topic) for pattern in self.patterns)

    async def _read_some(self) -> bool:
        """A page of every stream that has not been read to its end; whether there may be more."""
        places = [place for place in self._places.values() if not place.is_dry]
        places = places[self._turn % len(places) :] + places[: self._turn % len(places)] if places else []
        self._turn += 1
        more = False
        for place in places:
            [entries] = await self._core.link.control.call(
                script("range"), (self._core.keys.stream(place.topic, place.number),), place.last, "+", _PAGE
            )
            for entry, fields in entries:
                self._take(place, entry, fields)
            if len(entries) < _PAGE:
                place.is_dry = True
                self._core.bell.listen(place)
            else:
                more = True
        if self._buffer:
            self._rouse()
        return more

    def _take(self, place: TailPlace, entry: bytes, fields: list[bytes]) -> None:
        is_ours = bool(fields) and fields[0] == b"t"
        missed = sequence_of(entry) - sequence_of(place.last) - 1
        if is_ours and place.knows_number and missed > 0:
            self._missed += missed
        # The same number with the same fields: its name was changed on its way when it was read before.
        # Another number below what is known is of a stranger.
        is_again = is_ours and missed == -1 and fields == place.fields
        place.last, place.fields, place.knows_number = entry, fields, is_ours and missed >= -1
        self._cursors[place.name] = entry
        if is_ours and not is_again and self._selects(fields[1]):
            message = _read(fields, entry)
            if message.time_ns < getattr(self, "_exactly_from_ns", 0):
                return
            missed, self._missed = self._missed, 0
            position = write_position(self._core.registry.incarnation, self._cursors, (place.name, entry))
            self._buffer.append(
                TailItem(
                    envelope=message.envelope,
                    version=message.version,
                    data=message.data.decode(errors="replace"),
                    position=position,
                    missed=missed,
                )
            )

    def _selects(self, kind: bytes) -> bool:
        try:
            name, _ = parse_kind(kind)
        except Exception:  # noqa: BLE001 - an entry of a stranger
            return False
        return any(matches(pattern, name) for pattern in self.patterns)


def _read(fields: list[bytes], entry: bytes) -> StoredMessage:
    try:
        return unpack(fields, entry)
    except Exception:  # noqa: BLE001 - shown as far as it can be read
        return unreadable(raw_of(fields), entry, kind=fields[1])


def _end_of(info: Any) -> bytes:
    if not isinstance(info, list):
        return FIRST
    found = dict(zip(info[::2], info[1::2], strict=True))
    end: bytes = found[b"last-generated-id"]
    return end
