"""What importing the kernel and the bus brings along."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "cryptography", "fastapi", "httpx", "jsonschema", "multiprocessing", "opentelemetry", "platformdirs",
    "psutil", "pydantic_settings", "pytest", "redis", "rich", "starlette", "typer", "uvicorn", "watchdog",
    "websockets", "yaml",
}  # fmt: skip
"""Each is imported where it is used, if at all."""


@pytest.mark.parametrize(
    "statement",
    [
        "import contracts",
        "import bus.memory",
        "import kernel.manager",
        "from kernel.settings import load_settings; load_settings(environ={})",
        "from kernel import PluginManager; PluginManager()",
    ],
)
def test_importing_the_kernel_brings_nothing_heavy_along(statement: str) -> None:
    """No web, no Redis, no tracing, no command line, until somebody uses it."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(  # noqa: S603 - our own interpreter and our own statement
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert {name.partition(".")[0] for name in done.stdout.split()} & HEAVY == set()


def test_the_benchmark_of_imports_runs() -> None:
    """In the form in which the whole runs it, but shorter; its figures are not judged here."""
    script = Path(__file__).with_name("imports.py")
    done = subprocess.run(  # noqa: S603 - our own interpreter and our own script
        [sys.executable, str(script), "--rounds", "1"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.count(" ms ") == 6
