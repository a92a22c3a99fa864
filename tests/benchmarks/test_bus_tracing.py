"""The benchmarks of tracing run; their figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("script", "case"),
    [
        ("bus_tracing.py", "100 %"),
        ("bus_tracing.py", "Redis, not sampled"),
        ("bus_exporting.py", "100 %, good"),
        ("bus_exporting.py", "1 %, down"),
    ],
)
def test_a_case_of_the_benchmarks_runs(script: str, case: str) -> None:
    """In the form in which the whole benchmark runs it, but shorter."""
    command = [sys.executable, str(Path(__file__).with_name(script)), "--case", case, "--seconds", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603 - ourselves
    assert json.loads(done.stdout)["micros"] > 0
