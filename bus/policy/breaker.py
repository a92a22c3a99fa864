"""A circuit breaker: a handler that mostly fails is not started for a while. Pure; times are arguments.

Closed: attempts are counted. Open: nothing starts. Half-open, when the pause is over: one attempt is made,
the *probe*, and closes or opens it again.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum

from contracts.bus import CircuitBreaker

_SLICES = 32
"""Attempts are counted by slices of the window, which are forgotten as a whole: so many numbers are enough
for any traffic, and nothing older than the window counts."""


class _Slice:
    """What ended in one slice of the window."""

    __slots__ = ("attempts", "failed", "start")

    def __init__(self, start: float) -> None:
        self.start = start
        self.attempts = self.failed = 0


class Turn(Enum):
    """What the end of an attempt changed."""

    OPENED = "opened"
    CLOSED = "closed"


class Breaker:
    """The state for one subscription on one replica. Times are monotonic seconds."""

    __slots__ = (
        "_attempts", "_failed", "_minimum", "_newest", "_opened", "_probe", "_ratio", "_slice", "_slices",
        "_window", "is_open", "pause",
    )  # fmt: skip

    def __init__(self, options: CircuitBreaker) -> None:
        self._minimum = options.minimum
        self._ratio = options.ratio
        self._window = options.window
        self.pause = options.pause
        self._slice = options.window / _SLICES
        self._newest = _Slice(-math.inf)
        self._slices: deque[_Slice] = deque()
        self._attempts = self._failed = 0
        self._opened = -math.inf
        self._probe: object | None = None
        self.is_open = False
        """Or half-open: it has not been seen to work again."""

    def due(self, now: float) -> float | None:
        """When an attempt may start; None: at once; infinity: when the probe has ended."""
        if not self.is_open:
            return None
        if self._probe is not None:
            return math.inf
        due = self._opened + self.pause
        return None if due <= now else due

    def start(self, attempt: object) -> None:
        """`attempt` is started; `due` has just said that it may be."""
        if self.is_open:
            self._probe = attempt

    def end(self, attempt: object, failed: bool, now: float) -> Turn | None:
        """It ended. While the breaker is open, only the probe counts."""
        if self.is_open:
            if attempt is not self._probe:
                return None
            return self._open(now) if failed else self._close()
        newest = self._newest
        if now >= newest.start + self._slice:
            newest = self._begin_slice(now)
        newest.attempts += 1
        self._attempts += 1
        if failed:
            newest.failed += 1
            self._failed += 1
        return self._open(now) if self._failed and self._is_too_much(now) else None

    def give_up(self, attempt: object) -> None:
        """It ended without telling anything: if it was the probe, another one is due."""
        if attempt is self._probe:
            self._probe = None

    def count(self, now: float) -> tuple[int, int]:
        """Attempts that ended within the window, and how many of them failed."""
        slices, start = self._slices, now - self._window
        while slices and slices[0].start < start:
            old = slices.popleft()
            self._attempts -= old.attempts
            self._failed -= old.failed
        return self._attempts, self._failed

    def _is_too_much(self, now: float) -> bool:
        attempts, failed = self.count(now)
        return attempts >= self._minimum and failed >= self._ratio * attempts

    def _begin_slice(self, now: float) -> _Slice:
        self.count(now)
        newest = self._newest = _Slice(now)
        self._slices.append(newest)
        return newest

    def _open(self, now: float) -> Turn | None:
        """None: it was open before."""
        was_open, self.is_open, self._opened, self._probe = self.is_open, True, now, None
        return None if was_open else Turn.OPENED

    def _close(self) -> Turn:
        self.is_open, self._probe = False, None
        self._slices.clear()
        self._newest = _Slice(-math.inf)
        self._attempts = self._failed = 0
        return Turn.CLOSED
