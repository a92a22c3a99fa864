"""One group on one memory bus: the port of its loop, the owner of its partitions, its subscription."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
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
from contracts.event import Event
from contracts.metering import Meter

from ..delivery import DeliveryLoop
from ..groups import Delivery, GroupPartition, acknowledge
from ..measures import Measures
from ..policy.dedupe import Settled
from ..policy.timeout import Sweeper
from ..port import Publish
from ..turns import Turns

if TYPE_CHECKING:
    from .broker import MemoryBroker
    from .group import Group


class Hosting(Turns):
    """A handler made active; see `contracts.bus.BusSubscription`."""

    def __init__(
        self, broker: MemoryBroker, group: Group, spec: SubscriptionSpec, handler: Handler,
        *, replica: str, publish: Publish, sweeper: Sweeper, measures: Measures,
        ended: Callable[[Hosting], None], where: Predicate | None = None,
        meter: Meter | None = None,
    ) -> None:  # fmt: skip
        super().__init__(spec, broker.clock, misses_what_is_trimmed=group.is_ephemeral)
        self.replica = replica
        self.measures = measures
        self.group = group
        self.version = spec.precedence
        self.parts: dict[GroupPartition, None] = {}
        """In the order in which they came."""
        self.is_moving = False
        """A partition of ours may take nothing more: others wait for it, or it is paused."""
        self.is_suspended = False
        self._is_ending = False
        self._broker = broker
        self._watch = broker.watch
        self._losses = broker.losses
        self._ended = ended
        self.loop = DeliveryLoop(
            self, spec, handler, publish,
            clock=broker.clock, random=broker.random, sweeper=sweeper, where=where, meter=meter,
        )  # fmt: skip

    # --- subscription -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        group = self.spec.group  # of a broadcast subscription: with the replica in it already
        return group if self.group.is_ephemeral else f"{group}@{self.replica}"

    async def remove(self) -> None:
        await self.stop(None)

    async def drain(self, grace: float) -> bool:
        return await self.stop(grace)

    async def stop(self, grace: float | None, asker: asyncio.Task[Any] | None = None) -> bool:
        """Leave first: what has not started goes to others while the rest finishes here.

        `asker` (None: the current task) is not waited for.
        """
        self._is_ending = True
        self._leave()
        self.group.place_all()
        finished = await self.loop.stop(grace, asker or asyncio.current_task())
        self.lane_ended()
        self._end()
        return finished

    def crash(self) -> list[asyncio.Task[None]]:
        """Vanish without settling anything."""
        self._is_ending = True
        self.lose()
        tasks = self.loop.kill()
        self._end()
        return tasks

    def lose(self) -> int:
        """Others take over at once, and what is in flight is suspect. How many partitions it owned."""
        self._leave()
        count = len(self.parts)
        for part in list(self.parts):
            self.group.hand_over(part)
        self.loop.give_back_unstarted()  # what is closed must not start any more
        return count

    def rejoin(self) -> list[asyncio.Task[None]]:
        """It was lost, and is back. If its place is taken or gone meanwhile, its lanes end."""
        hosts = self.group.hosts
        if self._is_ending or hosts.get(self.replica) is self:
            return []
        if self._broker.groups.get(self.group.name) is self.group and self.replica not in hosts:
            self._broker.table.add_host(self.group, self)
            return []
        return self.crash()

    def _leave(self) -> None:
        self._broker.table.remove_host(self.group, self)

    def _end(self) -> None:
        """A lane that asked for the end itself still belongs to its bus, which ends it when it closes."""
        if not self.loop.outlives:
            self._ended(self)
        if self.group.is_ephemeral:
            self._broker.table.forget(self.group)

    # --- port -------------------------------------------------------------------------------------

    records_starts = False

    async def begin(self, delivery: Delivery) -> bool:
        """Nothing outlives the process, so nothing is written down."""
        return delivery.is_open

    def outlived(self, delivery: Delivery) -> None:
        """The broker itself says who owns what."""
        self.give_back(delivery)

    def take(self, limit: int) -> list[Delivery]:
        if self.is_moving:
            self.lane_ended()
        if self._watch.is_on:
            self._watch.look_if_on()
        return self.take_turns(limit)

    def owned(self) -> Iterable[GroupPartition]:
        return self.parts

    def note_rate(self) -> None:
        now, rate = self._broker.clock.monotonic(), self.group.rate
        if now >= rate.next:
            rate.note(now, self.group.taken)

    acknowledge = staticmethod(acknowledge)

    def settle(self, delivery: Delivery, outcome: Outcome) -> bool:
        if isinstance(outcome, Acknowledged):
            return acknowledge(delivery)
        if isinstance(outcome, Parked):
            return self._park(delivery, outcome)
        part = delivery.part
        if not part.remove(delivery):
            return False
        match outcome:
            case Dead(reason=reason, error=error):
                self._losses.bury(self.group, delivery, reason, error, self.spec.generation)
            case Discarded(reason=reason):
                part.discarded += 1
                self._losses.give_up(self.group, delivery, reason)
            case Expired():
                part.expired += 1
                self._losses.give_up(self.group, delivery, "expired")
        return True

    def _park(self, delivery: Delivery, outcome: Parked) -> bool:
        if outcome.due is None:
            return delivery.part.queue_behind(delivery)
        parked = delivery.part.park(delivery, outcome.due, outcome.error)
        self.arm()
        return parked

    @staticmethod
    def give_back(delivery: Delivery) -> None:
        delivery.part.give_back(delivery)

    def in_flight(self) -> list[Delivery]:
        return [delivery for part in self.parts for delivery in part.in_flight]

    def lane_ended(self) -> None:
        """Let partitions go that were to be moved and of which nothing is in flight any more."""
        if self.group.spec.options.exclusive:
            self.group.place_all()
        else:
            for part in list(self.parts):
                if part.moving:
                    self.group.place(part)
        self.is_moving = any(part.moving for part in self.parts)
        if self._is_ending and self.loop.is_over:
            self._ended(self)
        self._broker.watch.look_if_on()

    @property
    def settled(self) -> Settled | None:
        """What the group has settled, where it suppresses repetitions."""
        return self.group.settled

    def pause(self, reason: str) -> None:
        """Pause the whole group, if it is not."""
        if self._broker.groups.get(self.group.name) is self.group:
            self._broker.table.pause(self.group.name, reason)

    def announce(self, event: Event) -> None:
        """Say it, unless the group listens to what the bus says."""
        if not self.group.is_silent:
            self._broker.announcer.say(event)

    @property
    def is_broken(self) -> bool:
        """The circuit breaker is open."""
        return self.loop.is_broken

    # --- owner ------------------------------------------------------------------------------------

    def own(self, part: GroupPartition) -> None:
        self.parts[part] = None
        part.take_over(self)
        self.arm()
        self.replay()

    def disown(self, part: GroupPartition) -> None:
        self.parts.pop(part, None)
        self.drop_out(part)

    def make_way(self) -> None:
        """Nothing more of some partition may start: hand back what has not."""
        self.is_moving = True
        self.loop.give_back_unstarted()

    def suspend(self, is_suspended: bool) -> None:
        """Take nothing, or go on."""
        self.is_suspended = is_suspended
        for part in self.parts:
            part.hold()
        if is_suspended:
            self.loop.give_back_unstarted()
        else:
            self.group.place_all()
