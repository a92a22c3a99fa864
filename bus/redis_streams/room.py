"""What waits because its partition is at its limit: in order, until there is room or its deadline is over."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from contracts.errors import BusFull

from ..clock import Clock
from .item import HANDLING, Item, Place

PAUSE = 0.02
"""Seconds between two looks whether there is room again."""
_MOST = 500
"""Events that are tried at once."""
_GRACE = 0.25
"""Seconds over its deadline after which whoever looks for room is not waited for: Redis has gone away."""


class Room:
    """See above. `look`: trims a partition, and answers who holds it if it stays full; `retry`: sends once
    more, and answers how many were taken, from the first on; `send`: puts one on its way again."""

    def __init__(
        self, clock: Clock, limit: int, address: str, *,
        look: Callable[[str, int], asyncio.Future[str]],
        retry: Callable[[Place, list[Item]], Awaitable[int]],
        send: Callable[[Place, Item], object],
    ) -> None:  # fmt: skip
        self._clock = clock
        self._limit = limit
        self._address = address
        self._look = look
        self._retry = retry
        self._send = send
        self.waiting: dict[Place, deque[Item]] = {}
        self._holders: dict[Place, str] = {}
        """Who was found to hold a partition that is waited for."""
        self._refusing: dict[Item, Place] = {}
        """What is admitted up to twice the limit, while it is looked whether there is really no room."""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self, error: Exception) -> None:
        """What still waits fails: with `error`, or as unknown where Redis may have taken it."""
        for _, item in self._all():
            item.end(error, self._address)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.waiting.clear()

    def _all(self) -> Iterator[tuple[Place, Item]]:
        for place, items in self.waiting.items():
            for item in items:
                yield place, item
        for item, place in self._refusing.items():
            yield place, item

    def takes(self, place: Place, item: Item) -> bool:
        """Whether it has to stand behind those that wait already; then it does. None overtakes another, but
        what a handler publishes, for the others may wait for that very handler."""
        waiting = self.waiting.get(place)
        if not waiting or item.flags & HANDLING:
            return False
        waiting.append(item)
        return True

    def none_for(self, place: Place, item: Item) -> None:
        """Redis has said that the partition is full."""
        item.is_not_there()
        if item.flags & HANDLING:  # what it waited for might be itself
            self._refusing[item] = place
            self._spawn(self._refuse(place, item))
            return
        waiting = self.waiting.get(place)
        if waiting is not None:
            waiting.append(item)
            return
        self.waiting[place] = deque([item])
        self._spawn(self._wait(place))

    def look_at_deadlines(self, now: float) -> bool:
        """Tell those that are long over theirs; whether anybody waits on."""
        waits = False
        for place, item in self._all():
            if item.deadline + _GRACE <= now:
                self._give_up(place, item)
            waits = waits or not item.future.done()
        return waits

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refuse(self, place: Place, item: Item) -> None:
        """At twice the limit; unless what is only retained holds it there."""
        try:
            holder = await self._look(*place)
        finally:
            del self._refusing[item]
        if item.is_refused:
            self._give_up(place, item, holder)
            return
        item.is_refused = True
        self._send(place, item)

    async def _wait(self, place: Place) -> None:
        """Look again and again, one for all who wait in one partition."""
        try:
            await self._look_again(place, self.waiting[place])
        finally:
            for item in self.waiting.pop(place, ()):
                self._give_up(place, item)
            self._holders.pop(place, None)

    async def _look_again(self, place: Place, waiting: deque[Item]) -> None:
        while waiting:
            found = await self._look(*place)
            if found:
                self._holders[place] = found
            else:
                await self._try_again(place, waiting)
            now = self._clock.monotonic()
            for item in list(waiting):
                if item.deadline <= now or item.future.done():
                    waiting.remove(item)
                    self._give_up(place, item)
            if waiting:
                left = min(item.deadline for item in waiting) - self._clock.monotonic()
                await asyncio.sleep(max(0.0, min(PAUSE, left)))

    async def _try_again(self, place: Place, waiting: deque[Item]) -> None:
        items = [item for item in list(waiting)[:_MOST] if not item.future.done()]
        taken = await self._retry(place, items)
        for item in items[:taken]:
            waiting.remove(item)

    def _give_up(self, place: Place, item: Item, holder: str = "") -> None:
        if item.sent:  # there was room perhaps: the answer to that has not come
            item.give_up(self._address)
        else:
            item.fail(self._error(place, holder or self._holders.get(place, "")))

    def _error(self, place: Place, group: str) -> BusFull:
        topic = place[0]
        return BusFull(
            f"topic {topic!r} is at its limit of {self._limit:,} events"
            + (f"; group {group!r} has the oldest that is not handled" if group else ""),
            topic=topic,
            group=group,
            fix=f"start its plugin, or give up what waits for it: plugbus group drop {group}"
            if group
            else "",
        )
