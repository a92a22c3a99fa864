"""One group on one memory bus: the port of its loop, the owner of its partitions, its subscription."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from contracts.bus import Acknowledged, Dead, Discarded, Expired, Handler, Outcome, Parked, SubscriptionSpec

from .delivery import DeliveryLoop, Publish
from .groups import Delivery, GroupPartition, acknowledge
from .policy.timeout import Sweeper

if TYPE_CHECKING:
    from .broker import MemoryBroker
    from .group import Group


class Hosting:
    """A handler made active; see `contracts.bus.BusSubscription`."""

    def __init__(
        self, broker: MemoryBroker, group: Group, spec: SubscriptionSpec, handler: Handler,
        *, replica: str, publish: Publish, sweeper: Sweeper, ended: Callable[[Hosting], None],
    ) -> None:  # fmt: skip
        self.replica = replica
        self.group = group
        self.spec = spec
        self.parts: set[GroupPartition] = set()
        self.is_moving = False
        """A partition of ours goes to somebody else as soon as nothing of it is in flight."""
        self._broker = broker
        self._losses = broker.losses
        self._ended = ended
        self._ready: deque[GroupPartition] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.loop = DeliveryLoop(
            self, spec, handler, publish, clock=broker.clock, random=broker.random, sweeper=sweeper
        )

    # --- subscription -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return f"{self.spec.group}@{self.replica}"

    async def remove(self) -> None:
        await self._stop(None)

    async def drain(self, grace: float) -> bool:
        return await self._stop(grace)

    async def _stop(self, grace: float | None) -> bool:
        """Leave first: what has not started goes to others while the rest finishes here."""
        self._leave()
        self.group.place_all()
        finished = await self.loop.stop(grace)
        self.lane_ended()
        self._ended(self)
        return finished

    def crash(self) -> list[asyncio.Task[None]]:
        """Vanish without settling anything."""
        self._leave()
        for part in list(self.parts):
            self.group.hand_over(part)
        self._ended(self)
        return self.loop.kill()

    def _leave(self) -> None:
        if self.group.hosts.get(self.replica) is self:
            del self.group.hosts[self.replica]

    # --- port -------------------------------------------------------------------------------------

    def take(self, limit: int) -> list[Delivery]:
        if self.is_moving:
            self.lane_ended()
        self._broker.watch.look_if_on()
        ready, batch = self._ready, list[Delivery]()
        while ready and len(batch) < limit:
            part = ready[0]
            taken = part.take(limit - len(batch))
            if taken:
                batch += taken
                ready.rotate(-1)
            else:
                ready.popleft()
                part.idle = True
        return batch

    acknowledge = staticmethod(acknowledge)

    def settle(self, delivery: Delivery, outcome: Outcome) -> bool:
        if isinstance(outcome, Acknowledged):
            return acknowledge(delivery)
        if isinstance(outcome, Parked):
            return self._park(delivery, outcome)
        if not delivery.part.remove(delivery):
            return False
        match outcome:
            case Dead(reason=reason, error=error):
                self._losses.bury(self.group, delivery, reason, error, self.spec.generation)
            case Discarded(reason=reason):
                self._losses.give_up(self.group, delivery, reason)
            case Expired():
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
        for part in list(self.parts):
            if part.leaving:
                self.group.place(part)
        self.is_moving = any(part.leaving for part in self.parts)
        self._broker.watch.look_if_on()

    # --- owner ------------------------------------------------------------------------------------

    def own(self, part: GroupPartition) -> None:
        self.parts.add(part)
        part.take_over(self)
        self.arm()

    def disown(self, part: GroupPartition) -> None:
        self.parts.discard(part)
        if part in self._ready:
            self._ready.remove(part)
        if not self.parts and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def make_way(self) -> None:
        """A partition is to leave: hand back what has not started."""
        self.is_moving = True
        self.loop.give_back_unstarted()

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
