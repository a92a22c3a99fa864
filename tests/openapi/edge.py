"""A kernel as a process with the plugins of the demo, and schemathesis as a process that calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

HERE = Path(__file__).resolve().parent
SECRET = "known to GitHub"
DEADLINE = 20.0
"""Seconds after which something that was waited for is a failure."""
T = TypeVar("T")


@dataclass(frozen=True)
class Edge:
    """Where the kernel answers, and with which token."""

    url: str
    token: str

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=DEADLINE)


@contextmanager
def kernel(folder: Path) -> Iterator[Edge]:
    """`plugbus demo` on a free port; ended in order, or killed where it does not end."""
    state = folder / "state"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "import plugbus; plugbus.main()", "demo", "--port", "0"],
            cwd=folder,
            env={
                **_environment(),
                "PLUGBUS_STATE_DIR": str(state),
                "PLUGBUS_PLUGINS__WEBHOOKS__CONFIG__SECRET": SECRET,
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        told = until(lambda: _told(state, folder, process))
        edge = Edge(told["url"], (state / "token").read_text().strip())
        with edge.client() as client:
            until(lambda: client.get("/readyz").json().get("status") == "ready" or None)
        yield edge
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(fact: Callable[[], T | None]) -> T:
    """Wait for a fact of another process; there is nothing to await but its files and its socket."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if (found := fact()) is not None:
            return found
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def _told(state: Path, folder: Path, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    assert process.poll() is None, (folder / "log").read_text()
    file = state / "endpoint.json"
    return json.loads(file.read_text()) if file.exists() else None


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PLUGBUS_")}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}


def judged(url: str, token: str, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """What schemathesis reports of the edge at `url`, as data and as text. `folder` takes what it leaves."""
    report = folder / "report.json"
    done = subprocess.run(  # noqa: S603 - the command of the test environment
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"),
            "run", f"{url}/openapi.json", "--report", "json", "--report-json-path", str(report), *options,
        ],
        cwd=folder,
        env={
            **_environment(),
            "PYTHONPATH": str(HERE),  # for `judge`
            "NO_PROXY": "*",
            "PLUGBUS_TOKEN": token,
            "PLUGBUS_WEBHOOKS_SECRET": SECRET,
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert report.exists(), text
    return json.loads(report.read_text()), text
