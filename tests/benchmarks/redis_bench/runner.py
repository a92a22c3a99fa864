"""One case after the other, each in a fresh process on a fresh server; rounds until the time is up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rounds import Result

from . import servers
from .cases import Job

SECONDS = 120
"""Of one case, at most; then its processes are ended. Memory: three times as many."""


@dataclass
class Runner:
    script: Path
    server: str
    peers: Path | None
    """The interpreter of the peers' environment."""
    memory_bus: bool
    deadline: float
    """Of all, on the monotonic clock: no case is started after it."""
    found: dict[str, list[Result]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Case → the last line that it said."""
    is_out_of_time: bool = False

    def play(self, jobs: Sequence[Job], rounds: int) -> None:
        """All cases once a round: drift of the machine meets each of them alike."""
        for number in range(rounds):
            for job in jobs:
                if time.monotonic() > self.deadline:
                    self.is_out_of_time = True
                    return
                _progress(f"{number + 1}/{rounds} {job.name}")
                self._play_one(job)
        _progress("")

    def medians(self) -> dict[str, Result]:
        return {
            name: {figure: statistics.median(result[figure] for result in results) for figure in results[0]}
            for name, results in self.found.items()
        }

    def _play_one(self, job: Job) -> None:
        try:
            with servers.running(self.server, job.log) as url:
                result = self._limit(job, url) if job.measure == "limit" else self._case(job, url)
        except CaseFailed as error:
            self.failed[job.name] = str(error)
        else:
            self.found.setdefault(job.name, []).append(result)

    def _limit(self, job: Job, url: str) -> Result:
        program = servers.benchmark(self.server)
        if program is None:
            raise CaseFailed("redis-benchmark is not installed")
        clients, pipeline = map(int, job.side.split("-"))
        return servers.limit(program, url, job.size, clients, pipeline, int(job.amount))

    def _case(self, job: Job, url: str) -> Result:
        if self.memory_bus and job.side.startswith("ours"):
            url = "memory://"
        interpreter = str(self.peers) if job.is_peer else sys.executable
        command = [interpreter, str(self.script), "--case", job.dump(), "--url", url]
        seconds = SECONDS * 3 if job.measure == "memory" else SECONDS
        with _whole_group(command) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                raise CaseFailed(f"not done after {seconds} s") from None
        if process.returncode:
            raise CaseFailed((err.strip().splitlines() or [f"exit code {process.returncode}"])[-1])
        result: Result = json.loads(out.splitlines()[-1])
        return result


class CaseFailed(Exception):
    """A case ended without figures."""


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _whole_group(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A process, with whatever it starts: nothing of it runs on."""
    process = subprocess.Popen(  # noqa: S603 - ourselves
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
