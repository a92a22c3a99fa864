"""FastStream and taskiq, set up as their own guides say, in the ways that turned out fastest.

Typed by nature: a pydantic model goes in, a pydantic model comes out. Their loggers are off.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from faststream.redis import RedisBroker, StreamSub  # type: ignore[import-not-found]
from pydantic import BaseModel
from redis.asyncio import Redis
from taskiq.receiver import Receiver  # type: ignore[import-not-found]
from taskiq_redis import RedisStreamBroker  # type: ignore[import-not-found]

from .load import GROUP, PRICE, QUANTITY, STREAM, USER, Handled, Side, end, stamp
from .raw import check_stream, make_group


class Trade(BaseModel):
    """What the bus's own event holds, as a plain model."""

    id: str
    user: str
    quantity: int
    price: float
    stamp: int
    pad: str


@dataclass(frozen=True)
class Manner:
    publishers: int = 1
    read: int | None = None
    batch: bool = False
    """The handler is given a list."""


MANNERS = {
    "faststream-single": Manner(),
    "faststream-many": Manner(publishers=50, read=100),
    "faststream-batch": Manner(read=100, batch=True),
}


def make(pad: str) -> Trade:
    return Trade(id="a1", user=USER, quantity=QUANTITY, price=PRICE, stamp=stamp(), pad=pad)


def pad_for(size: int) -> str:
    return "x" * (size - len(make("").model_dump_json()))


class FastStream(Side):
    def __init__(self, url: str, size: int, manner: str) -> None:
        self._url, self._manner, self._pad = url, MANNERS[manner], pad_for(size)
        self.publishers = self._manner.publishers

    async def open(self) -> None:
        self._broker = RedisBroker(self._url, logger=None)
        await self._broker.connect()
        self._redis: Redis = redis.asyncio.from_url(self._url)

    async def declare(self) -> None:
        await make_group(self._redis)

    async def consume(self, handled: Handled) -> None:
        async def each(trade: Trade) -> None:
            handled.add(trade.stamp)

        async def all(trades: list[Trade]) -> None:
            for trade in trades:
                handled.add(trade.stamp)

        manner = self._manner
        where = StreamSub(
            STREAM,
            group=GROUP,
            consumer="c",
            batch=manner.batch,
            max_records=manner.read,
            polling_interval=1000,
        )
        self._broker.subscriber(stream=where)(all if manner.batch else each)
        await self._broker.start()

    async def publish(self) -> None:
        await self._broker.publish(make(self._pad), stream=STREAM)

    async def check(self, published: int, handled: int | None) -> None:
        await check_stream(self._redis, published, handled)

    async def close(self) -> None:
        await self._broker.stop()
        await self._redis.aclose()


class Taskiq(Side):
    publishers = 50

    def __init__(self, url: str, size: int) -> None:
        self._url, self._pad = url, pad_for(size)
        self._finish = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._broker = RedisStreamBroker(
            self._url, queue_name=STREAM, consumer_group_name=GROUP, consumer_id="0"
        )
        self._handled = Handled()

        async def handle(trade: Trade) -> None:
            self._handled.add(trade.stamp)

        self._handle: Any = self._broker.register_task(handle, task_name="handle")
        self._redis: Redis = redis.asyncio.from_url(self._url)

    async def declare(self) -> None:
        await self._broker.startup()

    async def consume(self, handled: Handled) -> None:
        self._handled = handled
        receiver = Receiver(self._broker, max_async_tasks=100, max_prefetch=100, run_startup=False)
        self._task = asyncio.create_task(receiver.listen(self._finish))
        handled.watch(self._task)

    async def publish(self) -> None:
        await self._handle.kiq(make(self._pad))

    async def check(self, published: int, handled: int | None) -> None:
        await check_stream(self._redis, published, handled)

    async def close(self) -> None:
        self._finish.set()
        if self._task is not None:
            await end(self._task)
        await self._broker.shutdown()
        await self._redis.aclose()
