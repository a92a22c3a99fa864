"""How fast a counter grows, over the last minute: from stamps, at most one a second. Pure."""

from __future__ import annotations

_SPAN = 60.0


class Rate:
    """Whoever counts looks at `next` and notes where the counter stands; nothing is done per message."""

    __slots__ = ("_stamps", "next")

    def __init__(self) -> None:
        self.next = 0.0
        """From then on another stamp is wanted."""
        self._stamps: list[tuple[float, int]] = []  # smaller than a deque, and never long

    def note(self, now: float, total: int) -> None:
        self._stamps.append((now, total))
        self.next = now + 1.0
        while len(self._stamps) > 1 and self._stamps[1][0] <= now - _SPAN:
            del self._stamps[0]

    def per_second(self, now: float, total: int) -> float:
        """Since a minute ago, or since the first stamp."""
        if self._stamps and self._stamps[-1][0] < now - _SPAN - 1.0:
            return 0.0  # all that was counted since then came within its second
        base = next((stamp for stamp in reversed(self._stamps) if stamp[0] <= now - _SPAN), None)
        if base is None:
            base = self._stamps[0] if self._stamps else (now, total)
        span = now - base[0]
        return (total - base[1]) / span if span > 0 else 0.0
