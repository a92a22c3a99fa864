"""The judge: reads the history of a run, from the beginning, and says what the bus did wrong. Pure.

What happens between two facts (a handler that its timeout and a drain cancel in the same moment) leaves a
range of what may be true, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from contracts.bus import BusLimits

from . import history as h
from .fates import Fate, GroupModel, Host, Run
from .starts import objections
from .verdict import Ending, final_objections

ROOMY = 1_000
"""Events; at such a limit nothing that a handler returns is refused."""
SLACK = 2.5
"""Seconds after its timeout in which a handler that was cancelled must have ended."""


def judge(history: h.History, ending: Ending) -> list[str]:
    """Everything that is wrong with a run; nothing, if the bus kept its promises."""
    one = Judge(ending.limits)
    for now, fact in history.facts():
        one.see(now, fact)
    one.close()
    one.problems += final_objections(one.groups, ending)
    return one.problems


class Judge:
    """What is known so far. Each fact has a method of its name."""

    def __init__(self, limits: BusLimits) -> None:
        self.problems: list[str] = []
        self.groups: dict[str, GroupModel] = {}
        self._hosts: dict[str, Host] = {}
        self._runs: dict[int, Run] = {}
        self._events: dict[str, h.Published] = {}
        self._positions: dict[str, str] = {}
        self._promised: dict[Run, tuple[str, ...]] = {}
        """Events that were returned by a handler whose delivery was settled."""
        self._limits = limits
        self._is_roomy = limits.limit >= ROOMY
        self._now = 0.0

    def see(self, now: float, fact: Any) -> None:
        self._now = now
        method: Callable[[Any], None] = getattr(self, f"see_{type(fact).__name__.lower()}")
        method(fact)

    def _object(self, *problems: str) -> None:
        self.problems += [f"{self._now:.3f}: {problem}" for problem in problems]

    def close(self) -> None:
        """What was returned must have been handled, too."""
        for names in self._promised.values():
            for name in names:
                for fate in self._fates(name):
                    fate.must |= fate.existed

    # --- groups and hosts -------------------------------------------------------------------------

    def see_declared(self, fact: h.Declared) -> None:
        group = self.groups[fact.group] = GroupModel(
            fact.group, fact.spec, is_choosy=fact.is_choosy, began=self._now
        )
        for event in self._events.values():
            group.offer(event, existed=False)

    def see_dropped(self, fact: h.Dropped) -> None:
        for host in self.groups.pop(fact.group).hosts:
            host.is_live = False

    def see_subscribed(self, fact: h.Subscribed) -> None:
        group = self.groups[fact.group]
        host = self._hosts[fact.host] = Host(fact.host, fact.bus, group, fact.version)
        group.hosts.append(host)

    def see_refused(self, fact: h.Refused) -> None:
        self._hosts[fact.host].is_live = False

    def see_draining(self, fact: h.Draining) -> None:
        host = self._hosts[fact.host]
        host.is_draining = host.is_ending = True
        self._unsettle(host)

    def see_drained(self, fact: h.Drained) -> None:
        self._end(self._hosts[fact.host])

    def see_closing(self, fact: h.Closing) -> None:
        for host in self._of_bus(fact.bus):
            host.is_ending = True
            self._unsettle(host)

    def see_gone(self, fact: h.Gone) -> None:
        for host in self._of_bus(fact.bus):
            self._unsettle(host)
            if fact.how == "killed":
                self._crash(host)
                host.is_live = False
            else:
                self._end(host)

    def see_suspended(self, fact: h.Suspended) -> None:
        for host in self._of_bus(fact.bus):
            self._unsettle(host)
            host.suspended_at = self._now

    def see_woken(self, fact: h.Woken) -> None:
        for host in self._of_bus(fact.bus):
            still = self._now - (host.suspended_at or self._now)
            if still > 2 * self._limits.lease and not host.is_lost:
                self._object(f"{host.name} stood still for {still:g} s, and nobody took over")
            host.suspended_at = None

    def see_lost(self, fact: h.Lost) -> None:
        for host in self._of_bus(fact.bus):
            self._unsettle(host)
            self._crash(host)
            host.is_lost = True

    def see_rejoined(self, fact: h.Rejoined) -> None:
        for host in self._of_bus(fact.bus):
            host.is_lost = False

    def _of_bus(self, bus: str) -> list[Host]:
        return [host for host in self._hosts.values() if host.bus == bus and host.is_live]

    def _end(self, host: Host) -> None:
        if host.is_live:
            for run in host.running:
                self._object(f"{host.name} has ended, and {run.fact.name} runs there")
        host.is_live = False

    def _unsettle(self, host: Host) -> None:
        """What has ended in this very moment may not have been settled yet."""
        for run in host.runs.values():
            if run.is_settling and run.ended == self._now and run.fate.state == "final":
                run.fate.state = "maybe"
                self._promised.pop(run, None)
                host.group.handled.least -= 1

    def _crash(self, host: Host) -> None:
        for run in host.runs.values():
            if run.ended is None:
                run.fate.state = "waiting"
            elif not (run.is_settling and run.ended >= min(self._now, host.suspended_at or self._now)):
                continue
            run.fate.counted.add(run.was_suspect == "yes", run.was_suspect != "no")
            run.fate.suspect = "yes" if run.ended is None else "maybe"
        host.runs.clear()  # what they still do is nobody's business
        for fate in [*host.group.fates.values(), *host.group.replayed.values()]:
            if fate.state == "waiting" and fate.suspect == "no":
                fate.suspect = "maybe"  # it may have been fetched

    def see_paused(self, fact: h.Paused) -> None:
        self.groups[fact.group].is_paused = True

    def see_resumed(self, fact: h.Resumed) -> None:
        self.groups[fact.group].is_paused = False

    # --- publishing -------------------------------------------------------------------------------

    def see_published(self, fact: h.Published) -> None:
        if fact.name not in self._events:
            self._events[fact.name] = fact
            for group in self.groups.values():
                group.offer(fact, existed=True)

    def see_confirmed(self, fact: h.Confirmed) -> None:
        known = self._positions.setdefault(fact.name, fact.position)
        if "delayed" not in (known, fact.position) and known != fact.position:
            self._object(f"{fact.name} was taken twice, at {known} and at {fact.position}")
        for fate in self._fates(fact.name):
            fate.must |= fate.existed
            fate.identity = fact.identity
            if fate.number is None:
                fate.number = _number(known)

    def _fates(self, name: str) -> Iterator[Fate]:
        """In all groups."""
        return (group.fates[name] for group in self.groups.values() if name in group.fates)

    def see_unconfirmed(self, fact: h.Unconfirmed) -> None:
        """It may have been taken or not: nothing follows."""

    # --- starts and ends --------------------------------------------------------------------------

    def see_started(self, fact: h.Started) -> None:
        host = self._hosts[fact.host]
        who = f"{fact.host} starts {fact.name} (attempt {fact.attempt})"
        fate = host.group.fates.get(fact.name)
        if fate is None or not host.is_live or host.is_draining or host.is_lost:
            self._object(f"{who}: " + ("it has left" if fate else "no such event"))
            return
        if fact.is_replayed:
            fate = host.group.replayed.setdefault(fact.name, Fate(fate.event, existed=False))
        self._object(*(f"{who} {problem}" for problem in objections(fact, host, fate)))
        run = Run(fact, host, fate, self._now, fate.suspect)
        fate.state, fate.must = "running", not fact.is_replayed
        fate.number, fate.identity = fact.number, fact.identity
        host.runs = {number: one for number, one in host.runs.items() if one.ended in (None, self._now)}
        host.runs[fact.run] = self._runs[fact.run] = run

    def see_ended(self, fact: h.Ended) -> None:
        run = self._runs.get(fact.run)
        if run is None or not run.host.is_live or fact.run not in run.host.runs:
            return
        run.ended, run.fate.state = self._now, "waiting"
        host, deadline = run.host, run.began + run.host.group.spec.options.timeout
        if fact.interrupted is None:
            if self._now > deadline:
                self._object(f"{host.name}: {run.fact.name} ran past its timeout and was not cancelled")
            self._came_to_its_end(run, fact)
            return
        is_late = fact.interrupted >= deadline - 1e-6
        if not is_late and not host.is_ending:
            self._object(f"{host.name}: {run.fact.name} was interrupted before its timeout")
        if self._now > fact.interrupted + SLACK:
            self._object(f"{host.name}: {run.fact.name} was cancelled once and went on for long")
        self._was_interrupted(run, fact, is_late)

    def _came_to_its_end(self, run: Run, fact: h.Ended) -> None:
        fate, group = run.fate, run.host.group
        if fact.how == "failed":
            self._fail(run, surely=True)
            return
        may_fail = run.host.is_ending or run.host.is_suspended or not self._is_roomy
        surely = not (fact.how == "returned" and may_fail)
        if fact.how == "returned" and not self._is_roomy:
            self._fail(run, surely=False)
        run.is_settling = fact.how == "returned"
        fate.end(_OUTCOMES[fact.how], surely=surely)
        if run.fact.is_replayed and group.spec.options.dedupe:
            group.settled_by_replay(run.fact.name)
        if fate.how == "handled":
            group.handled.add(surely, 1)
            if surely:
                self._promised[run] = fact.returns

    def _was_interrupted(self, run: Run, fact: h.Ended, is_late: bool) -> None:
        host = run.host
        if is_late:
            self._fail(run, surely=not host.is_ending)
        if host.is_ending and fact.how == "ok":
            run.fate.end("handled", surely=False)
            host.group.handled.add(0, 1)

    def _fail(self, run: Run, *, surely: bool) -> None:
        group, fate = run.host.group, run.fate
        group.failed.add(surely, 1)
        fate.counted.add(surely, 1)
        if surely:
            in_place = fate.suspect != "no" and group.spec.options.retry.rules
            fate.suspect = "maybe" if in_place else "no"
        elif fate.suspect == "yes":
            fate.suspect = "maybe"
        if surely and run.fact.attempt >= group.attempts:
            fate.end("dead")
        elif fate.counted.most >= group.attempts:
            fate.end("dead", surely=False)

    # --- operators, announcements -------------------------------------------------------------------

    def see_replayed(self, fact: h.Replayed) -> None:
        self.groups[fact.group].to_replay = fact.events

    def see_redriven(self, fact: h.Redriven) -> None:
        if fate := self._dead_letter(fact.group, fact.name):
            fate.begin_anew()

    def see_deadletterdiscarded(self, fact: h.DeadLetterDiscarded) -> None:
        if fate := self._dead_letter(fact.group, fact.name):
            fate.end("discarded")

    def _dead_letter(self, group: str, name: str) -> Fate | None:
        """What is known of an event that was found among the dead letters of a group."""
        fate = self.groups[group].fates.get(name)
        if fate is None:
            self._object(f"{group}: {name} was a dead letter, and the group does not want it")
        elif fate.state == "running" or (fate.state == "final" and fate.how != "dead"):
            self._object(f"{group}: {name} was a dead letter, and {fate.how or fate.state}")
        return fate

    def see_announced(self, fact: h.Announced) -> None:
        if fact.group in self.groups:
            self.groups[fact.group].hear(self._now, fact.type.partition(".")[2], fact.identity)

    def see_missed(self, fact: h.Missed) -> None:
        for group in self.groups.values():
            group.is_all_said = False

    def see_wrong(self, fact: h.Wrong) -> None:
        self._object(fact.what)


_OUTCOMES = {"ok": "handled", "returned": "handled", "dead": "dead", "discarded": "discarded"}


def _number(position: str | None) -> int | None:
    """Of a receipt's position."""
    return None if position in (None, "delayed") else int(position.rpartition(":")[2])
