"""redis-py by hand: a loop that moves bytes, without model, id, retry or deadline."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from redis.asyncio import Redis

from .load import GROUP, STREAM, Handled, Lost, Side, end, eventually, stamp

DIGITS = 20


@dataclass(frozen=True)
class Manner:
    pipeline: int
    """XADDs of one write; 1: each is awaited."""
    read: int
    """COUNT of XREADGROUP; what one answer brought is acknowledged by one XACK."""


MANNERS = {
    "raw-batch": Manner(pipeline=100, read=100),
    "raw-backlog": Manner(pipeline=500, read=500),
    "raw-single": Manner(pipeline=1, read=1),
}


class Raw(Side):
    def __init__(self, url: str, size: int, manner: str) -> None:
        self._url, self._manner = url, MANNERS[manner]
        self._pad = b"x" * (size - DIGITS)
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        # one for each direction: a blocked read must not stand before a write
        self._out: Redis = redis.asyncio.from_url(self._url)
        self._in: Redis = redis.asyncio.from_url(self._url)

    async def declare(self) -> None:
        await make_group(self._out)

    async def consume(self, handled: Handled) -> None:
        self._task = asyncio.create_task(self._read(handled))
        handled.watch(self._task)

    async def publish(self) -> None:
        await self._out.xadd(STREAM, {"d": b"%020d" % stamp() + self._pad})

    async def produce(self, count: int) -> None:
        size = self._manner.pipeline
        if size == 1:
            return await super().produce(count)
        for begin in range(0, count, size):
            pipeline = self._out.pipeline(transaction=False)
            for _ in range(min(size, count - begin)):
                pipeline.xadd(STREAM, {"d": b"%020d" % stamp() + self._pad})
            await pipeline.execute()
        return None

    async def check(self, published: int, handled: int | None) -> None:
        await check_stream(self._out, published, handled)

    async def close(self) -> None:
        if self._task is not None:
            await end(self._task)
        await self._out.aclose()
        await self._in.aclose()

    async def _read(self, handled: Handled) -> None:
        async def handle(data: bytes) -> None:
            handled.add(int(data[:DIGITS]))

        read: Any = self._in.xreadgroup
        count = self._manner.read
        while True:
            for _, entries in await read(GROUP, "c", {STREAM: ">"}, count=count, block=1000):
                for _, fields in entries:
                    await handle(fields[b"d"])
                await self._in.xack(STREAM, GROUP, *(entry for entry, _ in entries))


async def make_group(client: Redis) -> None:
    await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)


async def check_stream(client: Redis, published: int, handled: int | None) -> None:
    """Of who uses `STREAM` and `GROUP` as they are: all stored, all handled, nothing pending."""
    stored = await client.xlen(STREAM)
    if stored != published or handled not in (None, published):
        raise Lost(f"published {published}, stored {stored}, handled {handled}")
    if handled is None:
        return

    async def look() -> str | None:
        pending: Any = await client.xpending(STREAM, GROUP)
        return f"{pending['pending']} of {published} are pending" if pending["pending"] else None

    await eventually(look)
