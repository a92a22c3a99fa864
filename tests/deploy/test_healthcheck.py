"""The health check of the image, against servers of ours and against a kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .conftest import DEPLOY

DEADLINE = 30.0
"""Seconds after which something that was waited for is a failure."""


class Verdict(NamedTuple):
    code: int
    out: str


def check(folder: Path, **environ: str) -> Verdict:
    """What the image's HEALTHCHECK says of the kernel on `folder`."""
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-I", str(DEPLOY / "healthcheck.py")],
        env={"PLUGBUS_STATE_DIR": str(folder), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.stderr == ""
    return Verdict(done.returncode, done.stdout.strip())


class Readyz:
    """A server that answers `/readyz` with what it is told, and remembers the headers."""

    def __init__(self, folder: Path) -> None:
        self.status, self.body = 200, {"status": "ready"}
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers["Authorization"]))
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(json.dumps(outer.body).encode())

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: pytest shows what matters."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        (folder / "endpoint.json").write_text(json.dumps({"url": self.url, "pid": 1}))


@pytest.fixture
def readyz(tmp_path: Path) -> Iterator[Readyz]:
    served = Readyz(tmp_path)
    thread = threading.Thread(target=served.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.server.shutdown()
    thread.join()
    served.server.server_close()


def test_a_ready_kernel_is_healthy(readyz: Readyz, tmp_path: Path) -> None:
    """Also when it is degraded: /readyz answers 200 as long as work can be taken."""
    readyz.body = {"status": "degraded"}
    assert check(tmp_path) == (0, '{"status": "degraded"}')
    assert readyz.asked == [("/readyz", None)]


def test_a_kernel_that_is_not_ready_is_unhealthy_and_says_why(readyz: Readyz, tmp_path: Path) -> None:
    """The reasons are printed: `docker inspect` shows them."""
    readyz.status, readyz.body = 503, {"status": "not_ready", "reasons": "Redis does not answer"}
    verdict = check(tmp_path)
    assert verdict.code == 1
    assert "Redis does not answer" in verdict.out


def test_the_token_is_sent_along(readyz: Readyz, tmp_path: Path) -> None:
    """The configured one, else the one that the kernel made: only they are told the reasons."""
    (tmp_path / "token").write_text("made\n")
    check(tmp_path)
    check(tmp_path, PLUGBUS_TOKEN="configured")
    (tmp_path / "secret").write_text("from-a-file\n")
    check(tmp_path, PLUGBUS_TOKEN_FILE=str(tmp_path / "secret"))
    assert [header for _, header in readyz.asked] == [
        "Bearer made",
        "Bearer configured",
        "Bearer from-a-file",
    ]


@pytest.mark.usefixtures("readyz")
def test_a_token_that_is_none_is_not_shown(tmp_path: Path) -> None:
    """`docker inspect` shows what is printed."""
    verdict = check(tmp_path, PLUGBUS_TOKEN="hidden\nhidden")
    assert verdict.code == 1
    assert "hidden" not in verdict.out


@pytest.mark.parametrize("endpoint", [None, "", "{}", '{"url": "http://127.0.0.1:1"}', '{"url": 7}'])
def test_a_kernel_that_does_not_answer_is_unhealthy(tmp_path: Path, endpoint: str | None) -> None:
    """Not listening yet, gone, or an address that is none: one line, no traceback."""
    if endpoint is not None:
        (tmp_path / "endpoint.json").write_text(endpoint)
    verdict = check(tmp_path)
    assert verdict.code == 1
    assert verdict.out.startswith("no answer: ")


def test_a_running_kernel_passes_until_it_is_stopped(tmp_path: Path) -> None:
    """Healthy once it says its address; SIGTERM ends it with code 0, and then it is not healthy."""
    with subprocess.Popen(
        [sys.executable, "-c", "import plugbus; plugbus.main()", "run", "--port", "0"],
        cwd=tmp_path,
        env=_environment({"PLUGBUS_STATE_DIR": str(tmp_path / "state"), "PLUGBUS_TOKEN": "t"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as kernel:
        try:
            assert kernel.stdout is not None
            assert any("http://127.0.0.1:" in line for line in kernel.stdout)
            verdict = check(tmp_path / "state", PLUGBUS_TOKEN="t")
            assert (verdict.code, json.loads(verdict.out)["status"]) == (0, "ready")
            kernel.send_signal(signal.SIGTERM)
            assert kernel.wait(DEADLINE) == 0
        finally:
            kernel.kill()
    assert check(tmp_path / "state").code == 1


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PLUGBUS_")}
    return {**kept, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **more}
