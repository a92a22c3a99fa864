"""Lanes that wait for a moment, and can be woken before it comes."""

from __future__ import annotations

import asyncio
import math


class Waits:
    """Everything of one loop that waits."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[bool], None] = {}

    async def until(self, due: float) -> bool:
        """Wait until `due` (monotonic; infinity: until woken). Whether it came to that."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_at(due, _end, future, True) if due < math.inf else None
        self._waiting[future] = None
        try:
            return await future
        finally:
            del self._waiting[future]
            if timer is not None:
                timer.cancel()

    def wake_all(self) -> None:
        """All are to look again at what they wait for."""
        for future in self._waiting:
            _end(future, False)


def _end(future: asyncio.Future[bool], is_due: bool) -> None:
    if not future.done():
        future.set_result(is_due)
