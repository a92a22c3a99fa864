"""Where a plugin's code runs: the line between the kernel and a plugin, and what crosses it.

Only a host holds a plugin's instance. What crosses the line (every argument and result of `Host` and of
`HostPort`) is data that pydantic can serialise, so that a host may be another process: `InProcess` is
the one that there is now. Errors cross as `RemoteError` with an `ErrorInfo`; who asks is bound to the
port, never an argument; what is acquired is answered with an id, never with a live object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from contracts.bus import DEFAULT_TIMEOUT, Call, CallReply, CatalogEntry, SubscriptionOptions
from contracts.event import AnyEvent, EventResult, Receipt
from contracts.health import HealthCheck, PerformanceMetrics
from contracts.message import PluginEvent
from contracts.messages import AuditRecorded, ConfigurationProblem
from contracts.metadata import PluginMetadata
from contracts.plugin import ConfigurationResult, PluginStatus
from contracts.security import SecurityContext
from contracts.web import RequestInfo, ResponseInfo, WebMount


class HandlerDeclaration(BaseModel):
    """A handler, as its plugin's code says it."""

    model_config = ConfigDict(frozen=True)

    name: str
    patterns: tuple[str, ...]
    options: SubscriptionOptions = SubscriptionOptions()
    filtered: bool = False
    """It wants only those events for which `Host.wants` is true."""


class ProviderDeclaration(BaseModel):
    """A provider, as its plugin's code says it."""

    model_config = ConfigDict(frozen=True)

    name: str
    capability: str
    rank: int = 0
    """As the code says; the operator may say otherwise."""
    description: str = ""
    query_schema: dict[str, JsonValue] = Field(default_factory=dict)
    answer_schema: dict[str, JsonValue] = Field(default_factory=dict)


class Declaration(BaseModel):
    """What a plugin's code says of itself, read once when it is loaded."""

    model_config = ConfigDict(frozen=True)

    handlers: tuple[HandlerDeclaration, ...] = ()
    providers: tuple[ProviderDeclaration, ...] = ()
    event_types: tuple[CatalogEntry, ...] = ()
    publishes: tuple[str, ...] = ()
    """Types of the event classes that its modules define or name."""
    requests: tuple[str, ...] = ()
    """Capabilities of the query classes that its modules define or name."""
    is_web: bool = False
    is_configurable: bool = False
    has_health: bool = False
    has_metrics: bool = False
    sees_requests: bool = False
    request_order: int = 0
    """Its place among the plugins that see requests, the lowest first."""

    @property
    def patterns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p for handler in self.handlers for p in handler.patterns))

    @property
    def capabilities(self) -> tuple[str, ...]:
        return tuple(provider.capability for provider in self.providers)


class Setup(BaseModel):
    """What a loaded plugin is given before `initialize`."""

    model_config = ConfigDict(frozen=True)

    metadata: PluginMetadata
    generation: int
    config: dict[str, JsonValue]
    security: SecurityContext
    data_dir: Path


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """The keyword arguments of `PluginContext.publish`."""

    key: str | None = None
    id: str | None = None
    subject: str | None = None
    delay: float | None = None
    at: datetime | None = None
    expires: datetime | None = None
    timeout: float = DEFAULT_TIMEOUT


class RequestData(BaseModel):
    """A request as data."""

    model_config = ConfigDict(frozen=True)

    capability: str
    data: str
    """JSON text of the query."""
    timeout: float = DEFAULT_TIMEOUT
    target: str = "any"


class HostUsage(BaseModel):
    """What a host has measured of its plugin since it was made, handlers left out: the bus measures these."""

    model_config = ConfigDict(frozen=True)

    loop_seconds: float = 0.0
    """Of its providers, spawned tasks, requests and steps, in the event loop of the kernel."""
    tasks: int = 0
    memory_bytes: int | None = None
    """None: it shares a process with others."""


class HostPort(Protocol):
    """What one plugin may ask of the kernel. Bound to the plugin: the kernel knows who asks."""

    async def publish(self, event: AnyEvent, options: PublishOptions) -> Receipt: ...

    async def publish_many(self, events: Sequence[AnyEvent], options: PublishOptions) -> list[Receipt]: ...

    async def request(self, request: RequestData) -> list[CallReply]: ...

    async def subscribe(self, handler: HandlerDeclaration) -> str:
        """Deliver events of `handler.patterns` to `Host.handle`; the id of the subscription."""

    async def provide(self, provider: ProviderDeclaration) -> str:
        """Send calls of the capability to `Host.call`; the id of the provision."""

    async def remove(self, id: str) -> None:
        """End a subscription or a provision. Unknown ids are ignored."""

    def report(self, record: AuditRecorded) -> None:
        """Have a decision that was made where the plugin runs written into the audit log. Never waits."""


class Host(Protocol):
    """Runs the code of one generation of one plugin.

    The steps are called in order, one at a time, each under a deadline that the caller keeps. A step
    that raises has undone what it did. `handle` and `call` may run side by side, between `start` and
    `stop` only.
    """

    async def load(self) -> Declaration:
        """Import the code, make the instance, read what it declares. Nothing of the plugin runs yet."""

    async def configure(self, config: dict[str, JsonValue]) -> ConfigurationResult:
        """Hand over a configuration, where the plugin takes one. Its context has it once it is taken."""

    async def configuration_schema(self) -> dict[str, JsonValue] | None:
        """What the code says its configuration is: `get_configuration_schema`, or the model that it reads."""

    async def check_configuration(self, config: dict[str, JsonValue]) -> tuple[ConfigurationProblem, ...]:
        """What of a configuration does not fit that; nothing is changed."""

    async def migrate_configuration(
        self, configuration: dict[str, JsonValue], version: int
    ) -> dict[str, JsonValue]:
        """Values that were set for an older `version` of the configuration, as this one wants them.

        Of a plugin that has no such method they are what they were. Between `load` and `configure`.
        """

    async def initialize(self, setup: Setup, port: HostPort) -> None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """`stopping` is set, the plugin's `stop` runs, and what `start` acquired is undone."""

    async def shutdown(self) -> None:
        """The plugin's `shutdown` runs, and what `initialize` acquired is undone."""

    async def unload(self) -> tuple[str, ...]:
        """Let the code go; what of it is still there (tasks, modules, loggers), for the proof."""

    async def asgi(self) -> WebMount | None:
        """The plugin's web face, built anew; None where it has none. After `initialize`."""

    def wants(self, event: PluginEvent) -> bool:
        """Whether a filtered handler wants the event. Raises what its predicate raises.

        A host that would have to wait for the answer says yes, and asks in `handle`.
        """

    async def handle(self, event: PluginEvent) -> EventResult | None: ...

    async def call(self, call: Call) -> CallReply: ...

    async def handle_request(self, request: RequestInfo) -> ResponseInfo | None:
        """What the plugin answers to a request that is not routed yet; None lets it pass."""

    async def health(self) -> HealthCheck: ...

    async def metrics(self) -> PerformanceMetrics: ...

    def usage(self) -> HostUsage:
        """As it is now, or as a host in another process has told last."""

    def owns(self, module: str, function: str) -> bool:
        """Whether a function (its qualified name) that runs in this process is its plugin's code."""

    def mirror_status(self, status: PluginStatus) -> None:
        """Tell the plugin's instance where it stands; the registry's record is the truth."""
