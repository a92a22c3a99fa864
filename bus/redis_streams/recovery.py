"""What a partition's former owner has left, and what was read without our knowing, read back from Redis."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from .layout import FIRST, order_of, owner_of, sequence_of
from .packing import StoredMessage, is_intact
from .place import Holding, RedisPlace
from .replaying import restore_replay
from .scripts import script
from .unreadable import stored_message
from .wire import Refused

if TYPE_CHECKING:
    from .core import Core
    from .hosting import RedisHosting

_PAGE = 200
"""Entries that are read at once."""


class Gone(Exception):
    """It is somebody else's meanwhile."""

    def __init__(self, owner: bytes | None = None) -> None:
        super().__init__(owner_of(owner))
        self.owner = owner


class Taken(NamedTuple):
    """What was read of a place and not settled."""

    messages: list[tuple[StoredMessage, str | None]]
    """Each with what was noted of it, if anything."""
    last: bytes
    """The last entry that was read, settled or not."""
    names: list[bytes]
    """Of what is pending and ours, or deleted; also of what nobody wants."""


class Recovery:
    """See above. Raises `Gone` where it is not ours any more; `Lost`, `Refused`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._wire = core.link.control
        self._keys = core.keys

    async def read_place(self, holding: Holding, topic: str, *, in_order: bool) -> RedisPlace:
        """As it stands in Redis. Nothing of it is started yet.

        `in_order`: its former owner gave it up; else what he had read may have been started.
        """
        core, hosting = self._core, holding.hosting
        options = hosting.spec.options
        place = core.new_place(holding, topic, options.order)
        if hosting.is_ephemeral:
            place.last = await self._end_of(topic, holding.p) if not hosting.has_begun else b"0-0"
            place.number_read = sequence_of(place.last)
            return place
        now, now_ms = core.clock.monotonic(), core.members.server_ms(core.clock.monotonic())
        waiting = await self._read_lot(holding, topic)
        taken, last, _ = await self.read_taken(place)
        peak = await self._wire.ask("HGET", self._keys.tally(place.group, place.number), "peak")
        await restore_replay(core, hosting, place)
        place.peak = int(peak or 0)
        place.uncount("peak", place.peak)
        place.last = last
        place.number_read = 0 if last == FIRST else None
        place.restore_lot(waiting, now, now_ms)
        place.restore_taken(taken, in_order=in_order)
        return place

    async def _end_of(self, topic: str, p: int) -> bytes:
        try:
            info = await self._wire.ask("XINFO", "STREAM", self._keys.stream(topic, p))
        except Refused:
            return b"0-0"
        found = dict(zip(info[::2], info[1::2], strict=True))
        end: bytes = found[b"last-generated-id"]
        return end

    async def read_taken(self, place: RedisPlace) -> Taken:
        """As it is pending in Redis."""
        found, names, behind = list[tuple[StoredMessage, str | None]](), list[bytes](), FIRST
        while True:
            answer = await self._wire.call(
                script("recover"), place.names.taken, place.group, place.holding.fence, behind, _PAGE
            )
            if answer[0] == b"error":
                await self._core.remake(place)
                continue
            if answer[0] == b"lost":
                raise Gone(answer[1])
            with self._core.registry.as_written():
                for entry in (answer[1], *(one[0] for one in answer[2])):
                    order_of(entry)
            self._core.intake.tell_gone(place, sum(not fields for _, fields, _ in answer[2]))
            for entry, fields, note in answer[2]:
                behind = entry
                if not fields or fields[0] == b"t":
                    names.append(entry)
                message = await self._wanted_message(place, entry, fields)
                if message is not None:
                    found.append((message, note))
            if len(answer[2]) < _PAGE:
                return Taken(found, answer[1], names)

    async def _wanted_message(
        self, place: RedisPlace, entry: bytes, fields: list[bytes] | None
    ) -> StoredMessage | None:
        selects = place.holding.hosting.selects
        if not fields or (fields[0] == b"t" and not selects(fields[1]) and is_intact(fields)):
            place.skip([entry])
            return None
        return await self._core.intake.read_again(place, entry, fields)

    async def _read_lot(
        self, holding: Holding, topic: str
    ) -> list[tuple[bytes, dict[str, Any], StoredMessage]]:
        group, p, keys, cursor = holding.hosting.spec.group, holding.p, self._keys, b"0"
        found: dict[bytes, tuple[bytes, dict[str, Any], StoredMessage]] = {}
        while True:
            answer = await self._wire.call(
                script("fill"), (keys.own(p), keys.lot(group, topic, p), keys.slips(group, topic, p)),
                group, holding.fence, cursor,
            )  # fmt: skip
            if answer[0] == b"lost":
                raise Gone(answer[1])
            for name, slip, text in answer[2]:
                if text is not None:
                    found[name] = (name, json.loads(slip), stored_message(text, name))
            cursor = answer[1]
            if cursor == b"0":
                return list(found.values())

    async def load_settled(self, hosting: RedisHosting, p: int) -> None:
        """For dedupe: what was settled by those who owned it before."""
        if hosting.settled is None:
            return
        now = self._core.clock.monotonic()
        for turn in (0, 1):
            cursor = b"0"
            while True:
                cursor, flat = await self._wire.ask(
                    "HSCAN", self._keys.done(hosting.spec.group, p, turn), cursor, "COUNT", 1_000
                )
                for name in flat[::2]:
                    source, _, id = name.decode().partition("\n")
                    hosting.settled.add(source, id, now)
                if cursor == b"0":
                    break
