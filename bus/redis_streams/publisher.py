"""Publishing: what is to be published at the same time goes out together, a script call for each partition.

Nothing waits for company: while one flush is under way the next gathers. After a lost answer everything of
that flush is sent again with the same ids, until its deadlines; the window makes it one event each.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from contracts.bus import DEFAULT_TIMEOUT
from contracts.errors import BusError, BusFull, PublishUnknown
from contracts.event import Receipt
from contracts.message import Message
from contracts.patterns import topic_of

from ..clock import Clock
from ..rates import Rate
from .background import keep_on
from .errors import explained, may_pass, must_reconnect
from .layout import Keys, position_of
from .link import Link
from .packing import Fields, pack
from .registry import Registry
from .scripts import script
from .wire import Answer, Lost, Refused, ScriptCall

log = logging.getLogger("plugbus.bus")

_MOST = 500
"""Events of one script call: Redis does nothing else meanwhile."""
_MOST_BYTES = 4 << 20
_GRACE = 0.25
_LAST = 0.04
"""Seconds before its deadline in which what was refused is not tried again: an answer that comes too late
would leave open what is known now."""
_ROOM_PAUSE = 0.02
"""Seconds between two looks whether a full topic has room again."""
REPEATED, HANDLING, DELAYED = 1, 2, 4
"""Flags of an event: somebody may have sent it before; it may pass the limit (its handler is at work); it is
kept back."""
_REFUSED_ONCE = 8
_ZERO, _NINE = ord("0"), ord("9")

Place = tuple[str, int]


class Item:
    """One event on its way."""

    __slots__ = ("deadline", "due", "fields", "flags", "future", "id", "name", "sent", "why")

    def __init__(
        self, id: str, source: str, fields: Fields, flags: int, deadline: float,
        future: asyncio.Future[Receipt], due: str = "",
    ) -> None:  # fmt: skip
        self.id = id
        self.name = f"{source}\n{id}"
        self.fields = fields
        self.flags = flags
        self.deadline = deadline
        self.due = due
        self.future = future
        self.sent = False
        """It may be in Redis already."""
        self.why: BusError | None = None
        """Why Redis has not taken it."""


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
        self._make_room = room
        self.longest = DEFAULT_TIMEOUT
        """Seconds: of all publishes so far; so long an id is remembered at least."""
        self._known_keys: dict[Place, tuple[str, ...]] = {}
        self._queues: dict[Place, deque[Item]] = {}
        self._full: dict[Place, deque[Item]] = {}
        """What waits for room, in order."""
        self._flying: list[Item] = []
        """What was sent and is not answered."""
        self._is_flying = self._is_scheduled = self._is_pausing = False
        self._queued = self._answered_last = 0
        """Events in the queues; events of the last flush."""
        self._pauses: asyncio.TimerHandle | None = None
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._making: dict[str, asyncio.Task[int]] = {}
        self._rooms: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.on_sent: Callable[[Iterable[Place]], None] = lambda places: None
        """Something is on its way to these partitions."""
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
        """What still waits fails with `error`."""
        tasks = [task for task in (self._task, *self._rooms) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for timer in (self._timer, self._pauses):
            if timer is not None:
                timer.cancel()
        self._timer = None
        for queue in (*self._queues.values(), *self._full.values()):
            for item in queue:
                if not item.future.done():
                    item.future.set_exception(error)
        self._queues.clear()
        self._full.clear()

    @property
    def is_idle(self) -> bool:
        return not self._queues and not self._full

    # --- from outside -------------------------------------------------------------------------------

    async def place_of(self, message: Message, timeout: float) -> Place:
        """Where it belongs: by its key, else by source and id. Makes the topic if it is new."""
        topic = topic_of(message.type)
        count = self._registry.partitions(topic)
        if count is None:
            count = await self._make_topic(topic, timeout, message)
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
        future = self._loop.create_future()
        item = Item(message.id, message.source, pack(message), flags, deadline, future, due)
        return await self.send(place, item)

    def send_plain(
        self, topic: str, id: str, source: str, fields: Fields, timeout: float
    ) -> asyncio.Future[Receipt] | None:
        """The way of most events: no key, an id of ours; None: the topic must be made first."""
        count = self._registry.partitions(topic)
        if count is None:
            return None
        future = self._loop.create_future()
        item = Item(id, source, fields, 0, self._clock.monotonic() + timeout, future)
        p = 0 if count == 1 else zlib.crc32(item.name.encode()) % count
        return self.send((topic, p), item)

    def send(self, place: Place, item: Item) -> asyncio.Future[Receipt]:
        waiting = self._full.get(place)
        if waiting and not item.flags & HANDLING:
            waiting.append(item)  # in order: behind those that wait for room already
        else:
            queue = self._queues.get(place)
            if queue is None:
                queue = self._queues[place] = deque()
            queue.append(item)
            self._queued += 1
            self._kick()
        return item.future

    async def _make_topic(self, topic: str, timeout: float, message: Message) -> int:
        deadline = self._clock.monotonic() + timeout
        while True:
            left = deadline - self._clock.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    return await asyncio.shield(self._one_making(topic))
            except TimeoutError:
                raise self._unknown(message.id, "nothing was sent") from None
            except Lost:
                continue
            except Refused as error:
                if not may_pass(str(error)) or left <= 0:
                    raise explained(error, where=f"topic {topic!r}") from None
                await asyncio.sleep(_ROOM_PAUSE)

    def _one_making(self, topic: str) -> asyncio.Task[int]:
        """One for all who want it."""
        task = self._making.get(topic)
        if task is None or task.done():

            async def make() -> int:
                await self._link.ready(self._link.control)
                return await self._registry.make_topic(topic)

            task = self._making[topic] = asyncio.get_running_loop().create_task(make())
            task.add_done_callback(lambda task: None if task.cancelled() else task.exception() and None)
            self._rooms.add(task)
            task.add_done_callback(self._rooms.discard)
        return task

    def _unknown(self, id: str, why: str) -> PublishUnknown:
        return PublishUnknown(
            f"event {id!r} was not confirmed in time: {why}",
            event_id=id,
            where=self._link.address,
            fix="publish it again with the same id: it will be one event",
        )

    # --- flushing -----------------------------------------------------------------------------------

    def _kick(self) -> None:
        """Send what is queued, unless a flush is under way: its answer sends the next.

        One publisher alone is sent for at once. Where many were answered together they mostly publish again
        in the turns that follow: they go out together, as soon as there are as many, before anybody handles
        what came meanwhile. So Redis and this process work at the same time.
        """
        if self._is_flying or self._is_pausing:
            return
        if not self._wire.is_up:
            self._wanted.set()
            self._watch_deadlines()
        elif self._queued >= self._answered_last:
            self._flush()
        elif not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._after_a_turn)

    def _after_a_turn(self) -> None:
        self._loop.call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._is_scheduled = False
        if not (self._is_flying or self._is_pausing):
            self._flush()

    async def _reconnect(self) -> None:
        """Connects again, where that is needed."""
        await self._wanted.wait()
        self._wanted.clear()
        self._watch_deadlines()
        await self._link.ready(self._wire)
        self._kick()

    def _flush(self) -> None:
        batches = self._gather()
        if not batches:
            self._answered_last = 0
            return
        self._is_flying = True
        self._flying = [item for _, items in batches for item in items]
        self._watch_deadlines()
        self._wire.gather()  # who reads what is sent here asks for it in the same write
        try:
            self._wire.submit_scripts(
                [self._call(place, items) for place, items in batches],
                lambda answers: self._answered(batches, answers),
            )
            self.on_sent(place for place, _ in batches)
        except Exception:
            log.exception("publishing: a mistake; what is under way is sent again over a new connection")
            self._wire.close()
            if self._is_flying:  # it was not written
                self._answered(batches, None)
        finally:
            self._wire.let_go()

    def _answered(self, batches: list[tuple[Place, list[Item]]], answers: list[Answer] | None) -> None:
        self._is_flying, self._flying = False, []
        if answers is None:
            for place, items in reversed(batches):
                for item in reversed(items):
                    item.flags |= REPEATED
                    self._put_back(place, item)
            self._answered_last = 0
        else:
            pause = False
            for (place, items), answer in zip(batches, answers, strict=True):
                pause |= self._use(place, items, answer)
            self._answered_last = sum(len(items) for _, items in batches)
            if pause:
                self._is_pausing = True
                self._pauses = asyncio.get_running_loop().call_later(_ROOM_PAUSE, self._go_on)
                return
        if self._queues:
            self._kick()

    def _use(self, place: Place, items: list[Item], answer: Answer) -> bool:
        """A mistake of ours leaves nobody waiting for ever."""
        try:
            return self._take_answer(place, items, answer)
        except Exception:
            log.exception("%s/%d: what Redis answered could not be used", *place)
            for item in items:
                if not item.future.done():
                    self._give_up(item)
            return False

    def _go_on(self) -> None:
        self._is_pausing = False
        if self._queues:
            self._kick()

    def _gather(self) -> list[tuple[Place, list[Item]]]:
        batches = []
        for place in list(self._queues):
            queue, items, size = self._queues[place], list[Item](), 0
            while queue and len(items) < _MOST and size < _MOST_BYTES:
                item = queue.popleft()
                if item.why is not None and item.deadline - self._clock.monotonic() < _LAST:
                    self._give_up(item)
                elif not item.future.done():  # nobody waits for it, and it was not sent: it need not be
                    item.sent, item.why = True, None
                    items.append(item)
                    size += len(item.fields[2])
            if not queue:
                del self._queues[place]
            if items:
                batches.append((place, items))
        self._queued = sum(map(len, self._queues.values()))
        return batches

    def _call(self, place: Place, items: list[Item]) -> ScriptCall:
        limits = self._limits
        arguments: list[bytes | str | int] = [
            limits.limit, int(limits.window_seconds * 1e3), limits.window, int(self.longest * 1e3), place[0]
        ]  # fmt: skip
        for item in items:
            if item.due:
                arguments += (item.name, item.flags + DELAYED, *item.fields, item.due)
            else:
                arguments += (item.name, item.flags, *item.fields)
        return ScriptCall(script("publish"), self._keys_of(place), arguments)

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
        prefix = f"{topic}/{p}:"
        for item, said in zip(items, answer, strict=False):
            if _ZERO <= said[0] <= _NINE:  # an entry: the first of that id
                if not item.future.done():
                    item.future.set_result(Receipt(item.id, prefix + said.decode()))
            elif said == b"full":
                self._no_room(place, item)
            elif said[:1] == b"!":
                return self._refused(place, items[len(answer) - 1 :], said[1:].decode())
            elif not item.future.done():
                item.future.set_result(_receipt(place, item, said))
        last = next((said for said in reversed(answer) if said[:1].isdigit()), None)
        if last is not None:
            self.ends[place] = last
            self._count(topic, len(answer))
        return False

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
                item.sent = False
                self._put_back(place, item, explained(text, where=f"topic {place[0]!r}"))
            return True
        for item in items:
            if not item.future.done():
                item.future.set_exception(explained(text, where=f"topic {place[0]!r}"))
        return False

    def _put_back(self, place: Place, item: Item, why: BusError | None = None) -> None:
        """In front of its queue; what is over its deadline is told so."""
        if item.future.done():
            return
        item.why = why
        if self._clock.monotonic() >= item.deadline:
            self._give_up(item)
            return
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = deque()
        queue.appendleft(item)
        self._queued += 1

    def _give_up(self, item: Item) -> None:
        why = item.why
        if why is not None:
            item.future.set_exception(BusFull(why.message, where=why.where, fix=why.fix))
        else:
            item.future.set_exception(
                self._unknown(item.id, "the answer was lost" if item.sent else "Redis cannot be reached")
            )

    # --- deadlines ----------------------------------------------------------------------------------

    def _watch_deadlines(self) -> None:
        """One timer for all that is queued; it matters only where Redis does not answer."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(0.05, self._look_at_deadlines)

    def _look_at_deadlines(self) -> None:
        self._timer = None
        now, left = self._clock.monotonic(), 0
        for item in itertools.chain(self._flying, *self._queues.values()):
            if item.deadline <= now and not item.future.done():
                self._give_up(item)
            left += not item.future.done()
        for place, waiting in self._full.items():
            for item in waiting:
                # He who looks for room tells those who wait in time, unless Redis has gone away meanwhile.
                if item.deadline + _GRACE <= now and not item.future.done():
                    item.future.set_exception(self._error(place, ""))
                left += not item.future.done()
        if left:
            self._watch_deadlines()

    # --- room ---------------------------------------------------------------------------------------

    def _no_room(self, place: Place, item: Item) -> None:
        if item.flags & HANDLING:  # what it waited for might be itself
            task = asyncio.get_running_loop().create_task(self._refuse(place, item))
        else:
            waiting = self._full.get(place)
            if waiting is not None:
                waiting.append(item)
                return
            self._full[place] = deque([item])
            task = asyncio.get_running_loop().create_task(self._wait_for_room(place))
        self._rooms.add(task)
        task.add_done_callback(self._rooms.discard)

    async def _refuse(self, place: Place, item: Item) -> None:
        """At twice the limit; unless what is only retained holds it there."""
        holder = await self._make_room(*place)
        if item.flags & _REFUSED_ONCE:
            if not item.future.done():
                item.future.set_exception(self._error(place, holder))
            return
        item.flags |= _REFUSED_ONCE
        self.send(place, item)

    async def _wait_for_room(self, place: Place) -> None:
        """Look again and again, one for all who wait in one partition."""
        try:
            await self._look_for_room(place, self._full[place])
        finally:
            for item in self._full.pop(place, ()):
                if not item.future.done():
                    item.future.set_exception(self._error(place, ""))

    async def _look_for_room(self, place: Place, waiting: deque[Item]) -> None:
        holder = ""
        while waiting:
            found = await self._make_room(*place)
            holder = found or holder
            if not found:
                await self._try_again(place, waiting)
            now = self._clock.monotonic()
            for item in list(waiting):
                if item.deadline <= now or item.future.done():
                    waiting.remove(item)
                    if not item.future.done():
                        item.future.set_exception(self._error(place, holder))
            if waiting:
                left = min(item.deadline for item in waiting) - self._clock.monotonic()
                await asyncio.sleep(max(0.0, min(_ROOM_PAUSE, left)))

    async def _try_again(self, place: Place, waiting: deque[Item]) -> None:
        items = [item for item in list(waiting)[:_MOST] if not item.future.done()]
        try:
            await self._link.ready(self._wire)
            [answer] = await self._wire.run([self._call(place, items)])
        except Lost:
            for item in items:
                item.flags |= REPEATED
            return
        if isinstance(answer, Refused):
            return
        for item, said in zip(items, answer, strict=False):
            if said == b"full" or said[:1] == b"!":
                break
            waiting.remove(item)
            if not item.future.done():
                item.future.set_result(_receipt(place, item, said))
            if said[:1].isdigit():
                self.ends[place] = said

    def _error(self, place: Place, group: str) -> BusFull:
        topic = place[0]
        return BusFull(
            f"topic {topic!r} is at its limit of {self._limits.limit:,} events"
            + (f"; group {group!r} has the oldest that is not handled" if group else ""),
            topic=topic,
            group=group,
            fix=f"start its plugin, or give up what waits for it: plugbus group drop {group}"
            if group
            else "",
        )


def _receipt(place: Place, item: Item, said: bytes) -> Receipt:
    """What Redis said of one event: its entry, or `d` (kept back); behind `=` where it is a repetition."""
    is_first = said[:1] != b"="
    entry = said if is_first else said[1:]
    position = "delayed" if entry == b"d" else position_of(*place, entry)
    return Receipt(item.id, position, duplicate=not is_first)
