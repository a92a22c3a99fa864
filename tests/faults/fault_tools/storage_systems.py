"""Which bus the tests of storage, entries and calls run on, and what they ask of it beside the bus itself.

They run on ours; as a control the same bodies run on the naive bus (`controls.py`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from naive_redis import NaiveRedisBackend

from bus.conformance import Backend
from bus.conformance.rig import Rig
from bus.redis_streams.layout import Keys
from contracts.bus import BusLimits, EventBus

from .backend import RedisBackend
from .servers import Server

GROUP = "shop.handle"
SCREEN = 24
"""Lines that one message may have at most."""


class _Control:
    """A while in which `backend_on` gives the naive bus."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.backends: list[NaiveRedisBackend] = []

    def backend(self, server: Server, limits: BusLimits) -> NaiveRedisBackend:
        backend = NaiveRedisBackend(limits, server)
        backend.patience = self.patience
        self.backends.append(backend)
        return backend

    async def end(self) -> None:
        for backend in self.backends:
            for bus in backend.buses:
                await bus.vanish()


_CONTROL: ContextVar[_Control | None] = ContextVar("control", default=None)


@asynccontextmanager
async def naive_bus(patience: float = 3.0) -> AsyncIterator[None]:
    """Within it, `backend_on` gives the naive bus; all of them are gone when it ends. `patience`: seconds
    after which what must come has not come."""
    control = _Control(patience)
    token = _CONTROL.set(control)
    try:
        yield
    finally:
        _CONTROL.reset(token)
        await control.end()


def backend_on(server: Server, limits: BusLimits) -> Backend:
    """The system under test, in a namespace of its own."""
    control = _CONTROL.get()
    return RedisBackend(limits, server) if control is None else control.backend(server, limits)


def is_naive(backend: Backend) -> bool:
    return isinstance(backend, NaiveRedisBackend)


class Store:
    """What lies in Redis for one backend: names of keys as an outsider finds them, and their contents."""

    def __init__(self, backend: Backend, server: Server) -> None:
        self.server = server
        self._is_naive = is_naive(backend)
        self.namespace = str(getattr(backend, "namespace"))  # noqa: B009 - both have one; the protocol has none
        self._keys = Keys(self.namespace)

    def stream(self, topic: str, p: int = 0) -> str:
        return f"{self.namespace}:stream:{topic}" if self._is_naive else self._keys.stream(topic, p)

    def dead(self, group: str, p: int = 0) -> str:
        return f"{self.namespace}:dead" if self._is_naive else self._keys.dead(group, p)

    @property
    def keys(self) -> Keys:
        return self._keys

    def all_keys(self) -> list[str]:
        found = self.server.command("KEYS", f"{self.namespace}:*")
        return sorted(key.decode() for key in found)

    def pending(self, group: str, topic: str, p: int = 0) -> int:
        """Entries that were handed over and not acknowledged."""
        return int(self.server.command("XPENDING", self.stream(topic, p), group)["pending"])

    def length(self, topic: str, p: int = 0) -> int:
        return int(self.server.command("XLEN", self.stream(topic, p)))

    def numbers(self, topic: str, p: int = 0) -> list[int]:
        """Sequences of what the stream holds."""
        return [int(entry.partition(b"-")[2]) for entry in self.entries(topic, p)]

    def entries(self, topic: str, p: int = 0) -> list[bytes]:
        """Names of what the stream holds."""
        return [entry for entry, _ in self.server.command("XRANGE", self.stream(topic, p), "-", "+")]

    def groups(self, topic: str, p: int = 0) -> dict[str, dict[str, Any]]:
        """What Redis says of the groups of a stream, by name."""
        with self.server.client() as client:
            found: list[dict[str, Any]] = client.xinfo_groups(self.stream(topic, p))
        return {group["name"].decode(): group for group in found}


# --- where deliveries are ----------------------------------------------------------------------------------


async def is_parked(rig: Rig, bus: EventBus, count: int = 1) -> bool:
    """So many wait for their next attempt. The naive bus, which tries again in place, has them in flight."""
    info = await rig.info(bus)
    return (info.in_flight if is_naive(rig.backend) else info.parked) == count


async def dead_are(bus: EventBus, count: int) -> bool:
    return await bus.count_dead_letters() == count


# --- what was said ------------------------------------------------------------------------------------------


def said(records: Iterable[logging.LogRecord], level: int, *parts: str) -> list[str]:
    """Messages of that level or above in which all `parts` stand."""
    texts = [record.getMessage() for record in records if record.levelno >= level]
    return [text for text in texts if all(part in text for part in parts)]


def check_log(records: Iterable[logging.LogRecord], *, most: int = 20, speakers: int = 1) -> None:
    """What a person may expect of a log: nothing twice within a second, no tracebacks, no floods.

    `most`: messages in all. A message has at most a screen. `speakers`: replicas that write to this log, each
    of which may say the same.
    """
    heard = [record for record in records if record.levelno >= logging.WARNING]
    when: dict[str, list[float]] = {}
    for record in heard:
        text = record.getMessage()
        assert record.exc_info is None, f"a traceback: {text}: {record.exc_info}"
        assert len(text.splitlines()) <= SCREEN, f"more than a screen: {text[:2_000]}"
        assert len(text) <= SCREEN * 200, f"more than a screen: {text[:2_000]}"
        when.setdefault(text, []).append(record.created)
    for text, times in when.items():
        gaps = [later - earlier for earlier, later in zip(times, times[speakers:], strict=False)]
        assert all(gap > 0.95 for gap in gaps), f"said {len(times)} times within a second: {text}"
    assert len(heard) <= most, f"{len(heard)} messages: " + "\n".join(one.getMessage() for one in heard)
