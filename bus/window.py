"""The idempotency window of one partition: which (source, id) were published lately."""

from __future__ import annotations

from contracts.bus import DEFAULT_TIMEOUT


class IdWindow:
    """Remembers at least the last `seconds` or `count` ids, whichever is less, and at most twice that.

    Two generations that take turns: forgetting is dropping a dict. A generation that is younger than
    `at_least` seconds is not dropped for its count: so long a publish may be repeated.
    """

    __slots__ = ("_began", "_count", "_current", "_previous", "_seconds", "at_least")

    def __init__(self, seconds: float, count: int, at_least: float = DEFAULT_TIMEOUT) -> None:
        self._seconds = seconds
        self._count = count
        self.at_least = at_least
        """Seconds: the longest that a publish may be repeated."""
        self._current: dict[tuple[str, str], str] = {}
        self._previous: dict[tuple[str, str], str] = {}
        self._began = 0.0

    def find(self, source: str, id: str, now: float) -> str | None:
        """The position of the first event of that source and id, if it is remembered."""
        self._rotate(now)
        key = (source, id)
        return self._current.get(key) or self._previous.get(key)

    def remember(self, source: str, id: str, position: str) -> None:
        """Call after `find` of the same moment."""
        self._current[source, id] = position

    def _rotate(self, now: float) -> None:
        age = now - self._began
        window = max(self._seconds, self.at_least)
        if age < window and (len(self._current) < self._count or age < self.at_least):
            return
        self._previous = self._current if age < 2 * window else {}
        self._current, self._began = {}, now
