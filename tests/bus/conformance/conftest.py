"""The memory backend of the suite; each replica is a bus on one broker, and time is virtual."""

from __future__ import annotations

from datetime import datetime
from random import Random

import pytest

from bus.clock import Ids
from bus.conformance import Backend, limits_for
from bus.conformance.virtual import JumpingClock
from bus.memory import MemoryBroker, MemoryBus
from contracts.bus import BusLimits, EventBus, Features
from contracts.envelope import moment_of


class MemoryBackend(Backend):
    """Crash, suspension and interruption are what `MemoryBus` offers for them."""

    features = Features(persistent=False, shared=False)
    shifts_wall_clock = True

    def __init__(self, limits: BusLimits) -> None:
        super().__init__(limits)
        self._clock = JumpingClock()
        self._make()

    def _make(self) -> None:
        random = Random(7)  # noqa: S311 - to be repeatable
        self._broker = MemoryBroker(limits=self.limits, clock=self._clock, random=random, ids=Ids("t"))
        self._buses: dict[str, MemoryBus] = {}

    async def open(self, replica: str) -> EventBus:
        bus = MemoryBus(self._broker, replica=replica)
        await bus.open()
        self._buses[replica] = bus
        return bus

    async def crash(self, bus: EventBus) -> None:
        self._buses[bus.replica].kill()
        await bus.close()

    def suspend(self, bus: EventBus) -> None:
        self._buses[bus.replica].suspend()

    def wake(self, bus: EventBus) -> None:
        self._buses[bus.replica].wake()

    async def restart(self) -> None:
        """No connections to lose: everybody stands still for a moment."""
        buses = [bus for bus in self._buses.values() if bus in self._broker.buses.values()]
        for bus in buses:
            bus.suspend()
        for bus in buses:
            bus.wake()

    async def renew(self) -> None:
        buses = list(self._broker.buses.values())
        for bus in buses:
            bus.kill()
        for bus in buses:
            await bus.close()
        self._make()

    async def close(self) -> None:
        """Nothing outlives its last handle."""

    async def sibling(self, limits: BusLimits) -> Backend:
        return MemoryBackend(limits)

    def shift_wall_clock(self, seconds: float) -> None:
        self._clock.jump += seconds

    def now(self) -> datetime:
        return moment_of(self._clock.time_ns())


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> Backend:
    """An empty memory backend with the limits of the test."""
    return MemoryBackend(limits_for(request))
