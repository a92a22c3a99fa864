"""What becomes of what was read: it waits for a handler, is settled where nobody wants it, or buried."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from .errors import explained, must_reconnect
from .fetched import OutOfLine, Sorted, sort_out
from .layout import entry_of, order_of, sequence_of
from .packing import Damaged, StoredMessage, Undecodable, unpack
from .place import RedisPlace
from .scripts import script
from .wire import Answer, Lost, Refused

if TYPE_CHECKING:
    from .core import Core

log = logging.getLogger("plugbus.bus")

_MOST_BYTES = 8 << 20
"""Of one fetch, about."""
_PAUSE = 0.1
"""Seconds until what Redis refused to give is asked for again."""


class Intake:
    """See above. `core`: the bus whose reader reads."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._wire = core.link.events
        self._monotonic = core.clock.monotonic

    def fetched(self, place: RedisPlace, answer: Answer) -> None:
        """What `fetch.lua` has said, or where nothing is owned `range.lua`."""
        holding = place.holding
        if isinstance(answer, Refused) or answer[0] == b"error":
            text = str(answer) if isinstance(answer, Refused) else answer[1].decode()
            self._core.spawn(self._failed(place, text), "plugbus:redis:fetch")
            return
        if holding.is_lost:
            self._fed(place)
            return
        if place.is_ephemeral:
            entries = answer[0]
        elif answer[0] == b"lost":
            self._core.lost(holding, answer[1])
            self._fed(place)
            return
        else:
            entries = answer[1][0][1] if answer[1] else []
        place.is_dry = len(entries) < place.wanted
        try:
            if place.early is not None:
                entries = self._without_early(place, place.early, entries)
            rest = self._add(place, entries) if entries else []
        except OutOfLine:
            place.fetching = False
            self._core.ownership.look_up(holding.hosting, holding)
            return
        if rest:
            self._core.spawn(self._add_unreadable(place, rest), "plugbus:redis:fetch")
        else:
            self._fed(place)

    def _fed(self, place: RedisPlace) -> None:
        """A fetch has come to its end."""
        place.fetching = False
        if place.holding.is_lost:
            return
        if place.replay is not None:
            place.holding.hosting.loop.wake()
        if not place.is_dry:
            place.filled_at = self._monotonic()
        elif not place.is_promised:
            self._core.bell.listen_later(place)
            return
        place.is_dry = False
        self._core.reader.hungry(place)

    def _add(self, place: RedisPlace, entries: list[Any]) -> list[Any]:
        """What was read, to what waits; what nobody wants is settled at once.

        Answers what is left behind an entry that cannot be read, that one included. Raises `OutOfLine`, and
        nothing was added.
        """
        found = self._sorted(place, entries)
        self._take_in(place, entries[: len(entries) - len(found.rest)], found)
        return found.rest

    def _sorted(self, place: RedisPlace, entries: list[Any]) -> Sorted:
        """Raises `OutOfLine`."""
        number = 0 if place.is_ephemeral else place.number_read or 0
        return sort_out(entries, number, place.holding.hosting.selects)

    def hand_on(self, place: RedisPlace, news: list[Any]) -> None:
        """One entry ahead of its fetch, if it can be read."""
        try:
            found = self._sorted(place, news)
        except OutOfLine:
            return
        if not found.rest:
            self._take_in(place, news, found)
            place.early = news[0][0]

    def _without_early(self, place: RedisPlace, early: bytes, entries: list[Any]) -> list[Any]:
        """What of a fetch was not handed on before. Raises `OutOfLine`."""
        self.found_early(place)
        if entries and entries[0][0] != early:
            raise OutOfLine  # somebody has deleted it, or its name was changed on its way
        return entries[1:]

    def found_early(self, place: RedisPlace) -> None:
        """What was handed on ahead of its fetch is pending by now, or gone.

        If the fetch that was to bring it was lost, it may have been settled before it was pending: that has
        settled nothing, so it is said again.
        """
        early, place.early = place.early, None
        if early is not None and early not in place.held():
            place.settle_moved([early])
            self._core.reader.settle_soon(place)

    def _take_in(self, place: RedisPlace, entries: list[Any], found: Sorted) -> None:
        """What could be read."""
        if entries:
            self._look_for_gaps(place, entries)
            place.last = entries[-1][0]
        self.tell_gone(place, found.gone)
        if found.skipped:
            place.skip(found.skipped)
            self._core.reader.settle_soon(place)
        if messages := found.messages:
            place.backlog.extend(messages)
            if found.has_expiry:
                place.expect_expiry()
            place.most = _MOST_BYTES // (len(messages[-1].data) + len(messages[0].data) + 1) + 1
            self.offer(place)

    def offer(self, place: RedisPlace) -> None:
        """Something has come to what waits."""
        self._core.bound(place)
        if place.idle and place.has_work:
            place.idle = False
            place.holding.hosting.rouse(place)

    async def _add_unreadable(self, place: RedisPlace, entries: list[Any]) -> None:
        """The first cannot be read as it came: what follows waits until that is clear."""
        try:
            while entries and not place.holding.is_lost:
                entry, fields = entries[0]
                message = await self.read_again(place, entry, fields)
                place.last = entry
                place.number_read = None  # whether it bears one of our numbers is not sure
                if message is not None:
                    place.backlog.append(message)
                    self.offer(place)
                entries = self._add(place, entries[1:]) if entries[1:] else []
        except OutOfLine:
            self._core.ownership.look_up(place.holding.hosting, place.holding)
        except (Lost, Refused) as error:
            log.debug("%s: reading again: %s", place.group, error)
            self._core.look_up_all()
        except Exception:
            self._core.look_up_all()
            raise
        finally:
            self._fed(place)

    def look_for_missed(self, place: RedisPlace, names: list[bytes], last: bytes) -> None:
        """Of what was taken, and is looked up: whether something before it, or between, is gone."""
        known = place.number_read
        for number in map(sequence_of, names):
            if known and number > known + 1:
                self._core.tell_loss(place, known + 1, number - 1)
            known = number if known is None else max(known, number)
        is_known = order_of(last) <= order_of(place.last) or last in names
        place.number_read = known if is_known else None

    def _look_for_gaps(self, place: RedisPlace, entries: list[Any]) -> None:
        """Each partition is numbered without gaps: one shows that something was trimmed."""
        ours = [entry for entry, fields in (entries[0], entries[-1]) if fields and fields[0] == b"t"]
        if not ours:
            return
        known, place.number_read = place.number_read, sequence_of(ours[-1])
        first = sequence_of(ours[0])
        missed = first - known - 1 if known is not None and ours[0] == entries[0][0] else 0
        if missed <= 0:
            return
        if place.is_ephemeral:
            place.missed += missed
            place.dropped += missed
            place.holding.hosting.look_for_gaps()
        elif known:
            self._core.tell_loss(place, first - missed, first - 1)

    def tell_gone(self, place: RedisPlace, count: int) -> None:
        """They were read, and somebody else has deleted them unsettled: nobody can handle them."""
        if count:
            where, what = f"{place.group}: {place.topic}/{place.number}", f"{count} events are gone"
            self._core.throttled.error("gone", f"{where}: {what}: somebody else deleted them unsettled")

    async def read_again(self, place: RedisPlace, entry: bytes, fields: list[bytes]) -> StoredMessage | None:
        """It may have been damaged on the way only. What stays unreadable is a dead letter. Raises `Lost`."""
        error: Damaged | Undecodable | None = None
        for is_last in (False, True):
            try:
                return unpack(fields, entry)
            except (Damaged, Undecodable) as found:
                error = found
            if not is_last:
                fields = await self._read_one(place, entry) or fields
        if error is not None and not place.is_ephemeral:
            self._core.bury_unread(place, entry, fields, error)
            self._core.reader.settle_soon(place)
        return None

    async def _read_one(self, place: RedisPlace, entry: bytes) -> list[bytes] | None:
        [found] = await self._wire.call(
            script("range"), (place.names.stream,), entry_of(order_of(entry) - 1), entry, 1
        )
        return found[0][1] if found else None

    async def _failed(self, place: RedisPlace, text: str) -> None:
        try:
            if "NOGROUP" in text or "no such key" in text:
                await self._core.link.ready(self._core.link.control)
                await self._core.remake(place)
            else:
                if must_reconnect(text):
                    self._wire.close()
                self._core.throttled.error("fetch", f"{place.group}: {explained(text).explain()}")
        except (Lost, Refused) as error:
            self._core.throttled.error("fetch", f"{place.group}: {error}")
        finally:
            await asyncio.sleep(_PAUSE)
            place.fetching = False
            self._core.reader.hungry(place)
