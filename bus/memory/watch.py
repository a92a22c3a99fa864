"""Who waits for the broker to settle something: publishes for room, tests and shutdown for quiet.

Nobody polls: loops report that they have settled something (`look_if_on`), and only while somebody waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from contracts.event import Receipt
from contracts.message import Message

from .partition import Partition


@dataclass(eq=False)
class RoomWaiter:
    """A publish that waits for room in a partition."""

    message: Message
    knows_id: bool
    future: asyncio.Future[Receipt]


class Watch:
    """Looks once a turn of the event loop at most, however much was settled in it."""

    def __init__(
        self, partitions: Callable[[], Iterable[Partition]], grant: Callable[[Partition], None]
    ) -> None:
        self.is_on = False
        """Somebody waits."""
        self._partitions = partitions
        self._grant = grant
        self._quiet: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._handle: asyncio.Handle | None = None

    def look_if_on(self) -> None:
        """Something was settled."""
        if self.is_on and self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._look)

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Return when `is_true`, looked at whenever something was settled."""
        if is_true():
            return
        waiter = (is_true, asyncio.get_running_loop().create_future())
        self._quiet.append(waiter)
        self.is_on = True
        try:
            await waiter[1]
        finally:
            self._quiet.remove(waiter)

    def wait_for_room(self, partition: Partition, waiter: RoomWaiter) -> None:
        partition.waiters.append(waiter)
        partition.look_at = 0  # who comes later asks too, and queues behind
        self.is_on = True
        self.look_if_on()

    def _look(self) -> None:
        self._handle = None
        waited_for = [partition for partition in self._partitions() if partition.waiters]
        for partition in waited_for:
            self._grant(partition)
        for is_true, future in self._quiet:
            if not future.done() and is_true():
                future.set_result(None)
        self.is_on = bool(self._quiet) or any(partition.waiters for partition in waited_for)
