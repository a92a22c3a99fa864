"""How the kernel's own facts reach the bus without any lifecycle step waiting for it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from contracts.bus import EventBus
from contracts.event import Event

KERNEL_SOURCE = "/kernel"


class Announcer:
    """A bounded queue in front of the bus, emptied in order by one task.

    When it is full the oldest fact goes: what is new is worth more. Drops are counted and logged.
    """

    def __init__(self, bus: EventBus, log: logging.Logger, *, limit: int = 10_000) -> None:
        self._bus = bus
        self._log = log
        self._limit = limit
        self._queue: deque[Event] = deque(maxlen=limit)
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    def announce(self, event: Event) -> None:
        """Never waits, never raises."""
        if len(self._queue) == self._limit:
            if self.dropped % self._limit == 0:  # once for each full queue, not for each fact
                self._log.warning("the bus does not take announcements; dropped so far: %d", self.dropped + 1)
            self.dropped += 1
        self._queue.append(event)
        self._empty.clear()
        self._arrived.set()

    def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name="plugbus announcer")

    async def settle(self, grace: float | None = None) -> bool:
        """Return when everything announced so far is published; False if not within `grace` seconds."""
        if self._task is None:
            return not self._queue
        try:
            async with asyncio.timeout(grace):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def close(self, grace: float = 2.0) -> None:
        """Publish what waits, for at most `grace` seconds. Safe twice."""
        if self._task is None:
            return
        if not await self.settle(grace):
            self._log.warning("announcements that were not published: %d", len(self._queue) + 1)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            while self._queue:
                await self._publish(self._queue.popleft())
            self._arrived.clear()
            self._empty.set()
            await self._arrived.wait()

    async def _publish(self, event: Event) -> None:
        try:
            await self._bus.publish(event, source=KERNEL_SOURCE)
        except Exception as error:  # noqa: BLE001 - one fact that cannot be said must not silence the others
            self._log.error("could not announce %s: %s", event.__event_type__, error)
