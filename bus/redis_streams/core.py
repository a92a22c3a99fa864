"""What the parts of one Redis bus share, and what happens when the world around them changes."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine
from random import Random
from typing import Any

from contracts.bus import BusLimits, SubscriptionSpec
from contracts.errors import ErrorInfo
from contracts.event import Event
from contracts.message import Message

from ..announce import SOURCE
from ..clock import Clock, Ids
from ..codec import encode
from ..directory import Directory
from ..groups import Delivery, GroupPartition
from ..measures import Measures
from ..overflow import Overflow
from ..policy.causes import Causes
from ..policy.timeout import Sweeper
from ..spans import Client
from ..tidings import tell_dropped
from .announcing import RedisAnnouncer
from .bell import Bell
from .caretaking import bound_dormant
from .catalog import TYPES, SharedCatalog
from .data_loss import DataLoss
from .delayed import Delayed
from .ephemeral import EphemeralPlace
from .errors import explained, may_pass
from .groups import Groups
from .hosting import RedisHosting
from .inbox import Inbox
from .intake import Intake
from .layout import FIRST, SYSTEM, Keys, entry_of, order_of, owner_of, position_of
from .link import LONGEST_PAUSE, Link
from .members import Members
from .ownership import Ownership
from .packing import Damaged, Undecodable, pack, packed
from .place import Holding, RedisPlace
from .publisher import Publisher
from .reader import Reader
from .registry import OfferRecord, Registry
from .replaying import restore_replay
from .scripts import script
from .tail import RedisTail
from .throttled_log import ThrottledLog
from .trimming import Trimmer
from .unreadable import raw_of, unreadable
from .wire import Lost, Refused

log = logging.getLogger("plugbus.bus")


CARE = 1.0
"""Seconds between two looks at what nobody handles."""


class Core:
    """One replica, from the inside."""

    def __init__(
        self,
        url: str,
        namespace: str,
        replica: str,
        limits: BusLimits,
        *,
        clock: Clock,
        random: Random,
        ids: Ids,
    ) -> None:
        self.replica = replica
        self.limits = limits
        self.clock = clock
        self.random = random
        self.ids = ids
        self.keys = Keys(namespace)
        # Much less than a lease: who comes back late after an outage must not be taken for gone.
        self.link = Link(url, longest_pause=min(LONGEST_PAUSE, limits.lease / 5))
        self.measures = Measures(Client(SYSTEM, replica, self.link.server), clock)
        self.sweeper = Sweeper(clock)
        self.catalog = SharedCatalog(self)
        self.directory = Directory()
        self.registry = Registry(self.link, self.keys, limits)
        self.trimmer = Trimmer(self)
        self.publisher = Publisher(self.link, self.registry, clock, self.trimmer.make_room)
        self.announcer = RedisAnnouncer(self._publish_own, limits.announcements)
        self.overflow = Overflow(self.announcer, _position)
        self.hosted: dict[RedisHosting, None] = {}
        self.tails: dict[RedisTail, None] = {}
        self.members = Members(self)
        self.throttled = ThrottledLog(clock.monotonic)
        self.intake = Intake(self)
        self.reader = Reader(self)
        self.ownership = Ownership(self)
        self.bell = Bell(self, self._ring, self._heard)
        self.delayed = Delayed(self)
        self.inbox = Inbox(self)
        self.groups = Groups(self)
        self._spawned: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
        self._cared = 0.0
        self.is_closed = False
        self.registry.on_change = self._changed
        self.registry.on_loss = DataLoss(self).noticed
        self.bell.letters = self.inbox.deliver
        self.publisher.read_along = self.reader.read_along
        self.publisher.on_sent = self.reader.expect
        self.publisher.on_taken = self.reader.look_for

    # --- life -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Raises `BusError`; then nothing is left behind."""
        await self.link.open()
        try:
            await self.registry.enter()
            await self.members.join()
            await self.catalog.open()
            await self.registry.tell("replicas")
        except BaseException:
            self.link.reset()
            await self.link.ended()
            raise
        for part in (
            self.publisher, self.reader, self.ownership, self.bell, self.members, self.announcer,
            self.trimmer, self.delayed,
        ):  # fmt: skip
            part.start()

    async def close(self, grace: float, error: Exception) -> None:
        """After everything that runs has ended: tell the others, and let go."""
        await self.announcer.close(min(1.0, grace + 0.2))
        if self.link.is_up:
            try:
                async with asyncio.timeout(1.0):
                    await self.catalog.close()
                    await self.members.leave()
            except (Lost, Refused, TimeoutError) as lost:
                log.debug("leaving: %s", lost)
        await self.kill(error)

    async def kill(self, error: Exception) -> None:
        """Nothing more is sent."""
        self.is_closed = True
        self.link.close()
        self.sweeper.close()
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(
            self.announcer.close(0), self.bell.close(), self.reader.close(), self.ownership.close(),
            self.members.stop(), self.publisher.close(error), self.trimmer.close(), self.delayed.close(),
        )  # fmt: skip
        await self.link.ended()
        for task in list(self._spawned):
            task.cancel()
        others = [task for task in self._spawned if task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task that ends with the bus."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._spawned.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._spawned.discard(task)
        if not task.cancelled() and task.exception() is not None and not self.is_closed:
            error = task.exception()
            if not isinstance(error, Lost | Refused):
                log.error("%s broke", task.get_name(), exc_info=error)

    def later(self, seconds: float, call: Any, *arguments: Any) -> None:
        """A call that does not come any more when the bus is closed."""
        if self.is_closed:
            return

        def run() -> None:
            self._timers.discard(timer)
            call(*arguments)

        timer = asyncio.get_running_loop().call_later(seconds, run)
        self._timers.add(timer)

    # --- what this replica shows ------------------------------------------------------------------------

    def hosted_versions(self) -> dict[str, str]:
        return {
            hosting.spec.group: hosting.spec.plugin_version
            for hosting in self.hosted if not hosting.is_ending
        }  # fmt: skip

    def offered(self) -> tuple[OfferRecord, ...]:
        return self.inbox.offered()

    def rates(self) -> dict[str, float]:
        rates = dict[str, float]()
        for hosting in self.hosted:
            hosting.note_rate()
            if rate := hosting.per_second:
                rates[hosting.spec.group] = round(rate, 3)
        for topic in self.publisher.counts:
            if rate := self.publisher.per_second(topic):
                rates[f"/{topic}"] = round(rate, 3)
        return rates

    def broken(self) -> tuple[str, ...]:
        return tuple(hosting.spec.group for hosting in self.hosted if hosting.is_broken)

    def dead_limit(self, spec: SubscriptionSpec) -> int:
        """Dead letters of one group in one partition: all together keep to the bound of the group."""
        counts = [self.registry.view.topics[topic] for topic in self.registry.view.topics_of(spec.patterns)]
        return max(1, -(-self.limits.dead_letters // max(counts, default=1)))

    # --- changes ----------------------------------------------------------------------------------------

    def _heard(self, news: bytes | None) -> None:
        """Something has changed: look again, once for whatever came meanwhile. None: it may be anything."""
        if news in (None, TYPES):
            self.catalog.look_soon()
        if news == TYPES:
            return
        if self._looking is not None and not self._looking.done():
            self._look_again = True
            return
        self._looking = self.spawn(self._look(), "plugbus:redis:look")

    async def _look(self) -> None:
        while True:
            self._look_again = False
            try:
                await self.link.ready(self.link.control)
                await self.registry.refresh()
                for hosting in list(self.hosted):
                    for place in list(hosting.owned()):
                        if not place.is_ephemeral and place.holding.is_owned:
                            await restore_replay(self, hosting, place)
                            await self.delayed.take_redriven(place)
            except (Lost, Refused):
                await asyncio.sleep(0.05)
                continue
            self.delayed.look()
            if not self._look_again:
                return

    def _changed(self) -> None:
        """The registry was read."""
        view = self.registry.view
        for hosting in list(self.hosted):
            record = view.groups.get(hosting.spec.group)
            if record is None:
                if hosting.is_known:
                    self._dropped(hosting)
                continue
            hosting.is_known = True
            hosting.set_paused(record.paused is not None or self.groups.is_pausing(hosting.spec.group))
            hosting.change(record.spec)
        self.inbox.changed()
        if not self.members.is_alone:
            self.bell.hurry()
        self.ownership.place_soon()
        for tail in self.tails:
            tail.wake()

    def _dropped(self, hosting: RedisHosting) -> None:
        """Its group was retired."""
        if not hosting.is_over:
            self.hosted.pop(hosting, None)
            for task in hosting.crash():
                self._spawned.add(task)
                task.add_done_callback(self._spawned.discard)
            self.members.beat_now()

    def place_soon(self) -> None:
        self.ownership.place_soon()

    async def after_beat(self) -> None:
        """So often, what has no other cause is looked at."""
        self.catalog.look_soon()
        self.ownership.place_soon()
        self.reader.look_after()
        await self.trimmer.look_at_dormant()
        if self.clock.monotonic() - self._cared >= CARE:
            self._cared = self.clock.monotonic()
            await bound_dormant(self)
            self.delayed.look()

    def owned(self, hosting: RedisHosting, holding: Holding) -> None:
        for place in holding.places.values():
            self.intake.offer(place)
        self.reader.feed(hosting)
        hosting.loop.wake()

    def lost(self, holding: Holding, owner: bytes | None) -> None:
        """Somebody else owns it."""
        if holding.is_lost:
            return
        log.warning(
            "%s: partition %d belongs to %s now", holding.hosting.spec.group, holding.p,
            owner_of(owner) or "nobody",
        )  # fmt: skip
        places = list(holding.places.values())
        for place in places:
            if place.journal.unsent:
                self.count_stale(place, place.journal.unsent)
        holding.hosting.give_up(holding)
        for place in places:
            self.bell.forget(place)
        self.ownership.place_soon()
        if not owner_of(owner):
            self._heard(None)  # its group was dropped, or all data are gone

    def look_up_all(self) -> None:
        """The connection was lost: perhaps something was read that we do not know of."""
        for hosting in self.hosted:
            for holding in list(hosting.holdings.values()):
                self.ownership.look_up(hosting, holding)

    async def returned(self) -> None:
        """We were taken for gone: nothing is started until it is known what is still ours."""
        for hosting in list(self.hosted):
            for holding in hosting.holdings.values():
                holding.was_away = not hosting.is_ephemeral
            for place in hosting.owned():
                if not place.is_ephemeral:
                    place.hold_back()
            hosting.loop.give_back_unstarted()
        self.look_up_all()
        for hosting in list(self.hosted):
            if hosting.is_ephemeral:
                await self.registry.declare(hosting.spec)
        await self.registry.tell("replicas")

    def trust_all(self) -> None:
        """Whatever is not being looked up is ours."""
        for hosting in self.hosted:
            for holding in hosting.holdings.values():
                if holding.is_recovering:
                    continue  # at its end it is known
                for place in holding.places.values():
                    place.trust()
            self.reader.feed(hosting)
            hosting.loop.wake()

    def release_soon(self, holding: Holding) -> None:
        self.ownership.release_soon(holding.hosting, holding)

    async def leave(self, hosting: RedisHosting) -> None:
        """A subscription has ended: give up what it owned, in order."""
        self.hosted.pop(hosting, None) if not hosting.loop.outlives else None
        try:
            async with asyncio.timeout(2.0):
                for holding in list(hosting.holdings.values()):
                    await self.ownership.release(hosting, holding)
                if hosting.is_ephemeral:
                    await self.groups.drop(hosting.spec.group)
                self.members.beat_now()
                await self.registry.tell("replicas")
        except (Lost, Refused, TimeoutError) as error:
            log.debug("leaving %s: %s", hosting.spec.group, error)
        finally:
            for p in hosting.holdings:
                self.ownership.owe(hosting, p)
            hosting.forget_all()
            self.hosted.pop(hosting, None)
            self.ownership.place_soon()

    def _ring(self, listener: Any, news: list[Any]) -> None:
        if isinstance(listener, RedisPlace):
            self.reader.ring(listener, news)
        else:
            listener.hungry()

    # --- places -----------------------------------------------------------------------------------------

    def new_place(self, holding: Holding, topic: str, order: str) -> RedisPlace:
        kind = EphemeralPlace if holding.hosting.is_ephemeral else RedisPlace
        return kind(holding, topic, self.limits.lot, order, holding.hosting.spec.handler)

    def bound(self, place: RedisPlace) -> None:
        """Give up what waits beyond the group's bound."""
        hosting = place.holding.hosting
        options = hosting.spec.options
        if options.max_waiting is not None and place.waiting > options.max_waiting:
            before = {message.entry for message in place.backlog}  # type: ignore[attr-defined]
            self.overflow.bound(hosting, place)
            place.skip(before - {message.entry for message in place.backlog})  # type: ignore[attr-defined]
            self.reader.settle_soon(place)

    async def remake(self, place: RedisPlace) -> None:
        """Its stream, or its group in it, was deleted by somebody else."""
        topic, p, group = place.topic, place.number, place.group
        exists, number, low = await self.link.control.ask_all(
            ("EXISTS", self.keys.stream(topic, p)), ("HGET", self.keys.numbers(topic, p), "n"),
            ("HGET", self.keys.low(topic, p), group),
        )  # fmt: skip
        begin = max(place.last, low or FIRST, key=order_of) if exists else FIRST
        if number is not None:  # else the topic is being made, and nothing was published yet
            log.critical(
                "%s: %s was deleted by somebody else; it is made anew%s", group,
                f"its place in {topic}/{p}" if exists else f"the stream {topic}/{p}",
                "" if exists else ", what was in it is lost",
            )  # fmt: skip
        if not exists:
            place.last = FIRST
        entries = place.in_hand() | place.journal.entries()
        await self.link.control.call(
            script("remake"), place.names.taken, group, place.holding.fence, begin, *entries
        )
        settled = entries - place.in_hand()
        if settled:  # perhaps before it was made anew
            place.settle_moved(settled)
            self.reader.settle_soon(place)

    def bury_unread(
        self, place: RedisPlace, entry: bytes, fields: list[bytes], error: Damaged | Undecodable
    ) -> None:
        """What cannot be read becomes a dead letter, with its bytes."""
        spec = place.holding.hosting.spec
        kind = dict(zip(fields[::2], fields[1::2], strict=False)).get(b"t", b"")
        message = unreadable(raw_of(fields), entry, kind=kind)
        reason = "checksum" if isinstance(error, Damaged) else "decode"
        info = ErrorInfo(type=type(error).__name__, message=str(error))
        meta = self.dead_meta(self.ids(), spec, reason, info, 0, message=message)
        place.bury_unread(entry, meta, packed(pack(message), entry))
        log.error("%s: entry %s cannot be read and is a dead letter: %s", spec.group, entry.decode(), error)

    def dead_meta(
        self, id: str, spec: SubscriptionSpec, reason: str, error: ErrorInfo | None, attempts: int,
        *, message: Message,
    ) -> dict[str, Any]:  # fmt: skip
        meta: dict[str, Any] = {
            "id": id, "group": spec.group, "plugin_id": spec.plugin_id, "generation": spec.generation,
            "reason": reason, "attempts": attempts, "last_ns": self.clock.time_ns(),
            "topic": message.type.partition(".")[0],
        }  # fmt: skip
        if error is not None:
            meta["error"] = error.model_dump(mode="json")
        return meta

    def count_stale(self, place: RedisPlace, count: int = 1) -> None:
        """Settlements of what is not ours any more: refused here, so that Redis was not even asked."""
        self.spawn(self._count_stale(place.group, place.number, count), "plugbus:redis:stale")

    async def _count_stale(self, group: str, p: int, count: int) -> None:
        await self.link.ready(self.link.control)
        await self.link.control.ask("HINCRBY", self.keys.tally(group, p), "stale", count)

    def tell_dropped(self, place: RedisPlace, count: int) -> None:
        tell_dropped(self.announcer, place.holding.hosting.spec, count)

    def tell_loss(self, place: RedisPlace, first: int, last: int) -> None:
        """Somebody else has taken something out of the stream before its turn."""
        log.critical(
            "%s: %d events of %s/%d (numbers %d to %d) are gone before their turn: somebody else has trimmed"
            " the stream", place.group, last - first + 1, place.topic, place.number, first, last,
        )  # fmt: skip
        place.missed += last - first + 1
        place.holding.hosting.look_for_gaps()

    # --- what handlers may bring about ----------------------------------------------------------------

    def spec_of(self, group: str) -> SubscriptionSpec | None:
        """How a group was declared; None: it is retired."""
        record = self.registry.view.groups.get(group)
        return None if record is None else record.spec

    def say(self, event: Event) -> None:
        self.announcer.say(event)

    def pause(self, group: str, reason: str) -> bool:
        """At once here, and soon everywhere; False: it was paused already."""
        return self.groups.pause(group, reason)

    def forsake(self, replica: str) -> None:
        """It is gone: whoever waits for an answer of it is told."""
        self.inbox.caller.pending.forsake(replica)

    async def knock(self, replica: str) -> bool:
        return await self.inbox.knock(replica)

    # --- publishing -------------------------------------------------------------------------------------

    async def _publish_own(self, event: Event, causes: Causes) -> None:
        name, version, shared, data = encode(event)
        message = Message(
            self.ids(), SOURCE, name, version, self.clock.time_ns(), shared, data, None, None, None, *causes
        )  # fmt: skip
        await self.publisher.publish(message, repeated=False, handling=True, timeout=5.0)

    def known_ends(self) -> dict[str, bytes]:
        """The last entries of partitions that this replica knows of, because it wrote or read them."""
        ends = {f"{topic}/{p}": entry for (topic, p), entry in self.publisher.ends.items()}
        for hosting in self.hosted:
            for place in hosting.owned():
                name = f"{place.topic}/{place.number}"
                ends[name] = max(place.last, ends.get(name, place.last), key=order_of)
        return ends

    async def is_ours(self, delivery: Delivery) -> bool:
        """Whether a delivery may still be settled here; where its lease may be over, Redis is asked."""
        place = delivery.part
        if not delivery.is_open or not isinstance(place, RedisPlace):
            return delivery.is_open
        if place.lease.until >= self.clock.monotonic() or place.is_ephemeral:
            return True
        while delivery.is_open:
            try:
                await self.link.ready(self.link.control)
                owner = await self.link.control.ask("HGET", self.keys.own(place.number), place.group)
            except Lost:
                continue
            except Refused as error:  # the attempt has not failed because Redis is loading
                if not may_pass(str(error)):
                    raise explained(error, where=place.group) from None
                await asyncio.sleep(0.05)
                continue
            if owner != place.holding.fence:
                self.lost(place.holding, owner)
            return delivery.is_open
        return False

    async def erase(self) -> None:
        """Every key of the namespace, when all else is closed. Raises `BusError`, `Lost`, `Refused`."""
        self.link.reset()
        wire, cursor = self.link.control, b""
        await self.link.ready(wire, timeout=5.0)
        try:
            while cursor != b"0":
                cursor, found = await wire.ask(
                    "SCAN", cursor or b"0", "MATCH", f"{_escaped(self.keys.namespace)}:{{*", "COUNT", 1_000
                )
                if found:
                    await wire.ask("UNLINK", *found)
        finally:
            self.link.close()


def _position(part: GroupPartition, order: int) -> str:
    return position_of(part.topic, part.number, entry_of(order))


def _escaped(text: str) -> str:
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)
