"""Workers as a test sees them: born, told, killed, stopped; and the bench on which it works with them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
import redis
from naive_redis import NaiveRedisBackend
from redis import RedisError

from bus.conformance.backend import limits_of
from bus.conformance.checker import Judge, Verdict
from bus.conformance.history import History, Record
from bus.conformance.rig import Rig, now
from bus.redis_streams.layout import Keys
from contracts.bus import BusLimits, EventBus, RetryPolicy, RetryRule
from contracts.errors import BusError

from .backend import RedisBackend, Siblings
from .controls import end
from .servers import Server
from .worker import Circumstances, Doer, Job

FAULTS = Path(__file__).resolve().parents[1]
GRACE = 10.0
"""Seconds in which the nursery ends."""
SHOWN = 2_000
"""Characters of a process's log that are shown when something is wrong."""
NAIVE_PATIENCE = 4.0
"""Seconds that the naive bus has for what must come."""
NAIVE_TIME = 12.0
"""Seconds after which a test on the naive bus has failed, whatever it waits for."""
NAIVE_ERRORS = (
    AssertionError, TimeoutError, BusError, RedisError, AttributeError, LookupError, OSError,
    pytest.fail.Exception,
)  # fmt: skip
"""How it fails there: what was promised is not so, or what it does not promise is missing."""
RULES = (
    RetryRule(errors=(ConnectionError,), action="retry"),
    RetryRule(errors=(KeyError,), action="dead_letter"),
)
"""What the words `again` and `dead` of an event come to."""


def retries(first_delay: float, **options: Any) -> RetryPolicy:
    """The words of an event come to what they say; always the same pause."""
    return RetryPolicy(first_delay=first_delay, rules=RULES, **{"factor": 1, "jitter": 0, **options})


class Nursery:
    """The process that bears workers. One for a whole file of tests: it must be up before they begin."""

    def __init__(self) -> None:
        paths = [str(FAULTS), str(FAULTS.parent / "bus" / "conformance"), *filter(None, sys.path)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fault_tools.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            cwd=FAULTS, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, text=True,
        )  # fmt: skip

    def bear(self, job: Job) -> int:
        """The pid of a process that has begun to work."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{job.line()}\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=GRACE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Worker:
    """One process. What it has seen is in `records`, what it has said in `facts`."""

    def __init__(self, job: Job, pid: int, words: int, rig: Rig) -> None:
        self.job, self.pid = job, pid
        self._words, self._rig = words, rig

    @property
    def name(self) -> str:
        return self.job.name

    def tell(self, word: str) -> None:
        os.write(self._words, f"{word}\n".encode())

    # --- what became of it ------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        file = self.job.file("journal")
        return History.load(file).records if file.exists() else []

    def facts(self) -> list[str]:
        file = self.job.file("facts")
        return file.read_text().splitlines() if file.exists() else []

    @property
    def said(self) -> str:
        """What it has logged."""
        file = self.job.file("said")
        return file.read_text(errors="replace") if file.exists() else ""

    @property
    def code(self) -> int | None:
        """How it has ended; None: it has not."""
        file = self.job.file("code")
        text = file.read_text() if file.exists() else ""
        return int(text) if text.endswith("\n") else None

    @property
    def reached(self) -> str:
        """The point at which it died or stood still, as it wrote itself; empty: nowhere."""
        return next((one.note for one in reversed(self.records()) if one.kind == "gone"), "")

    def starts(self) -> list[Record]:
        return [one for one in self.records() if one.kind == "started"]

    def running(self) -> int:
        ended = {one.run for one in self.records() if one.kind == "ended"}
        return sum(one.run not in ended for one in self.starts())

    def has_ended(self, id: str) -> bool:
        runs = {one.run for one in self.starts() if one.id == id}
        return any(one.kind == "ended" and one.run in runs for one in self.records())

    # --- waiting ----------------------------------------------------------------------------------------

    async def fact(self, fact: str) -> str:
        """Return when it has said so: the whole line."""
        await self._until(lambda: self._find(fact) or self.code is not None, fact)
        found = self._find(fact)
        assert found, f"{self.name} ended with {self.code} before it was {fact}:\n{self.said[-SHOWN:]}"
        return found

    def _find(self, fact: str) -> str:
        return next((line for line in self.facts() if line.split()[:1] == [fact]), "")

    async def arm(self) -> None:
        self.tell("arm")
        await self.fact("armed")

    async def died(self) -> None:
        await self._until(lambda: self.code is not None, "its end")

    async def stood_still(self) -> None:
        """Return when it has stopped, by itself or because it was told."""
        process = psutil.Process(self.pid)
        await self._until(lambda: process.status() == psutil.STATUS_STOPPED, "standstill")

    async def _until(self, is_so: Any, what: str) -> None:
        try:
            await self._rig.until(is_so, f"{self.name}: {what}")
        except AssertionError as error:
            error.add_note(self.said[-SHOWN:])
            raise

    # --- what is done to it -----------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL: what it ran is nobody's from now on."""
        os.kill(self.pid, signal.SIGKILL)
        self._rig.history.add("gone", now(), replica=self.name)

    async def stop(self, *, is_long: bool = True) -> None:
        """SIGSTOP. `is_long`: for longer than its lease, so that what runs is not its own any more."""
        os.kill(self.pid, signal.SIGSTOP)
        await self.stood_still()
        if is_long:
            self._rig.history.add("gone", now(), replica=self.name)

    def go_on(self, *, is_long: bool = True) -> None:
        """SIGCONT."""
        if is_long and not self.job.stops:
            self._rig.history.add("back", now(), replica=self.name)
        os.kill(self.pid, signal.SIGCONT)

    async def end(self) -> None:
        """Let it close its bus, and end well."""
        self.tell("end")
        await self.died()
        assert self.code == 0, f"{self.name} ended with {self.code}:\n{self.said[-SHOWN:]}"

    async def close(self) -> None:
        """Whatever state it is in, it is gone."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(self.pid, signal.SIGKILL)
            await self.died()
        os.close(self._words)


class Bench:
    """A rig, and processes beside it on the same namespace."""

    def __init__(
        self, rig: Rig, nursery: Nursery, folder: Path, server: Server,
        *, system: str = "plugbus", is_alone: bool = True,
    ) -> None:  # fmt: skip
        """`is_alone`: nobody else works in this event loop."""
        self.rig, self.folder, self.is_alone = rig, folder, is_alone
        self.workers: list[Worker] = []
        self.server = server
        self._nursery, self._system = nursery, system

    @property
    def namespace(self) -> str:
        return str(self.rig.backend.namespace)  # type: ignore[attr-defined]

    @property
    def partitions(self) -> int:
        found = self.rig.backend.limits.partitions
        return found if isinstance(found, int) and not self.is_naive else 1

    @property
    def is_naive(self) -> bool:
        return self._system == "naive"

    def stream(self, topic: str, p: int = 0) -> str:
        """Its key, as an outsider finds it."""
        return f"{self.namespace}:stream:{topic}" if self.is_naive else Keys(self.namespace).stream(topic, p)

    def client(self) -> redis.Redis:
        """An outsider."""
        client: redis.Redis = self.server.client()
        return client

    def start(
        self, name: str, *, groups: Sequence[str] = ("shop.handle",), point: str = "", stops: bool = False,
        is_armed: bool = False, version: str = "0", **options: Any,
    ) -> Worker:  # fmt: skip
        """A worker that subscribes to these groups, each with the patterns `orders.**`, and these options."""
        specs = (self.rig.spec(group=group, version=version, **options) for group in groups)
        job = Job(
            name, self.server.url, self.namespace, str(self.folder), self.rig.backend.limits.model_dump(),
            tuple(spec.model_dump(mode="json") for spec in specs), point, stops, is_armed, self._system,
        )  # fmt: skip
        os.mkfifo(job.file("words"))
        words = os.open(job.file("words"), os.O_RDWR | os.O_NONBLOCK)  # read-write: nobody need read yet
        worker = Worker(job, self._nursery.bear(job), words, self.rig)
        self.workers.append(worker)
        return worker

    async def up(self, name: str, **options: Any) -> Worker:
        """One that has subscribed."""
        worker = self.start(name, **options)
        await worker.fact("up")
        return worker

    async def host(
        self, bus: EventBus, *, group: str = "shop.handle", holds: bool = False, **options: Any
    ) -> Doer:
        """Handle in this process what workers handle in theirs. `holds`: what holds there holds here too,
        until it is let go; nothing kills."""
        around = Circumstances(bus, self.rig.history)
        if not holds:
            around.gate.open()
        doer = Doer(group, around)
        spec = self.rig.spec(group=group, **options)
        self.rig.groups[group] = spec.patterns
        doer.subscription = await bus.subscribe(spec, doer)
        return doer

    async def publish(self, bus: EventBus, n: int, *do: str, key: str | None = None, **options: Any) -> str:
        """An event that says what is done with it; its id."""
        text = Doer.text(n, *do)
        [receipt] = await self.rig.publish(bus, n, key=key, text=text, **options)
        return receipt.id

    def collect(self) -> None:
        """Everything that workers have seen, into the rig's history, in order. Once, at the end."""
        history = self.rig.history
        found = [record for worker in self.workers for record in worker.records()]
        history.records = sorted([*history.records, *found], key=lambda record: record.at)

    def verdict(self, repeats: int = 0) -> Verdict:
        """What one had handled and another starts again, because the settlement died with the first, is an
        extra start and nothing else."""
        case = Judge(self.rig.groups, redelivery=True)
        case.read(self.rig.history)
        return case.verdict(self.rig.history, repeats=repeats)

    def judge(self, repeats: int = 0) -> None:
        """`repeats`: extra starts that are allowed: as many as were in flight when somebody was killed."""
        verdict = self.verdict(repeats)
        assert verdict, f"\n{verdict}\n{self.said()}"

    def said(self) -> str:
        """The end of what each process has logged."""
        return "\n".join(f"--- {worker.name}\n{worker.said[-SHOWN:]}" for worker in self.workers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for worker in self.workers:
            await worker.close()
        await self.rig.end(alone=self.is_alone)
        await self.rig.backend.close()


async def owners(work: Bench, bus: EventBus) -> dict[str, int]:
    """How many partitions each replica has."""
    return (await work.rig.info(bus)).owners


async def owners_are(work: Bench, bus: EventBus, expected: dict[str, int]) -> bool:
    """On the naive bus, which has none, they are whatever is expected."""
    return work.is_naive or await owners(work, bus) == expected


def in_flight(work: Bench) -> int:
    """Deliveries to `shop.handle` that were handed over and not settled."""
    with work.client() as client:
        found = [client.xpending(work.stream("orders", p), "shop.handle") for p in range(work.partitions)]
    return sum(one["pending"] for one in found)


def namespace_on(server: Server, **limits: Any) -> RedisBackend:
    """One of many on a server."""
    return RedisBackend(BusLimits(**limits), server, among=Siblings(server))


# --- the control --------------------------------------------------------------------------------------------

Body = Callable[[Bench], Coroutine[Any, Any, None]]


async def passes_on_naive(
    bodies: Sequence[Body], server: Server, nursery: Nursery, folder: Path
) -> list[str]:
    """Run them on the bus that many people would write; the names of those that judge nothing."""
    passed, before = [], asyncio.all_tasks()

    async def run(body: Body) -> None:
        own = folder / body.__name__
        own.mkdir()
        backend = NaiveRedisBackend(limits_of(body), server, body.__name__)
        backend.patience = NAIVE_PATIENCE
        with contextlib.suppress(*NAIVE_ERRORS):
            async with (
                Bench(Rig(backend), nursery, own, server, system="naive", is_alone=False) as work,
                asyncio.timeout(NAIVE_TIME),
            ):
                await body(work)
                passed.append(body.__name__)
        for bus in backend.buses:
            await bus.vanish()

    await asyncio.gather(*map(run, bodies))
    await end(asyncio.all_tasks() - before)
    return passed
