"""The judge: from a history to what was lost, unexpected, repeated, out of order, or two at once.

Every start of a handler counts, not only what came out in the end.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from contracts.patterns import matches, topic_of

from .history import History, Name, Record

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
    history: History,
    groups: Mapping[str, Sequence[str]],
    *,
    repeats: int = 0,
    unordered: Collection[str] = (),
    exempt: Collection[str] = (),
    lossy: bool = False,
) -> Verdict:
    """Judge a history that has come to its end (everything quiet).

    `groups`: the patterns of each group, for which every event counts. `repeats`: starts beyond the first
    and those after a failure that are allowed in all: as many as ran, or had been handed over, when
    somebody crashed. `unordered`: groups whose order is not judged. `exempt`: ids that need not be
    handled (published before the group began, or dropped). `lossy`: do not look for what is lost.
    """
    case = _Case(history, groups)
    verdict = Verdict()
    if not lossy:
        verdict.lost = case.lost(set(exempt))
    verdict.unexpected = case.unexpected()
    verdict.repeated = case.repeated(repeats)
    ordered = case.by_place(set(unordered))
    verdict.disordered = [finding for runs in ordered.values() for finding in case.disordered(runs)]
    verdict.overlapping = [finding for runs in ordered.values() for finding in case.overlapping(runs)]
    return verdict


@dataclass
class _Run:
    start: Record
    begin: int
    end: int | None = None
    how: str = ""


class _Case:
    """The history, looked up in the ways that the judgement needs."""

    def __init__(self, history: History, groups: Mapping[str, Sequence[str]]) -> None:
        self.groups = groups
        self.by_name: defaultdict[Name, list[Record]] = defaultdict(list)
        self.invoked: dict[Name, tuple[int, Record]] = {}
        self.confirmed: dict[Name, int] = {}
        self.given_up: set[tuple[str, Name]] = set()
        self.again: Counter[tuple[str, Name]] = Counter()
        self.runs: list[_Run] = []
        self.trespasses: list[Record] = []
        self._open: dict[str, _Run] = {}
        self._gone: set[str] = set()
        self._read(history.records)

    def _read(self, records: Iterable[Record]) -> None:
        for index, record in enumerate(records):
            self.by_name[record.name].append(record)
            match record.kind:
                case "invoked":
                    self.invoked.setdefault(record.name, (index, record))
                case "confirmed":
                    self.confirmed.setdefault(record.name, index)
                case "given_up":
                    self.given_up.add((record.group, record.name))
                case "again":
                    self.again[record.group, record.name] += 1
                case _:
                    self._read_run(index, record)

    def _read_run(self, index: int, record: Record) -> None:
        match record.kind:
            case "started":
                run = self._open[record.run] = _Run(record, index)
                self.runs.append(run)
                if record.replica in self._gone:
                    self.trespasses.append(record)
            case "ended":
                self._end(record.run, index, record.how)
            case "gone":
                self._gone.add(record.replica)
                for name in [name for name, run in self._open.items() if run.start.replica == record.replica]:
                    self._end(name, index, "cancelled")
            case "back":
                self._gone.discard(record.replica)
            case _:
                pass

    def _end(self, run: str, index: int, how: str) -> None:
        """What was ended by its replica's going stays so, whatever it does afterwards."""
        ended = self._open.pop(run, None)
        if ended is not None:
            ended.end, ended.how = index, how

    def story(self, name: Name, group: str) -> list[Record]:
        """What happened to one event in one group."""
        return [record for record in self.by_name[name] if record.group in ("", group)]

    # --- what may not be -------------------------------------------------------------------------

    def lost(self, exempt: set[str]) -> list[Finding]:
        handled = {(run.start.group, run.start.name) for run in self.runs if run.how == "returned"}
        return [
            Finding(f"{group} never handled {name[1]}", self.story(name, group))
            for group, patterns in self.groups.items()
            for name in self.confirmed
            if name[1] not in exempt
            and (group, name) not in handled
            and (group, name) not in self.given_up
            and _selects(patterns, self.invoked[name][1].type)
        ]

    def unexpected(self) -> list[Finding]:
        found = [Finding(f"{one.replica} started it while it was gone", [one]) for one in self.trespasses]
        for run in self.runs:
            start, published = run.start, self.invoked.get(run.start.name)
            if published is None:
                found.append(Finding(f"{start.id} was never published", [start]))
            elif start.digest != published[1].digest:
                found.append(Finding(f"{start.id} was changed on the way", [published[1], start]))
            elif start.group in self.groups and not _selects(self.groups[start.group], start.type):
                found.append(Finding(f"{start.group} does not select {start.type}", [start]))
        return found

    def repeated(self, allowed: int) -> list[Finding]:
        starts: defaultdict[tuple[str, Name], list[_Run]] = defaultdict(list)
        for run in self.runs:
            starts[run.start.group, run.start.name].append(run)
        found = []
        for (group, name), runs in starts.items():
            extra = sum(run.how != "failed" for run in runs[:-1]) - self.again[group, name]
            if extra > 0:
                found += [Finding(f"{group} started {name[1]} again", self.story(name, group))] * extra
        return found if len(found) > allowed else []

    def by_place(self, unordered: set[str]) -> dict[Place, list[_Run]]:
        places: defaultdict[Place, list[_Run]] = defaultdict(list)
        for run in self.runs:
            start = run.start
            if start.key is not None and start.group not in unordered:
                places[start.group, topic_of(start.type), start.key].append(run)
        return places

    def disordered(self, runs: list[_Run]) -> list[Finding]:
        """A start is late if its event was confirmed before one that has started already was invoked."""
        found, newest, leader = [], -1, None
        for run in runs:
            name = run.start.name
            if name not in self.invoked or (run.start.group, name) in self.again:
                continue
            if self.confirmed.get(name, newest) < newest:
                found.append(Finding(f"{name[1]} came too late", [leader, run.start] if leader else []))
            if self.invoked[name][0] > newest:
                newest, leader = self.invoked[name][0], run.start
        return found

    def overlapping(self, runs: list[_Run]) -> list[Finding]:
        found = []
        for before, run in itertools.pairwise(runs):
            if before.end is None or before.end > run.begin:
                found.append(Finding(f"two at once of key {run.start.key}", [before.start, run.start]))
        return found


def _selects(patterns: Sequence[str], type_name: str) -> bool:
    return any(matches(pattern, type_name) for pattern in patterns)
