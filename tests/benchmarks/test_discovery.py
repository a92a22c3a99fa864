"""The benchmark of discovery runs; its figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("case", ["bare", "index", "json", "toml", "yaml", "class line"])
def test_a_case_of_the_benchmark_runs(case: str) -> None:
    """In the form in which the whole benchmark runs it, but with fewer plugins."""
    script = Path(__file__).with_name("discovery.py")
    command = [sys.executable, str(script), "--case", case, "--count", "30"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603 - ourselves
    assert json.loads(done.stdout)["found"] > 0
