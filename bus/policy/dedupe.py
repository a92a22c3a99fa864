"""Which deliveries a group has settled: what comes a second time is suppressed. Pure."""

from __future__ import annotations

_Ids = dict[str, set[str]]
"""By source: an id that somebody holds anyway takes no tuple, and its hash is known."""


class Settled:
    """Remembers the last `seconds` or `count` settlements, whichever is less, and at most twice that.

    Two generations that take turns: forgetting is dropping one, and there is no timer.
    """

    __slots__ = ("_began", "_count", "_current", "_previous", "_seconds", "_size")

    def __init__(self, seconds: float, count: int) -> None:
        self._seconds = seconds
        self._count = count
        self._current: _Ids = {}
        self._previous: _Ids = {}
        self._size = 0
        self._began = 0.0

    def contains(self, source: str, id: str, now: float) -> bool:
        """Whether it was settled; `now` in monotonic seconds."""
        if now - self._began >= self._seconds:
            self._turn(now)
        return id in self._current.get(source, ()) or id in self._previous.get(source, ())

    def add(self, source: str, id: str, now: float) -> None:
        """It is final."""
        if self._size >= self._count or now - self._began >= self._seconds:
            self._turn(now)
        ids = self._current.get(source)
        if ids is None:
            ids = self._current[source] = set()
        ids.add(id)
        self._size += 1

    def __len__(self) -> int:
        return sum(map(len, self._current.values())) + sum(map(len, self._previous.values()))

    def _turn(self, now: float) -> None:
        self._previous = self._current if now - self._began < 2 * self._seconds else {}
        self._current, self._size, self._began = {}, 0, now
