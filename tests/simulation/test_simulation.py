"""A thousand worlds: the bus keeps its promises in each, and each can be had again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bus_simulation.runs import Result, run

RUN = Path(__file__).with_name("run.py")
NOT_TO_BE_KILLED = {"quiet", "until", "close"}
"""Only the watcher waits for quiet; and `close` waits for what a crash has left, when the bus is gone."""


def test_every_promise_holds_in_every_world(results: list[Result]) -> None:
    """Nothing is lost, unexpected, repeated without a reason, or out of order, whatever crashes when."""
    failed = [result.seed for result in results if result.problems]
    assert not failed, f"{len(failed)} of {len(results):,} seeds: {failed}\n{run(failed[0]).report()}"


def test_worlds_differ(results: list[Result]) -> None:
    """Hardly two seeds come to the same run."""
    assert len({result.digest for result in results}) > 0.95 * len(results)


def test_a_seed_is_the_same_run_twice(results: list[Result]) -> None:
    """In one process, after a thousand others."""
    again = [run(seed).digest for seed in range(20)]
    assert again == [result.digest for result in results[:20]]


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_a_seed_is_the_same_run_in_another_process(results: list[Result], hash_seed: str) -> None:
    """Nothing depends on the order of sets: not on hashes of text, not on addresses."""
    command = [sys.executable, str(RUN), "--digests", "--seeds", "20"]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603 - our own script
    assert done.stdout.split() == [result.digest for result in results[:20]]


def test_crashes_hit_every_await(results: list[Result]) -> None:
    """Wherever code of the bus is seen to wait, some world has killed a bus while it stood there."""
    seen = {point for seed in range(30) for point in run(seed, survey=True).waits}
    hit = {point for result in results for point in result.crash_points}
    missed = {(file, place) for file, place in seen - hit if place.partition(":")[0] not in NOT_TO_BE_KILLED}
    assert not missed
