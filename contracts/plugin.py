"""What a plugin is to the kernel, and what the kernel is to a plugin."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict, JsonValue

from .bus import DEFAULT_TIMEOUT, Subscription, SubscriptionOptions
from .event import Event, EventResult, HandlerResult, Receipt
from .health import HealthCheck, PerformanceMetrics
from .message import PluginEvent
from .metadata import PluginMetadata
from .query import Query
from .security import SecurityContext, SecurityLevel
from .web import ASGIApp, StaticMount

R = TypeVar("R")
T = TypeVar("T")

Undo = Callable[[], Awaitable[None] | None]


class PluginStatus(str, enum.Enum):
    """Where a plugin stands. What it is *doing* is its activity, why it stands there its reason."""

    UNLOADED = "unloaded"
    """Known by its manifest; none of its code is imported."""
    LOADED = "loaded"
    """Its code is imported and its instance made; nothing has run."""
    INITIALIZED = "initialized"
    """`initialize` has returned; it handles nothing yet."""
    STARTED = "started"
    """Handlers, providers and routes are active."""
    STOPPED = "stopped"
    """`stop` has returned; its groups keep their place."""
    ERROR = "error"
    """Refused, failed or quarantined; the reason says what to do."""


class ConfigurationResult(BaseModel):
    """The answer of `configure`: taken, or why not."""

    model_config = ConfigDict(frozen=True)

    ok: bool = True
    errors: tuple[str, ...] = ()
    restart_required: bool = False


@runtime_checkable
class IPlugin(Protocol):
    """What every plugin has. `BasePlugin` implements all of it; only what you need is overridden.

    The loader calls the class without arguments (or with its metadata, in the classic style); that must
    have no side effects. Before `initialize`, the host sets `metadata` and `context` on the instance.
    A step that raises, or returns False, has failed: what it acquired through the context is undone.
    """

    @property
    def plugin_id(self) -> str: ...

    @property
    def plugin_name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def status(self) -> PluginStatus: ...

    async def initialize(self) -> bool | None:
        """Prepare; raise `PluginNotReady` to be asked again later."""

    async def start(self) -> bool | None:
        """Go to work. Handlers are active once this has returned."""

    async def stop(self) -> bool | None:
        """Stop work. No handler runs any more when this is called."""

    async def shutdown(self) -> bool | None:
        """Let go of what `initialize` acquired."""


@runtime_checkable
class IEventPlugin(Protocol):
    """The explicit way to handle events: one method for all of them, one group `<id>.handle_event`."""

    async def handle_event(self, event: PluginEvent) -> HandlerResult: ...

    def get_subscribed_events(self) -> Sequence[str | type[Event]]:
        """Type names, patterns or event classes; read once, at load."""


@runtime_checkable
class IWebPlugin(Protocol):
    """A plugin with pages or an API of its own, below `/plugins/{plugin_id}`."""

    async def get_api_router(self) -> ASGIApp:
        """A FastAPI `APIRouter`, or any ASGI application. Called once, after `initialize`."""

    async def get_static_mounts(self) -> Sequence[StaticMount]: ...


@runtime_checkable
class IConfigurablePlugin(Protocol):
    async def configure(self, configuration: Mapping[str, JsonValue]) -> ConfigurationResult | None:
        """Take a whole new configuration, or refuse it and change nothing. Before `initialize` too.

        Called again whenever an operator changes the configuration of the running plugin. `errors` or an
        exception refuse it: the former stays in force, and is handed over again after an exception.
        `restart_required`: it will do, but only from the next start on. `context.config` follows once it is
        taken. A plugin without this method takes every change at its next start.
        """

    def get_configuration_schema(self) -> Mapping[str, JsonValue]:
        """JSON Schema 2020-12 of the configuration."""


@runtime_checkable
class IConfigurationMigration(Protocol):
    async def migrate_configuration(
        self, configuration: dict[str, JsonValue], version: int
    ) -> dict[str, JsonValue]:
        """What operators had set live for `version` of the configuration, as the present one wants it.

        Called before `configure` when the manifest's `configuration_version` has grown since; `configuration`
        holds only what was set, no defaults. The answer is kept once the plugin has taken it; an exception
        keeps the plugin from loading, and changes nothing. Without this method the values stay as they are.
        """


@runtime_checkable
class IPluginHealth(Protocol):
    async def health_check(self) -> HealthCheck: ...

    def get_metrics(self) -> PerformanceMetrics: ...


@runtime_checkable
class IWebConfigurablePlugin(IWebPlugin, IConfigurablePlugin, Protocol):
    """A plugin with routes and configuration."""


class PluginHandle(Protocol):
    """What others hold of a plugin: never the instance, which only its host has."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def status(self) -> PluginStatus: ...

    @property
    def metadata(self) -> PluginMetadata: ...

    async def health(self) -> HealthCheck:
        """The plugin's own answer, or one made from its status where it has no `health_check`, or is not
        started: a lazy one that waits to be needed is healthy."""


class IPluginRegistry(Protocol):
    """Who is there. Read-only for everybody but the lifecycle."""

    def get_plugin(self, plugin_id: str) -> PluginHandle:
        """Raises `PluginNotFound`."""

    def get_metadata(self, plugin_id: str) -> PluginMetadata:
        """Raises `PluginNotFound`."""

    def get_all_plugins(self) -> list[PluginHandle]: ...

    def get_plugins_by_capability(self, capability: str) -> list[PluginHandle]:
        """Started plugins that provide it now, the one with the highest rank first."""

    def get_plugins_by_tag(self, tag: str) -> list[PluginHandle]: ...

    def get_plugins_by_status(self, status: PluginStatus) -> list[PluginHandle]: ...

    def get_plugins_by_level(self, level: SecurityLevel) -> list[PluginHandle]:
        """By the level that is in force; by the requested one while nothing is loaded."""

    def get_plugins_by_event_type(self, type_name: str) -> list[PluginHandle]:
        """Plugins with a handler for events of that type; before they are loaded, as their manifests say."""


class PluginContext(Protocol):
    """Everything that a plugin may do, granted and undone by the kernel.

    What is acquired here is undone, last in first out, when the step in which it was acquired is undone:
    what `initialize` acquired after `shutdown`, what `start` and handlers acquired after `stop`.
    """

    @property
    def metadata(self) -> PluginMetadata: ...

    @property
    def generation(self) -> int:
        """Counts the loads of this plugin, from 1."""

    @property
    def config(self) -> Mapping[str, JsonValue]:
        """The merged configuration; read-only. Another object after a change that `configure` has taken."""

    @property
    def security(self) -> SecurityContext:
        """Effective level, permissions, grants."""

    @property
    def data_dir(self) -> Path:
        """A folder of the plugin's own that outlives it; made when first asked for."""

    @property
    def stopping(self) -> asyncio.Event:
        """Set when the plugin begins to stop; what loops, waits on it."""

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
        """Publish; returns when the bus has taken the event. The source is stamped, not chosen.

        `key`: events of one topic and key are handled in order. `id`: the same id again within two
        minutes is the same event. Raises `PermissionDeniedError` without a grant, `BusFull`,
        `PayloadTooLarge`, `PublishUnknown`.
        """

    async def publish_many(
        self, events: Sequence[Event], *, key: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> list[Receipt]:
        """Publish in order, one receipt each."""

    async def request(self, query: Query[R], *, timeout: float = DEFAULT_TIMEOUT, target: str = "any") -> R:
        """Ask the provider of the query's capability.

        Raises `NoProvider` at once, `CallTimeout`, `ProviderFailed`, `ProviderLost`, `CallRefused`, and
        `PermissionDeniedError` without a grant. `target`: `"any"`, or a replica's name.
        """

    async def request_all(self, query: Query[R], *, timeout: float = DEFAULT_TIMEOUT) -> list[R]:
        """Ask on every replica; the answers that came, in no order."""

    async def subscribe(
        self,
        handler: Callable[[PluginEvent], Awaitable[HandlerResult]],
        *patterns: str,
        name: str | None = None,
        options: SubscriptionOptions | None = None,
        where: Callable[[PluginEvent], bool] | None = None,
    ) -> Subscription:
        """Handle events from now until removed. The group is `<plugin_id>.<name or handler's name>`.

        `where`: only events for which it is true; the others are acknowledged without a start.
        """

    async def provide(
        self, provider: Callable[[Any], Awaitable[Any]], *, rank: int | None = None
    ) -> Subscription:
        """Answer the query that `provider` is annotated with, until removed.

        `rank`: of several providers the one with the highest is asked; None: as `@provides` says, or 0.
        """

    def spawn(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run beside the handlers; cancelled and awaited by the scope. Its failure is logged."""

    def every(
        self, seconds: float, function: Callable[[], Awaitable[None]], *, name: str | None = None
    ) -> None:
        """Call `function` now and then every `seconds` (measured between starts; never two at once).

        An error is logged and the next turn comes all the same.
        """

    def on_close(self, undo: Undo) -> None:
        """Have `undo` called, last in first out. Sync or async."""

    async def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter now, leave with the scope."""


__all__ = [
    "ConfigurationResult",
    "EventResult",
    "IConfigurablePlugin",
    "IConfigurationMigration",
    "IEventPlugin",
    "IPlugin",
    "IPluginHealth",
    "IPluginRegistry",
    "IWebConfigurablePlugin",
    "IWebPlugin",
    "PluginContext",
    "PluginHandle",
    "PluginStatus",
    "Subscription",
    "Undo",
]
