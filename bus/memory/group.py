"""One group on a memory broker: its options, its places, its dead letters, who handles it where."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contracts.bus import GroupInfo, SubscriptionSpec

from ..group_state import state_of
from ..groups import GroupPartition, is_silent
from ..policy.dedupe import Settled
from ..rates import Rate
from .census import oldest_ns
from .dead_letters import DeadLetters
from .partition import Partition
from .placement import best, only

if TYPE_CHECKING:
    from .hosting import Hosting


@dataclass(eq=False)
class Group:
    """What the broker keeps for a handler under its name."""

    spec: SubscriptionSpec
    dead: DeadLetters
    parts: dict[Partition, GroupPartition] = field(default_factory=dict)
    hosts: dict[str, Hosting] = field(default_factory=dict)
    """Replica → who handles it there."""
    paused: str | None = None
    """Why it starts nothing."""
    rate: Rate = field(default_factory=Rate)
    settled: Settled | None = None
    """What `dedupe` suppresses, on all replicas."""

    @property
    def name(self) -> str:
        return self.spec.group

    @property
    def is_ephemeral(self) -> bool:
        """It ends with its subscription."""
        return self.spec.options.broadcast

    @property
    def is_silent(self) -> bool:
        """What the bus says of this group's failures would come back to it: it says nothing."""
        return is_silent(self.spec)

    @property
    def taken(self) -> int:
        """How many deliveries were ever taken."""
        return sum(part.taken for part in self.parts.values())

    @property
    def given_up(self) -> dict[str, int]:
        """What is lost with it, for the announcement of its end."""
        parts = self.parts.values()
        return {
            "waiting": sum(part.waiting + part.open for part in parts),
            "parked": sum(part.lot.parked for part in parts),
            "dead": len(self.dead),
        }

    @property
    def replaying(self) -> int:
        """How many events of a replay are still to be taken."""
        return sum(part.replay.left for part in self.parts.values() if part.replay is not None)

    def info(self, now: float, now_ns: int) -> GroupInfo:
        parts = list(self.parts.values())
        oldest = min((when for part in parts if (when := oldest_ns(part)) is not None), default=None)
        return GroupInfo(
            group=self.name,
            plugin_id=self.spec.plugin_id,
            patterns=self.spec.patterns,
            state=state_of(self.spec, [hosting.version for hosting in self.hosts.values()]),
            paused=self.paused,
            waiting=sum(part.waiting for part in parts),
            peak=sum(max(part.peak, len(part.backlog)) for part in parts),
            oldest_age=None if oldest is None else max(0.0, (now_ns - oldest) / 1e9),
            in_flight=sum(part.open for part in parts),
            parked=sum(part.lot.parked for part in parts),
            dead=len(self.dead),
            handled=sum(part.handled for part in parts),
            failed=sum(part.failed for part in parts),
            discarded=sum(part.discarded for part in parts),
            expired=sum(part.expired for part in parts),
            filtered=sum(part.filtered for part in parts),
            repeated=sum(part.repeated for part in parts),
            dropped=sum(part.dropped for part in parts),
            stale=sum(part.stale for part in parts),
            rate=self.rate.per_second(now, self.taken),
            replaying=self.replaying,
            open_breakers=tuple(sorted(name for name, hosting in self.hosts.items() if hosting.is_broken)),
            owners=dict(Counter(part.owner.replica for part in parts if part.owner is not None)),
        )

    # --- ownership --------------------------------------------------------------------------------

    def place_all(self) -> None:
        """Hosts came or went: each partition goes to whom it belongs now."""
        for part in self.parts.values():
            self.place(part)

    def place(self, part: GroupPartition) -> None:
        """Move one partition to its owner, once nothing of it is in flight."""
        wanted, owner = self._best(part), part.owner
        if owner is wanted:
            if part.moving:
                part.stay()
            return
        if owner is not None and owner.is_suspended and self.hosts.get(owner.replica) is owner:
            return  # it gives nothing up until it is woken, or lost
        if owner is not None and not part.moving and (part.open or self._is_shared_with(wanted)):
            part.leave()
            owner.make_way()
        if not part.open and not self._is_shared_with(wanted):
            self.hand_over(part)

    def hand_over(self, part: GroupPartition) -> None:
        """Move one partition now; what its owner has in flight is suspect."""
        if part.owner is not None:
            part.owner.disown(part)
        wanted = self._best(part)
        if wanted is None:
            part.take_over(None)
        else:
            wanted.own(part)

    def _best(self, part: GroupPartition) -> Hosting | None:
        if self.spec.options.exclusive:
            return only(self.hosts.values(), self.parts.values(), self.name)
        return best(self.hosts.values(), part)

    def _is_shared_with(self, wanted: Hosting | None) -> bool:
        """Whether `wanted`, who shall be the only owner, must wait for what runs elsewhere."""
        return self.spec.options.exclusive and any(
            part.open and part.owner is not wanted for part in self.parts.values()
        )
