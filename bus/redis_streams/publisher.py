"""Publishing: what is to be published at the same time goes out together, a script call for each partition.

Nothing waits for company: while one flush is under way the next gathers. What of it is not answered when the
connection is lost is sent again with the same ids, until its deadlines; the window makes it one event each.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import zlib
from collections.abc import Callable, Iterable

from contracts.bus import DEFAULT_TIMEOUT
from contracts.errors import BusError
from contracts.event import Receipt
from contracts.message import Message
from contracts.patterns import topic_of

from ..clock import Clock
from ..rates import Rate
from .background import keep_on
from .errors import explained, may_pass, must_reconnect
from .flight import Along, Flight
from .item import DELAYED, HANDLING, REPEATED, Item, Place
from .layout import Keys
from .link import Link
from .outbox import Outbox
from .packing import Fields, pack
from .prompt import Prompt
from .provisioning import Provisioning
from .registry import Registry
from .room import PAUSE, Room
from .scripts import script
from .wire import Answer, Lost, Refused, ScriptCall

log = logging.getLogger("plugbus.bus")

_LITTLE = 2_000
"""Bytes of an event that may be read in the call that publishes it: a script hashes all that it hands on."""
_ZERO, _NINE = ord("0"), ord("9")


class Publisher:
    """The one that writes events. `room`: trims a partition that is full; who holds it if it stays so."""

    def __init__(
        self, link: Link, registry: Registry, clock: Clock, room: Callable[[str, int], asyncio.Future[str]]
    ) -> None:
        self._link = link
        self._wire = link.events
        self._registry = registry
        self._keys: Keys = registry.keys
        self._limits = registry.limits
        self._clock = clock
        self._room = Room(
            clock, self._limits.limit, link.address, look=room, retry=self._retry, send=self.send
        )
        self.longest = DEFAULT_TIMEOUT
        """Seconds: of all publishes so far; so long an id is remembered at least."""
        self._known_keys: dict[Place, tuple[str, ...]] = {}
        self._outbox = Outbox(clock, link.address)
        self._provisioning = Provisioning(link, registry, clock)
        self._flight: Flight | None = None
        """What was sent and is not answered."""
        self._is_scheduled = self._is_pausing = False
        self._answered_last = 0
        """Events of the last flush that were answered."""
        self._pauses: asyncio.TimerHandle | None = None
        self._ended: Exception | None = None
        """What whoever publishes from now on is told."""
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._told: list[tuple[Prompt[Receipt], Receipt]] = []
        """Who is to be told what, when everything else that follows from an answer is done."""
        self._timer: asyncio.TimerHandle | None = None
        self.read_along: Callable[[Place], Along | None] = lambda place: None
        """Who reads what is published there in the call that publishes it."""
        self.on_sent: Callable[[Iterable[Place]], None] = lambda places: None
        """Something is on its way to these partitions."""
        self.on_taken: Callable[[Place, bytes], None] = lambda place, entry: None
        """It stands there, up to this entry."""
        self.ends: dict[Place, bytes] = {}
        """The last entry of each partition that we know of."""
        self.counts: dict[str, int] = {}
        """Events published here, by topic."""
        self._rates: dict[str, Rate] = {}

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()  # asking for it is a system call on Python 3.11
        self._task = self._loop.create_task(
            keep_on("publishing", self._reconnect, lambda: self._link.is_closed), name="plugbus:redis:write"
        )

    async def close(self, error: Exception) -> None:
        """What still waits fails: with `error`, or as unknown where Redis may have taken it."""
        await self._room.close(error)
        await self._provisioning.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        for timer in (self._timer, self._pauses):
            if timer is not None:
                timer.cancel()
        self._timer, self._is_pausing, self._ended = None, False, error
        self._outbox.close(error)

    @property
    def is_idle(self) -> bool:
        return not self._outbox.count and not self._room.waiting

    # --- from outside -------------------------------------------------------------------------------

    async def place_of(self, message: Message, timeout: float) -> Place:
        """Where it belongs: by its key, else by source and id. Makes the topic if it is new."""
        topic = topic_of(message.type)
        count = self._registry.partitions(topic)
        if count is None:
            count = await self._provisioning.partitions(topic, timeout, message.id)
        if count == 1:
            return topic, 0
        text = message.key if message.key is not None else f"{message.source}\n{message.id}"
        return topic, zlib.crc32(text.encode()) % count

    async def publish(
        self, message: Message, *, repeated: bool, handling: bool, timeout: float, due: str = ""
    ) -> Receipt:
        """`due`: milliseconds of the wall clock, or `+` and so many from now; else at once.

        Raises `BusFull`, `PublishUnknown`, `BusError`.
        """
        deadline = self._clock.monotonic() + timeout
        place = await self.place_of(message, timeout)
        flags = (REPEATED if repeated else 0) + (HANDLING if handling else 0)
        future = Prompt[Receipt](loop=self._loop)
        item = Item(message.id, message.source, pack(message), flags, deadline, future, due)
        return await self.send(place, item)

    def send_plain(
        self, topic: str, id: str, source: str, fields: Fields, timeout: float
    ) -> asyncio.Future[Receipt] | None:
        """The way of most events: no key, an id of ours; None: the topic must be made first."""
        count = self._registry.partitions(topic)
        if count is None:
            return None
        future = Prompt[Receipt](loop=self._loop)
        item = Item(id, source, fields, 0, self._clock.monotonic() + timeout, future)
        p = 0 if count == 1 else zlib.crc32(item.name) % count
        return self.send((topic, p), item)

    def send(self, place: Place, item: Item) -> asyncio.Future[Receipt]:
        if self._room.waiting and self._room.takes(place, item):
            return item.future
        self._outbox.append(place, item)
        self._kick()
        return item.future

    # --- flushing -----------------------------------------------------------------------------------

    def _kick(self) -> None:
        """Send what is queued, unless a flush is under way: its answer sends the next.

        One publisher alone is sent for at once. Where many were answered together they mostly publish again
        in the turns that follow: they go out together, as soon as there are as many, before anybody handles
        what came meanwhile. So Redis and this process work at the same time.
        """
        if self._flight is not None or self._is_pausing:
            return
        if self._ended is not None:
            self._outbox.close(self._ended)
        elif not self._wire.is_up:
            self._wanted.set()
            self._watch_deadlines()
        elif self._outbox.count >= self._answered_last:
            self._flush()
        elif not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._after_a_turn)

    def _after_a_turn(self) -> None:
        self._loop.call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._is_scheduled = False
        if self._flight is None and not self._is_pausing:
            self._flush()

    async def _reconnect(self) -> None:
        """Connects again, where that is needed."""
        await self._wanted.wait()
        self._wanted.clear()
        self._watch_deadlines()
        await self._link.ready(self._wire)
        self._kick()

    def _flush(self) -> None:
        batches = self._outbox.gather()
        if not batches:
            self._answered_last = 0
            return
        flight = self._flight = Flight(batches)
        self._watch_deadlines()
        self._wire.gather()  # who reads what is sent here asks for it in the same write
        try:
            for place, items in batches:
                along = None
                if len(items) == 1 and len(items[0].fields[2]) <= _LITTLE:
                    along = self.read_along(place)
                    if along is not None:
                        flight.alongs[place] = along
                self._wire.submit_script(
                    self._call(place, items, along), functools.partial(self._answered, flight, place)
                )
            self.on_sent([place for place, _ in batches if place not in flight.alongs])
        except Exception:
            log.exception("publishing: a mistake; what is under way is sent again over a new connection")
            self._wire.close()
            for place in flight.still_open():  # it was not written
                self._answered(flight, place, None)
        finally:
            self._wire.let_go()

    def _answered(self, flight: Flight, place: Place, answer: Answer | None) -> None:
        """What one partition has taken; None: the answer is lost, so it is sent again."""
        items, along, read = flight.land(place), flight.alongs.pop(place, None), answer
        if along is not None and isinstance(answer, list):
            read = answer.pop() if answer and isinstance(answer[-1], list) else None
            if read is None:  # it is garbled
                self._wire.close()
                answer = None
        if answer is None:
            for item in reversed(items):
                item.lose()
                self._put_back(place, item)
        else:
            flight.answered += len(items)
            flight.must_pause |= self._use(place, items, answer)
        if flight.is_over and flight is self._flight:
            self._landed(flight)
        if along is not None:
            along.done(read)
        if self._told:
            self._tell()

    def _tell(self) -> None:
        """Publishers go on here and now, unless a task has had the answers read (`Wire.go_on`)."""
        told, self._told = self._told, []
        try:
            if asyncio.current_task(self._loop) is None:
                for future, receipt in told:
                    future.deliver(receipt)
        finally:  # also those behind one who has ended the event loop
            for future, receipt in told:
                if not future.done():
                    future.set_result(receipt)

    def _landed(self, flight: Flight) -> None:
        self._flight = None
        self._answered_last = flight.answered
        if flight.must_pause:
            self._is_pausing = True
            self._pauses = self._loop.call_later(PAUSE, self._go_on)
        elif self._outbox.count:
            self._kick()

    def _use(self, place: Place, items: list[Item], answer: Answer) -> bool:
        """A mistake of ours leaves nobody waiting for ever."""
        try:
            return self._take_answer(place, items, answer)
        except Exception:
            log.exception("%s/%d: what Redis answered could not be used", *place)
            for item in items:
                item.give_up(self._link.address)
            return False

    def _go_on(self) -> None:
        self._is_pausing = False
        if self._outbox.count:
            self._kick()

    def _call(self, place: Place, items: list[Item], along: Along | None = None) -> ScriptCall:
        limits = self._limits
        arguments: list[bytes | str | int] = [
            limits.limit, int(limits.window_seconds * 1e3), limits.window, int(self.longest * 1e3), place[0]
        ]  # fmt: skip
        for item in items:
            if item.due:
                arguments += (item.name, item.flags + DELAYED, *item.fields, item.due)
            else:
                arguments += (item.name, item.flags, *item.fields)
        keys = self._keys_of(place)
        if along is not None:
            keys = (*keys, along.own)
            arguments += along.arguments
        return ScriptCall(script("publish"), keys, arguments)

    def _keys_of(self, place: Place) -> tuple[str, ...]:
        found = self._known_keys.get(place)
        if found is None:
            keys, (topic, p) = self._keys, place
            found = self._known_keys[place] = (
                keys.stream(topic, p), keys.numbers(topic, p), keys.ids(topic, p, 0), keys.ids(topic, p, 1),
                keys.delayed(p), keys.kept_back(p),
            )  # fmt: skip
        return found

    def _take_answer(self, place: Place, items: list[Item], answer: Answer) -> bool:
        """Tell those who wait; whether to pause before the rest is tried again."""
        if isinstance(answer, Refused):
            return self._refused(place, items, str(answer))
        topic, p = place
        prefix, last, why = f"{topic}/{p}:", None, ""
        for item, said in zip(items, answer, strict=False):
            if _ZERO <= said[0] <= _NINE:  # an entry: the first of that id
                last = said
                self._told.append((item.future, Receipt(item.id, prefix + said.decode())))
            elif said == b"full":
                self._room.none_for(place, item)
            elif said[:1] == b"!":
                why = said[1:].decode()  # nothing behind it was written
            else:
                item.confirm(place, said)
        if last is not None:
            self.ends[place] = last
            self._count(topic, len(answer))
            self.on_taken(place, last)
        must_pause = bool(why) and self._refused(place, items[len(answer) - 1 :], why)
        if place in self._room.waiting:
            # Who was next waits in his turn, before who comes later.
            self._outbox.hand_over(place, self._room.takes)
        return must_pause

    def _count(self, topic: str, number: int) -> None:
        count, now, rate = self.counts.get(topic, 0), self._clock.monotonic(), self._rates.get(topic)
        if rate is None:
            rate = self._rates[topic] = Rate()
        if now >= rate.next:
            rate.note(now, count)
        self.counts[topic] = count + number

    def per_second(self, topic: str) -> float:
        """Published here, over the last minute or since the first."""
        rate = self._rates.get(topic)
        return rate.per_second(self._clock.monotonic(), self.counts[topic]) if rate is not None else 0.0

    def _refused(self, place: Place, items: list[Item], text: str) -> bool:
        """Redis does not take it, now or at all."""
        if must_reconnect(text):
            self._wire.close()
        if may_pass(text):
            for item in reversed(items):
                item.was_refused()
                self._put_back(place, item, explained(text, where=f"topic {place[0]!r}"))
            return True
        for item in items:
            item.refuse(explained(text, where=f"topic {place[0]!r}"), self._link.address)
        return False

    def _put_back(self, place: Place, item: Item, why: BusError | None = None) -> None:
        """In front of its queue; what is over its deadline is told so."""
        if item.future.done():
            return
        item.why = why
        if self._clock.monotonic() >= item.deadline:
            item.give_up(self._link.address)
            return
        self._outbox.put_back(place, item)

    async def _retry(self, place: Place, items: list[Item]) -> int:
        """Once more, of a partition that was full: how many it has taken, from the first on."""
        try:
            await self._link.ready(self._wire)
            for item in items:
                item.sent = True
            [answer] = await self._wire.run([self._call(place, items)])
        except Lost:
            for item in items:
                item.lose()
            return 0
        for item in items:
            item.was_refused()
        if isinstance(answer, Refused):
            return 0
        taken = 0
        for item, said in zip(items, answer, strict=False):
            if said == b"full":
                item.is_not_there()
            if said == b"full" or said[:1] == b"!":
                break
            item.confirm(place, said)
            if said[:1].isdigit():
                self.ends[place] = said
            taken += 1
        self.on_sent((place,))
        return taken

    # --- deadlines ----------------------------------------------------------------------------------

    def _watch_deadlines(self) -> None:
        """One timer for all that is queued; it matters only where Redis does not answer."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(0.05, self._look_at_deadlines)

    def _look_at_deadlines(self) -> None:
        self._timer = None
        now, waits = self._clock.monotonic(), False
        flying = () if self._flight is None else self._flight.items()
        for item in itertools.chain(flying, self._outbox):
            if item.deadline <= now and not item.future.done():
                item.give_up(self._link.address)
            waits = waits or not item.future.done()
        if self._room.look_at_deadlines(now) or waits:
            self._watch_deadlines()
