"""One group on one Redis bus: the port of its loop, the owner of its partitions, its subscription."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from contracts.bus import (
    Acknowledged,
    Dead,
    Discarded,
    Expired,
    Handler,
    Outcome,
    Parked,
    Predicate,
    SubscriptionSpec,
)
from contracts.errors import ErrorInfo
from contracts.event import Event
from contracts.metering import Meter
from contracts.patterns import matches

from ..delivery import DeliveryLoop
from ..groups import Delivery, GroupPartition, StraightDelivery, is_silent
from ..policy.dedupe import Settled
from ..port import Publish
from ..rates import Rate
from ..tidings import tell_dead, tell_given_up
from ..turns import Turns
from .packing import Undecodable, parse_kind
from .place import Holding, RedisPlace

if TYPE_CHECKING:
    from .core import Core

log = logging.getLogger("plugbus.bus")


class RedisHosting(Turns):
    """A handler made active; see `contracts.bus.BusSubscription`."""

    def __init__(
        self, core: Core, spec: SubscriptionSpec, handler: Handler, publish: Publish,
        where: Predicate | None = None, meter: Meter | None = None,
    ) -> None:  # fmt: skip
        super().__init__(spec, core.clock, misses_what_is_trimmed=spec.options.broadcast)
        self.replica = core.replica
        self.measures = core.measures
        self.version = spec.precedence
        self.limits = core.limits
        self.core = core
        self._reader = core.reader
        self.holdings: dict[int, Holding] = {}
        self.is_suspended = False
        self.is_paused = False
        self.is_ending = False
        self.is_known = False
        """Its group stands in the registry."""
        self.has_begun = False
        """A broadcast subscription reads topics that are born from now on from their beginning."""
        self.is_over = False
        """Its group was dropped, or it was removed."""
        self.rate = Rate()
        self._taken_before = 0
        """Taken by places that are not ours any more."""
        self._selected: dict[bytes, bool] = {}
        self._settled = (
            Settled(core.limits.dedupe_seconds, core.limits.dedupe) if spec.options.dedupe else None
        )
        self.loop = DeliveryLoop(
            self, spec, handler, publish,
            clock=core.clock, random=core.random, sweeper=core.sweeper, where=where, meter=meter,
        )  # fmt: skip

    @property
    def is_ephemeral(self) -> bool:
        return self.spec.options.broadcast

    @property
    def journal_limits(self) -> tuple[int, int, int]:
        """Dead letters that are kept; for how many milliseconds, and how many, dedupe remembers."""
        limits = self.limits
        return self.core.dead_limit(self.spec), int(limits.dedupe_seconds * 1e3), limits.dedupe

    def wall_ms(self, due: float) -> float:
        return self.core.members.server_ms(due)

    def selects(self, kind: bytes) -> bool:
        """Whether it wants a type, as the field `t` has it."""
        found = self._selected.get(kind)
        if found is None:
            try:
                name, _ = parse_kind(kind)
            except Undecodable:
                return True  # whoever reads the topic is told
            found = self._selected[kind] = any(matches(pattern, name) for pattern in self.spec.patterns)
        return found

    # --- subscription -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self.spec.group if self.is_ephemeral else f"{self.spec.group}@{self.replica}"

    async def remove(self) -> None:
        await self.stop(None)

    async def drain(self, grace: float) -> bool:
        return await self.stop(grace)

    async def stop(self, grace: float | None, asker: asyncio.Task[Any] | None = None) -> bool:
        """Start nothing more, let what runs finish, give the partitions up."""
        asker = asker or asyncio.current_task()
        self.is_ending = True
        for part in self.owned():
            part.leave()
        self.loop.give_back_unstarted()
        finished = await self.loop.stop(grace, asker)
        if not self.is_over:
            self.is_over = True
            await self.core.leave(self)
        return finished

    def crash(self) -> list[asyncio.Task[None]]:
        """Vanish without settling anything."""
        self.is_ending = self.is_over = True
        tasks = self.loop.kill()
        self.forget_all()
        return tasks

    def forget_all(self) -> None:
        for holding in list(self.holdings.values()):
            self.give_up(holding)
        self.disarm()

    # --- port -------------------------------------------------------------------------------------

    records_starts = True

    def take(self, limit: int) -> list[Delivery]:
        batch = self.take_turns(limit)
        self.core.reader.feed(self)
        return batch

    def owned(self) -> Iterator[RedisPlace]:
        for holding in self.holdings.values():
            yield from holding.places.values()

    def note_rate(self) -> None:
        now = self._clock.monotonic()
        if now >= self.rate.next:
            self.rate.note(now, self.taken)

    @property
    def taken(self) -> int:
        return self._taken_before + sum(place.taken for place in self.owned())

    @property
    def per_second(self) -> float:
        return self.rate.per_second(self._clock.monotonic(), self.taken)

    async def begin(self, delivery: Delivery) -> bool:
        place: RedisPlace = delivery.part  # type: ignore[assignment]
        entry = delivery.entry
        if not delivery.is_open or entry is None:
            return delivery.is_open
        if place.note_start(entry):
            try:
                await self.core.reader.written(place)
            except asyncio.CancelledError:
                place.give_back(delivery)
                raise
        return delivery.is_open

    def outlived(self, delivery: Delivery) -> None:
        """Hand it back; the next beat that is answered tells whether it is still ours."""
        self.core.members.is_overdue = True
        for part in self.owned():
            part.hold_back()
        delivery.part.give_back(delivery)
        self.loop.give_back_unstarted()

    def acknowledge(self, delivery: Delivery) -> bool:
        place: RedisPlace = delivery.part  # type: ignore[assignment]
        if type(delivery) is StraightDelivery and delivery.is_open:  # the way of most, written out
            delivery.is_open = False
            place.journal.acks.append(delivery.message.entry)  # type: ignore[attr-defined]  # of a stream
        elif not place.acknowledge(delivery):
            self.core.count_stale(place)
            return False
        if self._settled is not None:
            message = delivery.message
            place.journal.done(f"{message.source}\n{message.id}")
        if place not in self._reader.dirty:
            self._reader.settle_soon(place)
        return True

    def settle(self, delivery: Delivery, outcome: Outcome) -> bool:
        place: RedisPlace = delivery.part  # type: ignore[assignment]
        if isinstance(outcome, Acknowledged):
            return self.acknowledge(delivery)
        if isinstance(outcome, Parked):
            if outcome.due is None:
                is_ours = place.queue_behind(delivery)
            else:
                is_ours = place.park(delivery, outcome.due, outcome.error)
                self.arm()
        elif isinstance(outcome, Dead):
            is_ours = self._bury(place, delivery, outcome.reason, outcome.error)
        else:
            is_ours = self._give_up(place, delivery, outcome)
        if is_ours and self._settled is not None and not isinstance(outcome, Parked):
            place.journal.done(f"{delivery.message.source}\n{delivery.message.id}")
        if is_ours:
            self.core.reader.settle_soon(place)
        else:
            self.core.count_stale(place)
        return is_ours

    def _bury(self, place: RedisPlace, delivery: Delivery, reason: str, error: ErrorInfo | None) -> bool:
        id, spec = self.core.ids(), self.spec
        meta = self.core.dead_meta(id, spec, reason, error, delivery.attempt, message=delivery.message)
        if not place.bury(delivery, meta):
            return False
        tell_dead(
            self.core.announcer, spec, delivery, reason, error, letter_id=id, generation=spec.generation
        )
        return True

    def _give_up(self, place: RedisPlace, delivery: Delivery, outcome: Discarded | Expired) -> bool:
        if not place.remove(delivery):
            return False
        if isinstance(outcome, Discarded):
            place.discarded += 1
        else:
            place.expired += 1
        reason = outcome.reason if isinstance(outcome, Discarded) else "expired"
        tell_given_up(self.core.announcer, self.spec, delivery, reason)
        return True

    def give_back(self, delivery: Delivery) -> None:
        place: RedisPlace = delivery.part  # type: ignore[assignment]
        place.give_back(delivery)
        self.core.reader.settle_soon(place)
        if place.holding.is_leaving:
            self.let_go()

    def in_flight(self) -> list[Delivery]:
        return [delivery for part in self.owned() for delivery in part.in_flight]

    def lane_ended(self) -> None:
        """Partitions that are to go may be free now."""
        self.let_go()

    def let_go(self) -> None:
        """Give up what is to move and of which nothing runs any more."""
        for holding in list(self.holdings.values()):
            if holding.is_leaving and holding.is_owned and not any(p.open for p in holding.places.values()):
                self.core.release_soon(holding)

    @property
    def settled(self) -> Settled | None:
        return self._settled

    def pause(self, reason: str) -> None:
        self.core.pause(self.spec.group, reason)

    def awaits_live(self, part: GroupPartition) -> bool:
        """More may lie in Redis than was read: a replay does not go first because reading takes a moment."""
        return isinstance(part, RedisPlace) and not part.is_dry and not part.backlog

    def look_for_gaps(self) -> None:
        """Something was missed."""
        self._gaps = True
        self.loop.wake()

    @property
    def is_silent(self) -> bool:
        return is_silent(self.spec)

    def announce(self, event: Event) -> None:
        if not is_silent(self.spec):
            self.core.announcer.say(event)

    @property
    def is_broken(self) -> bool:
        return self.loop.is_broken

    # --- owner ------------------------------------------------------------------------------------

    def own(self, part: GroupPartition) -> None:
        part.take_over(self)
        part.is_paused = self.is_paused
        part.hold()
        if isinstance(part, RedisPlace):
            self.core.reader.know(part)

    def give_up(self, holding: Holding) -> None:
        """It is somebody else's: whatever of it is open is not ours to settle."""
        holding.is_lost, holding.is_owned = True, False
        if self.holdings.get(holding.p) is holding:
            del self.holdings[holding.p]
        for place in holding.places.values():
            self._taken_before += place.taken
            place.take_over(None)
            self.core.reader.forget(place)
            self.drop_out(place)
        self.loop.give_back_unstarted()

    def disown(self, part: GroupPartition) -> None:
        """All topics of a partition change hands together: see `give_up`."""
        if isinstance(part, RedisPlace):
            self.give_up(part.holding)

    def make_way(self) -> None:
        self.loop.give_back_unstarted()
        self.let_go()

    def set_paused(self, is_paused: bool) -> None:
        """The group is, on all replicas."""
        if self.is_paused == is_paused:
            return
        self.is_paused = is_paused
        for place in self.owned():
            place.pause(is_paused)
            if not is_paused:
                place.release_held()
        if is_paused:
            self.loop.give_back_unstarted()
        else:
            self.core.reader.feed(self)

    def suspend(self, is_suspended: bool) -> None:
        self.is_suspended = is_suspended
        for place in self.owned():
            place.hold()
        if is_suspended:
            self.loop.give_back_unstarted()
        else:
            self.core.reader.feed(self)

    def change(self, spec: SubscriptionSpec) -> None:
        """Its group was declared anew, with other patterns perhaps."""
        if spec.patterns != self.spec.patterns:
            self._selected.clear()

    def topics(self) -> Iterable[str]:
        return self.core.registry.view.topics_of(self.spec.patterns)
