"""The plugin's side of the line: `PluginContext`, made of what stays here and what goes over the port."""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import JsonValue, ValidationError

from contracts.bus import DEFAULT_TIMEOUT, CallReply, Subscription, SubscriptionOptions
from contracts.errors import (
    CallRefused,
    HandlerDefinitionError,
    InvalidOption,
    PlugbusError,
)
from contracts.event import Event, HandlerResult, Receipt, dump_event, invalid
from contracts.message import PluginEvent
from contracts.metadata import PluginMetadata
from contracts.metering import Meter
from contracts.query import Query, answer_adapter
from contracts.security import Permission, SecurityContext

from ..contain import contained
from ..scope import Scope, Undo
from ..security import PermissionManager
from . import HostPort, PublishOptions, RequestData, Setup
from .declarations import Compiled
from .handlers import compile_subscription
from .providers import compile_provider
from .reading import place

R = TypeVar("R")
T = TypeVar("T")
Local = tuple[dict[str, Any], Any]
"""A table of functions by name, and the one to enter there."""


class HostContext:
    """See `contracts.plugin.PluginContext`, which this implements."""

    def __init__(self, setup: Setup, port: HostPort, compiled: Compiled, log: logging.Logger) -> None:
        self._setup = setup
        self._permissions = PermissionManager(setup.security, port.report)
        self._port = port
        self._compiled = compiled
        self._log = log
        self._config: Mapping[str, JsonValue] = types.MappingProxyType(setup.config)
        self.stopping = asyncio.Event()
        self.outer = Scope(f"{setup.metadata.plugin_id} (initialize)", log)
        self.inner: Scope | None = None
        self.meter = Meter()
        """Of whoever runs it: what spawned tasks take of the event loop is counted there."""

    # --- what the plugin is -----------------------------------------------------------------------

    @property
    def metadata(self) -> PluginMetadata:
        return self._setup.metadata

    @property
    def generation(self) -> int:
        return self._setup.generation

    @property
    def config(self) -> Mapping[str, JsonValue]:
        return self._config

    def set_config(self, config: dict[str, JsonValue]) -> None:
        """For the host: the plugin has taken another configuration."""
        self._config = types.MappingProxyType(config)

    @property
    def security(self) -> SecurityContext:
        return self._setup.security

    @property
    def data_dir(self) -> Path:
        if not self.security.validate_permission(Permission.READ_DATA):  # either of the two will do
            self._permissions.check_permission(Permission.WRITE_DATA, why="data_dir")
        self._setup.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._setup.data_dir

    # --- over the port ------------------------------------------------------------------------------

    async def publish(
        self,
        event: Event,
        *,
        key: str | None = None,
        id: str | None = None,
        subject: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        expires: datetime | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Receipt:
        options = PublishOptions(key, id, subject, delay, at, expires, timeout)
        return await self._port.publish(event, options)

    async def publish_many(
        self, events: Sequence[Event], *, key: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> list[Receipt]:
        return await self._port.publish_many(events, PublishOptions(key=key, timeout=timeout))

    async def request(self, query: Query[R], *, timeout: float = DEFAULT_TIMEOUT, target: str = "any") -> R:
        replies = await self._ask(query, timeout, target)
        return self._answer(query, replies[0])

    async def request_all(self, query: Query[R], *, timeout: float = DEFAULT_TIMEOUT) -> list[R]:
        return [self._answer(query, reply) for reply in await self._ask(query, timeout, "all")]

    async def _ask(self, query: Query[Any], timeout: float, target: str) -> list[CallReply]:
        data = dump_event(query).decode()
        request = RequestData(capability=query.__capability__, data=data, timeout=timeout, target=target)
        return await self._port.request(request)

    def _answer(self, query: Query[R], reply: CallReply) -> R:
        try:
            answer: R = answer_adapter(type(query)).validate_json(reply.data)
        except ValidationError as error:
            name = query.__capability__
            raise CallRefused(invalid(f"the answer of {name}", error).message, capability=name) from None
        return answer

    async def subscribe(
        self,
        handler: Callable[[PluginEvent], Awaitable[HandlerResult]],
        *patterns: str,
        name: str | None = None,
        options: SubscriptionOptions | None = None,
        where: Callable[[PluginEvent], bool] | None = None,
    ) -> Subscription:
        compiled = compile_subscription(handler, patterns, name, options or SubscriptionOptions(), where)
        local: list[Local] = [(self._compiled.handlers, compiled.run)]
        if compiled.wants is not None:
            local.append((self._compiled.predicates, compiled.wants))
        declared = compiled.declaration
        return await self._hold(declared.name, local, self._port.subscribe(declared))

    async def provide(
        self, provider: Callable[[Any], Awaitable[Any]], *, rank: int | None = None
    ) -> Subscription:
        declared, function = compile_provider(provider, rank)
        local: list[Local] = [(self._compiled.providers, function)]
        return await self._hold(declared.name, local, self._port.provide(declared))

    async def _hold(self, name: str, local: list[Local], acquiring: Coroutine[Any, Any, str]) -> Subscription:
        """Register the local functions, acquire the remote half, and have both undone together."""
        table, function = local[0]
        if name in table:
            acquiring.close()
            raise HandlerDefinitionError(
                f"plugin {self.metadata.plugin_id!r} has a handler {name!r} already",
                where=place(function),
                fix='give this one another name: subscribe(…, name="…")',
            )
        for table, function in local:
            table[name] = function

        def forget() -> None:
            for table, _ in local:
                table.pop(name, None)

        try:
            id = await acquiring
        except BaseException:
            forget()
            raise

        async def undo() -> None:
            try:
                await self._port.remove(id)
            finally:
                forget()

        try:
            entry = self.scope.push(f"subscription {name}", undo)
        except PlugbusError:  # closed meanwhile
            await undo()
            raise
        return Held(id, entry.undo)

    # --- what stays here ----------------------------------------------------------------------------

    @property
    def scope(self) -> Scope:
        """Where things are acquired now: the inner scope between `start` and `stop`."""
        return self.inner or self.outer

    def spawn(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        return self.scope.spawn(self.meter.steps(coro), name=f"{self.metadata.plugin_id}: {name}")

    def every(
        self, seconds: float, function: Callable[[], Awaitable[None]], *, name: str | None = None
    ) -> None:
        if not seconds > 0:  # NaN too
            raise InvalidOption(f"every({seconds!r}, …) would never rest", fix="seconds above 0")
        label = name or str(getattr(function, "__name__", "every"))
        self.spawn(self._repeat(seconds, function, label), name=label)

    async def _repeat(self, seconds: float, function: Callable[[], Awaitable[None]], label: str) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                await contained(function(), label)
            except Exception:  # noqa: BLE001 - whatever one turn raises, the next one comes
                self._log.exception(
                    "%s: %s failed; next turn in %g s", self.metadata.plugin_id, label, seconds
                )
            due = max(due + seconds, loop.time())
            await asyncio.sleep(due - loop.time())

    def on_close(self, undo: Undo) -> None:
        self.scope.push(f"on_close {getattr(undo, '__name__', 'undo')}", undo)

    async def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        return await self.scope.enter(manager)


class Held:
    """A subscription as its plugin holds it: an id, and how to end it."""

    def __init__(self, id: str, undo: Callable[[], Awaitable[None]]) -> None:
        self.id = id
        self._undo = undo

    async def remove(self) -> None:
        await self._undo()
