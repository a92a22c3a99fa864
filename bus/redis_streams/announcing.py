"""What this bus says of itself: a bounded queue that nobody waits for, published by one task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from contracts.event import Event

from ..announce import Announcer
from ..policy.causes import ROOT, Causes
from .background import keep_on

_AT_ONCE = 100


class RedisAnnouncer(Announcer):
    """`publish` is awaited here, a hundred at a time, in order."""

    def __init__(self, publish: Callable[[Event, Causes], Awaitable[object]], limit: int) -> None:
        super().__init__(lambda event, causes: None, limit)
        self._publish_one = publish
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_told: asyncio.Future[None] | None = None
        """Who waits for the last to be told."""

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(
            keep_on("announcing", self._turn), name="plugbus:redis:say"
        )

    async def close(self, grace: float) -> None:
        """What was said last is still told, if there is time (seconds)."""
        if self._task is None:
            return
        if not self.is_silent and grace > 0:
            self._is_told = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._is_told,), timeout=grace)
        self._task.cancel()
        await asyncio.wait((self._task,))

    def say(self, event: Event, causes: Causes = ROOT) -> None:
        if len(self._queue) >= self._limit:
            self.lose(event)
            return
        self._queue.append((event, causes))
        self._some.set()

    async def _turn(self) -> None:
        await self._some.wait()
        self._some.clear()
        while self._queue:
            batch = [self._queue[at] for at in range(min(_AT_ONCE, len(self._queue)))]
            told = await asyncio.gather(*(self._tell(event, causes) for event, causes in batch))
            for event, is_told in zip(batch, told, strict=True):
                self._queue.popleft()
                if not is_told:
                    self.lose(event[0])
        if self._is_told is not None and not self._is_told.done():
            self._is_told.set_result(None)

    async def _tell(self, event: Event, causes: Causes) -> bool:
        try:
            await self._publish_one(event, causes)
        except Exception:  # noqa: BLE001 - what cannot be published is dropped and counted, and holds nothing back
            return False
        return True
