"""A process that handles events, and dies or stands still where a test says; and the nursery that bears it.

    python -m fault_tools.worker

is the nursery: it has imported everything, reads jobs, one line of JSON each, and bears a process for each
in a few milliseconds; it ends, with all of them, when its standard input does. What a worker has seen is in
its journal (`bus.conformance.history`), each start on file before the handler does anything; what a test
waits for is in its file of facts. Events say what is to be done with them: see `Doer`.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from naive_redis import NaiveRedisBus

from bus.conformance.history import Journal, Writer, digest_of
from bus.conformance.probe import Gate, Probe, number_of
from bus.redis_streams import RedisBus
from contracts.bus import BusLimits, BusSubscription, DeadLetterSelection, EventBus, SubscriptionSpec
from contracts.event import Event, EventResult, dump_event
from contracts.message import PluginEvent

from .worker_points import Point, Watch

log = logging.getLogger("worker")

KILLED = 137
"""Exit code of a process that has died at a point."""
SHOP = "/plugins/shop"


class Made(Event, type="effects.made"):
    """What a handler returns."""

    n: int


class Said(Event, type="effects.said"):
    """What a handler publishes itself."""

    n: int


@dataclass(frozen=True)
class Job:
    """What one worker is to do."""

    name: str
    """Of the replica."""
    url: str
    namespace: str
    folder: str
    limits: dict[str, Any]
    specs: tuple[dict[str, Any], ...]
    """Subscriptions, as JSON has them."""
    point: str = ""
    """Where it dies, or stands still, once it is armed."""
    stops: bool = False
    """It stands still there; else it dies."""
    is_armed: bool = False
    """From the beginning: else when it is told to."""
    system: str = "plugbus"

    def line(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, line: str) -> Job:
        return cls(**json.loads(line))

    def file(self, kind: str) -> Path:
        return Path(self.folder) / f"{self.name}.{kind}"


# --- what is done with an event -----------------------------------------------------------------------------


@dataclass
class Circumstances:
    """What the words of an event find around them."""

    bus: EventBus
    writer: Writer
    gate: Gate = field(default_factory=Gate)
    """`hold` waits for it."""
    die: Callable[[str], None] = lambda note: None
    """What `kill` does: nothing, where it is the test's own process that handles."""


class Doer(Probe):
    """A handler that does what its event says: `{"n": 7, "do": ["say", "fail 2", "make"]}`.

    | word | |
    |---|---|
    | `hold` | waits until it is let go |
    | `sleep 0.1` | so many seconds |
    | `say` | publishes `Said`, under the same id at each attempt |
    | `again 2` | the first two attempts raise what is tried again in place |
    | `fail 2` | the first two attempts raise what is tried again later |
    | `dead` | raises what makes it a dead letter |
    | `kill` | ends the process |
    | `make` | returns `Made` |
    """

    def __init__(self, group: str, around: Circumstances) -> None:
        super().__init__(around.writer, group, around.bus.replica, self._act)  # type: ignore[arg-type]
        self.gate = around.gate
        self._around = around
        self._events: dict[int, PluginEvent] = {}

    @staticmethod
    def text(n: int, *do: str) -> str:
        """Data of an event."""
        return json.dumps({"n": n, "do": do})

    async def __call__(self, event: PluginEvent) -> EventResult | None:
        self._events[number_of(event)] = event
        return await super().__call__(event)

    async def _act(self, n: int, attempt: int) -> EventResult | None:
        event, made = self._events[n], list[Event]()
        for words in json.loads(event.message.data).get("do", ()):
            word, _, argument = words.partition(" ")
            await self._do(word, float(argument or 0), event, made)
        return EventResult.ok(*made) if made else None

    async def _do(self, word: str, argument: float, event: PluginEvent, made: list[Event]) -> None:
        n, attempt = number_of(event), event.attempt
        match word:
            case "hold":
                await self.gate()
            case "sleep":
                await asyncio.sleep(argument)
            case "say":
                said = Said(n=n)
                self._invoked(said, f"said-{n}", event.message.key)
                await self._around.bus.publish(said, source=SHOP, id=f"said-{n}", key=event.message.key)
            case "again" if attempt <= argument:
                raise ConnectionError("in place, once more")
            case "fail" if attempt <= argument:
                raise ValueError("not yet")
            case "dead":
                raise KeyError("never")
            case "kill":
                self._around.die(f"kill {n}")
            case "make":
                self._invoked(Made(n=n), event.derived_id(len(made)), event.message.key)
                made.append(Made(n=n))

    def _invoked(self, event: Event, id: str, key: str | None) -> None:
        digest = digest_of(dump_event(event), key=key, subject=None, version=1)
        self.history.add(
            "invoked", time.monotonic(), source=SHOP, id=id, type=event.__event_type__, key=key, digest=digest
        )


# --- a worker -----------------------------------------------------------------------------------------------


class Worker:
    """The process, from the inside."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.journal = Journal(job.file("journal"))
        self._facts = os.open(job.file("facts"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._point = Point.read(job.point) if job.point else None
        self._watch = Watch(self._reached)
        self._subscriptions: list[BusSubscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    def note(self, fact: str) -> None:
        os.write(self._facts, f"{fact}\n".encode())

    async def live(self) -> None:
        job = self.job
        if job.is_armed:
            self._arm()
        bus = self._make_bus()
        await bus.open()
        around = Circumstances(bus, self.journal, die=self._die)
        with Words(job.file("words"), lambda word: self._obey(word, around)):
            for found in job.specs:
                spec = SubscriptionSpec.model_validate(found)
                self._subscriptions.append(await bus.subscribe(spec, Doer(spec.group, around)))
            self.note("up")
            await self._ended.wait()
        await bus.close()

    def _make_bus(self) -> EventBus:
        job, limits = self.job, BusLimits(**self.job.limits)
        if job.system == "naive":
            return NaiveRedisBus(job.url, namespace=job.namespace, replica=job.name, limits=limits, block=100)
        return RedisBus(job.url, namespace=job.namespace, replica=job.name, limits=limits)

    # --- its end --------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._point is not None:
            self._watch.arm(self._point)

    def _reached(self, point: Point) -> None:
        if not self.job.stops:
            self._die(str(point))
        self.journal.add("gone", time.monotonic(), replica=self.job.name, note=str(point))
        os.kill(os.getpid(), signal.SIGSTOP)
        self.journal.add("back", time.monotonic(), replica=self.job.name)

    def _die(self, note: str) -> NoReturn:
        self.journal.add("gone", time.monotonic(), replica=self.job.name, note=note)
        os._exit(KILLED)

    # --- what it is told ------------------------------------------------------------------------------

    def _obey(self, words: str, around: Circumstances) -> None:
        """`arm` · `go` · `drain` · `redrive` · `pause GROUP` · `measure SECONDS` · `end`."""
        word, _, argument = words.partition(" ")
        bus = around.bus
        match word:
            case "arm":
                self._arm()
                self.note("armed")
            case "go":
                around.gate.open()
            case "drain":
                self._begin(self._drain())
            case "redrive":
                self._begin(self._do("redriven", bus.redrive(DeadLetterSelection())))
            case "pause":
                self._begin(self._do("paused", bus.pause_group(argument)))
            case "measure":
                self._begin(self._measure(float(argument)))
            case "end":
                self._ended.set()
            case _:
                raise ValueError(f"{words!r}: not understood")

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, fact: str, work: Coroutine[Any, Any, object]) -> None:
        await work
        self.note(fact)

    async def _drain(self) -> None:
        for subscription in self._subscriptions:
            await subscription.drain(0)
        self.note("drained")

    async def _measure(self, seconds: float) -> None:
        """How much of a processor this process takes."""
        before = time.process_time()
        await asyncio.sleep(seconds)
        self.note(f"measured {(time.process_time() - before) / seconds}")


class Words:
    """Reads what the test says, line by line, from a named pipe."""

    def __init__(self, path: Path, hear: Callable[[str], None]) -> None:
        self._pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._hear = hear
        self._rest = b""

    def __enter__(self) -> None:
        asyncio.get_running_loop().add_reader(self._pipe, self._read)

    def __exit__(self, *exc: object) -> None:
        asyncio.get_running_loop().remove_reader(self._pipe)
        os.close(self._pipe)

    def _read(self) -> None:
        *lines, self._rest = (self._rest + os.read(self._pipe, 4_096)).split(b"\n")
        for line in lines:
            self._hear(line.decode())


# --- the nursery --------------------------------------------------------------------------------------------


class Nursery:
    """Bears workers, and writes down how each has ended."""

    def __init__(self) -> None:
        self._children: dict[int, Job] = {}
        self._rest = b""
        self._bell, self._rung = os.pipe()
        for pipe in (self._bell, self._rung):
            os.set_blocking(pipe, False)
        signal.set_wakeup_fd(self._rung)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # that the bell rings is all

    def run(self) -> None:
        """Until standard input ends."""
        while True:
            ready, _, _ = select.select([0, self._bell], [], [])
            if self._bell in ready:
                os.read(self._bell, 4_096)
                self._reap()
            if 0 in ready and not self._read():
                break
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _read(self) -> bool:
        data = os.read(0, 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            print(self._bear(Job.read(line.decode())), flush=True)
        return bool(data)

    def _bear(self, job: Job) -> int:
        pid = os.fork()
        if not pid:
            _begin(job)
        self._children[pid] = job
        return pid

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            job = self._children.pop(pid)
            job.file("code").write_text(f"{os.waitstatus_to_exitcode(status)}\n")


def _begin(job: Job) -> NoReturn:
    """The life of a worker, from its birth on."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive the nursery
    said = os.open(job.file("said"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, source in ((0, nothing), (1, said), (2, said)):
        os.dup2(source, number)
    code = 0
    try:
        logging.basicConfig(level=logging.INFO)
        asyncio.run(Worker(job).live())
    except BaseException:
        log.exception("it broke")
        code = 1
    os._exit(code)  # nothing that the nursery has begun is to be ended here


if __name__ == "__main__":
    Nursery().run()
