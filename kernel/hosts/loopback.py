"""A host that sends everything through JSON, as a worker in another process would have to.

The test kit runs plugins on it: what cannot cross a process border fails in the author's first test.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from pydantic import JsonValue, TypeAdapter

from contracts.bus import Call, CallReply
from contracts.errors import ErrorInfo
from contracts.event import AnyEvent, Event, EventData, EventResult, Receipt
from contracts.health import HealthCheck, PerformanceMetrics
from contracts.message import PluginEvent
from contracts.messages import AuditRecorded, ConfigurationProblem
from contracts.plugin import ConfigurationResult, PluginStatus
from contracts.web import RequestInfo, ResponseInfo, WebMount

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

T = TypeVar("T")
Watcher = Callable[[PluginEvent], None]


def crossed(kind: Any, value: Any) -> Any:
    """`value` after a trip through JSON as a `kind`."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return adapter.validate_json(adapter.dump_json(value))


async def answered(awaitable: Awaitable[T], kind: Any) -> T:
    """The result after a trip through JSON; an error as its description made into an error again."""
    try:
        result = await awaitable
    except Exception as error:
        info: ErrorInfo = crossed(ErrorInfo, ErrorInfo.of(error))
        raise info.to_exception() from error
    crossing: T = crossed(kind, result)
    return crossing


def portable(event: AnyEvent) -> EventData:
    """An event as data, whatever it was."""
    data: EventData = crossed(EventData, EventData.of(event) if isinstance(event, Event) else event)
    return data


class LoopbackPort:
    """The way from the plugin to the kernel, through JSON."""

    def __init__(self, port: HostPort) -> None:
        self._port = port

    async def publish(self, event: AnyEvent, options: PublishOptions) -> Receipt:
        return await answered(self._port.publish(portable(event), crossed(PublishOptions, options)), Receipt)

    async def publish_many(self, events: Sequence[AnyEvent], options: PublishOptions) -> list[Receipt]:
        data = [portable(event) for event in events]
        return await answered(self._port.publish_many(data, crossed(PublishOptions, options)), list[Receipt])

    async def request(self, request: RequestData) -> list[CallReply]:
        return await answered(self._port.request(crossed(RequestData, request)), list[CallReply])

    async def subscribe(self, handler: HandlerDeclaration) -> str:
        return await answered(self._port.subscribe(crossed(HandlerDeclaration, handler)), str)

    async def provide(self, provider: ProviderDeclaration) -> str:
        return await answered(self._port.provide(crossed(ProviderDeclaration, provider)), str)

    async def remove(self, id: str) -> None:
        await answered(self._port.remove(id), None)

    def report(self, record: AuditRecorded) -> None:
        self._port.report(crossed(AuditRecorded, record))


class LoopbackHost:
    """The way from the kernel to the plugin, through JSON; see `Host`.

    Only `asgi` hands over a live object: a worker would hand over a proxy of its own.
    `watch` is told of each delivery that was handled.
    """

    def __init__(self, inner: Host, watch: Watcher | None = None) -> None:
        self._inner = inner
        self._watch = watch

    async def load(self) -> Declaration:
        return await answered(self._inner.load(), Declaration)

    async def configure(self, config: dict[str, JsonValue]) -> ConfigurationResult:
        return await answered(
            self._inner.configure(crossed(dict[str, JsonValue], config)), ConfigurationResult
        )

    async def configuration_schema(self) -> dict[str, JsonValue] | None:
        return await answered(self._inner.configuration_schema(), dict[str, JsonValue] | None)

    async def check_configuration(self, config: dict[str, JsonValue]) -> tuple[ConfigurationProblem, ...]:
        return await answered(
            self._inner.check_configuration(crossed(dict[str, JsonValue], config)),
            tuple[ConfigurationProblem, ...],
        )

    async def migrate_configuration(
        self, configuration: dict[str, JsonValue], version: int
    ) -> dict[str, JsonValue]:
        asked = self._inner.migrate_configuration(
            crossed(dict[str, JsonValue], configuration), crossed(int, version)
        )
        return await answered(asked, dict[str, JsonValue])

    async def initialize(self, setup: Setup, port: HostPort) -> None:
        await answered(self._inner.initialize(crossed(Setup, setup), LoopbackPort(port)), None)

    async def start(self) -> None:
        await answered(self._inner.start(), None)

    async def stop(self) -> None:
        await answered(self._inner.stop(), None)

    async def shutdown(self) -> None:
        await answered(self._inner.shutdown(), None)

    async def unload(self) -> tuple[str, ...]:
        return await answered(self._inner.unload(), tuple[str, ...])

    async def asgi(self) -> WebMount | None:
        return await self._inner.asgi()

    def wants(self, event: PluginEvent) -> bool:
        try:
            answer: bool = crossed(bool, self._inner.wants(crossed(PluginEvent, event)))
        except Exception as error:
            info: ErrorInfo = crossed(ErrorInfo, ErrorInfo.of(error))
            raise info.to_exception() from error
        return answer

    async def handle(self, event: PluginEvent) -> EventResult | None:
        result = await answered(self._handled(crossed(PluginEvent, event)), EventResult | None)
        if self._watch is not None:
            self._watch(event)
        return result

    async def _handled(self, event: PluginEvent) -> EventResult | None:
        result = await self._inner.handle(event)
        if result is None or not result.events:
            return result
        data = tuple(portable(returned) for returned in result.events)
        return EventResult(result.action, data, result.reason, result.after)

    async def call(self, call: Call) -> CallReply:
        return await answered(self._inner.call(crossed(Call, call)), CallReply)

    async def handle_request(self, request: RequestInfo) -> ResponseInfo | None:
        return await answered(self._inner.handle_request(crossed(RequestInfo, request)), ResponseInfo | None)

    async def health(self) -> HealthCheck:
        return await answered(self._inner.health(), HealthCheck)

    async def metrics(self) -> PerformanceMetrics:
        return await answered(self._inner.metrics(), PerformanceMetrics)

    def usage(self) -> HostUsage:
        usage: HostUsage = crossed(HostUsage, self._inner.usage())
        return usage

    def owns(self, module: str, function: str) -> bool:
        return self._inner.owns(module, function)

    def mirror_status(self, status: PluginStatus) -> None:
        self._inner.mirror_status(crossed(PluginStatus, status))
