"""What a group's place in a partition asks of who owns it."""

from __future__ import annotations

from typing import Protocol

from contracts.bus import SubscriptionSpec

from .groups import GroupPartition


class Owner(Protocol):
    """Who takes from a partition."""

    replica: str
    spec: SubscriptionSpec

    def rouse(self, part: GroupPartition) -> None:
        """There is something to take again, after `take` had found nothing."""

    def own(self, part: GroupPartition) -> None:
        """The partition is yours."""

    def disown(self, part: GroupPartition) -> None:
        """The partition is somebody else's, or nobody's."""

    def make_way(self) -> None:
        """Nothing more of some partition may start: hand back what has not."""

    def replay(self) -> None:
        """A replay has begun, or has ended."""

    def arm(self) -> None:
        """Something in a lot is due at a known time."""

    @property
    def is_suspended(self) -> bool:
        """It takes nothing for now."""
