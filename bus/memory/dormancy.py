"""Groups that nobody handles: how long they keep their place. One timer for all, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..clock import Clock


class Dormancy:
    """Tells when a group has been dormant for as long as it keeps its place (monotonic)."""

    def __init__(self, clock: Clock, retire: Callable[[str], None]) -> None:
        self._clock = clock
        self._retire = retire
        self._ends: dict[str, float] = {}
        self._is_on = False
        self._timer: asyncio.TimerHandle | None = None

    def add(self, group: str, keep: float) -> None:
        """Nobody handles it from now on."""
        self._ends[group] = self._clock.monotonic() + keep
        self._arm()

    def discard(self, group: str) -> None:
        """Somebody handles it again, or it is gone."""
        if self._ends.pop(group, None) is not None and not self._ends:
            self._disarm()

    def start(self) -> None:
        """There is a bus: look from now on."""
        self._is_on = True
        self._arm()

    def stop(self) -> None:
        """There is none: timers die with the event loop that they are on."""
        self._is_on = False
        self._disarm()

    def _arm(self) -> None:
        """Wait for the first."""
        end = min(self._ends.values(), default=None)
        if self._is_on and end is not None and (self._timer is None or self._timer.when() > end):
            self._disarm()
            self._timer = asyncio.get_running_loop().call_at(end, self._look, end)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, until: float) -> None:
        self._timer = None
        now = max(until, self._clock.monotonic())  # timers may fire a tick early
        for group in [group for group, end in self._ends.items() if end <= now]:
            del self._ends[group]
            self._retire(group)
        self._arm()
