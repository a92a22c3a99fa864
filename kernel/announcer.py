"""How the kernel's own facts reach the bus without any lifecycle step waiting for it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from contracts.bus import EventBus
from contracts.errors import BusError
from contracts.event import Event

KERNEL_SOURCE = "/kernel"


class Announcer:
    """A bounded queue in front of the bus, emptied in order by one task.

    When it is full the oldest fact goes: what is new is worth more. Drops are counted and logged.
    """

    def __init__(self, bus: EventBus, log: logging.Logger, *, limit: int = 10_000) -> None:
        self._bus = bus
        self._log = log
        self._queue: deque[Event] = deque(maxlen=limit)
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    def announce(self, event: Event) -> None:
        """Never waits, never raises."""
        if len(self._queue) == self._queue.maxlen:
            self.dropped += 1
            self._log.warning("announcements are not taken by the bus; %d dropped", self.dropped)
        self._queue.append(event)
        self._empty.clear()
        self._arrived.set()

    def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name="plugbus announcer")

    async def settle(self) -> None:
        """Return when everything announced so far is published."""
        await self._empty.wait()

    async def close(self, grace: float = 2.0) -> None:
        """Publish what waits, for at most `grace` seconds. Safe twice."""
        task, self._task = self._task, None
        if task is None:
            return
        try:
            async with asyncio.timeout(grace):
                await self.settle()
        except TimeoutError:
            self._log.warning("%d announcements were not published", len(self._queue))
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
        except BusError as error:
            self._log.error("could not announce %s: %s", event.__event_type__, error)
