"""What the bus says of itself: a bounded queue that nobody ever waits for."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable

from contracts.event import Event
from contracts.logs import Quoted

from .policy.causes import ROOT, Causes

log = logging.getLogger("plugbus.bus")

SOURCE = "/bus"
"""Source of everything that the bus announces."""


class Announcer:
    """Publishes `bus.*` events a turn of the event loop later; drops and counts what is too much."""

    def __init__(self, publish: Callable[[Event, Causes], None], limit: int) -> None:
        self._publish = publish
        self._limit = limit
        self._queue: deque[tuple[Event, Causes]] = deque()
        self.dropped = 0

    def say(self, event: Event, causes: Causes = ROOT) -> None:
        if len(self._queue) >= self._limit:
            self.lose(event)
            return
        if not self._queue:
            asyncio.get_running_loop().call_soon(self._drain)
        self._queue.append((event, causes))

    def lose(self, event: Event) -> None:
        """There was no room for it, or it is none that can be published."""
        self.dropped += 1
        log.error("announcement dropped: %.1000s", Quoted(repr(event)), exc_info=sys.exc_info()[1])

    @property
    def is_silent(self) -> bool:
        """Whether everything that was said is published."""
        return not self._queue

    def _drain(self) -> None:
        while self._queue:
            event, causes = self._queue[0]
            try:
                self._publish(event, causes)
            except Exception:  # noqa: BLE001 - what cannot be published is dropped, and holds nothing back
                self.lose(event)
            self._queue.popleft()
