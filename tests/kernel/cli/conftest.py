"""A small HTTP server with canned answers, and a command line that finds it."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kernel.cli import execute

Frames = list[bytes]


@dataclass(frozen=True)
class Asked:
    """One request that came in."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass
class CannedKernel:
    """Answers what it was told to answer, and remembers what it was asked.

    `answers`: "METHOD /path" → (status, body, or a function of the request). `streams`: what each
    connection to the event stream gets, the last one again and again.
    """

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    streams: list[Frames] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    token: str = "right"
    public: set[str] = field(default_factory=set)
    """Paths that need no token."""
    url: str = ""

    def answer(self, question: str, body: Any, status: int = 200) -> None:
        self.answers[question] = (status, body)

    @property
    def last(self) -> Asked:
        return self.asked[-1]


class _Handler(BaseHTTPRequestHandler):
    kernel: CannedKernel

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PATCH(self) -> None:
        self._handle("PATCH")

    def do_PUT(self) -> None:
        self._handle("PUT")

    def _handle(self, method: str) -> None:
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.loads(raw) if raw else None
        self.kernel.asked.append(Asked(method, parts.path, parse_qs(parts.query), headers, body))
        known = headers.get("authorization") == f"Bearer {self.kernel.token}"
        if not known and parts.path not in self.kernel.public:
            self._send(
                401, {"title": "Unauthorized", "status": 401, "detail": "wrong token", "fix": "--token"}
            )
        elif parts.path == "/events/stream" and self.kernel.streams:
            self._stream()
        else:
            status, answer = self.kernel.answers.get(f"{method} {parts.path}", (404, _unknown(parts.path)))
            self._send(status, answer(self.kernel.last) if callable(answer) else answer)

    def _send(self, status: int, body: Any) -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status < 400 else "application/problem+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self) -> None:
        streams = self.kernel.streams
        frames = streams.pop(0) if len(streams) > 1 else streams[0]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        with suppress(ConnectionError):  # the client leaves when it has seen enough
            for frame in frames:
                self.wfile.write(frame)

    def log_message(self, format: str, *args: object) -> None:
        """Tests keep stderr for the command."""


def _unknown(path: str) -> dict[str, Any]:
    return {"type": "/problems/not-found", "title": "Not found", "status": 404, "detail": f"no {path}"}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedKernel]:
    """A kernel that runs, and that the environment points at."""
    canned = CannedKernel()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kernel": canned}))
    server.daemon_threads = False
    canned.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("PLUGBUS_URL", canned.url)
    monkeypatch.setenv("PLUGBUS_TOKEN", canned.token)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield canned
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, with no settings around it and no kernel of anybody else's in reach."""
    for name in (
        "PLUGBUS_URL",
        "PLUGBUS_TOKEN",
        "PLUGBUS_STATE_DIR",
        "PLUGBUS_LOG_LEVEL",
        "PLUGBUS_BUS__URL",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_STATE_HOME", "HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Plugbus = Callable[..., Ended]


@pytest.fixture
def plugbus(capsys: pytest.CaptureFixture[str]) -> Plugbus:
    """Run one command of the command line in this process."""

    def run(*arguments: str) -> Ended:
        code = execute(arguments)
        captured = capsys.readouterr()
        return Ended(int(code), captured.out, captured.err)

    return run


@pytest.fixture
def plugin() -> dict[str, Any]:
    """A plugin as `GET /admin/plugins` lists it."""
    return {
        "plugin_id": "alerts",
        "name": "Alerts",
        "version": "1.0.0",
        "status": "started",
        "activity": "none",
        "reason": None,
        "level_requested": "trusted",
        "level_effective": "trusted",
        "generation": 1,
        "source": "builtin",
        "subscriptions": 1,
        "capabilities": ["alerts.active"],
        "has_routes": False,
    }


@pytest.fixture
def refused(plugin: dict[str, Any]) -> dict[str, Any]:
    """A plugin that was refused."""
    reason = {
        "code": "handler-definition",
        "text": "handler 'score' has no annotation",
        "since": "2026-01-01T00:00:00Z",
        "place": "scoring/plugin.py:14",
        "next_step": "annotate its first parameter",
    }
    return plugin | {"plugin_id": "scoring", "status": "error", "reason": reason, "subscriptions": 0}
