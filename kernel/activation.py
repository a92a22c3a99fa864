"""Plugins with `activation = "lazy"`: started when they are needed, unloaded when they are idle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from contracts.errors import (
    BusError,
    PlugbusError,
    PluginBusy,
    PluginStateError,
    PluginStepFailed,
)
from contracts.messages import PluginReason
from contracts.plugin import PluginStatus

from .dependents import is_needed_now
from .operations import Operations, busy, stopping
from .port import PluginPort
from .registry import Activity, Generation, PluginRecord, PluginRegistry, make_reason
from .retries import pause_after
from .scope import Scope
from .services import Services
from .stand_ins import StandIns

S = PluginStatus

LOOK_AGAIN = 0.05
"""Seconds at least between two looks at a plugin that would go if nobody needed it."""
FIRST_USE = 5.0
"""Seconds that the bus may take to hand the event over that has woken a plugin."""
LAZY = "lazy"
"""Code of the reason of a plugin that is not loaded because nobody has needed it yet."""

Step = Callable[[PluginRecord, str], Coroutine[Any, Any, None]]


@dataclass(eq=False)
class _Lazy:
    record: PluginRecord
    stand_ins: StandIns
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it comes or goes."""
    waking: asyncio.Task[PluginPort | PlugbusError] | None = None
    """Answers with the error, so that each who waits is told, and nobody else."""
    failures: int = 0
    not_before: float = 0.0
    error: PlugbusError | None = None


class Activation:
    """Wakes lazy plugins: each once, whoever asks and how many; those that they depend on first."""

    def __init__(
        self,
        services: Services,
        registry: PluginRegistry,
        operations: Operations,
        scope: Scope,
        log: logging.Logger,
        *,
        bring_up: Step,
        bring_down: Step,
    ) -> None:
        self._services = services
        self._registry = registry
        self._operations = operations
        self._scope = scope
        self._log = log
        self._bring_up = bring_up
        self._bring_down = bring_down
        self._lazy: dict[str, _Lazy] = {}
        self._is_closed = False

    def require_idle(self, record: PluginRecord) -> None:
        """Raises `PluginBusy` while it comes or goes."""
        lazy = self._lazy.get(record.plugin_id)
        if lazy is not None and lazy.lock.locked():
            raise busy(record, "being activated or unloaded")

    async def arm(self, record: PluginRecord) -> None:
        """Let its groups exist, and start it as soon as it is needed."""
        lazy = self._lazy.get(record.plugin_id) or self._made(record)
        async with lazy.lock:
            if record.current is None and not self._is_closed:
                record.is_armed, lazy.not_before = True, 0.0
                await self._stand_in(lazy)
                record.reason = _asleep(record, "not loaded until it is needed")

    async def disarm(self, record: PluginRecord) -> bool:
        """Let nothing start it any more; whether something would have."""
        lazy = self._lazy.get(record.plugin_id)
        if lazy is None:
            return False
        async with lazy.lock:
            was_armed = record.is_armed
            await self._disarm(lazy)
        return was_armed

    async def forget(self, plugin_id: str) -> None:
        """Another plugin takes its place."""
        if (lazy := self._lazy.pop(plugin_id, None)) is not None:
            async with lazy.lock:
                await self._disarm(lazy)

    async def close(self) -> None:
        """Nothing is started any more; no stand-in is left."""
        self._is_closed = True
        await asyncio.gather(*map(self._disarm, self._lazy.values()))

    async def activate(self, record: PluginRecord, reason: str) -> PluginPort:
        """Started now, or as soon as what is under way with it has ended; its port.

        Raises as a start does.
        """
        lazy = self._lazy.get(record.plugin_id) or self._made(record)
        if lazy.waking is None or lazy.waking.done():
            name = f"activate {record.plugin_id}"
            lazy.waking = self._scope.spawn(
                self._wake(lazy, reason), name=name, context=self._operations.context
            )
        waking = lazy.waking
        try:
            answer = await asyncio.shield(waking)
        except asyncio.CancelledError:
            if waking.cancelled():
                raise stopping(record) from None
            raise
        if isinstance(answer, PlugbusError):
            raise answer
        return answer

    # --- coming -----------------------------------------------------------------------------------------

    def _made(self, record: PluginRecord) -> _Lazy:
        deadlines = self._services.settings.deadlines
        patience = deadlines.load + deadlines.initialize + deadlines.start
        patience += record.metadata.resource_limits.max_execution_time_seconds

        async def wake(why: str) -> PluginPort:
            return await self._wake_on_demand(self._lazy[record.plugin_id], why)

        services = self._services
        stand_ins = StandIns(
            record,
            services.bus,
            services.mounts,
            wake,
            notices=services.notices(record),
            options=services.handler_options,
            patience=patience,
            ranks=services.policy(record).ranks,
        )
        self._lazy[record.plugin_id] = lazy = _Lazy(record, stand_ins)
        record.is_armed = True
        return lazy

    async def _wake_on_demand(self, lazy: _Lazy, why: str) -> PluginPort:
        """Not while the pause after a failure lasts: who asks is told that one at once."""
        if self._is_closed:
            raise stopping(lazy.record)
        if not lazy.record.is_armed:
            raise _stopped(lazy.record)
        current = lazy.record.current
        if current is not None and lazy.record.status is S.STARTED and not lazy.lock.locked():
            return current.port
        if lazy.error is not None and time.monotonic() < lazy.not_before:
            raise lazy.error
        return await self.activate(lazy.record, why)

    async def _wake(self, lazy: _Lazy, reason: str) -> PluginPort | PlugbusError:
        record = lazy.record
        async with lazy.lock:
            await self._operations.idle(record.plugin_id)
            try:
                if record.status is not S.STARTED:
                    await self._start(lazy, reason)
            except PlugbusError as error:
                return error
            return record.current.port if record.current is not None else stopping(record)

    async def _start(self, lazy: _Lazy, reason: str) -> None:
        is_awaited = await lazy.stand_ins.release_groups()
        try:
            await self._operations.run(lazy.record, Activity.LOADING, self._bring_up(lazy.record, reason))
        except PlugbusError as error:
            await self._failed(lazy, error)
            raise
        lazy.record.is_armed, lazy.error, lazy.failures = True, None, 0
        self._scope.spawn(
            self._started(lazy, is_awaited),
            name=f"calls of {lazy.record.plugin_id}",
            context=self._operations.context,
        )

    async def _started(self, lazy: _Lazy, is_awaited: bool) -> None:
        """Calls that waited are answered; then it is watched, where it is to go when it is idle.

        `is_awaited`: an event waits for it. Else it could go before that has come, again and again.
        """
        generation = lazy.record.current
        if generation is not None and generation.port.use is not None:
            generation.port.use.begin(FIRST_USE if is_awaited else 0.0)
        if generation is not None:
            port, options = generation.port, self._services.handler_options
            options.learn(lazy.record.plugin_id, port.subscriptions, port.offers.specs)
        lazy.record.standing_in = {}
        await lazy.stand_ins.stop_answering(_offered(lazy.record))
        seconds = idle_timeout_of(lazy.record, self._services)
        if generation is not None and generation.port.use is not None and seconds:
            await self._watch(lazy, generation, seconds)

    async def _failed(self, lazy: _Lazy, error: PlugbusError) -> None:
        if self._is_closed or not lazy.record.is_armed:
            return
        if self._services.quarantine.entry(lazy.record.plugin_id) is not None:
            await self._disarm(lazy)
            return
        pause = pause_after(lazy.failures, error, self._services.backoff)
        lazy.failures += 1
        lazy.error, lazy.not_before = error, time.monotonic() + pause
        again = self._again(lazy, pause)
        self._scope.spawn(
            again, name=f"activate {lazy.record.plugin_id} again", context=self._operations.context
        )

    async def _again(self, lazy: _Lazy, pause: float) -> None:
        """What is still there for it wakes it once more."""
        await asyncio.sleep(pause)
        async with lazy.lock:
            if lazy.record.is_armed and lazy.record.current is None and not self._is_closed:
                await self._stand_in(lazy)

    # --- going ------------------------------------------------------------------------------------------

    async def _watch(self, lazy: _Lazy, generation: Generation, seconds: float) -> None:
        use, record = generation.port.use, lazy.record
        while use is not None and record.current is generation and record.is_armed and not self._is_closed:
            left = seconds - use.idle_for()
            if left > 0:
                await asyncio.sleep(left)
            elif self._is_needed(record) or lazy.lock.locked() or record.plugin_id in self._operations:
                await asyncio.sleep(max(seconds, LOOK_AGAIN))
            else:
                await self._unload(lazy, generation, seconds)

    def _is_needed(self, record: PluginRecord) -> bool:
        return is_needed_now(record.plugin_id, self._registry, self._operations)

    async def _unload(self, lazy: _Lazy, generation: Generation, seconds: float) -> None:
        """Nothing is missed: calls and requests find the stand-ins first, events wait in their groups."""
        record = lazy.record
        async with lazy.lock:
            if record.current is not generation or record.plugin_id in self._operations or self._is_closed:
                return
            await self._answer_calls(lazy)
            going = self._bring_down(record, f"idle for {seconds:g} s")
            try:
                await self._operations.run(record, Activity.DRAINING, going)
            except (PluginStepFailed, PluginStateError, PluginBusy) as error:
                self._log.warning("%s", error)
            if self._services.quarantine.entry(record.plugin_id) is not None:
                await self._disarm(lazy)
            elif record.current is None and not self._is_closed:
                await self._stand_in(lazy)
                if record.status is S.UNLOADED:
                    text = f"unloaded after {seconds:g} s without use; loaded when it is needed"
                    record.reason = _asleep(record, text)

    # --- stand-ins --------------------------------------------------------------------------------------

    async def _stand_in(self, lazy: _Lazy) -> None:
        await self._answer_calls(lazy)
        try:
            await lazy.stand_ins.hold_groups()
        except BusError as error:
            self._log.error("%s cannot be woken by events: %s", lazy.record.plugin_id, error)

    async def _answer_calls(self, lazy: _Lazy) -> None:
        lazy.record.standing_in = lazy.stand_ins.ranks
        try:
            await lazy.stand_ins.answer_calls(_offered(lazy.record))
        except BusError as error:
            self._log.error("%s cannot be woken by calls: %s", lazy.record.plugin_id, error)

    async def _disarm(self, lazy: _Lazy) -> None:
        lazy.record.is_armed = False
        await lazy.stand_ins.leave(_offered(lazy.record))
        lazy.record.standing_in = {}


def _offered(record: PluginRecord) -> set[str]:
    """What it provides itself now: who stands in for that has nothing to announce."""
    specs = record.current.port.offers.specs if record.current is not None else ()
    return {spec.capability for spec in specs}


def _asleep(record: PluginRecord, text: str) -> PluginReason:
    return make_reason(LAZY, text, next_step=f"to load it now: plugbus plugin start {record.plugin_id}")


def _stopped(record: PluginRecord) -> PluginStateError:
    return PluginStateError(
        f"plugin {record.plugin_id!r} was stopped, and is not started when it is needed",
        plugin_id=record.plugin_id,
        fix=f"plugbus plugin start {record.plugin_id}",
    )


def idle_timeout_of(record: PluginRecord, services: Services) -> float:
    """Seconds without use after which a plugin is unloaded; 0: never."""
    if record.metadata.activation != LAZY:
        return 0.0
    decided = services.policy(record).idle_timeout
    return (record.metadata.idle_timeout or 0.0) if decided is None else decided
