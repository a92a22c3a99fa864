"""What the loop of one group asks of a backend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from contracts.bus import Outcome
from contracts.event import AnyEvent, Event

from .groups import Delivery
from .measures import Measures
from .policy.dedupe import Settled

Publish = Callable[[AnyEvent, Delivery, int], Awaitable[None]]
"""Publishes the n-th event that a handler returned."""


class Port(Protocol):
    """What a backend gives the loop of one group on one bus. Nothing here waits."""

    replica: str
    measures: Measures
    """Of the replica."""
    records_starts: bool
    """Whether `begin` must be awaited before what was out of line is started; then its partitions are
    `irregular`."""

    @property
    def settled(self) -> Settled | None:
        """What the group has settled; None: it does not ask for dedupe."""

    def take(self, limit: int) -> list[Delivery]:
        """Deliveries to start, in order; empty: sleep until `DeliveryLoop.wake`."""

    def acknowledge(self, delivery: Delivery) -> bool:
        """Settle the straight way. False: it was no longer ours."""

    def settle(self, delivery: Delivery, outcome: Outcome) -> bool:
        """Settle with any outcome. False: it was no longer ours."""

    def give_back(self, delivery: Delivery) -> None:
        """No outcome: to be taken again, in its place."""

    async def begin(self, delivery: Delivery) -> bool:
        """Write down that it is about to be started, so that a start that kills the process is known of.

        Only for deliveries with an entry. False: it is no longer ours. Cancelled, it hands the delivery back.
        """

    def outlived(self, delivery: Delivery) -> None:
        """Hand it back: the lease may be over, so nothing starts until it is sure that nobody took over."""

    def in_flight(self) -> list[Delivery]:
        """What was taken and is not settled."""

    def lane_ended(self) -> None:
        """A lane has ended; what was in flight on it is settled or handed back."""

    def pause(self, reason: str) -> None:
        """Start nothing more of the group, on all replicas, until it is resumed. Safe if it is paused."""

    def announce(self, event: Event) -> None:
        """Publish what the bus says of itself; nobody waits for it."""
