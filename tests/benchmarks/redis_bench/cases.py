"""Which cases there are, and how one runs in its process."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from rounds import Result

from .load import PATIENCE, Handled, Side
from .measures import Bench
from .producers import Elsewhere, Here

PARTITIONS = (1, 2, 8)
"""Of a topic: the figure where order matters most, the least that is split, and the default on Redis."""
OURS = tuple(f"ours-{count}" for count in PARTITIONS)
FASTSTREAM = ("faststream-single", "faststream-many", "faststream-batch")


@dataclass(frozen=True)
class Job:
    """One case: what is measured, of whom, under which conditions."""

    measure: str
    side: str
    amount: float
    """Seconds, or events."""
    log: str = "off"
    """Redis's append-only file."""
    size: int = 200
    """Bytes of data."""
    processes: int = 1
    """2: the publisher in one of its own. Replicas: how many."""
    topics: int = 1

    @property
    def name(self) -> str:
        words = (self.measure, self.side, self.log, f"{self.size}B", f"{self.processes}p", f"{self.topics}t")
        return ":".join(words)

    @property
    def is_peer(self) -> bool:
        return self.side.startswith(("faststream", "taskiq"))

    @property
    def partitions(self) -> int:
        return int(self.side.removeprefix("ours-"))

    def dump(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Amounts:
    """How much of each. `latency`, `idle`, `seconds` are seconds; the others events."""

    seconds: float = 1.0
    latency: float = 3.0
    backlog: int = 30_000
    idle: float = 10.0
    work: int = 6_000
    memory: int = 3_000_000
    limit: int = 200_000


QUICK = Amounts(seconds=0.4, latency=1.5, backlog=30_000, idle=3.0, work=2_000, memory=300_000, limit=50_000)


def jobs(amounts: Amounts) -> list[Job]:
    """All cases of one round but those of `once`, in the order in which they run."""
    return [*_limits(amounts), *_throughputs(amounts), *_others(amounts)]


def once(amounts: Amounts) -> list[Job]:
    """What takes too long to be repeated."""
    return [Job("memory", "ours-1", amounts.memory)]


def _limits(amounts: Amounts) -> Iterator[Job]:
    """The side is `clients-pipeline`."""
    for side, share in (("1-1", 0.1), ("50-1", 0.5), ("1-100", 1)):
        yield Job("limit", side, amounts.limit * share)
    yield Job("limit", "1-100", amounts.limit * 0.3, size=4096)


def _throughputs(amounts: Amounts) -> Iterator[Job]:
    for log, size, processes in itertools.product(("off", "everysec"), (200, 4096), (1, 2)):
        for side in ("raw-batch", *OURS, *FASTSTREAM):
            yield Job("throughput", side, amounts.seconds, log, size, processes)
    yield Job("throughput", "taskiq", amounts.seconds)


def _others(amounts: Amounts) -> Iterator[Job]:
    for side in ("raw-backlog", *OURS, "faststream-batch"):
        yield Job("drain", side, amounts.backlog)
    for side in ("raw-single", *OURS):
        yield Job("publish", side, amounts.seconds)
    for processes, side in itertools.product((1, 2), ("raw-single", *OURS, "faststream-single")):
        yield Job("latency", side, amounts.latency, processes=processes)
    for topics in (1, 100):
        yield Job("subscriptions", "ours-8", amounts.idle, topics=topics)
    for processes in (1, 2):
        yield Job("replicas", "ours-8", amounts.work, processes=processes)


# --- in the process of the case --------------------------------------------------------------------


async def run(job: Job, url: str) -> Result:
    """The figures of one case."""
    if job.measure in ("throughput", "drain", "publish", "latency"):
        return await _compare(job, url)
    from . import alone

    if job.measure == "subscriptions":
        return await alone.subscriptions(url, job.partitions, job.topics, job.amount)
    if job.measure == "replicas":
        return await alone.replicas(url, job.dump(), job.processes, job.partitions, int(job.amount))
    return await alone.memory(url, job.partitions, int(job.amount))


async def _compare(job: Job, url: str) -> Result:
    side = side_of(job, url)
    await side.open()
    producer = Here(side) if job.processes == 1 else await Elsewhere.start(job.dump(), url)
    bench = Bench(side, producer, job.size, job.amount, Handled())
    result: Result = await getattr(bench, job.measure)()
    async with asyncio.timeout(PATIENCE):
        await producer.close()
        await side.close()
    return result


def side_of(job: Job, url: str) -> Side:
    """Imports what it needs and nothing else: the peers have an environment of their own."""
    if job.side.startswith("raw"):
        from .raw import Raw

        return Raw(url, job.size, job.side)
    if job.is_peer:
        from .peers import FastStream, Taskiq

        return Taskiq(url, job.size) if job.side == "taskiq" else FastStream(url, job.size, job.side)
    from contracts.bus import BusLimits

    from .ours import Ours

    return Ours(url, job.size, BusLimits(partitions=job.partitions))
