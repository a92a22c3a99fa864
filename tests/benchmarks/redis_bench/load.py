"""What the sides have in common: what each must do, and what its handlers report."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

STREAM, GROUP = "bench", "bench.handle"
PATIENCE = 30.0
"""Seconds after which what was to happen counts as not happening."""
USER, QUANTITY, PRICE = "bob", 3, 9.5
stamp = time.perf_counter_ns
"""Of one clock for all processes of the machine."""


class Lost(AssertionError):
    """Something that was published was not handled, or is still pending."""


class Handled:
    """What the handlers of a process report: how many, how late, and when a number is reached."""

    def __init__(self) -> None:
        self.count = 0
        self.delays: list[int] | None = None
        """Nanoseconds from making an event to handling it, while somebody collects them."""
        self.reached_at = 0.0
        self._target = -1
        self._reached: asyncio.Future[None] | None = None

    def add(self, made: int) -> None:
        self.count += 1
        if self.delays is not None:
            self.delays.append(stamp() - made)
        if self.count == self._target:
            self.reached_at = time.perf_counter()
            if self._reached is not None and not self._reached.done():
                self._reached.set_result(None)

    def expect(self, more: int) -> asyncio.Future[None]:
        """Done when so many more are handled. One at a time."""
        self._target = self.count + more
        self._reached = asyncio.get_running_loop().create_future()
        return self._reached

    def watch(self, consumer: asyncio.Task[None]) -> None:
        """Let whoever waits know if `consumer` breaks."""
        consumer.add_done_callback(self._consumer_ended)

    def _consumer_ended(self, consumer: asyncio.Task[None]) -> None:
        error = None if consumer.cancelled() else consumer.exception()
        if error is not None and self._reached is not None and not self._reached.done():
            self._reached.set_exception(error)


class Side(ABC):
    """One way of publishing and handling through Redis. A producer alone does not `declare` or `consume`."""

    publishers = 1
    """How many publish side by side, each awaiting its publish."""

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def declare(self) -> None:
        """Make the group, without handling it."""

    @abstractmethod
    async def consume(self, handled: Handled) -> None:
        """Handle from now on, in the background."""

    @abstractmethod
    async def publish(self) -> None:
        """Make one event, stamped now, and publish it."""

    async def produce(self, count: int) -> None:
        """Publish so many, as fast as this side can."""
        left = count

        async def publisher() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await self.publish()

        await asyncio.gather(*(publisher() for _ in range(min(self.publishers, count))))

    @abstractmethod
    async def check(self, published: int, handled: int | None) -> None:
        """Raises `Lost` unless all is there and, where it was handled, nothing is left pending."""

    @abstractmethod
    async def close(self) -> None: ...


async def eventually(look: Callable[[], Awaitable[str | None]]) -> None:
    """Return once `look` finds nothing to object to. Raises `Lost` with the last objection."""
    end = time.perf_counter() + PATIENCE
    while objection := await look():
        if time.perf_counter() > end:
            raise Lost(objection)
        await asyncio.sleep(0.01)


async def end(task: asyncio.Task[None]) -> None:
    """Cancel it until it ends: redis-py swallows a cancellation that comes while it connects."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
