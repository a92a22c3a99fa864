"""Calls: who waits for an answer, and how a provider is run.

A call is not an event of the log. It is executed at most once, in a task of its own that belongs to the
provider's bus: a requester that gives up, or is cancelled, does not stop a provider half-way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from contracts.bus import Call, CallReply, Provider, ProviderInfo, ProviderSpec
from contracts.errors import (
    BusClosed,
    CallError,
    CallTimeout,
    HandlerTimeout,
    NoProvider,
    ProviderFailed,
    ProviderLost,
)
from contracts.tracing import TRACING

from .clock import Clock
from .directory import Directory
from .faults import described

log = logging.getLogger("plugbus.bus")

Answer = CallReply | CallError | BusClosed


class PendingCalls:
    """Who waits for which answer. What comes late, or twice, is dropped and counted."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Offer, asyncio.Future[Answer]]] = {}
        self.dropped = 0

    def expect(self, id: str, offer: Offer) -> asyncio.Future[Answer]:
        """What `offer` will answer to that call. Who does not wait any longer cancels it."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[id] = offer, future
        future.add_done_callback(lambda done: self._waiting.pop(id, None))
        return future

    def answer(self, id: str, answer: Answer) -> None:
        waiting = self._waiting.pop(id, None)
        if waiting is None or waiting[1].done():
            self.dropped += 1
            log.info("answer to call %s dropped: nobody waits for it any more", id)
        else:
            waiting[1].set_result(answer)

    def forsake(self, replica: str) -> None:
        """It is gone: whoever waits for it is told at once."""
        for id, (offer, _) in list(self._waiting.items()):
            if offer.replica == replica:
                self.answer(id, offer.lost())

    def close(self) -> None:
        for id in list(self._waiting):
            self.answer(id, BusClosed("the bus was closed while the call was under way"))


@dataclass(eq=False)
class Offer:
    """One provider of a capability on one replica; also what `provide` hands out."""

    id: str
    spec: ProviderSpec
    provider: Provider
    replica: str
    directory: Directory
    clock: Clock
    awake: asyncio.Event
    """Set unless the replica is suspended."""
    is_lost: bool = False
    """Its replica is, and comes back perhaps."""
    tasks: dict[asyncio.Task[None], tuple[str, Callable[[str, Answer], None]]] = field(default_factory=dict)

    @property
    def is_live(self) -> bool:
        """Whether it may still have to be ended."""
        return bool(self.tasks) or self.is_lost or self in self.directory

    @property
    def info(self) -> ProviderInfo:
        spec = self.spec
        return ProviderInfo(
            capability=spec.capability, plugin_id=spec.plugin_id, replica=self.replica, reach=spec.reach,
            rank=spec.rank,
        )  # fmt: skip

    def serve(self, call: Call, deadline: float, answer: Callable[[str, Answer], None]) -> None:
        """Execute `call` in a task, unless its deadline passes first; `answer` gets what came of it."""
        name = f"plugbus:call:{call.capability}"
        task = asyncio.get_running_loop().create_task(self._execute(call, deadline, answer), name=name)
        self.tasks[task] = (call.id, answer)
        task.add_done_callback(self._done)

    async def remove(self) -> None:
        """Take no more calls; those under way are lost, and told so at once."""
        await self.withdraw(grace=0)

    async def drain(self, grace: float) -> bool:
        """Take no more calls; what runs may finish. Whether all did."""
        return await self.withdraw(grace)

    async def withdraw(self, grace: float, asker: asyncio.Task[Any] | None = None) -> bool:
        """Take no more calls; wait up to `grace` seconds for those under way, then cancel them.

        `asker` (None: the current task) is not waited for: it may be a provider that closes its own bus.
        Returns whether none had to be cancelled.
        """
        asker = asker or asyncio.current_task()
        self.directory.discard(self)
        self.is_lost = False
        tasks = [task for task in self.tasks if task is not asker]
        if tasks and grace > 0:
            await asyncio.wait(tasks, timeout=grace)
        lost = self.lose(asker)
        if lost:
            await asyncio.wait(lost)
        return not lost

    @property
    def gone(self) -> NoProvider:
        """The answer to a call that came too late to be begun: whoever asked turns to the next one."""
        capability, who = self.spec.capability, f"{self.spec.plugin_id} on {self.replica}"
        return NoProvider(f"{who} does not provide {capability!r} any more", capability=capability)

    def lose(self, asker: asyncio.Task[Any] | None = None) -> list[asyncio.Task[None]]:
        """Cancel what is under way, but not who asks for it; the requesters know at once."""
        asker = asker or asyncio.current_task()
        self.directory.discard(self)
        self.is_lost = False
        tasks = [task for task in self.tasks if task is not asker]
        for task in tasks:
            id, answer = self.tasks.pop(task)
            answer(id, self.lost())
            task.cancel()
        return tasks

    def forsake(self) -> None:
        """Its replica is lost: so is what is under way, and nobody asks it until it rejoins."""
        if self in self.directory:
            self.directory.discard(self)
            self.is_lost = True
        for id, answer in self.tasks.values():
            answer(id, self.lost())

    def rejoin(self) -> None:
        if self.is_lost:
            self.is_lost = False
            self.directory.add(self)

    async def _execute(self, call: Call, deadline: float, answer: Callable[[str, Answer], None]) -> None:
        if not self.awake.is_set():
            await self.awake.wait()
        if self.clock.monotonic() >= deadline:
            answer(call.id, timed_out(call.capability, call.timeout))
            return
        limit = asyncio.timeout(self.spec.timeout)
        try:
            async with limit:
                reply = await self._provide(call)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            answer(call.id, self.lost())  # the provider gave up something that it waited for
        except Exception as error:  # noqa: BLE001 - whatever it is, the requester is told
            failed = self._too_long(error) if limit.expired() else error
            answer(call.id, self._failed(failed))
        else:
            answer(call.id, self._answer(reply))

    async def _provide(self, call: Call) -> CallReply:
        if not TRACING.is_on:
            return await self.provider(call)
        from .tracing import executing  # loads OpenTelemetry

        with executing(call, self.spec.plugin_id):
            return await self.provider(call)

    def _done(self, task: asyncio.Task[None]) -> None:
        left = self.tasks.pop(task, None)
        if left is not None and task.cancelled():
            id, answer = left
            answer(id, self.lost())

    def _answer(self, reply: object) -> Answer:
        if not isinstance(reply, CallReply):
            return self._failed(TypeError(f"the provider returned {type(reply).__name__}, not a CallReply"))
        return reply if reply.replica else reply.model_copy(update={"replica": self.replica})

    def _failed(self, error: BaseException) -> ProviderFailed:
        info = described(error)
        return ProviderFailed(
            f"the provider of {self.spec.capability} failed: {info}",
            capability=self.spec.capability, where=info.place, fix=info.fix, info=info,
        )  # fmt: skip

    def _too_long(self, error: BaseException) -> HandlerTimeout:
        found = HandlerTimeout(f"{self.spec.capability} ran longer than {self.spec.timeout:g} s")
        found.__cause__ = error
        return found

    def lost(self) -> ProviderLost:
        """What a requester is told when the provider goes away before it has answered."""
        capability = self.spec.capability
        return ProviderLost(
            f"the provider of {capability} ({self.spec.plugin_id} on {self.replica}) went away meanwhile",
            capability=capability,
            fix="ask again; whether it was executed is unknown",
        )


def timed_out(capability: str, timeout: float) -> CallTimeout:
    return CallTimeout(
        f"no answer from {capability} within {timeout:g} s",
        capability=capability,
        fix="ask with a longer timeout, or look at the provider",
    )
