"""Time, chance and names, injected: a simulation hands in its own and nothing else reads them."""

from __future__ import annotations

import itertools
import secrets
import time
from typing import Protocol


class Clock(Protocol):
    """The two clocks. Waiting goes through the event loop, whose `time()` must be `monotonic`."""

    def monotonic(self) -> float:
        """Seconds; for deadlines, backoff and windows."""

    def time_ns(self) -> int:
        """Wall clock, nanoseconds since the epoch; for `time`, expiry, delay and retention."""


class SystemClock:
    """The clocks of this machine."""

    # The builtins themselves: each publish and each attempt reads one.
    monotonic = staticmethod(time.monotonic)
    time_ns = staticmethod(time.time_ns)


class Ids:
    """Makes names that nobody else makes: a random prefix and a counter, at a tenth of a UUID's cost."""

    def __init__(self, prefix: str | None = None) -> None:
        self.prefix = f"{secrets.token_hex(8) if prefix is None else prefix}-"
        self.number = itertools.count(1).__next__

    def __call__(self) -> str:
        return f"{self.prefix}{self.number()}"
