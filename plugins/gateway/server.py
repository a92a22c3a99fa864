"""Listening: a socket of our own, uvicorn on it, and the file that tells where."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from contracts.errors import AddressInUse, SettingsError
from contracts.web import ASGIApp

from .config import GatewayConfig


def listen(config: GatewayConfig) -> socket.socket:
    """A bound, listening socket. Raises `AddressInUse`, or `SettingsError` for what is no address here."""
    try:
        return _bind(config.host, config.port)
    except OSError as error:
        where = f"{config.host}:{config.port}"
        if error.errno != errno.EADDRINUSE:
            raise SettingsError(
                f"cannot listen on {where}: {error.strerror or error}",
                where="[plugins.gateway.config]",
                fix="host = '127.0.0.1' and a port from 1024",
            ) from error
        if config.port_fallback:
            return _bind(config.host, 0)
        raise AddressInUse(
            f"{where} is in use by another process",
            where="[plugins.gateway.config] port",
            fix="--port 0 for any free port, or another one",
        ) from error


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two processes share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def url_of(sock: socket.socket) -> str:
    """The address for a client on this machine."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - a name to replace, not to bind
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn on a given socket, as a part of somebody else's process.

    Signals are the process's own affair. `ready` is set once requests are answered.
    """

    def __init__(self, app: ASGIApp, sock: socket.socket, config: GatewayConfig) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                log_level=config.log_level,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=max(1, round(config.grace_seconds)),
            )
        )
        self._socket = sock
        self.ready = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def run_until_stopped(self) -> None:
        """Serve until `should_exit`, or until cancelled; nothing stays open either way."""
        try:
            await self.serve([self._socket])
        finally:
            for server in getattr(self, "servers", ()):
                server.close()
            self._socket.close()
            await self._cut()

    async def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        requests = [task for task in self.server_state.tasks if not task.done()]
        for task in requests:
            task.cancel()
        if requests:
            await asyncio.wait(requests, timeout=1)


class EndpointFile:
    """`endpoint.json` in the state folder, readable by its owner: where the command line finds us."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "endpoint.json"

    def write(self, url: str) -> None:
        """Replace the file in one step."""
        draft = self._path.with_suffix(f".{os.getpid()}.tmp")
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"url": url, "pid": os.getpid()}, file)
        draft.replace(self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
