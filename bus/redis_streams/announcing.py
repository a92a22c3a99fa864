"""What this bus says of itself: a bounded queue that nobody waits for, published by one task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from contracts.event import Event

from ..announce import Announcer
from ..policy.causes import ROOT, Causes

_AT_ONCE = 100


class RedisAnnouncer(Announcer):
    """`publish` is awaited here, a hundred at a time, in order."""

    def __init__(self, publish: Callable[[Event, Causes], Awaitable[object]], limit: int) -> None:
        super().__init__(lambda event, causes: None, limit)
        self._publish_one = publish
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="plugbus:redis:say")

    async def close(self, grace: float) -> None:
        """What was said last is still told, if there is time."""
        if self._task is None:
            return
        deadline = asyncio.get_running_loop().time() + grace
        while not self.is_silent and asyncio.get_running_loop().time() < deadline and not self._task.done():
            await asyncio.sleep(0.005)
        self._task.cancel()
        await asyncio.wait((self._task,))

    def say(self, event: Event, causes: Causes = ROOT) -> None:
        if len(self._queue) >= self._limit:
            self.lose(event)
            return
        self._queue.append((event, causes))
        self._some.set()

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            while self._queue:
                batch = [self._queue[at] for at in range(min(_AT_ONCE, len(self._queue)))]
                told = await asyncio.gather(*(self._tell(event, causes) for event, causes in batch))
                for event, is_told in zip(batch, told, strict=True):
                    self._queue.popleft()
                    if not is_told:
                        self.lose(event[0])

    async def _tell(self, event: Event, causes: Causes) -> bool:
        try:
            await self._publish_one(event, causes)
        except Exception:  # noqa: BLE001 - what cannot be published is dropped and counted, and holds nothing back
            return False
        return True
