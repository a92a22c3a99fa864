"""The Redis backend of the conformance suite: a real server, a namespace for each test."""

from __future__ import annotations

import itertools
import secrets

from bus.conformance import Backend
from bus.redis_streams import RedisBus
from contracts.bus import BusLimits, EventBus, Features

from .servers import Server

_LEASE = 15.0


class RedisBackend(Backend):
    """`server` is up, and keeps what it confirms (append-only file, always), and is used by this test alone.

    It is the test's own as long as the test runs: it may be stopped and killed.
    """

    features = Features(persistent=True, shared=True)
    tick = 0.05
    lateness = 1.0

    _numbers = itertools.count()

    def __init__(self, limits: BusLimits, server: Server, *, is_sibling: bool = False) -> None:
        super().__init__(limits)
        self.server = server
        self.namespace = f"test-{secrets.token_hex(4)}-{next(self._numbers)}"
        self._is_sibling = is_sibling
        self._buses: dict[str, RedisBus] = {}

    async def open(self, replica: str) -> EventBus:
        bus = RedisBus(self.server.url, namespace=self.namespace, replica=replica, limits=self._limits())
        await bus.open()
        self._buses[replica] = bus
        return bus

    def _limits(self) -> BusLimits:
        """The suite says all of them: what it leaves out is as the contract has it, not as Redis would."""
        return BusLimits(**self.limits.model_dump())

    async def crash(self, bus: EventBus) -> None:
        await self._buses.pop(bus.replica).kill()

    def suspend(self, bus: EventBus) -> None:
        self._buses[bus.replica].suspend()

    def wake(self, bus: EventBus) -> None:
        self._buses[bus.replica].wake()

    async def restart(self) -> None:
        await self.server.restart_async()

    async def renew(self) -> None:
        self.server.kill()
        for bus in list(self._buses.values()):
            await bus.kill()
        self._buses.clear()
        await self.server.start_async()

    async def close(self) -> None:
        for bus in list(self._buses.values()):
            await bus.kill()
        if self._is_sibling:
            return
        left = [key for key in self.server.command("KEYS", "*") if not key.startswith(b"test-")]
        assert not left, f"keys outside of the namespace: {left}"
        self.server.command("FLUSHALL")

    async def sibling(self, limits: BusLimits) -> Backend:
        return RedisBackend(limits, self.server, is_sibling=True)
