"""Runs by the seed: one, many, and what is said of those that failed."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from .crash_points import Point
from .history import History
from .judge import judge
from .loop import Stuck
from .world import World

LINES = 30
"""Of the trace, in the report of a failure."""
COMMAND = "python tests/simulation/run.py --seed"


@dataclass(frozen=True)
class Result:
    """What became of one seed."""

    seed: int
    problems: list[str]
    history: History
    digest: str
    crash_points: frozenset[Point]
    """Where the bus stood when it was killed."""
    waits: frozenset[Point]
    """Where it ever stood, if that was noted."""

    def without_trace(self) -> Result:
        """To be kept by the thousand."""
        return replace(self, history=History())

    def report(self, lines: int | None = LINES) -> str:
        """What was wrong, how to see it again, and the end of the trace (None: all of it)."""
        return "\n".join(
            [
                f"seed {self.seed}: {len(self.problems)} broken promises",
                *(f"  {problem}" for problem in self.problems),
                f"again, with the whole trace: {COMMAND} {self.seed}",
                *self.history.lines(lines),
            ]
        )


def run(seed: int, *, survey: bool = False) -> Result:
    """One world from its beginning to its verdict. `survey`: also note everywhere where the bus waits."""
    with _silence():
        world = World(seed, survey=survey)
        try:
            world.run()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            problems = [traceback.format_exc() if not isinstance(error, Stuck) else str(error)]
        else:
            problems = judge(world.history, world.ending)
    return Result(
        seed, problems, world.history, world.history.digest,
        frozenset(world.crash_points), frozenset(world.waits),
    )  # fmt: skip


def failures(seeds: Iterable[int]) -> Iterator[Result]:
    return (result for seed in seeds if (result := run(seed)).problems)


@contextmanager
def _silence() -> Iterator[None]:
    """The log of a thousand outages interests nobody."""
    log = logging.getLogger("plugbus.bus")
    was, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was
