"""Carries out a plan: starts the processes, kills them where the plan says, waits until all is handled."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from fault_tools.servers import Server

from bus.conformance.checker import Repeat

from .children import Child, RunFailed
from .plan import Fault, Plan
from .progress import Progress
from .system import Entries, Rest, System
from .witness import Witness

SERVER = "the server"
TICK = 0.02
"""Seconds between two looks."""
STALL = 30.0
"""Seconds without anything handled after which a run is over: what is missing then is lost."""
TRIMMING = 60.0
"""Seconds in which a server lets go of what need not be kept."""


@dataclass
class Kill:
    """One that was carried out."""

    fault: Fault
    whom: str
    """Name of the replica; or `SERVER`."""
    at: float
    fetched: Entries
    """What had been handed over and was not settled: to the replica; to all of them."""
    back: float = 0.0
    """When the server answered again."""
    extra: list[Repeat] = field(default_factory=list)
    """Starts beyond the first that came of it; the verdict enters them."""


@dataclass
class Course:
    """What has happened, apart from what the journals say."""

    kills: list[Kill] = field(default_factory=list)
    journals: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    """From the first publish until everything was handled."""
    rest: Rest = field(default_factory=Rest)
    is_stuck: bool = False
    left: list[str] = field(default_factory=list)
    """Where something was left when nothing moved any more."""
    is_trimmed: bool = False


class Conductor:
    """One run. Whatever happens in it, no process of it is left."""

    def __init__(self, plan: Plan, system: System, server: Server, folder: Path) -> None:
        self._plan = plan
        self._system = system
        self._server = server
        self._folder = folder
        self._course = Course()
        self._progress = Progress()
        self._witness = Witness(folder / "conductor.journal")
        self._course.journals.append(folder / "conductor.journal")
        self._replicas: list[Child] = []
        self._publishers: list[Child] = []
        self._returns: list[float] = []
        """When a replica is to be started, for each that was killed and has no successor yet."""
        self._started = 0
        self._moved = 0.0
        """When something was last handled."""

    def run(self) -> Course:
        try:
            self._system.prepare()
            began = time.monotonic()
            self._begin()
            self._kill_all()
            self._drain()
            self._course.seconds = time.monotonic() - began
            self._end()
        finally:
            for child in (*self._replicas, *self._publishers):
                child.kill()
            self._witness.journal.close()
        return self._course

    def _begin(self) -> None:
        for _ in range(self._plan.replicas):
            self._start_replica()
        for number in range(self._plan.publishers):
            name = f"publisher{number}"
            self._publishers.append(self._child(name, self._system.publisher(number)))
        self._moved = time.monotonic()

    def _start_replica(self) -> None:
        self._started += 1
        name = f"replica{self._started}"
        self._replicas.append(self._child(name, self._system.replica(name)))

    def _child(self, name: str, command: list[str]) -> Child:
        child = Child(name, command, self._folder)
        self._course.journals.append(child.journal)
        return child

    # --- killing -------------------------------------------------------------------------------------

    def _kill_all(self) -> None:
        for fault in self._plan.faults():
            while self._look() < fault.at and not self._course.is_stuck:
                time.sleep(TICK)
            if self._course.is_stuck:
                return
            if fault.whom == "server":
                self._kill_server(fault)
            else:
                self._kill_replica(fault)

    def _kill_replica(self, fault: Fault) -> None:
        """What it held is asked for before, and once more when it is gone and nobody has taken over yet."""
        while not self._replicas:
            self._look()
            time.sleep(TICK)
        victim = self._replicas.pop(fault.victim % len(self._replicas))
        before = self._system.fetched(victim.name)
        victim.kill()
        at = self._witness.gone(victim.name)
        fetched = before | self._system.fetched(victim.name)
        self._course.kills.append(Kill(fault, victim.name, at, fetched))
        self._returns.append(time.monotonic() + fault.pause)

    def _kill_server(self, fault: Fault) -> None:
        """Replicas outlive it, with what they hold."""
        before = self._system.fetched()
        self._server.kill()
        at = self._witness.gone(SERVER)
        time.sleep(fault.pause)
        self._server.start()
        back = self._witness.back(SERVER)
        self._course.kills.append(Kill(fault, SERVER, at, before | self._system.fetched(), back=back))

    def _look(self) -> int:
        """Start who is to come back, see that all others are well; how many deliveries were handled."""
        now = time.monotonic()
        for due in [due for due in self._returns if due <= now]:
            self._returns.remove(due)
            self._start_replica()
        for replica in self._replicas:
            if replica.check():
                raise RunFailed(f"{replica.name} ended by itself")
        for publisher in self._publishers:
            publisher.check()
        before = self._progress.handled
        if self._progress.look(self._course.journals) > before:
            self._moved = now
        self._course.is_stuck = now - self._moved > STALL
        return self._progress.handled

    # --- the end -------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Until everything is published and settled, or nothing moves any more."""
        while not self._course.is_stuck:
            self._look()
            if self._returns or not all(publisher.check() for publisher in self._publishers):
                time.sleep(TICK)
                continue
            self._course.rest = self._system.rest()
            if self._course.rest.is_quiet:
                return
            time.sleep(10 * TICK)

    def _end(self) -> None:
        """With everybody still there: what is left, and whether it is trimmed. Then they go."""
        deadline = time.monotonic() + TRIMMING
        while not self._is_clean() and not self._course.is_stuck and time.monotonic() < deadline:
            time.sleep(10 * TICK)
        if self._course.is_stuck:
            self._course.left = self._system.left()
        for group, source, id, reason in self._system.dead_letters():
            self._witness.given_up(group, source, id, reason)
        for child in (*self._replicas, *self._publishers):
            child.stop()

    def _is_clean(self) -> bool:
        self._course.rest = rest = self._system.rest()
        self._course.is_trimmed = self._system.is_trimmed(rest)
        return self._course.is_trimmed and not rest.keys
