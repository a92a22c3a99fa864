"""Every error of Plugbus, split by who must act.

An error names what was wrong, where, and one way to fix it; the data behind the sentence are
attributes, so that code never has to read the text. Errors cross process borders as `ErrorInfo`,
which carries the *names* of the classes: rules and tests match names, never classes.
"""

from __future__ import annotations

import traceback as _traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

TRACEBACK_LIMIT = 8_192
"""Characters of a traceback that are kept; the end is kept, because the cause stands there."""
MESSAGE_LIMIT = 2_000
"""Characters of an error's sentence that are kept."""


class PlugbusError(Exception):
    """Base of everything that Plugbus raises on purpose.

    `where` is a place that a person can open (file and line, plugin, event); `fix` is one thing to do.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, where: str = "", fix: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.fix = fix
        self.details: Mapping[str, Any] = details

    def __str__(self) -> str:
        return f"{self.message} ({self.where})" if self.where else self.message

    def explain(self) -> str:
        """At most a few lines for a person: what, where, how to mend it."""
        lines = [f"{self.code}: {self.message}"]
        if self.where:
            lines.append(f"  at:  {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


# --- the plugin's author must act ---------------------------------------------------------------


class EventDefinitionError(PlugbusError):
    """An event or query class cannot work as written; raised where the class is made."""

    code = "event-definition"


class HandlerDefinitionError(PlugbusError):
    """A handler or provider has no usable annotation, or is not async; raised at load."""

    code = "handler-definition"


class ManifestError(PlugbusError):
    """A manifest cannot be read or says something that is not allowed."""

    code = "manifest"


class PluginLoadError(PlugbusError):
    """The plugin's code could not be imported, or is not the plugin that it claims to be."""

    code = "plugin-load"


class PluginNotReady(PlugbusError):
    """A plugin says that it cannot be initialized *yet*; the kernel asks again later.

    `retry_after`: seconds until the next try, or None for the kernel's growing delay.
    """

    code = "plugin-not-ready"

    def __init__(self, message: str = "not ready", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


# --- the caller must act ------------------------------------------------------------------------


class InvalidEvent(PlugbusError):
    """The data do not fit the event's model. `errors` lists each field with what was expected."""

    code = "invalid-event"

    def __init__(self, message: str, *, errors: Sequence[str] = (), **more: Any) -> None:
        super().__init__(message, **more)
        self.errors = tuple(errors)


class UndecodableEvent(InvalidEvent):
    """The event's data are no JSON at all; no version of any handler could read them."""

    code = "undecodable-event"


class VersionAhead(InvalidEvent):
    """The event is of a newer version than the handler's class knows."""

    code = "version-ahead"


class InvalidPattern(PlugbusError):
    """A type name or a subscription pattern is not well formed."""

    code = "invalid-pattern"


class InvalidOption(PlugbusError):
    """An option of a call or of a handler is out of range or contradicts another."""

    code = "invalid-option"


class PayloadTooLarge(PlugbusError):
    """The event's data are larger than the bus takes (1 MiB); nothing was sent."""

    code = "payload-too-large"


class PermissionDeniedError(PlugbusError):
    """The plugin was not granted what it tried to do."""

    code = "permission-denied"

    def __init__(self, message: str, *, plugin_id: str = "", action: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.plugin_id = plugin_id
        self.action = action


# --- the bus: the outside broke it, or it is full -------------------------------------------------


class BusError(PlugbusError):
    """Base of what a bus raises while it works."""

    code = "bus"
    is_final: bool = False
    """Asking again will not help: somebody must change something first."""

    def __init__(self, message: str, *, is_final: bool = False, **more: Any) -> None:
        super().__init__(message, **more)
        if is_final:
            self.is_final = True


class BusClosed(BusError):
    """The bus, the subscription or the tail was closed by its owner."""

    code = "bus-closed"
    is_final = True


class BusFull(BusError):
    """The topic stayed at its limit until the deadline. `group` is the one that holds it there."""

    code = "bus-full"

    def __init__(self, message: str, *, topic: str = "", group: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.topic = topic
        self.group = group


class PublishUnknown(BusError):
    """The deadline passed before the backend confirmed; publishing again with `event_id` is safe."""

    code = "publish-unknown"

    def __init__(self, message: str, *, event_id: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.event_id = event_id


class GroupConflict(BusError):
    """The name of a group is taken by another plugin, or its options contradict the stored ones."""

    code = "group-conflict"


class GroupNotFound(BusError):
    """No group has that name: it was never declared, or it was retired."""

    code = "group-not-found"


class EventTypeNotFound(BusError):
    """No plugin that is started declares that type of events, or not in that version."""

    code = "event-type-not-found"


class StormDetected(BusError):
    """Events have caused one another more often than the limit allows; `path` names the groups.

    The group that would have continued the chain is paused until an operator resumes it.
    """

    code = "storm-detected"

    def __init__(self, message: str, *, path: Iterable[str] = (), **more: Any) -> None:
        super().__init__(message, **more)
        self.path = tuple(path)


class DeadLetterNotFound(BusError):
    """No dead letter has that id (it was redriven, discarded, or pushed out by newer ones)."""

    code = "dead-letter-not-found"


class HandlerTimeout(BusError):
    """A handler ran longer than its `timeout` and was cancelled; counts as a failed attempt."""

    code = "handler-timeout"


# --- calls (request and reply) --------------------------------------------------------------------


class CallError(PlugbusError):
    """Base of the ways in which a request can fail."""

    code = "call"

    def __init__(self, message: str, *, capability: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.capability = capability


class NoProvider(CallError):
    """Nobody provides the capability. Known at once, never a timeout."""

    code = "no-provider"


class CallTimeout(CallError):
    """No answer until the deadline. The provider may or may not have run."""

    code = "call-timeout"


class ProviderFailed(CallError):
    """The provider raised; `info` tells what."""

    code = "provider-failed"

    def __init__(self, message: str, *, info: ErrorInfo, **more: Any) -> None:
        super().__init__(message, **more)
        self.info = info


class ProviderLost(CallError):
    """The provider went away (stopped, killed) while it was at work."""

    code = "provider-lost"


class CallRefused(CallError):
    """The request was not let through: no grant, or the answer did not fit its model."""

    code = "call-refused"


# --- lifecycle and registry: the operator must act --------------------------------------------------


class PluginError(PlugbusError):
    """Base of what concerns one named plugin."""

    code = "plugin"

    def __init__(self, message: str, *, plugin_id: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.plugin_id = plugin_id


class PluginNotFound(PluginError):
    """No plugin has that id."""

    code = "plugin-not-found"


class PluginAlreadyRegisteredError(PluginError):
    """The id is taken."""

    code = "plugin-already-registered"


class PluginBusy(PluginError):
    """Another lifecycle operation of the same plugin is under way."""

    code = "plugin-busy"


class PluginStateError(PluginError):
    """The plugin is not in a state from which this step is possible."""

    code = "plugin-state"


class PluginStepFailed(PluginError):
    """A lifecycle step of a plugin raised or ran over its deadline; the step was undone."""

    code = "plugin-step-failed"

    def __init__(self, message: str, *, step: str = "", info: ErrorInfo | None = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.step = step
        self.info = info


class DependencyError(PluginError):
    """Base of what the resolver finds; `chain` leads from the plugin to the cause."""

    code = "dependency"

    def __init__(self, message: str, *, chain: Iterable[str] = (), **more: Any) -> None:
        super().__init__(message, **more)
        self.chain = tuple(chain)


class MissingDependency(DependencyError):
    """A plugin that is depended on is not installed, disabled, or itself refused."""

    code = "missing-dependency"


class VersionConflict(DependencyError):
    """An installed plugin does not satisfy a version specifier."""

    code = "version-conflict"

    def __init__(self, message: str, *, required: str = "", found: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.required = required
        self.found = found


class CircularDependencyError(DependencyError):
    """Plugins depend on each other in a circle, so none can start first; `chain` is the circle."""

    code = "circular-dependency"


class SettingsError(PlugbusError):
    """A setting is unknown or does not fit; names the key and where it came from."""

    code = "settings"


class StateFolderLocked(PlugbusError):
    """Another kernel runs on the same state folder."""

    code = "state-folder-locked"


class AddressInUse(PlugbusError):
    """The address to listen on is taken."""

    code = "address-in-use"


# --- errors on the wire -----------------------------------------------------------------------------


class ErrorInfo(BaseModel):
    """An error as data: what crosses between host and kernel, and what a dead letter keeps."""

    model_config = ConfigDict(frozen=True)

    type: str
    """Qualified name of the class, `module.Class`; builtins without the module."""
    bases: tuple[str, ...] = ()
    """Qualified names of the classes it derives from, nearest first."""
    message: str = ""
    traceback: str = ""
    """Bounded to `TRACEBACK_LIMIT` characters."""
    place: str = ""
    """Innermost frame, `file:line`."""
    fix: str = ""
    retry_after: float | None = None
    """Seconds, where the error asks to be tried again."""
    attributes: dict[str, JsonValue] = Field(default_factory=dict)
    """What an error of ours carries beside its sentence."""

    @field_validator("message", "traceback", "fix", "place", mode="before")
    @classmethod
    def _can_be_sent(cls, text: object) -> object:
        """What is no Unicode (lone surrogates) is spelled out: nothing that keeps it could be read again."""
        return text.encode("utf-8", "backslashreplace").decode() if isinstance(text, str) else text

    @classmethod
    def of(cls, error: BaseException) -> ErrorInfo:
        """Describe `error`; an error that came over the wire keeps its original description."""
        carried = getattr(error, "remote_info", None)
        if isinstance(carried, ErrorInfo):
            return carried
        text = "".join(_traceback.format_exception(error))
        names = tuple(
            qualified_name(base) for base in type(error).__mro__[1:] if base not in (object, BaseException)
        )
        return cls(
            type=qualified_name(type(error)),
            bases=names,
            message=(error.message if isinstance(error, PlugbusError) else str(error))[:MESSAGE_LIMIT],
            traceback=text[-TRACEBACK_LIMIT:],
            place=getattr(error, "where", "") or _innermost(error),
            fix=getattr(error, "fix", ""),
            retry_after=getattr(error, "retry_after", None),
            attributes=_carried(error),
        )

    def to_exception(self) -> PlugbusError:
        """The error again on the other side: of its class where that is one of ours, else `RemoteError`."""
        cls = _OURS.get(self.type)
        if cls is None:
            return RemoteError(self)
        error = cls.__new__(cls)
        Exception.__init__(error, self.message)
        vars(error).update(message=self.message, where="", fix="", details={}, remote_info=self)
        vars(error).update(self.attributes)
        if isinstance(inner := self.attributes.get("info"), dict):
            vars(error)["info"] = ErrorInfo.model_validate(inner)
        return error

    def matches(self, name: str) -> bool:
        """Whether the error is a `name`, given by its last part (`TimeoutError`) or in full."""
        return any(known == name or known.rpartition(".")[2] == name for known in (self.type, *self.bases))

    def __str__(self) -> str:
        short = self.type.rpartition(".")[2]
        return f"{short}: {self.message}" if self.message else short


class RemoteError(PlugbusError):
    """Something raised on the other side of a host; `info` is all that is known of it."""

    code = "remote"

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(str(info), where=info.place, fix=info.fix)
        self.info = self.remote_info = info
        self.retry_after = info.retry_after


def _carried(error: BaseException) -> dict[str, JsonValue]:
    if not isinstance(error, PlugbusError):
        return {}
    carried: dict[str, JsonValue] = {}
    for name, value in vars(error).items():
        if isinstance(value, str | int | float | bool | None):
            carried[name] = value
        elif isinstance(value, tuple):
            carried[name] = [str(item) for item in value]
        elif isinstance(value, ErrorInfo):
            carried[name] = value.model_dump(mode="json")
    return carried


def _subclasses(cls: type[PlugbusError]) -> list[type[PlugbusError]]:
    return [cls, *(one for sub in cls.__subclasses__() for one in _subclasses(sub))]


def qualified_name(cls: type) -> str:
    """`module.Class`, without the module for builtins."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _innermost(error: BaseException) -> str:
    frames = _traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


_OURS = {qualified_name(cls): cls for cls in _subclasses(PlugbusError) if cls is not RemoteError}
"""Errors that are made again on the other side of a wire."""
