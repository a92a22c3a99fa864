"""Starting and stopping all built-in plugins again and again leaves nothing behind: the short form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

COUNTED = ("tasks", "threads", "descriptors", "modules", "loggers", "finders")


def test_cycles_of_all_plugins_leave_nothing_behind() -> None:
    """As many of each as before; and the routes of former generations are not remembered by FastAPI.

    Memory is not judged, because caches are still filling; but an application of FastAPI that is held by
    each cycle is more than ten thousand objects.
    """
    script = Path(__file__).with_name("cycles.py")
    command = [sys.executable, str(script), "--warm-up", "2", "--cycles", "4", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)  # noqa: S603 - ourselves
    figures = json.loads(done.stdout)
    before, after = figures["before"], figures["after"]
    assert {name: after[name] for name in COUNTED} == {name: before[name] for name in COUNTED}
    assert (after["objects"] - before["objects"]) / 4 < 5_000
