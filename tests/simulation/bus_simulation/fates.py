"""What the judge believes of a run so far: groups, hosts, handlers that run, and the fate of each event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from contracts.bus import SubscriptionSpec
from contracts.patterns import matches

from . import history as h
from .plan import is_wanted


@dataclass
class Span:
    """A number that is known to lie between two."""

    least: int = 0
    most: int = 0

    def add(self, least: int, most: int) -> None:
        self.least += least
        self.most += most

    def __contains__(self, number: int) -> bool:
        return self.least <= number <= self.most

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least} to {self.most}"


@dataclass(eq=False)
class Fate:
    """What became of one event in one group."""

    event: h.Published
    existed: bool
    """The group was there when it was published."""
    must: bool = False
    """It must come to an end here."""
    identity: str = ""
    """Source and id, as soon as they are known."""
    number: int | None = None
    """Within its partition."""
    counted: Span = field(default_factory=Span)
    """Attempts."""
    state: str = "waiting"
    """`waiting`, `running`, `final`, `maybe` (final, unless something came between)."""
    how: str = ""
    """`handled`, `dead`, `discarded`."""
    suspect: str = "no"
    """Whether its owner died with it: `no`, `maybe` (perhaps it had been fetched), `yes`."""
    is_redriven: bool = False

    def may_be_dead(self, attempts: int) -> bool:
        """Whether it may have been given up without a start: its owners died with it too often."""
        return self.suspect != "no" and self.counted.most >= attempts

    def end(self, how: str, *, surely: bool = True) -> None:
        self.state, self.how = "final" if surely else "maybe", how

    def begin_anew(self) -> None:
        """An operator has put it back."""
        self.counted = Span()
        self.state, self.suspect, self.is_redriven, self.must = "waiting", "no", True, True


@dataclass(eq=False)
class Run:
    """A handler that runs, or has run."""

    fact: h.Started
    host: Host
    fate: Fate
    began: float
    was_suspect: str
    ended: float | None = None
    is_settling: bool = False
    """What it returned is being published."""


@dataclass(eq=False)
class Host:
    """A subscription on a bus."""

    name: str
    bus: str
    group: GroupModel
    version: str
    is_live: bool = True
    suspended_at: float | None = None
    is_lost: bool = False
    """The others have given it up, for now."""
    is_draining: bool = False
    """It starts nothing more."""
    is_ending: bool = False
    """Its handlers may be interrupted."""
    runs: dict[int, Run] = field(default_factory=dict)

    @property
    def is_suspended(self) -> bool:
        return self.suspended_at is not None

    @property
    def running(self) -> Iterator[Run]:
        return (run for run in self.runs.values() if run.ended is None)


@dataclass(eq=False)
class GroupModel:
    """One life of a group."""

    name: str
    spec: SubscriptionSpec
    fates: dict[str, Fate] = field(default_factory=dict)
    hosts: list[Host] = field(default_factory=list)
    handled: Span = field(default_factory=Span)
    failed: Span = field(default_factory=Span)
    newest: dict[tuple[str, str, bool], int] = field(default_factory=dict)
    """Topic, line, whether replayed → the latest that was started."""
    replayed: dict[str, Fate] = field(default_factory=dict)
    suppressible: set[str] = field(default_factory=set)
    """Events that a replay has settled, in a group with dedupe."""
    """What was delivered once more."""
    to_replay: int = 0
    is_paused: bool = False
    is_choosy: bool = False
    """It has a predicate."""
    began: float = 0.0
    said: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What was announced: its kind and the event's identity."""
    is_all_said: bool = True
    """Else nothing follows from silence."""

    def hear(self, now: float, kind: str, identity: str) -> None:
        if now > self.began:
            self.said[kind, identity] += 1
        else:
            self.is_all_said = False  # perhaps it was said of the group that had this name before

    @property
    def running(self) -> Iterator[Run]:
        return (run for host in self.hosts if host.is_live for run in host.running)

    @property
    def attempts(self) -> int:
        return self.spec.options.retry.attempts

    def settled_by_replay(self, name: str) -> None:
        """Dedupe may suppress what still waits for its turn, or comes to wait for it again."""
        self.suppressible.add(name)
        live = self.fates[name]
        if live.state == "waiting":
            live.end("handled", surely=False)

    def line(self, key: str | None) -> str | None:
        """What events of that key share within a topic: they start in order. None: nothing."""
        order = self.spec.options.order
        return "*" if order == "topic" else key if order == "key" else None

    def offer(self, event: h.Published, *, existed: bool) -> None:
        if self.is_choosy and not is_wanted(event.name):
            return
        if any(matches(pattern, event.type) for pattern in self.spec.patterns):
            self.fates.setdefault(event.name, Fate(event, existed))
