"""An event loop whose clock jumps to the next timer as soon as nobody has anything to do.

For backends that live in this process alone: an hour of backoff takes no time, and a test that waits for
what never comes fails at once.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable

EPOCH_NS = 1_700_000_000_000_000_000
STANDSTILL = 50_000
"""Turns of the loop in which time may stand still."""
LONGEST = 30 * 86_400.0
"""Seconds of the loop's clock that a test may take: buses that beat never come to rest."""


class JumpingSelector(selectors.DefaultSelector):
    """Never blocks: tells the loop how long it would have. Fails where nothing, or too much, goes on."""

    advance: Callable[[float], None]
    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits for something that will never happen")
        self.turns = 0 if timeout and timeout > 1e-6 else self.turns + 1
        if self.turns > STANDSTILL:
            raise RuntimeError("somebody turns in circles while time stands still")
        if not ready and timeout:
            self.advance(timeout)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its `time()` is virtual: it starts at 1,000 seconds and moves only while everybody waits."""

    def __init__(self) -> None:
        selector = JumpingSelector()
        selector.advance = self.advance
        self._now = 1_000.0
        super().__init__(selector)

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds
        if self._now > 1_000.0 + LONGEST:
            raise RuntimeError("somebody waits for something that will never happen")


class JumpingClock:
    """The two clocks that go with the loop; `jump` moves the wall clock alone."""

    def __init__(self) -> None:
        self.jump = 0.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def time_ns(self) -> int:
        return EPOCH_NS + round((asyncio.get_running_loop().time() + self.jump) * 1e9)
