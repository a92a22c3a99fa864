"""The judge: from a history to what was lost, unexpected, repeated, out of order, or two at once.

Every start of a handler counts, not only what came out in the end. A history is read once, from its
beginning, and what is kept of it is what is known of each event, of each place where order holds, and of
each run that has not ended: time and memory grow with the number of events, whatever became of them.
It is read a second time only for the records that explain a finding.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from contracts.patterns import matches, topic_of

from .history import Name, Record

SHOWN = 5
"""Findings of one kind that are printed."""
AROUND = 8
"""Records that are printed for a finding."""

Place = tuple[str, str, str]
"""Group, topic, key: within it starts are in order and one at a time."""


@dataclass(frozen=True)
class Finding:
    """One thing that may not be, with the records that show it."""

    what: str
    records: Sequence[Record]

    def __str__(self) -> str:
        shown = self.records[-AROUND:]
        return "\n".join([f"- {self.what}", *(f"    {record}" for record in shown)])


@dataclass
class Verdict:
    """What was found, by kind. It is true when nothing was."""

    lost: list[Finding] = field(default_factory=list)
    """Confirmed, but in a group that selects it never handled to its end, nor given up."""
    unexpected: list[Finding] = field(default_factory=list)
    """Started although never published, not selected, changed on the way, or by one who was gone."""
    repeated: list[Finding] = field(default_factory=list)
    """Started again although it had not failed, more often than is allowed."""
    disordered: list[Finding] = field(default_factory=list)
    """Started after something of its key that was published later had started."""
    overlapping: list[Finding] = field(default_factory=list)
    """Started while another attempt of its key was running."""

    def __bool__(self) -> bool:
        return not any(vars(self).values())

    def __str__(self) -> str:
        if self:
            return "nothing lost, unexpected, repeated, out of order, or two at once"
        lines: list[str] = []
        for kind, findings in vars(self).items():
            if findings:
                lines.append(f"{len(findings)} {kind}:")
                lines += [str(finding) for finding in findings[:SHOWN]]
        return "\n".join(lines)


def judge(
    history: Iterable[Record],
    groups: Mapping[str, Sequence[str]],
    *,
    repeats: int = 0,
    unordered: Collection[str] = (),
    exempt: Collection[str] = (),
    lossy: bool = False,
) -> Verdict:
    """Judge a history that has come to its end (everything quiet). It is iterated over, twice if need be.

    `groups`: the patterns of each group, for which every event counts. `repeats`: starts beyond the first
    and those after a failure that are allowed in all: as many as ran, or had been handed over, when
    somebody crashed. `unordered`: groups whose order is not judged. `exempt`: ids that need not be
    handled (published before the group began, or dropped). `lossy`: do not look for what is lost.
    """
    case = Judge(groups, unordered=unordered)
    case.read(history)
    return case.verdict(history, repeats=repeats, exempt=exempt, lossy=lossy)


class _Event:
    """What is known of one event's publishing. Millions are kept."""

    __slots__ = ("confirmed", "digest", "invoked", "name", "type")

    def __init__(self, name: Name) -> None:
        self.name = name
        self.invoked = -1
        """Where in the history; -1: not yet."""
        self.confirmed = -1
        self.type = ""
        self.digest = ""


class _Run:
    """An attempt that has begun."""

    __slots__ = ("event", "is_running", "start")

    def __init__(self, start: Record, event: _Event) -> None:
        self.start = start
        self.event = event
        self.is_running = True


class _Order:
    """What has started at one place."""

    __slots__ = ("last", "leader", "newest")

    def __init__(self) -> None:
        self.newest = -1
        """Where in the history the latest published of them was invoked."""
        self.leader: Record | None = None
        """Its start."""
        self.last: _Run | None = None


class Attempt(NamedTuple):
    """The latest attempt of an event in a group. Few are made: events share them."""

    how: str
    """How it ended; `running`: it has not."""
    replica: str


@dataclass(frozen=True, slots=True)
class Repeat:
    """A start of what had been started already and had not failed."""

    start: Record
    before: Attempt


class Judge:
    """Reads a history record by record; tells at its end what may not be."""

    def __init__(
        self,
        groups: Mapping[str, Sequence[str]],
        *,
        unordered: Collection[str] = (),
        redelivery: bool = False,
    ) -> None:
        """`redelivery`: what has been handled and is delivered once more is a repetition, and nothing else.

        A crash may take the settlements of several events of one key with it, so that they are started
        again after later ones had been. Whatever has not been handled is in order nevertheless.
        """
        self._groups = groups
        self._unordered = set(unordered)
        self._redelivery = redelivery
        self.repeats: list[Repeat] = []
        self.starts: Counter[str] = Counter()
        """By group."""
        self._index = 0
        self._events: dict[Name, _Event] = {}
        self._latest: defaultdict[str, dict[_Event, Attempt]] = defaultdict(dict)
        """By group."""
        self._attempts: dict[tuple[str, str], Attempt] = {}
        self._handled_before: set[tuple[str, Name]] = set()
        """Handled to its end by an attempt that is not the latest."""
        self._given_up: set[tuple[str, Name]] = set()
        self._again: Counter[tuple[str, Name]] = Counter()
        self._asked: set[tuple[str, Name]] = set()
        self._open: dict[str, _Run] = {}
        self._gone: set[str] = set()
        self._places: defaultdict[Place, _Order] = defaultdict(_Order)
        self._strangers: list[Record] = []
        """Starts of what nobody had published by then."""
        self._found = Verdict()
        self._stories = _Stories()
        self._selected: dict[tuple[str, str], bool] = {}
        self._readers: dict[str, Callable[[Record], None]] = {
            "invoked": self._read_invoked,
            "confirmed": self._read_confirmed,
            "started": self._read_started,
            "ended": self._read_ended,
            "given_up": self._read_given_up,
            "gone": self._read_gone,
            "back": self._read_back,
            "again": self._read_again,
        }

    def read(self, records: Iterable[Record]) -> None:
        """Go on with these, which happened in this order."""
        readers = self._readers
        for record in records:
            self._index += 1
            if record.kind in readers:
                readers[record.kind](record)

    @property
    def confirmed(self) -> int:
        """Events whose publishing was confirmed."""
        return sum(event.confirmed >= 0 for event in self._events.values())

    def handled(self, group: str) -> int:
        """Events that an attempt of the group has handled to its end."""
        return sum(self._is_handled(group, event) for event in self._latest[group])

    def verdict(
        self,
        history: Iterable[Record],
        *,
        repeats: int = 0,
        exempt: Collection[str] = (),
        lossy: bool = False,
    ) -> Verdict:
        """What may not be; see `judge`. `history`: what was read, for the records around the findings."""
        found = Verdict(**vars(self._found))
        found.lost = [] if lossy else self._lost(set(exempt))
        found.unexpected = [*self._found.unexpected, *self._never_published()]
        if len(self.repeats) > repeats:
            found.repeated = [self._repeated(repeat.start) for repeat in self.repeats]
        self._stories.fill(history)
        return found

    # --- publishing ------------------------------------------------------------------------------

    def _read_invoked(self, record: Record) -> None:
        event = self._event(record)
        if event.invoked < 0:
            event.invoked, event.type, event.digest = self._index, sys.intern(record.type), record.digest

    def _read_confirmed(self, record: Record) -> None:
        event = self._event(record)
        if event.confirmed < 0:
            event.confirmed = self._index

    def _event(self, record: Record) -> _Event:
        name = record.name
        event = self._events.get(name)
        if event is None:
            name = sys.intern(record.source), record.id
            event = self._events[name] = _Event(name)
        return event

    # --- attempts --------------------------------------------------------------------------------

    def _read_started(self, record: Record) -> None:
        event = self._event(record)
        run = self._open[record.run] = _Run(record, event)
        self.starts[record.group] += 1
        self._expect(record, event)
        is_redelivered = self._repeat(record, event)
        if record.key is not None and record.group not in self._unordered:
            place = self._places[record.group, topic_of(record.type), record.key]
            if not (is_redelivered and self._redelivery):
                self._in_order(place, record, event)
            if place.last is not None and place.last.is_running:
                what = f"two at once of key {record.key}"
                self._found.overlapping.append(Finding(what, [place.last.start, record]))
            place.last = run

    def _read_ended(self, record: Record) -> None:
        """What was ended by its replica's going stays so, whatever it does afterwards."""
        run = self._open.pop(record.run, None)
        if run is not None:
            self._end(run, record.how)

    def _read_gone(self, record: Record) -> None:
        self._gone.add(record.replica)
        for name, run in list(self._open.items()):
            if run.start.replica == record.replica:
                del self._open[name]
                self._end(run, "cancelled")

    def _read_back(self, record: Record) -> None:
        self._gone.discard(record.replica)

    def _read_given_up(self, record: Record) -> None:
        self._given_up.add((record.group, record.name))

    def _read_again(self, record: Record) -> None:
        self._again[record.group, record.name] += 1
        self._asked.add((record.group, record.name))

    def _end(self, run: _Run, how: str) -> None:
        run.is_running = False
        self._latest[run.start.group][run.event] = self._attempt(how, run.start.replica)

    def _attempt(self, how: str, replica: str) -> Attempt:
        shared = self._attempts.get((how, replica))
        if shared is None:
            shared = self._attempts[how, replica] = Attempt(how, replica)
        return shared

    # --- what may not be -------------------------------------------------------------------------

    def _expect(self, start: Record, event: _Event) -> None:
        unexpected = self._found.unexpected
        if start.replica in self._gone:
            unexpected.append(Finding(f"{start.replica} started it while it was gone", [start]))
        if event.invoked < 0:
            self._strangers.append(start)
        elif start.digest != event.digest:
            unexpected.append(self._changed(start))
        elif start.group in self._groups and not self._selects(start.group, start.type):
            unexpected.append(Finding(f"{start.group} does not select {start.type}", [start]))

    def _never_published(self) -> Iterator[Finding]:
        for start in self._strangers:
            event = self._events[start.name]
            if event.invoked < 0:
                yield Finding(f"{start.id} was never published", [start])
            elif start.digest != event.digest:
                yield self._changed(start)

    def _changed(self, start: Record) -> Finding:
        return self._stories.finding("changed", f"{start.id} was changed on the way", start.name, start.group)

    def _repeat(self, start: Record, event: _Event) -> bool:
        """Notice a repetition. Whether the event had been handled to its end before."""
        latest, whose = self._latest[start.group], (start.group, event.name)
        before = latest.get(event)
        latest[event] = self._attempt("running", start.replica)
        if before is None:
            return False
        if before.how == "returned":
            self._handled_before.add(whose)
        if before.how != "failed":
            if self._again[whose] > 0:
                self._again[whose] -= 1
            else:
                self.repeats.append(Repeat(start, before))
        return whose in self._handled_before

    def _repeated(self, start: Record) -> Finding:
        what = f"{start.group} started {start.id} again"
        return self._stories.finding("repeated", what, start.name, start.group)

    def _in_order(self, place: _Order, start: Record, event: _Event) -> None:
        """A start is late if its event was confirmed before one that has started already was invoked."""
        if event.invoked < 0 or (start.group, event.name) in self._asked:
            return
        if 0 <= event.confirmed < place.newest and place.leader is not None:
            self._found.disordered.append(Finding(f"{start.id} came too late", [place.leader, start]))
        if event.invoked > place.newest:
            place.newest, place.leader = event.invoked, start

    def _lost(self, exempt: set[str]) -> list[Finding]:
        return [
            self._stories.finding("lost", f"{group} never handled {event.name[1]}", event.name, group)
            for group in self._groups
            for event in self._events.values()
            if event.confirmed >= 0
            and not self._is_handled(group, event)
            and event.name[1] not in exempt
            and (group, event.name) not in self._given_up
            and self._selects(group, event.type)
        ]

    def _is_handled(self, group: str, event: _Event) -> bool:
        attempt = self._latest[group].get(event)
        if attempt is None:
            return False
        return attempt.how == "returned" or (group, event.name) in self._handled_before

    def _selects(self, group: str, type_name: str) -> bool:
        selected = self._selected.get((group, type_name))
        if selected is None:
            selected = any(matches(pattern, type_name) for pattern in self._groups[group])
            self._selected[group, type_name] = selected
        return selected


class _Stories:
    """What happened to single events in a group: filled in once it is known whose is wanted."""

    def __init__(self) -> None:
        self._wanted: defaultdict[Name, list[tuple[str, list[Record]]]] = defaultdict(list)
        self._counts: Counter[str] = Counter()

    def finding(self, kind: str, what: str, name: Name, group: str) -> Finding:
        """One whose records will be the story of that event, if it is among the first of its kind."""
        story: list[Record] = []
        self._counts[kind] += 1
        if self._counts[kind] <= SHOWN:
            self._wanted[name].append((group, story))
        return Finding(what, story)

    def fill(self, history: Iterable[Record]) -> None:
        """Those that are wanted, from a second look at the history; none is taken if none is."""
        running: defaultdict[str, list[list[Record]]] = defaultdict(list)
        for record in history if self._wanted else ():
            if record.kind == "ended":  # a run is all that the end of one needs to name
                for story in running.pop(record.run, ()):
                    story.append(record)
                continue
            for group, story in self._wanted.get(record.name, ()):
                if record.group in ("", group):
                    story.append(record)
                    if record.kind == "started":
                        running[record.run].append(story)
        self._wanted.clear()
        self._counts.clear()
