"""The Redis backend of the conformance suite: a real server, a namespace for each test."""

from __future__ import annotations

import asyncio
import itertools
import secrets

from bus.conformance import Backend
from bus.redis_streams import RedisBus
from contracts.bus import BusLimits, EventBus, Features

from .form import IS_LONG
from .servers import Server


class Siblings:
    """Those who share a server: it is restarted once for all that are there, when all have asked for it.

    Who never does so holds the others up until he is closed.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._there = set[RedisBackend]()
        self._asking = set[RedisBackend]()
        self._restarts = 0
        self._change = asyncio.Condition()

    def add(self, one: RedisBackend) -> None:
        self._there.add(one)

    async def leave(self, one: RedisBackend) -> None:
        """Nobody waits for it any more."""
        async with self._change:
            self._there.discard(one)
            self._change.notify_all()

    async def restart(self, one: RedisBackend) -> None:
        """Returns when the server is up again."""
        async with self._change:
            before = self._restarts
            self._asking.add(one)
            await self._change.wait_for(lambda: self._restarts > before or self._asking >= self._there)
            if self._restarts == before:  # the last to ask, or the first to see that another has gone
                await self._server.restart_async()
                self._restarts += 1
                self._asking.clear()
                self._change.notify_all()


class RedisBackend(Backend):
    """`server` is up, and keeps what it confirms (append-only file, always), and is used by this test alone.

    It is the test's own as long as the test runs: it may be stopped and killed. `among`: it shares the server
    with these.
    """

    features = Features(persistent=True, shared=True)
    tick = 0.05
    lateness = 1.0
    patience = 300.0 if IS_LONG else Backend.patience

    _numbers = itertools.count()

    def __init__(self, limits: BusLimits, server: Server, *, among: Siblings | None = None) -> None:
        super().__init__(limits)
        self.server = server
        self.namespace = f"test-{secrets.token_hex(4)}-{next(self._numbers)}"
        self._among = among
        if among is not None:
            among.add(self)
        self._siblings = Siblings(server)
        """Those that it has made."""
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
        if self._among is None:
            await self.server.restart_async()
        else:
            await self._among.restart(self)

    async def renew(self) -> None:
        self.server.kill()
        for bus in list(self._buses.values()):
            await bus.kill()
        self._buses.clear()
        await self.server.start_async()

    async def close(self) -> None:
        for bus in list(self._buses.values()):
            await bus.kill()
        if self._among is not None:
            await self._among.leave(self)
            return
        left = [key for key in self.server.command("KEYS", "*") if not key.startswith(b"test-")]
        assert not left, f"keys outside of the namespace: {left}"
        self.server.command("FLUSHALL")

    async def sibling(self, limits: BusLimits) -> Backend:
        return RedisBackend(limits, self.server, among=self._siblings)
