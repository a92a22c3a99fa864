"""The benchmark of the memory bus runs; its figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("case", ["bus-1", "queue-1", "bus-latency"])
def test_a_case_of_the_benchmark_runs(case: str) -> None:
    """In the form in which the whole benchmark runs it, but shorter."""
    script = Path(__file__).with_name("bus_memory.py")
    command = [sys.executable, str(script), "--case", case, "--seconds", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603 - ourselves
    assert all(value > 0 for value in json.loads(done.stdout).values())


def test_the_profile_runs() -> None:
    """Its steps are statements of the bus: where one is renamed, this fails."""
    script = Path(__file__).with_name("bus_profile.py")
    command = [sys.executable, str(script), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - ourselves
    assert "each group" in done.stdout
