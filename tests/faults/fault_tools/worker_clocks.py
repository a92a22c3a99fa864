"""Clocks that can be told: that of a server, by libfaketime, and that of a replica."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from bus.clock import SystemClock
from bus.redis_streams import RedisBus
from contracts.bus import BusLimits, EventBus

from .backend import RedisBackend
from .servers import Server, binaries

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
"""Of Debian's package `faketime`; None: it is not installed."""
JUMPS = (0.0, *((3_600.0, -3_600.0) if LIBRARY else ()))
"""Seconds by which the clock of a server can jump here. Without libfaketime it cannot: then it goes on."""


class ClockedServer(Server):
    """The oldest server, which runs under libfaketime; its monotonic clock stays as it is."""

    def __init__(self) -> None:
        super().__init__(binaries()[0][1])
        self._clock = self.folder / "clock"
        self.shift(0.0)

    def shift(self, seconds: float) -> None:
        """From now on its wall clock is so far off."""
        written = self.folder / "clock.new"
        written.write_text(f"{seconds:+.0f}\n")
        written.replace(self._clock)

    def _launch(self) -> None:
        environment = {
            "LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(self._clock), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip
        with patch.dict("os.environ", environment if LIBRARY else {}):
            super()._launch()


@contextmanager
def clocked_server() -> Iterator[ClockedServer]:
    server = ClockedServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


class _Shifted(SystemClock):
    """The wall clock is off; the monotonic one is not."""

    def __init__(self, seconds: float) -> None:
        self.time_ns = lambda: time.time_ns() + round(seconds * 1e9)


class ShiftedBackend(RedisBackend):
    """The replica named `SHIFTED` has a wall clock that is off by so many seconds."""

    SHIFTED = "shifted"

    def __init__(self, limits: BusLimits, server: Server, seconds: float) -> None:
        super().__init__(limits, server)
        self.seconds = seconds

    async def open(self, replica: str) -> EventBus:
        if replica != self.SHIFTED:
            return await super().open(replica)
        bus = RedisBus(
            self.server.url, namespace=self.namespace, replica=replica, limits=self._limits(),
            clock=_Shifted(self.seconds),
        )  # fmt: skip
        await bus.open()
        self._buses[replica] = bus
        return bus
