"""Topics are made by whoever publishes to them first."""

from __future__ import annotations

import asyncio

from ..clock import Clock
from .errors import explained, may_pass
from .item import unknown
from .link import Link
from .registry import Registry
from .room import PAUSE
from .wire import Lost, Refused


class Provisioning:
    """See above."""

    def __init__(self, link: Link, registry: Registry, clock: Clock) -> None:
        self._link = link
        self._registry = registry
        self._clock = clock
        self._making: dict[str, asyncio.Task[int]] = {}

    async def partitions(self, topic: str, timeout: float, event_id: str) -> int:
        """How many the topic has; it is made if it is new. `event_id`: for what it is wanted.

        Raises `PublishUnknown` where Redis does not answer within `timeout` seconds, `BusError`.
        """
        deadline = self._clock.monotonic() + timeout
        while True:
            left = deadline - self._clock.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    return await asyncio.shield(self._one_making(topic))
            except TimeoutError:
                raise unknown(event_id, "nothing was sent", self._link.address) from None
            except Lost:
                continue
            except Refused as error:
                if not may_pass(str(error)) or left <= 0:
                    raise explained(error, where=f"topic {topic!r}") from None
                await asyncio.sleep(PAUSE)

    async def close(self) -> None:
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _one_making(self, topic: str) -> asyncio.Task[int]:
        """One for all who want it."""
        task = self._making.get(topic)
        if task is None or task.done():
            task = self._making[topic] = asyncio.get_running_loop().create_task(self._make(topic))
            task.add_done_callback(lambda task: None if task.cancelled() else task.exception() and None)
        return task

    async def _make(self, topic: str) -> int:
        await self._link.ready(self._link.control)
        return await self._registry.make_topic(topic)
