"""What happened in a run: facts in the order in which they happened, for the judge and for the trace."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from contracts.bus import SubscriptionSpec


class Declared(NamedTuple):
    """A group came to be. Dropped and declared again, it is another group: `lives` tells them apart."""

    group: str
    lives: int
    spec: SubscriptionSpec
    is_choosy: bool
    """It has a predicate."""


class Dropped(NamedTuple):
    group: str


class Subscribed(NamedTuple):
    group: str
    host: str
    bus: str
    version: str
    """Of the plugin."""


class Draining(NamedTuple):
    """From now on this host starts nothing."""

    host: str


class Drained(NamedTuple):
    """Nothing of this host runs any more."""

    host: str


class Refused(NamedTuple):
    """The bus did not want this host."""

    host: str
    why: str


class Closing(NamedTuple):
    """From now on handlers of this bus may be interrupted."""

    bus: str


class Suspended(NamedTuple):
    """From now on this bus stands still: it starts nothing."""

    bus: str


class Woken(NamedTuple):
    bus: str


class Lost(NamedTuple):
    """The others have given this bus up: they take over what it owned."""

    bus: str


class Rejoined(NamedTuple):
    bus: str


class Gone(NamedTuple):
    """This bus runs nothing any more: it was killed, or its close has returned."""

    bus: str
    how: str


class Published(NamedTuple):
    """Somebody begins to publish. `name` is the event's identity: no two publishers use the same."""

    name: str
    type: str
    key: str | None
    expires: float | None
    """Wall clock, seconds."""
    from_handler: bool = False
    """Returned: published after the handler's end, if at all."""


class Confirmed(NamedTuple):
    name: str
    identity: str
    """Source and id."""
    position: str
    duplicate: bool


class Unconfirmed(NamedTuple):
    """It may have been taken, or not."""

    name: str
    why: str


class Started(NamedTuple):
    run: int
    host: str
    name: str
    identity: str
    key: str | None
    attempt: int
    topic: str
    partition: int
    number: int
    """Within its partition."""
    wall: float
    is_replayed: bool


class Ended(NamedTuple):
    run: int
    how: str
    """`ok`, `returned`, `failed`, `dead`, `discarded`, `cancelled`."""
    interrupted: float | None
    """When it was first cancelled."""
    returns: tuple[str, ...]


class Paused(NamedTuple):
    group: str


class Resumed(NamedTuple):
    group: str


class Replayed(NamedTuple):
    """So many events are to be delivered once more."""

    group: str
    events: int


class Redriven(NamedTuple):
    group: str
    name: str


class DeadLetterDiscarded(NamedTuple):
    group: str
    name: str


class Announced(NamedTuple):
    """What the bus said of itself, as a tail has read it."""

    type: str
    group: str
    identity: str
    """Of the event, where it is about one."""
    reason: str


class Missed(NamedTuple):
    """Announcements that the tail did not get to see."""

    events: int


class Wrong(NamedTuple):
    """What the world itself saw to be wrong."""

    what: str


class Step(NamedTuple):
    """The loop ran a callback."""

    name: str


class History:
    """Facts and steps with the time of each."""

    def __init__(self) -> None:
        self._lines: list[tuple[float, Any]] = []

    def add(self, now: float, fact: Any) -> None:
        self._lines.append((now, fact))

    def facts(self) -> Iterator[tuple[float, Any]]:
        return ((now, fact) for now, fact in self._lines if type(fact) is not Step)

    def lines(self, last: int | None = None) -> list[str]:
        """As text, without the steps between the facts of one callback."""
        chosen = self._lines if last is None else self._lines[-last:]
        return [f"{now:10.3f}  {_text(fact)}" for now, fact in chosen]

    @property
    def digest(self) -> str:
        """The same for the same run."""
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()


def _text(fact: Any) -> str:
    if type(fact) is Step:
        return f"· {fact.name}"
    values = (value.options if isinstance(value, SubscriptionSpec) else value for value in fact)
    return f"{type(fact).__name__.lower()} {' '.join(map(str, values))}"
