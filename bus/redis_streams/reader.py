"""The one loop that fetches and settles, for all groups of a bus: settlements and the next fetches go out
in one write.

Nothing is sent while nothing is to do: places that have been read to the end are left to the bell.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from contracts.messages.delivery import GapFound

from ..groups import is_silent
from .errors import explained, may_pass
from .layout import order_of, sequence_of
from .packing import Damaged, StoredMessage, Undecodable, fields_of, unpack
from .place import RedisPlace
from .scripts import script
from .wire import Lost, Refused, ScriptCall

if TYPE_CHECKING:
    from .core import Core
    from .hosting import RedisHosting

log = logging.getLogger("plugbus.bus")

MOST = 500
"""Entries of one fetch: Redis does nothing else meanwhile."""
_MOST_BYTES = 8 << 20
_FAST, _SLOW = 0.05, 0.5
"""Seconds for one fetch to be handled, below and above which the next is larger or smaller."""
_RETRY = 0.5
"""Seconds until what Redis refused is tried again."""
_QUIET = 1.0
"""Seconds between two messages of one kind."""


class Reader:
    """See above. `core`: the bus that it reads for."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._wire = core.link.read
        self._keys = core.keys
        self._monotonic = core.clock.monotonic
        self._dirty: dict[RedisPlace, None] = {}
        self._hungry: dict[RedisPlace, None] = {}
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._rounds: list[asyncio.Future[None]] = []
        self._later: dict[RedisPlace, asyncio.TimerHandle] = {}
        self._said: dict[str, float] = {}
        self._opened = 1
        self.gone = 0
        """Entries that were deleted by others before they were settled."""

    def start(self) -> None:
        self._opened = self._wire.opened
        self._task = asyncio.get_running_loop().create_task(self._run(), name="plugbus:redis:read")

    async def close(self) -> None:
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._end_round()

    # --- what is to do ------------------------------------------------------------------------------

    def settle_soon(self, place: RedisPlace) -> None:
        if place not in self._dirty:
            self._dirty[place] = None
            self._wanted.set()

    async def written(self, place: RedisPlace) -> None:
        """Return when everything that is noted at `place` now is in Redis, or it is no longer ours."""
        future = asyncio.get_running_loop().create_future()
        place.waiters.append(future)
        self.settle_soon(place)
        await future

    def feed(self, hosting: RedisHosting) -> None:
        """Fetch for those of its places that have little left."""
        for place in hosting.owned():
            if not place.is_dry and not place.fetching:
                self.hungry(place)

    def hungry(self, place: RedisPlace) -> None:
        if self._is_hungry(place):
            self._hungry[place] = None
            self._wanted.set()

    def _is_hungry(self, place: RedisPlace) -> bool:
        holding = place.holding
        if place.fetching or place.is_dry or place.leaving or not holding.is_owned or holding.is_recovering:
            return False
        if place.lot.parked >= place.lot_limit:
            return False
        return len(place.backlog) * 2 < place.wanted or holding.hosting.spec.options.max_waiting is not None

    def forget(self, place: RedisPlace) -> None:
        self._dirty.pop(place, None)
        self._hungry.pop(place, None)
        timer = self._later.pop(place, None)
        if timer is not None:
            timer.cancel()
        _release(place)

    async def round(self) -> None:
        """Return when what is wanted now has been asked and answered."""
        if self._wanted.is_set() or self._hungry or self._dirty:
            future = asyncio.get_running_loop().create_future()
            self._rounds.append(future)
            await future

    async def flush(self) -> None:
        """Return when Redis knows of everything that has been settled until now. Raises `Lost`."""
        places = [place for hosting in self._core.hosted for place in hosting.owned() if place.is_changed]
        await asyncio.gather(*(self.written(place) for place in places))

    # --- the loop -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if not self._wire.is_up:
                await self._core.link.ready(self._wire)
            if self._wire.opened != self._opened:
                self._opened = self._wire.opened
                self._core.look_up_all()
            try:
                await self._turn()
            except Lost:
                self._wanted.set()
            self._end_round()

    def _end_round(self) -> None:
        rounds, self._rounds = self._rounds, []
        for future in rounds:
            if not future.done():
                future.set_result(None)

    async def _turn(self) -> None:
        places, self._dirty = list(self._dirty), {}
        settling = [(place, call) for place in places if (call := self._settlement(place)) is not None]
        hungry, self._hungry = [place for place in self._hungry if self._is_hungry(place)], {}
        calls = [call for _, call in settling] + [self._fetch(place) for place in hungry]
        for place in places:
            if place.journal.unconfirmed is None or place.holding.is_lost:
                _release(place)  # there was nothing to write
        if not calls:
            return
        for place in hungry:
            place.fetching = True
        try:
            answers = await self._wire.run(calls)
        except Lost:
            for place, _ in settling:
                self._dirty[place] = None
            for place in hungry:
                place.fetching = False
                place.holding.is_recovering = True
            raise
        for (place, _), answer in zip(settling, answers, strict=False):
            self._settled(place, answer)
        for place, answer in zip(hungry, answers[len(settling) :], strict=True):
            place.fetching = False
            await self._fetched(place, answer)

    # --- settling -----------------------------------------------------------------------------------

    def _settlement(self, place: RedisPlace) -> ScriptCall | None:
        holding, keys = place.holding, self._keys
        if holding.is_lost or place in self._later:
            return None
        operations = place.next_call()
        if operations is None:
            return None
        group, p, topic = place.group, place.number, place.topic
        return ScriptCall(
            script("settle"),
            (
                keys.own(p), keys.tally(group, p), keys.stream(topic, p), keys.lot(group, topic, p),
                keys.slips(group, topic, p), keys.suspects(group, topic, p), keys.dead(group, p),
                keys.done(group, p, 0), keys.done(group, p, 1), keys.replay(group, p),
            ),
            (group, holding.fence, *operations),
        )  # fmt: skip

    def _settled(self, place: RedisPlace, answer: list[Any] | Refused) -> None:
        if isinstance(answer, Refused):
            self._say("settle", f"{place.group}: {explained(answer).explain()}")
            self._retry(place)
            return
        if answer[0] == b"lost":
            self._core.lost(place.holding, answer[1])
            return
        whys = place.confirmed(answer[2] if answer[0] == b"ok" else [])
        if answer[0] == b"ok" and answer[1]:
            self._core.tell_dropped(place, answer[1])
        if whys:
            self._say(
                "settle", f"{place.group}: not settled, it is tried again: {explained(whys[0]).explain()}"
            )
            self._retry(place)
        elif place.has_news:
            self.settle_soon(place)  # more has come meanwhile; whoever waits for it waits on
        else:
            _release(place)
        if place.holding.is_leaving:
            place.holding.hosting.let_go()

    def _retry(self, place: RedisPlace) -> None:
        if place not in self._later:
            loop = asyncio.get_running_loop()
            self._later[place] = loop.call_later(_RETRY, self._try_again, place)

    def _try_again(self, place: RedisPlace) -> None:
        self._later.pop(place, None)
        self.settle_soon(place)

    # --- fetching -----------------------------------------------------------------------------------

    def _fetch(self, place: RedisPlace) -> ScriptCall:
        keys, group, p = self._keys, place.group, place.number
        stream = keys.stream(place.topic, p)
        if place.is_ephemeral:
            return ScriptCall(script("range"), (stream,), (place.last, "+", place.wanted))
        return ScriptCall(script("fetch"), (keys.own(p), stream), (group, place.holding.fence, place.wanted))

    async def _fetched(self, place: RedisPlace, answer: list[Any] | Refused) -> None:
        holding = place.holding
        if isinstance(answer, Refused) or answer[0] == b"error":
            text = str(answer) if isinstance(answer, Refused) else answer[1].decode()
            await self._failed(place, text)
            return
        if holding.is_lost:
            return
        if place.is_ephemeral:
            entries = answer[0]
        elif answer[0] == b"lost":
            self._core.lost(holding, answer[1])
            return
        else:
            entries = answer[1][0][1] if answer[1] else []
        full = len(entries) >= place.wanted
        place.is_dry = not full
        if entries:
            await self.add(place, entries)
            self._adapt(place, entries, is_full=full)
        if place.replay is not None:
            holding.hosting.loop.wake()
        if place.is_dry:
            self._core.bell.listen(place)
        else:
            self.hungry(place)

    def _adapt(self, place: RedisPlace, entries: list[Any], *, is_full: bool) -> None:
        """Large batches where handlers are fast; where they are slow little is held that another could do."""
        now = self._monotonic()
        took, place.taken_at = now - place.taken_at, now
        least = max(2, 2 * place.holding.hosting.spec.options.concurrency)
        if is_full and took < _FAST:
            place.wanted *= 4
        elif took > _SLOW:
            place.wanted //= 2
        size = max(sum(map(len, fields)) for _, fields in (entries[0], entries[-1])) or 1
        place.wanted = max(least, min(place.wanted, MOST, _MOST_BYTES // size + 1))

    async def add(self, place: RedisPlace, entries: list[Any]) -> None:
        """What was read, to what waits; what nobody wants is settled at once."""
        selects, skipped, backlog = place.holding.hosting.selects, list[bytes](), place.backlog
        expects = False
        for entry, fields in entries:
            if not fields or (fields[0] == b"t" and not selects(fields[1])):
                skipped.append(entry)
                self.gone += not fields
                continue
            try:
                message = unpack(fields_of(fields), entry)
            except (Damaged, Undecodable) as error:
                again = await self.read_again(place, entry, fields, error)
                if again is None:
                    continue
                message = again
            backlog.append(message)
            expects = expects or message.expires_ns is not None
        self._look_for_gaps(place, entries)
        place.last = entries[-1][0]
        if skipped:
            place.skip(skipped)
            self.settle_soon(place)
        if expects:
            place.expect_expiry()
        self._core.bound(place)
        if place.idle and place.has_work:
            place.idle = False
            place.holding.hosting.rouse(place)

    def _look_for_gaps(self, place: RedisPlace, entries: list[Any]) -> None:
        """Each partition is numbered without gaps: one shows that something was trimmed."""
        if entries[0][1] and entries[0][1][0] != b"t":
            return
        missed = sequence_of(entries[0][0]) - sequence_of(place.last) - 1
        if missed <= 0 or (order_of(place.last) == 0 and not place.reads_from_start):
            return
        if place.is_ephemeral:
            place.missed += missed
            place.dropped += missed
            place.holding.hosting.look_for_gaps()
        elif place.last != b"0-0":
            self._core.tell_loss(place, missed)

    async def read_again(
        self, place: RedisPlace, entry: bytes, fields: list[bytes], error: Damaged | Undecodable
    ) -> StoredMessage | None:
        """It may have been damaged on the way only. What stays unreadable is a dead letter."""
        if isinstance(error, Damaged):
            try:
                [found] = await self._wire.ask(
                    "XRANGE", self._keys.stream(place.topic, place.number), entry, entry
                )
                fields = found[1]
                return unpack(fields_of(fields), entry)
            except (Damaged, Undecodable) as still:
                error = still
            except (Lost, Refused, ValueError):
                place.holding.is_recovering = True
                raise Lost("damaged, and not to be read again") from None
        if not place.is_ephemeral:
            self._core.bury_unread(place, entry, fields, error)
            self.settle_soon(place)
        return None

    async def _failed(self, place: RedisPlace, text: str) -> None:
        if "NOGROUP" in text or "no such key" in text:
            await self._core.remake(place)
        else:
            self._say("fetch", f"{place.group}: {explained(text).explain()}")
            if not may_pass(text):
                await asyncio.sleep(0.05)
        asyncio.get_running_loop().call_later(_RETRY / 5, self.hungry, place)

    def _say(self, kind: str, text: str) -> None:
        """Not more than once a second."""
        now = time.monotonic()
        if now - self._said.get(kind, -_QUIET) >= _QUIET:
            self._said[kind] = now
            log.error("%s", text)


def _release(place: RedisPlace) -> None:
    waiters, place.waiters = place.waiters, []
    for future in waiters:
        if not future.done():
            future.set_result(None)


def tell_gap(place: RedisPlace, count: int) -> GapFound | None:
    """What was trimmed before its turn."""
    if is_silent(place.holding.hosting.spec):
        return None
    return GapFound(group=place.group, topic=place.topic, partition=place.number, count=count)
