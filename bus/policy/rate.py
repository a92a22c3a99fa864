"""At most so many starts in any so many seconds: an exact sliding window. Pure."""

from __future__ import annotations

from collections import deque

from contracts.bus import RateLimit


class Rate:
    """The starts that still count. Times are monotonic seconds."""

    __slots__ = ("_limit", "_per", "_starts")

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit.limit
        self._per = limit.per
        self._starts: deque[float] = deque()

    def take(self, now: float) -> float | None:
        """None: a start is free, and taken; else when to ask again."""
        starts = self._starts
        if starts:
            due = starts[0] + self._per
            if due <= now:
                starts.popleft()
            elif len(starts) >= self._limit:
                return due
        starts.append(now)
        return None
