"""The benchmark of the web edge runs; its figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("case", ["bare", "one", "last", "embedded"])
def test_a_case_of_the_benchmark_runs(case: str) -> None:
    """In the form in which the whole benchmark runs it, but shorter."""
    script = Path(__file__).with_name("web.py")
    command = [sys.executable, str(script), "--case", case, "--seconds", "0.05"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603 - ourselves
    assert json.loads(done.stdout)["per_second"] > 0
