"""Who publishes: this process, or another one."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from .children import Child, serve
from .load import Side

RATE = 500
"""Events a second of a steady load."""


class Producer(Protocol):
    async def produce(self, count: int) -> None:
        """As fast as the side can."""

    async def pace(self, count: int) -> None:
        """`RATE` a second."""

    def cpu(self) -> float:
        """Seconds of processor time that it used, beyond those of this process."""

    async def close(self) -> None: ...


class Here:
    """In the process of the consumer."""

    def __init__(self, side: Side) -> None:
        self._side = side

    async def produce(self, count: int) -> None:
        await self._side.produce(count)

    async def pace(self, count: int) -> None:
        await pace(self._side, count)

    def cpu(self) -> float:
        return 0.0

    async def close(self) -> None: ...


class Elsewhere:
    """In a process of its own, with a side of its own."""

    def __init__(self, child: Child) -> None:
        self._child, self._cpu = child, 0.0

    @classmethod
    async def start(cls, job: str, url: str) -> Elsewhere:
        return cls(await Child.start("produce", job, url))

    async def produce(self, count: int) -> None:
        self._cpu = await self._child.ask(["produce", count])

    async def pace(self, count: int) -> None:
        self._cpu = await self._child.ask(["pace", count])

    def cpu(self) -> float:
        return self._cpu

    async def close(self) -> None:
        await self._child.end()


async def obey(side: Side) -> None:
    """The other end of `Elsewhere`."""

    async def carry_out(order: tuple[str, int]) -> float:
        what, count = order
        await (side.produce(count) if what == "produce" else pace(side, count))
        return time.process_time()

    await side.open()
    await serve(carry_out)
    await side.close()


async def pace(side: Side, count: int) -> None:
    """A publish that is late does not hold back the next: they overlap."""
    start = time.perf_counter()
    async with asyncio.TaskGroup() as publishes:
        for number in range(count):
            await asyncio.sleep(max(0.0, start + number / RATE - time.perf_counter()))
            publishes.create_task(side.publish())
