"""A bounded number of things, each used by one at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class PluginPool(Generic[T]):
    """The instances of a plugin: `acquire` one that is free, `release` it afterwards.

    Who waits is served in order. For one event loop. Used inside a host alone: whoever publishes or asks
    sees one plugin.
    """

    def __init__(self, members: Sequence[T]) -> None:
        self.members = tuple(members)
        self._free: deque[T] = deque(self.members)
        self._taken: set[int] = set()
        self._waiting: deque[asyncio.Future[T]] = deque()

    def __len__(self) -> int:
        return len(self.members)

    @property
    def free(self) -> int:
        """How many could be acquired at once."""
        return len(self._free)

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return sum(not future.done() for future in self._waiting)

    async def acquire(self) -> T:
        """One that nobody uses; waits until there is one. Cancelled, it has taken none."""
        if self._free:
            return self._take(self._free.popleft())
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release(future.result())
            raise

    def release(self, member: T) -> None:
        """Give back what was acquired. Raises `ValueError` for anything else, and the second time."""
        if id(member) not in self._taken:
            raise ValueError(f"{member!r} is not acquired")
        self._taken.discard(id(member))
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(self._take(member))
                return
        self._free.append(member)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[T]:
        """One for the length of the block."""
        member = await self.acquire()
        try:
            yield member
        finally:
            self.release(member)

    def _take(self, member: T) -> T:
        self._taken.add(id(member))
        return member
