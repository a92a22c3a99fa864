"""The one loop that fetches and settles, for all groups of a bus: settlements and the next fetches go out
in one write. What becomes of what they bring: `intake.py`.

Nothing is sent while nothing is to do: places that have been read to the end are left to the bell.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from .background import keep_on
from .errors import explained
from .flight import Along
from .place import RedisPlace
from .scripts import script
from .transaction import Transactions
from .wire import Answer, Refused, ScriptCall

if TYPE_CHECKING:
    from .core import Core
    from .hosting import RedisHosting

log = logging.getLogger("plugbus.bus")

A = TypeVar("A")
MOST = 500
"""Entries of one fetch: Redis does nothing else meanwhile."""
_TURN = 2 * MOST
"""Entries of all fetches of one turn, about: what comes at once is read at once. With more, Redis and this
process work by turns instead of side by side, and what was read has left the cache when it is handled."""
_FAST, _SLOW = 0.05, 0.5
"""Seconds for one fetch to be handled, below and above which the next is larger or smaller."""
_RETRY = 0.5
"""Seconds until what Redis refused is tried again."""


class Reader:
    """See above. `core`: the bus that it reads for."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._wire = core.link.events
        self._transactions = Transactions(self._wire, core.keys, core.clock.monotonic)
        self._monotonic = core.clock.monotonic
        self.places: dict[tuple[str, int], dict[RedisPlace, None]] = {}
        """Ours, by topic and partition."""
        self.dirty: dict[RedisPlace, None] = {}
        self._hungry: dict[RedisPlace, None] = {}
        self._is_flying = self._is_scheduled = self._is_closed = False
        self._is_down = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._rounds: list[asyncio.Future[None]] = []
        self._later: dict[RedisPlace, asyncio.TimerHandle] = {}
        self._forgotten: set[RedisPlace] = set()
        """Nobody asked for what is new in them when that was last looked at."""
        self._opened = 1

    def start(self) -> None:
        self._opened = self._wire.opened
        self._loop = asyncio.get_running_loop()  # asking for it is a system call on Python 3.11
        self._task = self._loop.create_task(
            keep_on("reading", self._reconnect, lambda: self._core.is_closed), name="plugbus:redis:read"
        )

    async def close(self) -> None:
        self._is_closed = True
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._end_round()

    # --- what is to do ------------------------------------------------------------------------------

    def settle_soon(self, place: RedisPlace) -> None:
        """In the next turn of the event loop: what a lane settles without a pause goes out together."""
        if place not in self.dirty:
            self.dirty[place] = None
            self._kick_soon()

    async def written(self, place: RedisPlace) -> None:
        """Return when everything that is noted at `place` now is in Redis, or it is no longer ours."""
        future = asyncio.get_running_loop().create_future()
        place.waiters.append(future)
        self.settle_soon(place)
        await future

    def feed(self, hosting: RedisHosting) -> None:
        """Fetch for those of its places that have little left.

        At once, so that Redis works while what was just taken is handled: a handler that waits for nothing
        leaves no turn of the event loop to anybody until all is handled.
        """
        for place in hosting.owned():
            self._want(place)
        if self._hungry:
            self._kick()

    def hungry(self, place: RedisPlace) -> None:
        """The same for one, in the next turn of the event loop."""
        self._want(place)
        if self._hungry:
            self._kick_soon()

    def _want(self, place: RedisPlace) -> None:
        if self._is_hungry(place):
            self._adapt(place)
            self._hungry[place] = None

    def ring(self, place: RedisPlace, news: list[Any]) -> None:
        """There is something new: fetch at once. What the news have brought is handled meanwhile.

        Nobody else can have taken the partition over, just as if it had been fetched: who starts it looks at
        the lease.
        """
        if self._is_hungry(place):
            self._hungry[place] = None
            self._kick()
            if news and place.fetching:  # else it is sent later
                self._use(self._core.intake.hand_on, place, news)

    def expect(self, streams: Iterable[tuple[str, int]]) -> None:
        """This bus has just sent something to these partitions: who has read them to the end looks at once.

        The server has most likely taken it when the fetch arrives, so one round trip is saved. If not, the
        bell rings. A fetch that is under way may come too early for it, so another follows.
        """
        for stream in streams:
            for place in self.places.get(stream, ()):
                if place.fetching:
                    place.is_promised = True
                elif place.is_dry:
                    place.is_dry = False
                    if self._is_hungry(place):
                        self._hungry[place] = None
        if self._hungry:
            self._kick()

    def read_along(self, stream: tuple[str, int]) -> Along | None:
        """Who has read this partition to its end, if that is one group, to be given what is published there.

        That is no command more; a turn of its own takes six, and one for each further ownership that is
        watched. None: see `expect`.
        """
        places = self.places.get(stream, ())
        if len(places) != 1:
            return None
        [place] = places
        if not place.is_dry or place.is_ephemeral:
            return None
        place.is_dry = False
        if not self._is_hungry(place):
            return None
        place.fetching, place.is_promised = True, False
        arguments = (place.group, place.holding.fence, place.wanted)
        return Along(place.names.own, arguments, functools.partial(self._read_along, place))

    def _read_along(self, place: RedisPlace, answer: Answer | None) -> None:
        if answer is None:
            place.fetching = False
            place.holding.doubt()
            self._is_down.set()
        elif isinstance(answer, Refused):
            place.fetching = False
            self.hungry(place)
        else:
            self._use(self._core.intake.fetched, place, answer)
        self._end_round()
        if self.dirty or self._hungry:
            self._kick_soon()

    def look_for(self, stream: tuple[str, int], entry: bytes) -> None:
        """What this bus has sent stands there now: who has looked before it did looks again.

        A script that the server had forgotten is sent a second time, behind the fetch.
        """
        for place in self.places.get(stream, ()):
            if place.is_dry and place.last != entry:
                self.expect((stream,))
                return

    def _is_hungry(self, place: RedisPlace) -> bool:
        holding = place.holding
        if place.fetching or place.is_dry or place.leaving or not holding.is_owned or holding.is_recovering:
            return False
        if place.lot.parked >= place.lot_limit:
            return False
        return len(place.backlog) * 2 < place.wanted or holding.hosting.spec.options.max_waiting is not None

    def know(self, place: RedisPlace) -> None:
        """It is ours from now on."""
        self.places.setdefault((place.topic, place.number), {})[place] = None

    def forget(self, place: RedisPlace) -> None:
        self.places.get((place.topic, place.number), {}).pop(place, None)
        self.dirty.pop(place, None)
        self._hungry.pop(place, None)
        self._core.bell.forget(place)
        timer = self._later.pop(place, None)
        if timer is not None:
            timer.cancel()
        _release(place)

    async def round(self) -> None:
        """Return with the next answers, if something is asked or wanted."""
        if self._is_flying or self._hungry or self.dirty:
            future = asyncio.get_running_loop().create_future()
            self._rounds.append(future)
            await future

    async def flush(self) -> None:
        """Return when Redis knows of everything that has been settled until now. Raises `Lost`."""
        places = [place for hosting in self._core.hosted for place in hosting.owned() if place.is_changed]
        await asyncio.gather(*(self.written(place) for place in places))

    # --- the second line ------------------------------------------------------------------------------

    def look_after(self) -> None:
        """What is ours and is asked for by nobody, twice in a row, is a mistake: said, and mended."""
        places = [place for hosting in self._core.hosted for place in hosting.owned()]
        forgotten = {place for place in places if self._is_forgotten(place)}
        for place in forgotten & self._forgotten:
            log.warning(
                "%s: %s/%d was read by nobody any more; it goes on", place.group, place.topic, place.number
            )
            if place.holding.is_recovering:
                self._core.ownership.look_up(place.holding.hosting, place.holding)
            else:
                place.is_dry = False
                self.hungry(place)
        self._forgotten = forgotten

    def _is_forgotten(self, place: RedisPlace) -> bool:
        holding = place.holding
        if not holding.is_owned or place.fetching or place.leaving:
            return False
        if holding.is_recovering:
            return not self._core.ownership.is_at_work(holding)
        if place.is_dry:
            return not self._core.bell.hears(place)
        return place not in self._hungry and self._is_hungry(place)

    # --- turns ----------------------------------------------------------------------------------------

    def _kick_soon(self) -> None:
        if not (self._is_scheduled or self._is_flying):
            self._is_scheduled = True
            self._loop.call_soon(self._kick)

    def _kick(self) -> None:
        """Send what is to do, unless answers are awaited: with them comes the next turn."""
        self._is_scheduled = False
        if self._is_flying or self._is_closed:
            return
        if not (self.dirty or self._hungry):
            self._end_round()  # what was wanted is not ours any more
            return
        if not self._wire.is_up or self._wire.opened != self._opened:
            self._is_down.set()
        else:
            self._turn()

    async def _reconnect(self) -> None:
        """Connects again, where that is needed."""
        await self._is_down.wait()
        self._is_down.clear()
        await self._core.link.ready(self._wire)
        if self._wire.opened != self._opened:
            self._opened = self._wire.opened
            self._core.look_up_all()
        self._kick()

    def _end_round(self) -> None:
        rounds, self._rounds = self._rounds, []
        for future in rounds:
            if not future.done():
                future.set_result(None)

    def _turn(self) -> None:
        places, self.dirty = list(self.dirty), {}
        settling = [place for place in places if self._has_to_say(place)]
        hungry = self._next_hungry()
        for place in places:
            if place.holding.is_lost or not place.has_news:
                _release(place)  # there was nothing to write
        if not (settling or hungry):
            self._end_round()
            return
        for place in hungry:
            place.fetching, place.is_promised = True, False
        self._is_flying = True

        def answered(answers: list[Answer] | None) -> None:
            self._answered(settling, hungry, answers)

        try:
            if self._transactions.covers(settling, hungry):
                self._transactions.send(settling, hungry, answered)
            else:
                calls = [*map(self._settlement, settling), *map(self._fetch, hungry)]
                self._wire.submit_scripts(calls, answered)
                self._transactions.watch((*settling, *hungry))
        except Exception:
            log.exception("reading: a mistake; what is under way is looked up over a new connection")
            self._wire.close()
            if self._is_flying:  # it was not written
                self._answered(settling, hungry, None)

    def _next_hungry(self) -> list[RedisPlace]:
        """Who fetches in this turn. The others are the first of the next."""
        chosen, later, wanted = list[RedisPlace](), dict[RedisPlace, None](), 0
        for place in self._hungry:
            if not self._is_hungry(place):
                continue
            if wanted < _TURN:
                wanted += place.wanted
                chosen.append(place)
            else:
                later[place] = None
        self._hungry = later
        return chosen

    def _answered(
        self, settled: list[RedisPlace], hungry: list[RedisPlace], answers: list[Answer] | None
    ) -> None:
        self._is_flying = False
        if answers is None:
            for place in settled:
                self.dirty[place] = None
            for place in hungry:
                place.fetching = False
                place.holding.doubt()
            self._is_down.set()
        elif not answers:  # the transaction was dropped: nothing was done
            self.dirty.update(dict.fromkeys(settled))
            self._hungry.update(dict.fromkeys(hungry))
            for place in hungry:
                place.fetching = False
        else:
            for place, answer in zip(settled, answers, strict=False):
                self._use(self._settled, place, answer)
            for place, answer in zip(hungry, answers[len(settled) :], strict=True):
                self._use(self._core.intake.fetched, place, answer)
        self._end_round()
        if self.dirty or self._hungry:
            self._kick_soon()

    def _use(self, use: Callable[[RedisPlace, A], None], place: RedisPlace, answer: A) -> None:
        """A mistake of ours at one place does not take the answers of the others away."""
        try:
            use(place, answer)
        except Exception:
            log.exception("%s: what Redis answered could not be used; it is looked up", place.group)
            place.fetching = False
            self._retry(place)
            self._core.ownership.look_up(place.holding.hosting, place.holding)

    # --- settling -----------------------------------------------------------------------------------

    def _has_to_say(self, place: RedisPlace) -> bool:
        """Whether there is something to write, and now; then it is noted as the call that goes out."""
        return not place.holding.is_lost and place not in self._later and place.next_call() is not None

    def _settlement(self, place: RedisPlace) -> ScriptCall:
        operations = place.journal.unconfirmed or ()
        return ScriptCall(
            script("settle"), place.names.settle, (place.group, place.holding.fence, *operations)
        )

    def _settled(self, place: RedisPlace, answer: Answer) -> None:
        if isinstance(answer, Refused):
            self._core.throttled.error("settle", f"{place.group}: {explained(answer).explain()}")
            self._retry(place)
            return
        if answer[0] == b"lost":
            self._core.lost(place.holding, answer[1])
            return
        whys = place.confirmed(answer[2] if answer[0] == b"ok" else [])
        if answer[0] == b"ok" and answer[1]:
            self._core.tell_dropped(place, answer[1])
        if whys:
            self._core.throttled.error(
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
            self._later[place] = self._loop.call_later(_RETRY, self._try_again, place)

    def _try_again(self, place: RedisPlace) -> None:
        self._later.pop(place, None)
        self.settle_soon(place)

    # --- fetching -----------------------------------------------------------------------------------

    def _adapt(self, place: RedisPlace) -> None:
        """Large batches where handlers are fast; where they are slow, little that another could do."""
        if not place.filled_at:
            return
        took, place.filled_at = self._monotonic() - place.filled_at, 0.0
        least = max(2, 2 * place.holding.hosting.spec.options.concurrency)
        if took < _FAST:
            place.wanted = max(least, min(4 * place.wanted, MOST, place.most))
        elif took > _SLOW:
            place.wanted = max(least, place.wanted // 2)

    def _fetch(self, place: RedisPlace) -> ScriptCall:
        names = place.names
        if place.is_ephemeral:
            return ScriptCall(script("range"), (names.stream,), (place.last, "+", place.wanted))
        arguments = place.group, place.holding.fence, place.wanted
        return ScriptCall(script("fetch"), (names.own, names.stream), arguments)


def _release(place: RedisPlace) -> None:
    waiters, place.waiters = place.waiters, []
    for future in waiters:
        if not future.done():
            future.set_result(None)
