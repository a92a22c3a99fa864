"""One group on one memory bus: the port of its loop, the owner of its partitions, its subscription."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
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
from contracts.messages.delivery import GapFound

from ..delivery import DeliveryLoop
from ..groups import Delivery, GroupPartition, acknowledge
from ..policy.dedupe import Settled
from ..policy.timeout import Sweeper
from ..port import Publish
from ..replay import quota

if TYPE_CHECKING:
    from .broker import MemoryBroker
    from .group import Group


class Hosting:
    """A handler made active; see `contracts.bus.BusSubscription`."""

    def __init__(
        self, broker: MemoryBroker, group: Group, spec: SubscriptionSpec, handler: Handler,
        *, replica: str, publish: Publish, sweeper: Sweeper, ended: Callable[[Hosting], None],
        where: Predicate | None = None,
    ) -> None:  # fmt: skip
        self.replica = replica
        self.group = group
        self.spec = spec
        self.version = spec.precedence
        self.parts: dict[GroupPartition, None] = {}
        """In the order in which they came."""
        self.is_moving = False
        """A partition of ours may take nothing more: others wait for it, or it is paused."""
        self.is_suspended = False
        self._is_ending = False
        self._gaps = group.is_ephemeral
        """It may have missed something."""
        self._replayed: list[GroupPartition] = []
        """Partitions with a replay."""
        self._broker = broker
        self._watch = broker.watch
        self._losses = broker.losses
        self._ended = ended
        self._ready: deque[GroupPartition] = deque()
        self._warm: dict[GroupPartition, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.loop = DeliveryLoop(
            self, spec, handler, publish,
            clock=broker.clock, random=broker.random, sweeper=sweeper, where=where,
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

    def take(self, limit: int) -> list[Delivery]:
        if self.is_moving:
            self.lane_ended()
        if self._watch.is_on:
            self._watch.look_if_on()
        if self._gaps:
            self._tell_gaps()
        if self._replayed:
            return self._take_beside_replay(limit)
        return self._take_live(limit)

    def _take_live(self, limit: int) -> list[Delivery]:
        ready, batch = self._ready, list[Delivery]()
        if ready:
            self._note_rate()
        else:
            self._cool_down()
        while ready and len(batch) < limit:
            part, wanted = ready.popleft(), limit - len(batch)
            taken = part.take(wanted)
            self._warm[part] = None
            batch = batch + taken if batch else taken
            if len(taken) == wanted:
                ready.append(part)  # there may be more
            else:
                part.idle = True
        return batch

    def _cool_down(self) -> None:
        """Nothing is to do for now: what was settled need not be kept for the sake of the next batch."""
        for part in self._warm:
            part.forget_settled()
        self._warm.clear()

    def _note_rate(self) -> None:
        now, rate = self._broker.clock.monotonic(), self.group.rate
        if now >= rate.next:
            rate.note(now, self.group.taken)

    def _take_beside_replay(self, limit: int) -> list[Delivery]:
        """For each replayed delivery that may run, three live ones."""
        allowed = quota(self.spec.options.concurrency)
        batch = self._take_live(min(limit, 3 * allowed))
        for part in list(self._replayed):
            batch += part.take_replayed(allowed - sum(one.replayed for one in self.parts))
        self.replay()
        return batch

    def replay(self) -> None:
        """A replay has begun or ended; partitions take turns."""
        under_way = [part for part in self.parts if part.replay is not None and part.replay.left]
        turn = [part for part in self._replayed[1:] + self._replayed[:1] if part in under_way]
        is_new = len(under_way) > len(turn)
        self._replayed = turn + [part for part in under_way if part not in turn]
        if is_new or any(part.missed for part in self.parts):
            self._gaps = True
            self.loop.wake()

    def _tell_gaps(self) -> None:
        for part in self.parts:
            if part.missed:
                count, part.missed = part.missed, 0
                self.announce(
                    GapFound(group=part.group, topic=part.topic, partition=part.number, count=count)
                )
        self._gaps = self.group.is_ephemeral or bool(self._replayed)

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
        if part in self._ready:
            self._ready.remove(part)
        self.replay()
        if not self.parts and self._timer is not None:
            self._timer.cancel()
            self._timer = None

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

    def rouse(self, part: GroupPartition) -> None:
        self._ready.append(part)
        self.loop.wake()

    # --- what is due ------------------------------------------------------------------------------

    def arm(self) -> None:
        """One timer for all lots of this group here, set to the earliest that is due."""
        due = min((when for part in self.parts if (when := part.lot.next_due) is not None), default=None)
        if self._timer is not None:
            if due is not None and self._timer.when() <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._release, due)

    def _release(self, due: float) -> None:
        self._timer = None
        now = max(due, self._broker.clock.monotonic())  # timers may fire a tick early
        for part in self.parts:
            part.release_due(now)
        self.arm()
