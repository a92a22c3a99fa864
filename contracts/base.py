"""`BasePlugin`, and the marks `@on` and `@provides`.

All three only *say* something; the host reads it when the plugin is loaded.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, overload

from pydantic import BaseModel, ValidationError

from .errors import InvalidOption, SettingsError
from .event import Event, HandlerResult
from .message import PluginEvent
from .metadata import PluginMetadata
from .patterns import check_pattern
from .plugin import PluginContext, PluginStatus
from .query import Query
from .subscription import CircuitBreaker, RateLimit, RetryPolicy, SubscriptionOptions

S = TypeVar("S")
E = TypeVar("E", bound=Event | PluginEvent)
H = TypeVar("H", bound=HandlerResult)
Q = TypeVar("Q", bound=Query[Any])
R = TypeVar("R")
M = TypeVar("M", bound=BaseModel)

_Async = Coroutine[Any, Any, R]
_Handler = Callable[[S, E], _Async[H]]
_HandlerWithMeta = Callable[[S, E, PluginEvent], _Async[H]]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
ON = "__plugbus_on__"
PROVIDES = "__plugbus_provides__"


@dataclass(frozen=True, slots=True)
class OnMark:
    """What `@on` says of a method."""

    patterns: tuple[str, ...]
    """Empty: the type of the annotated event."""
    name: str | None
    options: SubscriptionOptions
    where: Callable[[Any], bool] | None = None
    """What it is given is what the handler is given first."""


@dataclass(frozen=True, slots=True)
class ProvidesMark:
    """What `@provides` says of a method."""

    rank: int = 0


@overload
def on(handler: _Handler[S, E, H], /) -> _Handler[S, E, H]: ...


@overload
def on(handler: _HandlerWithMeta[S, E, H], /) -> _HandlerWithMeta[S, E, H]: ...


@overload
def on(
    *patterns: str,
    name: str | None = None,
    concurrency: int = 1,
    timeout: float = 30.0,
    retry: RetryPolicy | None = None,
    order: Literal["key", "topic", "none"] = "key",
    start: Literal["oldest", "new"] = "oldest",
    where: Callable[[Any], bool] | None = None,
    rate: RateLimit | None = None,
    breaker: CircuitBreaker | None = None,
    dedupe: bool = False,
    overflow: Literal["hold", "drop_oldest", "drop_new"] = "hold",
    max_waiting: int | None = None,
    exclusive: bool = False,
    broadcast: bool = False,
    durable: bool | None = None,
    keep: float = 604_800.0,
) -> _OnDecorator: ...


def on(
    *args: Any,
    name: str | None = None,
    where: Callable[[Any], bool] | None = None,
    retry: RetryPolicy | None = None,
    **options: Any,
) -> Any:
    """Mark an async method as a handler; its first parameter's annotation names the event.

    `@on` alone handles the type of the annotated event class. With patterns the parameter is
    `PluginEvent` or a common base class. A second parameter, where wanted, is the `PluginEvent`.
    The group is `<plugin_id>.<name>`, by default the method's name. `where`: a predicate on the event, given
    what the handler is given first; where it says no, the event is acknowledged without a start. All other
    options are those of `SubscriptionOptions`, which documents each and refuses what contradicts itself.
    """
    if len(args) == 1 and callable(args[0]):
        return on()(args[0])
    patterns = tuple(check_pattern(pattern) for pattern in args)
    if name is not None and not _NAME.fullmatch(str(name)):
        raise InvalidOption(
            f"@on(name={name!r}): not a name",
            where=_caller(),
            fix="name='report': letters, digits, _ . and -",
        )
    if retry is not None:
        options["retry"] = retry
    mark = OnMark(patterns, name, _checked(options), where)

    def decorate(function: Any) -> Any:
        setattr(function, ON, mark)
        return function

    return decorate


def _checked(options: dict[str, Any]) -> SubscriptionOptions:
    try:
        return SubscriptionOptions(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        what, _, fix = first["msg"].removeprefix("Value error, ").partition("; fix: ")
        if first["type"] == "extra_forbidden":
            what, fix = "there is no such option", _known_options(name)
        raise InvalidOption(
            f"@on({name}=…): {what}" if name else f"@on: {what}",
            where=_caller(),
            fix=fix or _EXAMPLES.get(name) or "see SubscriptionOptions for what it may be",
        ) from None


_EXAMPLES = {
    "rate": "rate=RateLimit(limit=50): so many starts a second",
    "breaker": "breaker=CircuitBreaker(minimum=20, ratio=0.5, pause=30)",
    "retry": "retry=RetryPolicy(attempts=3)",
}


def _known_options(name: str) -> str:
    """The fix for an option that is not known: the one that was meant, or all that there are."""
    if "." in name:
        return "see RetryPolicy, RateLimit and CircuitBreaker for what they take"
    known = ("name", "where", *SubscriptionOptions.model_fields)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"one of {', '.join(known)}"


def _caller() -> str:
    """`file:line` of whoever wrote the decorator."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


@overload
def provides(provider: Callable[[S, Q], _Async[R]], /) -> Callable[[S, Q], _Async[R]]: ...


@overload
def provides(*, rank: int = 0) -> _ProvidesDecorator: ...


def provides(provider: Any = None, /, *, rank: int = 0) -> Any:
    """Mark an async method as the provider of the query that its parameter is annotated with.

    `rank`: where several plugins provide the same, the one with the highest is asked; operators may set
    another one (`[plugins.ID] ranks`).
    """
    mark = ProvidesMark(check_rank(rank, _caller()))

    def decorate(function: Any) -> Any:
        setattr(function, PROVIDES, mark)
        return function

    return decorate if provider is None else decorate(provider)


def check_rank(rank: object, where: str = "") -> int:
    """Return `rank`; raises `InvalidOption` if it is not a whole number."""
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise InvalidOption(
            f"rank={rank!r}: not a whole number",
            where=where,
            fix="rank=10: the highest is asked, 0 by default",
        )
    return rank


class BasePlugin:
    """A plugin with every step already there: override what you need, `super()` is never required.

    The manifest may stand in the class line (`class Greeter(BasePlugin, plugin_id="greeter",
    version="1.0.0")`: the keys of a manifest file), or beside the code in `plugin.toml`. Give no
    `__init__`, or one that takes the metadata; it must have no side effects.
    """

    __manifest__: ClassVar[Mapping[str, Any]] = {}

    metadata: PluginMetadata
    context: PluginContext
    """Set by the host before `initialize`."""

    def __init_subclass__(
        cls,
        *,
        plugin_id: str | None = None,
        version: str | None = None,
        name: str | None = None,
        description: str | None = None,
        author: str | None = None,
        dependencies: Sequence[str] | None = None,
        optional_dependencies: Sequence[str] | None = None,
        order_after: Sequence[str] | None = None,
        capabilities: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        security_level: str | None = None,
        required_permissions: Sequence[str] | None = None,
        default_configuration: Mapping[str, Any] | None = None,
        configuration_schema: Mapping[str, Any] | None = None,
        publishes: Sequence[str] | None = None,
        subscribes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        provides: Sequence[str] | None = None,
        requests: Sequence[str] | None = None,
        requires_plugbus: str | None = None,
        requires_bus: Sequence[str] | None = None,
        activation: Literal["eager", "lazy"] | None = None,
        idle_timeout: float | None = None,
        criticality: Literal["required", "optional"] | None = None,
        resource_limits: Mapping[str, Any] | None = None,
        instances: int | None = None,
        reload: Literal["swap", "stop-start"] | None = None,
        configuration_version: int | None = None,
    ) -> None:
        given = {key: value for key, value in locals().items() if key in _MANIFEST_KEYS and value is not None}
        super().__init_subclass__()
        if given:
            cls.__manifest__ = given

    def __init__(self, metadata: PluginMetadata | None = None) -> None:
        if metadata is not None:
            self.metadata = metadata
        self.__status = PluginStatus.UNLOADED

    @property
    def plugin_id(self) -> str:
        return self.metadata.plugin_id

    @property
    def plugin_name(self) -> str:
        return self.metadata.name

    @property
    def version(self) -> str:
        return self.metadata.version

    @property
    def status(self) -> PluginStatus:
        """A mirror; the registry's record is the truth."""
        return getattr(self, "_BasePlugin__status", PluginStatus.UNLOADED)

    def mirror_status(self, status: PluginStatus) -> None:
        """For the host: keep `status` in step with the record."""
        self.__status = status

    async def initialize(self) -> bool | None:
        return None

    async def start(self) -> bool | None:
        return None

    async def stop(self) -> bool | None:
        return None

    async def shutdown(self) -> bool | None:
        return None

    def read_config(self, model: type[M], configuration: Mapping[str, Any] | None = None) -> M:
        """The configuration as a `model`; a `SettingsError` names the first key that does not fit.

        `configuration`: another than that of the context, such as the one that `configure` is given. From
        now on `model` is the schema of the configuration: whatever else is to become of it must fit.
        """
        known: dict[type[BaseModel], None] = self.__dict__.setdefault("_BasePlugin__configuration_models", {})
        known[model] = None
        given = self.context.config if configuration is None else configuration
        try:
            return model.model_validate(dict(given))
        except ValidationError as error:
            metadata = getattr(self, "metadata", None)  # `configure` comes before it is there
            raise _bad_config(metadata.plugin_id if metadata else "ID", model, error) from None

    @property
    def configuration_models(self) -> tuple[type[BaseModel], ...]:
        """For the host: the models by which the plugin has read its configuration."""
        return tuple(self.__dict__.get("_BasePlugin__configuration_models", ()))

    # Hooks around the steps, for base classes that should not own the steps themselves. A hook that
    # raises fails its step.

    async def on_before_initialize(self) -> None: ...

    async def on_after_initialize(self) -> None: ...

    async def on_before_start(self) -> None: ...

    async def on_after_start(self) -> None: ...

    async def on_before_stop(self) -> None: ...

    async def on_after_stop(self) -> None: ...

    async def on_before_shutdown(self) -> None: ...

    async def on_after_shutdown(self) -> None: ...


def _bad_config(plugin_id: str, model: type[BaseModel], error: ValidationError) -> SettingsError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        message, fix = f"{key!r} is no key of it", f"its keys are {', '.join(sorted(model.model_fields))}"
    else:
        message = f"{key}: {first['msg'].removeprefix('Value error, ')}" if key else first["msg"]
        fix = f"set {key} to what is expected, or leave it out" if key else "set what is expected"
    where = f"[plugins.{plugin_id}.config]"
    return SettingsError(f"the configuration of {plugin_id} does not fit: {message}", where=where, fix=fix)


_MANIFEST_KEYS = frozenset(PluginMetadata.model_fields) - {
    "source", "file_path", "size_bytes", "checksum", "entry_point",
}  # fmt: skip


if TYPE_CHECKING:
    from typing import Protocol

    class _OnDecorator(Protocol):
        @overload
        def __call__(self, handler: _Handler[S, E, H], /) -> _Handler[S, E, H]: ...
        @overload
        def __call__(self, handler: _HandlerWithMeta[S, E, H], /) -> _HandlerWithMeta[S, E, H]: ...

    class _ProvidesDecorator(Protocol):
        def __call__(self, provider: Callable[[S, Q], _Async[R]], /) -> Callable[[S, Q], _Async[R]]: ...
