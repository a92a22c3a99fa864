"""Which of its partitions a subscription takes from next: live ones, replayed ones, what is due in a lot.

Every backend's hosting is one of these, so that turns, quotas and timers are the same everywhere.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from contracts.bus import SubscriptionSpec
from contracts.event import Event
from contracts.messages.delivery import GapFound

from .clock import Clock
from .groups import Delivery, GroupPartition
from .replay import quota

if TYPE_CHECKING:
    from .delivery import DeliveryLoop


class Turns:
    """Partitions that one subscription owns on one bus, and whose turn it is."""

    loop: DeliveryLoop

    def __init__(self, spec: SubscriptionSpec, clock: Clock, *, misses_what_is_trimmed: bool) -> None:
        self.spec = spec
        self._clock = clock
        self._always_looks_for_gaps = self._gaps = misses_what_is_trimmed
        self._replayed: list[GroupPartition] = []
        """Partitions with a replay."""
        self._ready: deque[GroupPartition] = deque()
        self._warm: dict[GroupPartition, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def owned(self) -> Iterable[GroupPartition]:
        """The partitions, in the order in which they came."""
        raise NotImplementedError

    def announce(self, event: Event) -> None:
        """Say it to the bus."""
        raise NotImplementedError

    def awaits_live(self, part: GroupPartition) -> bool:
        """Live events are on their way to `part`, though it has none now."""
        return False

    def note_rate(self) -> None:
        """Something is about to be taken."""
        raise NotImplementedError

    # --- taking -----------------------------------------------------------------------------------

    def take_turns(self, limit: int) -> list[Delivery]:
        if self._gaps:
            self._tell_gaps()
        if self._replayed:
            return self._take_beside_replay(limit)
        return self._take_live(limit)

    def _take_live(self, limit: int) -> list[Delivery]:
        ready, batch = self._ready, list[Delivery]()
        if ready:
            self.note_rate()
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

    def _take_beside_replay(self, limit: int) -> list[Delivery]:
        """For each replayed delivery that may run, three live ones."""
        allowed = quota(self.spec.options.concurrency)
        batch = self._take_live(min(limit, 3 * allowed))
        for part in list(self._replayed):
            if not batch and self.awaits_live(part):
                continue
            batch += part.take_replayed(allowed - sum(one.replayed for one in self.owned()))
        self.replay()
        return batch

    def replay(self) -> None:
        """A replay has begun or ended; partitions take turns."""
        under_way = [part for part in self.owned() if part.replay is not None and part.replay.left]
        turn = [part for part in self._replayed[1:] + self._replayed[:1] if part in under_way]
        is_new = len(under_way) > len(turn)
        self._replayed = turn + [part for part in under_way if part not in turn]
        if is_new or any(part.missed for part in self.owned()):
            self._gaps = True
            self.loop.wake()

    def _tell_gaps(self) -> None:
        for part in self.owned():
            if part.missed:
                count, part.missed = part.missed, 0
                self.announce(
                    GapFound(group=part.group, topic=part.topic, partition=part.number, count=count)
                )
        self._gaps = self._always_looks_for_gaps or bool(self._replayed)

    def rouse(self, part: GroupPartition) -> None:
        self._ready.append(part)
        self.loop.wake()

    def drop_out(self, part: GroupPartition) -> None:
        """It is not ours any more."""
        if part in self._ready:
            self._ready.remove(part)
        self._warm.pop(part, None)
        self.replay()
        if not any(True for _ in self.owned()):
            self.disarm()

    # --- what is due ------------------------------------------------------------------------------

    def arm(self) -> None:
        """One timer for all lots of this group here, set to the earliest that is due."""
        due = min((when for part in self.owned() if (when := part.lot.next_due) is not None), default=None)
        if self._timer is not None:
            if due is not None and self._timer.when() <= due:
                return
            self.disarm()
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._release, due)

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _release(self, due: float) -> None:
        self._timer = None
        now = max(due, self._clock.monotonic())  # timers may fire a tick early
        for part in self.owned():
            part.release_due(now)
        self.arm()
