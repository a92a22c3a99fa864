"""A host of several instances of one plugin (`instances` in its manifest)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from pydantic import JsonValue

from contracts.bus import Call, CallReply
from contracts.errors import PluginLoadError, PluginStateError
from contracts.event import AnyEvent, EventResult, Receipt
from contracts.health import HEALTH, HealthCheck, PerformanceMetrics
from contracts.message import PluginEvent
from contracts.messages import AuditRecorded, ConfigurationProblem
from contracts.plugin import ConfigurationResult, PluginStatus
from contracts.web import RequestInfo, ResponseInfo, WebMount

from ..scope import UNDO_TIMEOUT
from . import (
    Declaration,
    HandlerDeclaration,
    Host,
    HostPort,
    HostUsage,
    ProviderDeclaration,
    PublishOptions,
    RequestData,
    Setup,
)
from .code import Code
from .pool import PluginPool


class Pooled:
    """See `Host`. Each instance has a state and a context of its own, and does one thing at a time.

    All of them go through every step; where one fails, the others are taken back. Handlers and providers get
    an instance that is free; predicates (`where`) and the web face are those of the first.
    """

    def __init__(self, members: Sequence[Host]) -> None:
        self._pool = PluginPool(members)
        self._first = members[0]

    async def load(self) -> Declaration:
        declaration = await self._first.load()
        for member in self._pool.members[1:]:
            await member.load()
        handlers = tuple(_bounded(handler, len(self._pool)) for handler in declaration.handlers)
        return declaration.model_copy(update={"handlers": handlers})

    async def configure(self, config: dict[str, JsonValue]) -> ConfigurationResult:
        """What the first takes, all must take: if not, this raises, and the former is handed to all again."""
        result = await self._first.configure(config)
        if not result.ok:
            return result
        for number, member in enumerate(self._pool.members[1:], 2):
            if not (other := await member.configure(config)).ok:
                raise PluginLoadError(f"instance {number} refused it: {'; '.join(other.errors)}")
        return result

    async def configuration_schema(self) -> dict[str, JsonValue] | None:
        return await self._first.configuration_schema()

    async def check_configuration(self, config: dict[str, JsonValue]) -> tuple[ConfigurationProblem, ...]:
        return await self._first.check_configuration(config)

    async def migrate_configuration(
        self, configuration: dict[str, JsonValue], version: int
    ) -> dict[str, JsonValue]:
        return await self._first.migrate_configuration(configuration, version)

    # --- the steps --------------------------------------------------------------------------------------

    async def initialize(self, setup: Setup, port: HostPort) -> None:
        own = InstancePort(port)
        await self._all_or_none(lambda host: host.initialize(setup, own), lambda host: host.shutdown())

    async def start(self) -> None:
        await self._all_or_none(lambda host: host.start(), lambda host: host.stop())

    async def stop(self) -> None:
        await self._all(lambda host: host.stop())

    async def shutdown(self) -> None:
        await self._all(lambda host: host.shutdown())

    async def unload(self) -> tuple[str, ...]:
        left = await asyncio.gather(*(member.unload() for member in self._pool.members))
        return tuple(dict.fromkeys(leak for leaks in left for leak in leaks))

    async def _all_or_none(
        self, up: Callable[[Host], Awaitable[None]], down: Callable[[Host], Awaitable[None]]
    ) -> None:
        done: list[Host] = []
        try:
            for member in self._pool.members:
                await up(member)
                done.append(member)
        except BaseException as error:
            for one in await _down(done, down, UNDO_TIMEOUT):
                error.add_note(f"and, while undoing another instance: {type(one).__name__}: {one}")
            raise

    async def _all(self, down: Callable[[Host], Awaitable[None]]) -> None:
        errors = await _down(self._pool.members, down)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("several instances failed", errors)

    # --- work -------------------------------------------------------------------------------------------

    async def handle(self, event: PluginEvent) -> EventResult | None:
        member = await self._pool.acquire()
        try:
            return await member.handle(event)
        finally:
            self._pool.release(member)

    async def call(self, call: Call) -> CallReply:
        async with self._pool.one() as member:
            return await member.call(call)

    async def handle_request(self, request: RequestInfo) -> ResponseInfo | None:
        async with self._pool.one() as member:
            return await member.handle_request(request)

    def wants(self, event: PluginEvent) -> bool:
        return self._first.wants(event)

    async def asgi(self) -> WebMount | None:
        return await self._first.asgi()

    # --- how it is --------------------------------------------------------------------------------------

    async def health(self) -> HealthCheck:
        """The worst of all; which instance that is, is said."""
        checks = await asyncio.gather(*(member.health() for member in self._pool.members))
        number, worst = max(enumerate(checks, 1), key=lambda item: (HEALTH.index(item[1].status), -item[0]))
        if worst.status == "healthy":
            return worst
        message = f"instance {number} of {len(checks)}: {worst.message}".removesuffix(": ")
        return worst.model_copy(update={"message": message})

    async def metrics(self) -> PerformanceMetrics:
        """The figures of all together."""
        extra: Counter[str] = Counter()
        for member in self._pool.members:
            extra.update((await member.metrics()).extra)
        return PerformanceMetrics(extra=dict(extra))

    def usage(self) -> HostUsage:
        all_of_them = [member.usage() for member in self._pool.members]
        known = [usage.memory_bytes for usage in all_of_them if usage.memory_bytes is not None]
        return HostUsage(
            loop_seconds=sum(usage.loop_seconds for usage in all_of_them),
            tasks=sum(usage.tasks for usage in all_of_them),
            memory_bytes=sum(known) if known else None,
        )

    def owns(self, module: str, function: str) -> bool:
        return self._first.owns(module, function)

    def mirror_status(self, status: PluginStatus) -> None:
        for member in self._pool.members:
            member.mirror_status(status)


class InstancePort:
    """The port of one instance among several: what it would acquire by itself, the others would too."""

    def __init__(self, port: HostPort) -> None:
        self._port = port

    async def publish(self, event: AnyEvent, options: PublishOptions) -> Receipt:
        return await self._port.publish(event, options)

    async def publish_many(self, events: Sequence[AnyEvent], options: PublishOptions) -> list[Receipt]:
        return await self._port.publish_many(events, options)

    async def request(self, request: RequestData) -> list[CallReply]:
        return await self._port.request(request)

    async def subscribe(self, handler: HandlerDeclaration) -> str:
        raise _one_of_several("subscribe", handler.name, "@on")

    async def provide(self, provider: ProviderDeclaration) -> str:
        raise _one_of_several("provide", provider.name, "@provides")

    async def remove(self, id: str) -> None:
        await self._port.remove(id)

    def report(self, record: AuditRecorded) -> None:
        self._port.report(record)


class SharedCode(Code):
    """One generation's code for several instances: imported once, and let go with the last."""

    def __init__(self, code: Code, users: int) -> None:
        self._code = code
        self._users = users
        self._cls: type | None = None
        self.is_given = code.is_given

    def load(self) -> type:
        if self._cls is None:
            self._cls = self._code.load()
        return self._cls

    def modules(self) -> tuple[str, ...]:
        return self._code.modules()

    def package(self) -> str:
        return self._code.package()

    def files(self) -> Path | None:
        return self._code.files()

    def owns(self, module: str, function: str) -> bool:
        return self._code.owns(module, function)

    def unload(self) -> tuple[str, ...]:
        self._users -= 1
        if self._users > 0:
            return ()
        self._cls = None
        return self._code.unload()


async def _down(
    members: Sequence[Host], down: Callable[[Host], Awaitable[None]], timeout: float | None = None
) -> list[Exception]:
    """Every one, whatever the others do; side by side, so that one that hangs takes no time of the others."""

    async def one(member: Host) -> None:
        async with asyncio.timeout(timeout):
            await down(member)

    ended = await asyncio.gather(*map(one, reversed(members)), return_exceptions=True)
    return [error for error in ended if isinstance(error, Exception)]


def _bounded(handler: HandlerDeclaration, instances: int) -> HandlerDeclaration:
    """As many at once as there are instances, unless it says fewer, or needs one after the other."""
    options = handler.options
    says = "concurrency" in options.model_fields_set or options.order == "topic"
    most = min(options.concurrency, instances) if says else instances
    return handler.model_copy(update={"options": options.model_copy(update={"concurrency": most})})


def _one_of_several(verb: str, name: str, mark: str) -> PluginStateError:
    return PluginStateError(
        f"one of several instances cannot {verb} {name!r} by itself: all of them would",
        fix=f"mark a method with {mark}, or let the manifest say instances = 1",
    )
