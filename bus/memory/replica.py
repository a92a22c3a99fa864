"""One replica's life on a broker: open, suspended, lost and back, closed, killed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Self

from contracts.errors import BusClosed, BusError

from ..caller import Caller
from ..checks import check_open, closed
from ..measures import Measures
from ..policy.timeout import Sweeper
from ..spans import Client
from .broker import MemoryBroker
from .hosting import Hosting
from .members import Heart
from .partition import Partition
from .tail import MemoryTail
from .taken import SYSTEM
from .watch import RoomWaiter


class Replica:
    """What a bus holds on its broker, and how it lets go of it."""

    def __init__(self, broker: MemoryBroker, replica: str | None) -> None:
        self.broker = broker
        self._replica = replica or f"replica-{broker.ids()}"
        self._measures = Measures(Client(SYSTEM, self._replica), broker.clock)
        self._state = "new"
        self._is_usable = False
        """Open, or closing: handlers that finish may still publish."""
        self._sweeper = Sweeper(self.broker.clock)
        self._awake = asyncio.Event()
        self._awake.set()
        self._heart = Heart(self.broker.members, self)
        self._hosted: dict[Hosting, None] = {}
        self._caller = Caller(self.broker, self._replica, self._awake)
        self._tails: dict[MemoryTail, None] = {}
        self._waiting: dict[RoomWaiter, Partition] = {}
        self._ending: list[asyncio.Task[None]] = []
        self._closed = asyncio.Event()

    @property
    def replica(self) -> str:
        return self._replica

    @property
    def dropped_answers(self) -> int:
        """Answers to calls that came late or twice."""
        return self._caller.pending.dropped

    # --- open and close ---------------------------------------------------------------------------

    async def open(self) -> None:
        if self._state != "new":
            raise BusClosed("a bus is opened once", fix="make a new one")
        if self._replica in self.broker.buses:
            raise BusError(
                f"replica {self._replica!r} is on this broker already", fix="give each bus its own name"
            )
        self._state, self._is_usable = "open", True
        self.broker.enter(self)
        self.broker.members.join(self._heart)

    async def close(self, grace: float = 10.0) -> None:
        """Calls under way and handlers that run get `grace` seconds together; nothing new is begun."""
        self.wake()
        if self._state == "open":
            self._state = "closing"
            await self._finish(grace)
            self._leave()
        elif self._state == "closing":
            await self._closed.wait()
        others = [task for task in self._ending if task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others)

    async def _finish(self, grace: float) -> None:
        """Whoever closes the bus that he runs in is not waited for. Who is cancelled here waits no longer."""
        asker = asyncio.current_task()
        ends: list[Awaitable[object]] = [hosting.stop(grace, asker) for hosting in self._hosted]
        ends += [offer.withdraw(grace, asker) for offer in self._caller.offers]
        try:
            await asyncio.gather(*ends)
        except asyncio.CancelledError:
            self.kill()
            raise

    def kill(self) -> None:
        """Vanish as a crashed process would: nothing is settled, finished or handed over.

        Its tasks are cancelled; `close` waits for them to be gone.
        """
        if self._state == "closed":
            return
        self._leave()
        for hosting in list(self._hosted):
            self._ending += hosting.crash()
        for offer in self._caller.offers:
            self._ending += offer.lose()

    def _leave(self) -> None:
        """No await in here: from the outside, the bus is there or it is gone."""
        if self._state == "closed":
            return
        self._state, self._is_usable = "closed", False
        self._awake.set()
        self._sweeper.close()
        self._caller.pending.close()
        for tail in list(self._tails):
            tail.close()
        for waiter in self._waiting:
            if not waiter.future.done():
                waiter.future.set_exception(closed())
        self.broker.members.leave(self._heart)
        self.broker.leave(self)
        self._closed.set()

    # --- standing still ---------------------------------------------------------------------------

    def suspend(self) -> None:
        """Stand still as a process does after SIGSTOP: for tests, beside `kill`.

        It shows no sign of life, takes nothing, and nothing that it publishes or asks goes through until it
        is woken. Handlers that run already are not held up: that is for the test to do.
        """
        if self._state != "open" or not self._awake.is_set():
            return
        self._awake.clear()
        self._is_usable = False
        self._heart.suspend()
        for hosting in self._hosted:
            hosting.suspend(True)
        for waiter, partition in self._waiting.items():
            if waiter in partition.waiters:
                partition.waiters.remove(waiter)
        self.broker.watch.look_if_on()

    def wake(self) -> None:
        """Go on, as after SIGCONT; what was lost meanwhile it learns from its next beat, which is due."""
        if self._state != "open" or self._awake.is_set():
            return
        self._awake.set()
        self._is_usable = True
        self._heart.wake()
        for hosting in self._hosted:
            hosting.suspend(False)
        for waiter, partition in self._waiting.items():
            if not waiter.future.done():
                self.broker.watch.wait_for_room(partition, waiter)

    def lose(self) -> int:
        """It was silent for too long: others take over. How many partitions it owned."""
        for offer in self._caller.offers:
            offer.forsake()
        return sum(hosting.lose() for hosting in self._hosted if not hosting.group.is_ephemeral)

    def rejoin(self) -> None:
        """It was lost, and is back."""
        if self._state != "open":
            return
        for offer in self._caller.offers:
            offer.rejoin()
        for hosting in list(self._hosted):
            self._ending += hosting.rejoin()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # --- what may be done now ---------------------------------------------------------------------

    async def _be_usable(self) -> None:
        """Return when it is not suspended; raises if it is not open."""
        await self._awake.wait()
        if not self._is_usable:
            self._check_open()

    def _check_open(self) -> None:
        check_open(self._state)
