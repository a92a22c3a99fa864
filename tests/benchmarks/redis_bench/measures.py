"""What is measured of every side. Each ends by proving that nothing was lost."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass

from rounds import Result, percentile

from .load import PATIENCE, Handled, Side
from .producers import RATE, Producer

WARM_UP = 400
MOST, MOST_BYTES = 60_000, 100_000_000
"""Events, and their data, of one burst: what a server keeps while nothing is trimmed."""
clock = time.perf_counter


@dataclass
class Bench:
    """One side, who publishes on it, and how much of it is to be measured."""

    side: Side
    producer: Producer
    size: int
    amount: float
    handled: Handled
    published: int = 0

    async def throughput(self) -> Result:
        """Handled a second, end to end, and processor time of all Python processes for each."""
        await self._begin()
        rate = WARM_UP / await self._burst(WARM_UP)
        count = self._count(rate * self.amount / 3)
        rate = count / await self._burst(count)
        count = self._count(rate * self.amount)
        before = time.process_time() + self.producer.cpu()
        seconds = await self._burst(count)
        used = time.process_time() + self.producer.cpu() - before
        await self.side.check(self.published, self.handled.count)
        return {"rate": count / seconds, "cpu": used / count * 1e6, "events": count}

    async def latency(self) -> Result:
        """Microseconds from publish to handler at a steady rate, `amount` seconds long."""
        await self._begin()
        await self._burst(WARM_UP)
        delays = self.handled.delays = list[int]()
        count = int(RATE * self.amount)
        reached = self.handled.expect(count)
        self.published += count
        async with asyncio.timeout(PATIENCE + self.amount):
            await asyncio.gather(self.producer.pace(count), reached)
        await self.side.check(self.published, self.handled.count)
        settled = [delay / 1000 for delay in delays[count // 7 :]]
        return {"p50": percentile(settled, 0.5), "p99": percentile(settled, 0.99)}

    async def drain(self) -> Result:
        """Handled a second of a backlog of `amount` events that lay there before anybody handled."""
        count = self.published = int(self.amount)
        await self.side.declare()
        await self.producer.produce(count)
        settle_down()
        reached, start = self.handled.expect(count), clock()
        await self.side.consume(self.handled)
        await asyncio.wait_for(reached, PATIENCE)
        seconds = self.handled.reached_at - start
        await self.side.check(count, self.handled.count)
        return {"rate": count / seconds}

    async def publish(self) -> Result:
        """Published a second by one who awaits each; nobody handles."""
        rate = WARM_UP / await self._one_by_one(WARM_UP)
        settle_down()
        count = self._count(rate * self.amount)
        seconds = await self._one_by_one(count)
        await self.side.check(self.published, None)
        return {"rate": count / seconds}

    async def _begin(self) -> None:
        await self.side.declare()
        await self.side.consume(self.handled)
        settle_down()

    async def _burst(self, count: int) -> float:
        """Publish so many; the seconds until all are handled."""
        self.published += count
        reached, start = self.handled.expect(count), clock()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(self.producer.produce(count), reached)
        return self.handled.reached_at - start

    async def _one_by_one(self, count: int) -> float:
        self.published += count
        start = clock()
        for _ in range(count):
            await self.side.publish()
        return clock() - start

    def _count(self, wanted: float) -> int:
        return max(WARM_UP, min(MOST, MOST_BYTES // self.size, int(wanted)))


def settle_down() -> None:
    """Keep what stood before out of the collector's full passes."""
    gc.collect()
    gc.freeze()
