"""The benchmark of starting runs; its figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_the_benchmark_of_starting_runs() -> None:
    """In the form in which the whole runs it, with ten plugins, of which the last one answers."""
    script = Path(__file__).with_name("start.py")
    command = [sys.executable, str(script), "--case", "ten"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603 - ourselves
    assert {"imports", "started", "stopped"} <= json.loads(done.stdout).keys()
