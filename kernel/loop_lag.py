"""How late the event loop is: what blocks it, everybody waits for."""

from __future__ import annotations

import asyncio

from contracts.metrics import Histogram

EVERY = 0.5
"""Seconds between two measurements."""
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class LoopLag:
    """Measures by how much a timer is late. `lag`: seconds, since it was started."""

    def __init__(self) -> None:
        self.lag = Histogram(BOUNDS)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._set(loop, loop.time() + EVERY)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._timer = loop.call_at(due, self._measure, loop, due)

    def _measure(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self.lag.record(max(0.0, now - due))
        self._set(loop, now + EVERY)
