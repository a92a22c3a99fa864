"""One group on a memory broker: its options, its places, its dead letters, who handles it where."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contracts.bus import GroupInfo, SubscriptionSpec
from contracts.patterns import topic_of

from .dead_letters import DeadLetters
from .groups import GroupPartition
from .partition import Partition

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

    def info(self) -> GroupInfo:
        parts = self.parts.values()
        return GroupInfo(
            group=self.spec.group,
            plugin_id=self.spec.plugin_id,
            patterns=self.spec.patterns,
            state="active" if self.hosts else "dormant",
            waiting=sum(part.waiting for part in parts),
            peak=sum(max(part.peak, len(part.backlog)) for part in parts),
            in_flight=sum(part.open for part in parts),
            parked=sum(part.lot.parked for part in parts),
            dead=len(self.dead),
            handled=sum(part.handled for part in parts),
            failed=sum(part.failed for part in parts),
            stale=sum(part.stale for part in parts),
            owners=dict(Counter(part.owner.replica for part in parts if part.owner is not None)),
        )

    @property
    def is_silent(self) -> bool:
        """What the bus says of this group's failures would come back to it: it says nothing."""
        return any(topic_of(pattern) == "bus" for pattern in self.spec.patterns)

    # --- ownership --------------------------------------------------------------------------------

    def place_all(self) -> None:
        """Hosts came or went: each partition goes to whom it belongs now."""
        for part in self.parts.values():
            self.place(part)

    def place(self, part: GroupPartition) -> None:
        """Move one partition to its owner, once nothing of it is in flight."""
        wanted, owner = self._best(part), part.owner
        if owner is wanted:
            if part.leaving:
                part.stay()
            return
        if owner is not None and part.open and not part.leaving:
            part.leave()
            owner.make_way()
        if not part.open:
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
        """Rendezvous hashing: everybody comes to the same owner, and a change moves as little as possible.

        Not by crc32: it is linear, so one replica would win all partitions.
        """

        def weight(hosting: Hosting) -> tuple[bytes, str]:
            text = f"{part.group}/{part.topic}/{part.number}/{hosting.replica}"
            return hashlib.blake2b(text.encode(), digest_size=8).digest(), hosting.replica

        return max(self.hosts.values(), key=weight, default=None)
