"""What the bus says of deliveries that did not go the straight way."""

from __future__ import annotations

from ..event import Event


class _DeliveryFact(Event):
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
    """A handler gave an event up on purpose, or it had expired."""

    reason: str


class DeadLettersDropped(Event, type="bus.dead_letters_dropped"):
    """The oldest dead letters of a group were dropped: it holds no more than its bound."""

    group: str
    count: int


class Redriven(Event, type="bus.redriven"):
    """Dead letters were put back to their group."""

    group: str
    count: int
