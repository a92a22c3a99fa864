"""Dead letters on Redis: a stream for each group and partition. Listing, redriving, discarding, importing."""

from __future__ import annotations

import base64
import heapq
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contracts.bus import DeadLetter, DeadLetterSelection
from contracts.envelope import moment_of, nanoseconds_of
from contracts.errors import DeadLetterNotFound, ErrorInfo, InvalidOption
from contracts.message import Message
from contracts.messages.delivery import Redriven
from contracts.patterns import topic_of

from ..tidings import tell_dropped
from .layout import order_of
from .packing import StoredMessage, pack, packed
from .scripts import script
from .unreadable import stored_message

if TYPE_CHECKING:
    from .core import Core

_PAGE = 100


@dataclass(slots=True)
class Found:
    """A dead letter, and where it lies."""

    group: str
    p: int
    entry: bytes
    meta: dict[str, Any]
    raw: bytes
    message: StoredMessage

    def letter(self) -> DeadLetter:
        meta, message = self.meta, self.message
        text, encoded = _readable(message.data)
        return DeadLetter(
            id=meta["id"],
            group=self.group,
            plugin_id=meta["plugin_id"],
            generation=meta["generation"],
            reason=meta["reason"],
            error=ErrorInfo.model_validate(meta["error"]) if "error" in meta else None,
            attempts=meta["attempts"],
            first_at=moment_of(message.time_ns),
            last_at=moment_of(meta["last_ns"]),
            envelope=message.envelope,
            version=message.version,
            data=text,
            data_base64=encoded,
            traceparent=meta.get("traceparent") or message.traceparent,
        )


class DeadLetters:
    """What operators do with them. Rare: plain and in pages. Everything may raise `Lost` and `Refused`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._wire = core.link.control
        self._keys = core.keys

    async def page(self, selection: DeadLetterSelection, limit: int, after: str | None) -> list[DeadLetter]:
        """The newest first; no more is read than needed. Raises `DeadLetterNotFound` if `after` is gone."""
        found: list[DeadLetter] = []
        is_behind, now = after is None, moment_of(self._core.clock.time_ns())
        async for one in self._newest_first(None if after is not None else selection.group):
            if is_behind and selection.fits(letter := one.letter(), now):
                found.append(letter)
            if len(found) >= limit:
                return found
            is_behind = is_behind or one.meta["id"] == after
        if not is_behind:
            raise DeadLetterNotFound(
                f"there is no dead letter {after!r} any more to go on behind",
                fix="begin again, without `after`",
            )
        return found

    async def count(self, selection: DeadLetterSelection) -> int:
        return len(await self._select(selection))

    async def redrive(self, selection: DeadLetterSelection, rate: float | None) -> int:
        """Back to the groups that failed, the oldest first, `rate` of them a second."""
        if rate is not None and not 0 < rate < math.inf:
            raise InvalidOption(f"rate is {rate!r}", fix="dead letters a second, more than 0")
        chosen = await self._select(selection)
        chosen.sort(key=lambda one: (one.meta["last_ns"], order_of(one.entry)))
        now_ms = self._core.members.server_ms(self._core.clock.monotonic())
        places: dict[tuple[str, str, int], list[bytes | str]] = {}
        moved = Counter[str]()
        for number, one in enumerate(chosen):
            slip: dict[str, Any] = {"r": 0, "x": order_of(one.entry), "a": 0, "d": 1}
            if rate is not None and number:
                slip["t"] = round(now_ms + number / rate * 1e3)
            topic = one.meta.get("topic") or topic_of(one.message.type)
            places.setdefault((one.group, topic, one.p), []).extend(
                (one.entry, f"d{one.meta['id']}", json.dumps(slip), one.raw)
            )
        for (group, topic, p), arguments in places.items():
            for at in range(0, len(arguments), 4 * _PAGE):
                [count] = await self._wire.call(
                    script("redrive"),
                    (self._keys.dead(group, p), self._keys.lot(group, topic, p),
                     self._keys.slips(group, topic, p), self._keys.again(group, topic, p)),
                    *arguments[at : at + 4 * _PAGE],
                )  # fmt: skip
                moved[group] += count
        for group, count in moved.items():
            self._core.announcer.say(Redriven(group=group, count=count))
        if moved:
            await self._core.registry.tell("again")
        return sum(moved.values())

    async def discard(self, selection: DeadLetterSelection) -> int:
        count = 0
        for one in await self._select(selection):
            count += await self._wire.ask("XDEL", self._keys.dead(one.group, one.p), one.entry)
        return count

    async def add(self, letters: Sequence[DeadLetter]) -> int:
        """Letters from elsewhere, to groups that exist; how many were new. Raises `GroupNotFound`."""
        await self._core.registry.refresh()
        for letter in letters:
            self._core.registry.find(letter.group)
        known = {one.meta["id"] for one in await self._select(DeadLetterSelection())}
        added = 0
        for letter in letters:
            if letter.id in known:
                continue
            known.add(letter.id)
            message = Message.from_envelope(letter.envelope, letter.raw, version=letter.version)
            topic, p = await self._core.publisher.place_of(message, 5.0)
            meta: dict[str, Any] = {
                "of": "", "lot": False, "id": letter.id, "group": letter.group, "plugin_id": letter.plugin_id,
                "generation": letter.generation, "reason": letter.reason, "attempts": letter.attempts,
                "last_ns": nanoseconds_of(letter.last_at), "topic": topic,
            }  # fmt: skip
            if letter.error is not None:
                meta["error"] = letter.error.model_dump(mode="json")
            if letter.traceparent is not None:
                meta["traceparent"] = letter.traceparent
            spec = self._core.registry.find(letter.group).spec
            [dropped] = await self._wire.call(
                script("bury"), (self._keys.dead(letter.group, p),), self._core.dead_limit(spec),
                json.dumps(meta), packed(pack(message), b"0-0"),
            )  # fmt: skip
            tell_dropped(self._core.announcer, spec, dropped)
            added += 1
        return added

    # --- details --------------------------------------------------------------------------------------

    async def _select(self, selection: DeadLetterSelection) -> list[Found]:
        """Those that fit, the newest first."""
        now = moment_of(self._core.clock.time_ns())
        return [
            one async for one in self._newest_first(selection.group) if selection.fits(one.letter(), now)
        ]  # fmt: skip

    async def _newest_first(self, group: str | None) -> AsyncIterator[Found]:
        """Of one group or of all, merged from their streams, which are read page by page."""
        view = await self._core.registry.refresh()
        most = max(view.topics.values(), default=0)
        streams = [
            self._read(name, p) for name in view.groups if group in (None, name) for p in range(most)
        ]  # fmt: skip
        heads: list[tuple[int, int, Found]] = []
        for number, stream in enumerate(streams):
            await _advance(heads, number, stream)
        while heads:
            _, number, one = heapq.heappop(heads)
            yield one
            await _advance(heads, number, streams[number])

    async def _read(self, group: str, p: int) -> AsyncIterator[Found]:
        behind = "+"
        while True:
            page = await self._wire.ask("XREVRANGE", self._keys.dead(group, p), behind, "-", "COUNT", _PAGE)
            for entry, fields in page:
                meta = json.loads(fields[1])
                yield Found(group, p, entry, meta, fields[3], stored_message(fields[3], meta["of"].encode()))
            if len(page) < _PAGE:
                return
            behind = f"({page[-1][0].decode()}"


async def _advance(heads: list[tuple[int, int, Found]], number: int, stream: AsyncIterator[Found]) -> None:
    """The next of one stream takes its place among the heads of all."""
    one = await anext(stream, None)
    if one is not None:
        heapq.heappush(heads, (-order_of(one.entry), number, one))


def _readable(data: bytes) -> tuple[str, str | None]:
    """Text, or else base64."""
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return "", base64.b64encode(data).decode()
