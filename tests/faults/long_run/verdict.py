"""From the journals of a run to its result: what was found, and what it is measured against."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bus.conformance.checker import Judge, Repeat, Verdict
from bus.conformance.history import Journals, Name
from contracts.patterns import topic_of

from .conductor import Course, Kill
from .plan import GROUPS, MADE, Plan


@dataclass
class Result:
    """One run, judged."""

    plan: Plan
    course: Course
    found: Verdict
    confirmed: int
    starts: int
    extra: int
    """Starts beyond the first of what had not failed."""
    taken_over: list[Repeat]
    """Of these, those of another replica than the one before, which lived; or whose lease was over."""
    own: list[Repeat]
    """Of these, those of the very replica that had started it before, and lived: it knew of that."""
    handled: dict[str, int]
    effects: int
    """Entries that the stream of effects has taken."""
    judging: float = 0.0
    """Seconds."""

    @property
    def fetched(self) -> int:
        """What the killed replicas held, all together."""
        return sum(len(kill.fetched) for kill in self.replica_kills)

    @property
    def in_flight(self) -> int:
        """What all replicas held when the server was killed, all together."""
        return sum(len(kill.fetched) for kill in self.server_kills)

    @property
    def replica_kills(self) -> list[Kill]:
        return [kill for kill in self.course.kills if kill.fault.whom == "replica"]

    @property
    def server_kills(self) -> list[Kill]:
        return [kill for kill in self.course.kills if kill.fault.whom == "server"]

    def unexplained(self) -> list[Repeat]:
        """Extra starts that do not follow from the kills, or more of them than do."""
        found = list(self.own)
        if len(self.taken_over) > self.in_flight:
            found += self.taken_over
        for kill in self.replica_kills:
            if len(kill.extra) > len(kill.fetched):
                found += kill.extra
        return found

    def problems(self) -> list[str]:
        """Everything that is not as it was promised."""
        return [*self._of_the_run(), *self._of_the_counts(), *self._of_the_kills()]

    def _of_the_run(self) -> Iterator[str]:
        rest = self.course.rest
        if self.course.is_stuck:
            yield "\n".join([f"nothing moves any more: {rest}", *self.course.left])
        if not self.found:
            yield str(self.found)
        if rest.dead:
            yield f"{rest.dead} dead letters"
        if rest.keys:
            yield f"left behind in the server: {', '.join(rest.keys)}"
        if not self.course.is_trimmed:
            yield f"not trimmed: {rest.kept}"

    def _of_the_counts(self) -> Iterator[str]:
        if self.confirmed != self.plan.events:
            yield f"{self.confirmed:,} of {self.plan.events:,} events confirmed"
        for group, handled in self.handled.items():
            if handled != self.plan.events:
                yield f"{group} has handled {handled:,} of {self.plan.events:,}"
        if self.effects != self.plan.events:
            yield f"{self.effects:,} effects of {self.plan.events:,} events"

    def _of_the_kills(self) -> Iterator[str]:
        for kill in self.replica_kills:
            extra, held = len(kill.extra), len(kill.fetched)
            if extra > held:
                yield f"{extra} extra starts after {kill.whom} was killed with {held} fetched"
        if len(self.taken_over) > self.in_flight:
            yield (
                f"{len(self.taken_over)} extra starts of what a living replica had;"
                f" {self.in_flight} in flight when the server was killed"
            )
        if self.own:
            yield f"{len(self.own)} extra starts by the replica that had started it before"


def judged(plan: Plan, course: Course) -> Result:
    """Read everything that was written down, once or, if anything is found, twice."""
    began = time.monotonic()
    history = Journals(path for path in course.journals if path.exists())
    judge = Judge(GROUPS, redelivery=True)
    with _no_collector():
        judge.read(history)
        taken_over, own = _blame(judge, course)
        lapsed = _lapsed(history, own, plan.lease, course)
        taken_over, own = taken_over + lapsed, [repeat for repeat in own if repeat not in lapsed]
        result = Result(
            plan=plan, course=course, found=Verdict(), confirmed=judge.confirmed,
            starts=judge.starts.total(), extra=len(judge.repeats), taken_over=taken_over, own=own,
            handled={group: judge.handled(group) for group in GROUPS},
            effects=course.rest.published.get(topic_of(MADE), 0),
        )  # fmt: skip
        judge.repeats = result.unexplained()
        result.found = judge.verdict(history)
    result.judging = time.monotonic() - began
    return result


def _blame(judge: Judge, course: Course) -> tuple[list[Repeat], list[Repeat]]:
    """Enter each repetition at the kill of whoever had started it before; those of others, and their own."""
    kills = {kill.whom: kill for kill in course.kills if kill.fault.whom == "replica"}
    taken_over, own = list[Repeat](), list[Repeat]()
    for repeat in judge.repeats:
        kill = kills.get(repeat.before.replica)
        if kill is not None and kill.at < repeat.start.at:
            kill.extra.append(repeat)
        elif repeat.before.replica == repeat.start.replica:
            own.append(repeat)
        else:
            taken_over.append(repeat)
    return taken_over, own


def _lapsed(history: Journals, own: list[Repeat], lease: float, course: Course) -> list[Repeat]:
    """Those between whose two attempts Redis was away for so long that a lease was over.

    What a replica had not been able to settle by then was not its own any more, even if it came back to it.
    """
    outages = [(kill.at, kill.back) for kill in course.kills if kill.fault.whom == "server"]
    before: dict[tuple[str, Name], float] = {}
    wanted = {(repeat.start.group, repeat.start.name): repeat for repeat in own}
    for record in history if own else ():
        whose = record.group, record.name
        if record.kind == "started" and whose in wanted and record.run != wanted[whose].start.run:
            before.setdefault(whose, record.at)
    return [
        repeat
        for whose, repeat in wanted.items()
        if sum(back - at for at, back in outages if before[whose] < back < repeat.start.at) >= lease
    ]


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Millions of objects are made, and none of them in a cycle: looking for cycles would double the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
