"""The connections of one bus to its server: three, and what is said of them.

`bell` waits for news and owns nothing; `events` publishes, fetches and settles; `control` does the rest.
Whoever finds his cut opens it again himself (`ready`); that the server is gone, and that it is back, is said
once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from contracts.errors import BusError, InvalidOption

from .errors import is_denied
from .sentinel import MasterUnknown, sentinel_pool
from .wire import CONNECT, Lost, Wire

log = logging.getLogger("plugbus.bus")

STALL = 3.0
"""Seconds without an expected reply after which a connection counts as gone."""
BLOCK = 5.0
"""Seconds that the bell waits at most before it asks again."""
_HOLDS = 1.0
"""Seconds after which a connection has held."""
_LONGEST_HELD = 0.5
_FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
_PORT = 6379
SCHEMES = ("redis", "rediss", "unix", "redis+sentinel")


class Link:
    """Opens and reopens wires. Nothing here is per message."""

    def __init__(self, url: str, *, longest_pause: float = LONGEST_PAUSE) -> None:
        """`longest_pause`: seconds between two tries to connect again, at most."""
        self._longest_pause = longest_pause
        self.address = display(url)
        self._pool = pool_of(url)
        self.server = server_of(url)
        self.bell = Wire(self._pool, "bell", stall=BLOCK + 2.0)
        self.events = Wire(self._pool, "events", stall=STALL)
        self.control = Wire(self._pool, "control", stall=STALL)
        self.wires = (self.bell, self.events, self.control)
        for wire in self.wires:
            wire.on_stall = self._stalled
        self._opening: dict[Wire, asyncio.Task[None]] = {}
        self._pauses: dict[Wire, float] = {}
        self._gone_since: float | None = None
        self._is_closed = False
        self.losses = 0
        """How often a connection was lost."""

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def is_up(self) -> bool:
        """Whether the server answered when it was last asked."""
        return self._gone_since is None and not self._is_closed

    async def open(self) -> None:
        """All of them. Raises `BusError` with cause and fix."""
        try:
            for wire in self.wires:
                await wire.open()
        except (RedisError, OSError, TimeoutError) as error:
            self.reset()
            await self.ended()
            raise self.unreachable(error) from error

    def close(self) -> None:
        self._is_closed = True
        for task in self._opening.values():
            task.cancel()
        for wire in self.wires:
            wire.close()

    async def ended(self) -> None:
        """Return when nobody connects any more."""
        tasks = [task for task in self._opening.values() if not task.done()]
        if tasks:
            await asyncio.wait(tasks)

    def _stalled(self) -> None:
        """One is half-open: those that have been silent as well would be found so one after the other."""
        now = asyncio.get_running_loop().time()
        for wire in self.wires:
            if wire.is_up and now - wire.heard_at >= STALL:
                wire.close()

    def reset(self) -> None:
        """Closed, and may be opened again."""
        self.close()
        self._is_closed = False

    def hold(self) -> None:
        for wire in self.wires:
            wire.hold()

    def go_on(self) -> None:
        for wire in self.wires:
            wire.go_on()

    async def ready(self, wire: Wire, timeout: float | None = None) -> None:
        """Return when `wire` is connected. Raises `BusError` after `timeout` seconds (None: never)."""
        if wire.is_up:
            return
        if self._is_closed:
            raise self.unreachable(Lost())
        task = self._opening.get(wire)
        if task is None or task.done():
            task = self._opening[wire] = asyncio.get_running_loop().create_task(
                self._reopen(wire), name=f"plugbus:redis:{wire.name}:connect"
            )
        done, _ = await asyncio.wait((task,), timeout=timeout)
        if not done or self._is_closed:
            raise self.unreachable(TimeoutError(f"not within {timeout or 0:g} s"))
        task.result()

    async def _reopen(self, wire: Wire) -> None:
        self.losses += 1
        held = asyncio.get_running_loop().time() - wire.opened_at
        pause = self._pauses[wire] = (
            0.0 if held > _HOLDS else min(_LONGEST_HELD, self._pauses.get(wire, 0.0) * 2 or _FIRST_PAUSE)
        )
        await asyncio.sleep(pause)  # a connection that does not hold is not made again and again at once
        pause = 0.0
        while not self._is_closed:
            try:
                await wire.open()
            except (RedisError, OSError, TimeoutError) as error:
                if self._is_closed:
                    return
                self._say_gone(error)
                pause = min(self._longest_pause, pause * 2 or _FIRST_PAUSE)
                await asyncio.sleep(pause)
            else:
                self._say_back()
                return

    def _say_gone(self, error: BaseException) -> None:
        if self._gone_since is None:
            self._gone_since = time.monotonic()
            found = self.unreachable(error)
            log.error("%s (%s); fix: %s", found.message, found.where, found.fix)

    def _say_back(self) -> None:
        if self._gone_since is not None:
            log.warning(
                "Redis at %s answers again, after %.1f s", self.address, time.monotonic() - self._gone_since
            )
            self._gone_since = None

    def unreachable(self, error: BaseException) -> BusError:
        """What a person is told who cannot reach Redis."""
        cause = _cause(error)
        is_final = is_denied(error)
        fix = (
            "check user, password and rights of who is named in PLUGBUS_BUS__URL"
            if is_final
            else "start it, or correct PLUGBUS_BUS__URL; work goes on by itself when it answers"
        )
        if cause.startswith("DENIED"):  # Redis says it in a page that tells how to open it to everybody
            cause = (
                "it has no password and is in protected mode, so it takes connections of its own machine only"
            )
            fix = "give it a password (requirepass), or protected-mode no where only kernels can reach it"
        if "max number of clients" in cause:
            fix = "raise its maxclients, or close what holds connections; then work goes on by itself"
        if isinstance(error, MasterUnknown):
            is_final, fix = error.is_final, error.fix or fix
        found = BusError(f"Redis cannot be reached: {cause}", where=self.address, fix=fix)
        found.is_final = is_final
        return found


def pool_of(url: str) -> ConnectionPool:
    """What redis-py connects with. Raises `InvalidOption` for a URL that says nothing."""
    options: dict[str, Any] = {
        "protocol": 2,
        "decode_responses": False,
        "socket_connect_timeout": CONNECT,
        "socket_timeout": CONNECT,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),  # what was sent is never sent again behind our back
        "retry_on_error": [],
        "client_name": "plugbus",
    }
    try:
        _check(url)
        scheme = urlsplit(url).scheme
        if scheme == "unix":
            options.pop("socket_keepalive")
        is_sentinel = scheme == "redis+sentinel"
        pool = sentinel_pool(url, options) if is_sentinel else ConnectionPool.from_url(url, **options)
        pool.make_connection()  # type: ignore[no-untyped-call]  # only it refuses options that nobody knows
    except (ValueError, TypeError) as error:
        raise InvalidOption(
            f"{display(url)!r} is no Redis URL: {error}", fix="redis://user:password@host:6379/0"
        ) from error
    return pool


def _check(url: str) -> None:
    """What redis-py would take for something else. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"its scheme is {parts.scheme!r}")
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise ValueError("it names no socket")
    elif not parts.netloc.rpartition("@")[2]:
        raise ValueError("it names no host")
    elif parts.scheme != "redis+sentinel":
        database = parts.path.strip("/")
        if database and not database.isdecimal():
            raise ValueError(f"{database!r} is no number of a database")


def display(url: str) -> str:
    """Without a password, for people."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.rpartition("@")[2]
    _, at, hosts = parts.netloc.rpartition("@")
    return parts._replace(netloc=f":••••@{hosts}" if at else hosts, query="").geturl()


def server_of(url: str) -> tuple[str, int | None] | None:
    """Host and port, or the socket. None: it moves, and sentinels tell where it is."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path, None
    return None if parts.scheme == "redis+sentinel" else (parts.hostname or "localhost", parts.port or _PORT)


def _cause(error: BaseException) -> str:
    if isinstance(error, Lost):
        return "the connection was cut"
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer within {STALL:g} s"
    return str(error) or type(error).__name__
