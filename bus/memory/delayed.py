"""Events that were published for later: kept back by the wall clock until they are due."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

from contracts.message import Message

from ..clock import Clock

_LOOK_AGAIN_NS = 60_000_000_000
"""After so long the wall clock is read again, in case it jumped."""
_TICK_NS = 1_000_000


class Delayed:
    """A heap and one timer. `publish` answers whether there was room."""

    def __init__(self, clock: Clock, publish: Callable[[Message], bool]) -> None:
        self._clock = clock
        self._publish = publish
        self._heap: list[tuple[int, int, Message]] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, message: Message, due_ns: int) -> None:
        heapq.heappush(self._heap, (due_ns, next(self._numbers), message))
        self.arm()

    @property
    def is_empty(self) -> bool:
        return not self._heap

    def arm(self) -> None:
        """Wait for the earliest; called when a bus comes too, since timers die with the loop they are on."""
        self.disarm()
        if self._heap:
            due_ns, now_ns = self._heap[0][0], self._clock.time_ns()
            look_ns = min(max(due_ns, now_ns), now_ns + _LOOK_AGAIN_NS)
            self._wait((look_ns - now_ns) / 1e9, look_ns)

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, seconds: float, until_ns: int) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._release, until_ns)

    def _release(self, until_ns: int) -> None:
        self._timer = None
        now_ns = self._clock.time_ns()
        if 0 < until_ns - now_ns < _TICK_NS:  # timers may fire a tick early
            now_ns = until_ns
        refused = []
        while self._heap and self._heap[0][0] <= now_ns:
            item = heapq.heappop(self._heap)
            if not self._publish(item[2]):
                refused.append(item)  # its topic is full; others are not
        for item in refused:
            heapq.heappush(self._heap, item)
        if refused:
            self._wait(1.0, now_ns)
        else:
            self.arm()
