"""The command as a process: started, spoken to, stopped, killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

COMMAND = [sys.executable, "-c", "import plugbus; plugbus.main()"]
DEADLINE = 20.0
"""Seconds after which something that was waited for is a failure."""


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PLUGBUS_")}
    return {**kept, "PLUGBUS_STATE_DIR": str(folder / "state"), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A kernel process; killed at the end if it still runs."""
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )


def until(fact: Callable[[], str | None], process: subprocess.Popen[str]) -> str:
    """Wait for a fact of another process; there is nothing to await but its files and its socket."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        if (found := fact()) is not None:
            return found
        time.sleep(0.01)
    pytest.fail("waited in vain")


def url_of(folder: Path) -> str | None:
    try:
        url: str = json.loads((folder / "state" / "endpoint.json").read_text())["url"]
        answer = httpx.get(f"{url}/livez", trust_env=False)
    except (OSError, ValueError, httpx.HTTPError):
        return None
    return url if answer.status_code == 200 else None


def test_demo_serves_tells_and_stops(tmp_path: Path) -> None:
    """Starts without configuration, prints its address on one line, answers, and stops cleanly when asked."""
    with started(tmp_path, "demo", "--port", "0") as demo:
        url = until(lambda: url_of(tmp_path), demo)
        assert "swagger" in httpx.get(f"{url}/docs", trust_env=False).text.lower()
        paths = httpx.get(f"{url}/openapi.json", trust_env=False).json()["paths"]
        assert {"/events", "/admin/plugins", "/plugins/webhooks/github"} <= set(paths)

        listed = json.loads(run(tmp_path, "plugin", "list", "--json").stdout)["items"]
        assert {item["plugin_id"]: item["status"] for item in listed} == dict.fromkeys(
            ("audit", "alerts", "host_monitor", "telemetry", "webhooks", "gateway"), "started"
        )
        assert run(tmp_path, "event", "publish", "demo.hello", "name=Ada", "--key", "k").returncode == 0
        assert run(tmp_path, "capability", "request", "alerts.active").returncode == 0
        assert run(tmp_path, "plugin", "stop", "alerts").returncode == 0
        assert run(tmp_path, "capability", "request", "alerts.active").returncode == 5
        assert run(tmp_path, "plugin", "show", "nobody").returncode == 5
        assert run(tmp_path, "plugin", "start", "alerts").returncode == 0

        demo.send_signal(signal.SIGTERM)
        out, _ = demo.communicate(timeout=DEADLINE)
        assert demo.returncode == 0, out
    assert sum(url in line for line in out.splitlines()) == 1
    assert any("demo.hello" in line and "Ada" in line for line in out.splitlines())
    assert "Traceback" not in out
    assert not (tmp_path / "state" / "endpoint.json").exists()
    audit = (tmp_path / "state" / "data" / "audit" / "audit.jsonl").read_text().splitlines()
    types = [json.loads(line)["type"] for line in audit]
    assert "kernel.started" in types
    assert types.count("plugin.stopped") >= 4  # everybody but the audit log itself


def test_open_streams_do_not_hold_up_the_end(tmp_path: Path) -> None:
    """A reader of the live stream is told goodbye, and the kernel is gone at once."""
    with started(tmp_path, "run", "--port", "0") as kernel:
        url = until(lambda: url_of(tmp_path), kernel)
        token = (tmp_path / "state" / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.stream(
            "GET", f"{url}/events/stream", headers=headers, timeout=DEADLINE, trust_env=False
        ) as stream:
            lines = stream.iter_lines()
            next(lines)
            kernel.send_signal(signal.SIGTERM)
            assert "event: bye" in list(lines)
        out, _ = kernel.communicate(timeout=DEADLINE)
        assert kernel.returncode == 0, out


def test_a_second_kernel_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    """It says who holds the folder and what to do; the first goes on. A killed one leaves no lock."""
    with started(tmp_path, "run", "--port", "0") as first:
        until(lambda: url_of(tmp_path), first)
        second = run(tmp_path, "run", "--port", "0")
        assert second.returncode != 0
        text = second.stdout + second.stderr
        assert str(first.pid) in text
        assert "--state-dir" in text
        assert len(text.splitlines()) <= 8
        assert url_of(tmp_path) is not None
        first.kill()
        first.wait()
    assert run(tmp_path, "plugin", "list").returncode == 4
    with started(tmp_path, "run", "--port", "0") as third:
        until(lambda: url_of(tmp_path), third)


def test_a_port_in_use_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    """The gateway is refused with the port and the fix; the kernel runs without it and stops when asked."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with started(tmp_path, "run", "--port", str(port)) as kernel:
            assert kernel.stdout is not None
            seen: list[str] = []
            for line in kernel.stdout:
                seen.append(line)
                if "gateway" in line and "✖" in line:
                    break
            kernel.send_signal(signal.SIGTERM)
            seen += kernel.stdout  # to its end; `communicate` would lose what is buffered here
            assert kernel.wait(DEADLINE) == 0
    out = "".join(seen)
    assert str(port) in out
    assert "--port" in out
    assert "Traceback" not in out
    assert "✔ audit" in out


def test_dev_runs_what_new_has_written(tmp_path: Path) -> None:
    """From a name to a plugin that answers, in three commands."""
    assert run(tmp_path, "new", "plugin", "hello", "--single-file").returncode == 0
    with started(tmp_path, "dev", "hello.py", "--port", "0") as dev:
        until(lambda: url_of(tmp_path), dev)
        assert run(tmp_path, "event", "publish", "hello.asked", "name=Ada").returncode == 0
        out = dev.stdout
        assert out is not None
        assert any("hello.answered" in line and "Hello Ada" in line for line in iter(out.readline, ""))
        dev.send_signal(signal.SIGTERM)
        rest, _ = dev.communicate(timeout=DEADLINE)
        assert (dev.returncode, "Traceback" in rest) == (0, False), rest
