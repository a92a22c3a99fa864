"""What the bus says of deliveries that did not go the straight way."""

from __future__ import annotations

from .fact import Fact


class _DeliveryFact(Fact):
    group: str
    plugin_id: str
    event_id: str
    event_type: str
    event_source: str


class DeadLettered(_DeliveryFact, type="bus.dead_lettered"):
    """A delivery was given up and lies among the dead letters of its group."""

    dead_letter_id: str
    generation: int
    reason: str
    error: str
    attempts: int


class DeliveryDiscarded(_DeliveryFact, type="bus.discarded"):
    """An event was given up on purpose, by its handler or a retry rule, or it had expired."""

    reason: str


class DeadLettersDropped(Fact, type="bus.dead_letters_dropped"):
    """The oldest dead letters of a group were dropped: it holds no more than its bound."""

    group: str
    count: int


class Redriven(Fact, type="bus.redriven"):
    """Dead letters were put back to their group."""

    group: str
    count: int


class GroupPaused(Fact, type="bus.group_paused"):
    """A group starts nothing until it is resumed."""

    group: str
    plugin_id: str
    reason: str


class GroupResumed(Fact, type="bus.group_resumed"):
    """A group goes on where it was."""

    group: str
    plugin_id: str


class GroupRetired(Fact, type="bus.group_retired"):
    """A group was forgotten; what waited for it or ran (`waiting`), was parked or dead was given up."""

    group: str
    plugin_id: str
    reason: str
    waiting: int
    parked: int
    dead: int


class GroupOverflowed(Fact, type="bus.overflowed"):
    """Events were dropped for one group, because too many waited for it."""

    group: str
    plugin_id: str
    topic: str
    partition: int
    policy: str
    count: int
    first_position: str
    last_position: str


class GapFound(Fact, type="bus.gap"):
    """Events were trimmed before a broadcast subscription or a replay came to them."""

    group: str
    topic: str
    partition: int
    count: int


class BreakerOpened(Fact, type="bus.breaker_opened"):
    """A subscription mostly fails on one replica: nothing of it starts there for a while."""

    group: str
    plugin_id: str
    replica: str
    failed: int
    attempts: int
    pause: float


class BreakerClosed(Fact, type="bus.breaker_closed"):
    """The subscription works again."""

    group: str
    plugin_id: str
    replica: str


class StormFound(Fact, type="bus.storm"):
    """Events caused one another beyond the limit; the group that would have gone on is paused."""

    group: str
    plugin_id: str
    event_id: str
    event_type: str
    depth: int
    path: tuple[str, ...]


class OwnerLost(Fact, type="bus.owner_lost"):
    """A replica was not seen for as long as its lease; others have taken over what it owned, in all groups.

    Said once for each loss, and not of a replica that owned nothing.
    """

    replica: str
    partitions: int
