"""Every error of Plugbus, split by who must act.

An error names what was wrong, where, and one way to fix it; the data behind the sentence are
attributes, so that code never has to read the text. Errors cross process borders as `ErrorInfo`,
which carries the *names* of the classes: rules and tests match names, never classes.
"""

from __future__ import annotations

import difflib
import os
import traceback as _traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import pydantic as _pydantic
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

TRACEBACK_LIMIT = 8_192
"""Characters of a traceback that are kept; the end is kept, because the cause stands there."""
MESSAGE_LIMIT = 2_000
"""Characters of an error's sentence that are kept."""
_PYDANTIC = os.path.dirname(_pydantic.__file__)  # noqa: PTH120 - compared as text
_FIELDS = 5
"""Fields of a model that does not fit that are spelled out."""


class PlugbusError(Exception):
    """Base of everything that Plugbus raises on purpose.

    `where` is a place that a person can open (file and line, plugin, event); `fix` is one thing to do. The
    docstring of each class is what `plugbus explain` tells: the meaning, then cause, example and fix.

    Cause: none of its own: each error has a class and a code below it.
    Example: except PlugbusError as error: print(error.explain())
    Fix: read `code`, `where` and `fix` of the error that was raised.
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
    """An event or query class cannot work as written; raised where the class is made.

    Cause: a type that is not well formed, a gap between the hops of `@upcast`, or a field without a JSON
        schema.
    Example: class Placed(Event, type="Orders Placed")
    Fix: class Placed(Event, type="orders.placed"), with fields that JSON can carry.
    """

    code = "event-definition"


class HandlerDefinitionError(PlugbusError):
    """A handler or provider has no usable annotation, or is not async; raised at load.

    Cause: its first parameter is not annotated, the annotation is no event, or `async` is missing.
    Example: @on above `def bill(self, event)`
    Fix: async def bill(self, event: OrderPlaced), with the class imported normally.
    """

    code = "handler-definition"


class ManifestError(PlugbusError):
    """A manifest cannot be read or says something that is not allowed.

    Cause: an unknown key, a value of another kind, a missing `plugin_id`, or a file that is not TOML, JSON
        or YAML.
    Example: security_level = "trustd" in plugin.toml
    Fix: mend the line that is named; `plugbus check PATH` shows all of them.
    """

    code = "manifest"


class PluginLoadError(PlugbusError):
    """The plugin's code could not be imported, or is not the plugin that it claims to be.

    Cause: an import that fails, a class that is not there or lacks a step, or a level that cannot be had
        here.
    Example: `import pricelist` where no such module is installed
    Fix: mend the line that is named, then `plugbus check PATH`.
    """

    code = "plugin-load"


class PluginNotReady(PlugbusError):
    """A plugin says that it cannot be initialized *yet*; the kernel asks again later.

    `retry_after`: seconds until the next try, or None for the kernel's growing delay.

    Cause: `initialize` raised it, because something outside is not there yet.
    Example: raise PluginNotReady("the database is starting", retry_after=5)
    Fix: start what it waits for; the kernel asks again by itself.
    """

    code = "plugin-not-ready"

    def __init__(self, message: str = "not ready", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


# --- the caller must act ------------------------------------------------------------------------


class InvalidEvent(PlugbusError):
    """The data do not fit the event's model. `errors` lists each field with what was expected.

    Cause: a field is missing, unknown, or of another type than the class says.
    Example: plugbus event publish orders.placed total=abc
    Fix: send what `plugbus event schema TYPE` shows.
    """

    code = "invalid-event"

    def __init__(self, message: str, *, errors: Sequence[str] = (), **more: Any) -> None:
        super().__init__(message, **more)
        self.errors = tuple(errors)


class UndecodableEvent(InvalidEvent):
    """The event's data are no JSON at all; no version of any handler could read them.

    Cause: a publisher outside of Plugbus sent something else, or the data were damaged.
    Example: data of `{total: 9}`, without quotes, sent past the gateway
    Fix: mend the publisher, then `plugbus dlq discard` the letter.
    """

    code = "undecodable-event"


class VersionAhead(InvalidEvent):
    """The event is of a newer version than the handler's class knows.

    Cause: publishers were upgraded before the plugin that handles their events.
    Example: an orders.placed of version 3, and a handler whose class says version=2
    Fix: upgrade the handling plugin, then `plugbus dlq redrive` what it could not read.
    """

    code = "version-ahead"


class InvalidPattern(PlugbusError):
    """A type name or a subscription pattern is not well formed.

    Cause: upper-case letters, an empty word, or a `**` that is not at the end.
    Example: @on("orders.**.paid")
    Fix: `orders.placed`, `orders.*` (one more word) or `orders.**` (one or more).
    """

    code = "invalid-pattern"


class InvalidOption(PlugbusError):
    """An option of a call or of a handler is out of range or contradicts another.

    Cause: a number out of its range, or two options of which only one can be meant.
    Example: @on(concurrency=0)
    Fix: the option that is named, within the range that the message gives.
    """

    code = "invalid-option"


class PayloadTooLarge(PlugbusError):
    """The event's data are larger than the bus takes (1 MiB); nothing was sent.

    Cause: a file or a long list travels inside an event.
    Example: publish(Uploaded(content=two_megabytes))
    Fix: store it elsewhere, and publish where it is.
    """

    code = "payload-too-large"


class PermissionDeniedError(PlugbusError):
    """The plugin was not granted what it tried to do.

    Cause: the manifest does not ask for it, the level does not allow it, or the operator denies it.
    Example: publishes = ["billing.**"], and the code publishes orders.placed
    Fix: ask for it in the manifest; `plugbus check` finds most of it, `plugbus plugin show ID` what was
        granted.
    """

    code = "permission-denied"

    def __init__(self, message: str, *, plugin_id: str = "", action: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.plugin_id = plugin_id
        self.action = action


# --- the bus: the outside broke it, or it is full -------------------------------------------------


class BusError(PlugbusError):
    """Base of what a bus raises while it works.

    Cause: the backend cannot be reached, refuses what is asked, or is not fit for it.
    Example: plugbus run --bus redis://127.0.0.1:1
    Fix: `plugbus doctor` looks at the bus and names what is wrong.
    """

    code = "bus"
    is_final: bool = False
    """Asking again will not help: somebody must change something first."""

    def __init__(self, message: str, *, is_final: bool = False, **more: Any) -> None:
        super().__init__(message, **more)
        if is_final:
            self.is_final = True


class BusClosed(BusError):
    """The bus, the subscription or the tail was closed by its owner.

    Cause: the kernel or the plugin has stopped, and something still uses what it had.
    Example: a task that publishes after the kernel's end
    Fix: start such tasks with `context.spawn`, which ends them in time.
    """

    code = "bus-closed"
    is_final = True


class BusFull(BusError):
    """The topic stayed at its limit until the deadline. `group` is the one that holds it there.

    Cause: a group handles more slowly than others publish, or nobody handles it at all.
    Example: a paused group, and a million events behind it
    Fix: `plugbus group list` shows the lag: resume, speed up or drop that group.
    """

    code = "bus-full"

    def __init__(self, message: str, *, topic: str = "", group: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.topic = topic
        self.group = group


class PublishUnknown(BusError):
    """The deadline passed before the backend confirmed; publishing again with `event_id` is safe.

    Cause: the backend is slow or was cut off after the event had been sent.
    Example: Redis is failing over while an event is published
    Fix: publish again with id=error.event_id; the bus takes the same event once.
    """

    code = "publish-unknown"

    def __init__(self, message: str, *, event_id: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.event_id = event_id


class GroupConflict(BusError):
    """The name of a group is taken by another plugin, or its options contradict the stored ones.

    Cause: two plugins chose one name, or a new release contradicts the options that are stored.
    Example: @on(name="report") with order="none" where the group keeps order by key
    Fix: another name=, or `plugbus group drop` the old group if its place may be lost.
    """

    code = "group-conflict"


class GroupNotFound(BusError):
    """No group has that name: it was never declared, or it was retired.

    Cause: a misspelled name, a plugin that was never started, or a group that nobody handled for `keep`.
    Example: plugbus group pause billing.bil
    Fix: `plugbus group list` has the names.
    """

    code = "group-not-found"


class EventTypeNotFound(BusError):
    """No plugin that is started declares that type of events, or not in that version.

    Cause: a misspelled name, a plugin that is not started, or a version that nobody declares any more.
    Example: plugbus event diff orders.placd 1 2
    Fix: `plugbus event list` has the types and their versions.
    """

    code = "event-type-not-found"


class StormDetected(BusError):
    """Events have caused one another more often than the limit allows; `path` names the groups.

    The group that would have continued the chain is paused until an operator resumes it.

    Cause: handlers answer each other's events without an end.
    Example: a handles x and publishes y, b handles y and publishes x
    Fix: break the chain that `path` names, then `plugbus group resume GROUP`.
    """

    code = "storm-detected"

    def __init__(self, message: str, *, path: Iterable[str] = (), **more: Any) -> None:
        super().__init__(message, **more)
        self.path = tuple(path)


class DeadLetterNotFound(BusError):
    """No dead letter has that id (it was redriven, discarded, or pushed out by newer ones).

    Cause: it was redriven, discarded, or pushed out by newer ones since it was listed.
    Example: plugbus dlq show 17 after plugbus dlq redrive
    Fix: `plugbus dlq list` shows what is there now.
    """

    code = "dead-letter-not-found"


class HandlerTimeout(BusError):
    """A handler ran longer than its `timeout` and was cancelled; counts as a failed attempt.

    Cause: it waits for something slow, or `timeout` is too short for what it does.
    Example: @on(timeout=1) above a download of five seconds
    Fix: a greater timeout=, or less work in one event.
    """

    code = "handler-timeout"


# --- calls (request and reply) --------------------------------------------------------------------


class CallError(PlugbusError):
    """Base of the ways in which a request can fail.

    Cause: the provider is missing, slow, broken or out of reach; the code of the error itself says which.
    Example: await self.context.request(Outstanding(order='o1'))
    Fix: `plugbus capability list` shows who provides what.
    """

    code = "call"

    def __init__(self, message: str, *, capability: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.capability = capability


class NoProvider(CallError):
    """Nobody provides the capability. Known at once, never a timeout.

    Cause: the plugin that provides it is not started, or the name is misspelled.
    Example: plugbus capability request billing.outstandin
    Fix: `plugbus capability list`, then `plugbus plugin start ID`.
    """

    code = "no-provider"


class CallTimeout(CallError):
    """No answer until the deadline. The provider may or may not have run.

    Cause: the provider is slow or blocked, or `timeout` is too short.
    Example: request(query, timeout=0.1) of something that asks a database
    Fix: a greater timeout=; repeat only what is harmless twice.
    """

    code = "call-timeout"


class ProviderFailed(CallError):
    """The provider raised; `info` tells what.

    Cause: an error inside the plugin that provides the capability.
    Example: a provider that divides by zero
    Fix: read `error.info`, or the log of the kernel that provides it.
    """

    code = "provider-failed"

    def __init__(self, message: str, *, info: ErrorInfo, **more: Any) -> None:
        super().__init__(message, **more)
        self.info = info


class ProviderLost(CallError):
    """The provider went away (stopped, killed) while it was at work.

    Cause: its plugin was stopped, or its process died, before it had answered.
    Example: plugbus plugin stop pricing during a request
    Fix: ask again, if the request is harmless twice.
    """

    code = "provider-lost"


class CallRefused(CallError):
    """The answer did not fit the query: of whoever asked, or already of the provider.

    Cause: the two sides mean different things by one capability, so that the answer does not fit the query.
    Example: Query[list[str]] on one side, and @provides with `-> float` on the other
    Fix: one class of the query for both, or mend the provider's return value.
    """

    code = "call-refused"


# --- lifecycle and registry: the operator must act --------------------------------------------------


class PluginError(PlugbusError):
    """Base of what concerns one named plugin.

    Cause: none of its own: its kinds say what is wrong with the plugin.
    Example: except PluginError as error: print(error.plugin_id)
    Fix: `plugbus plugin show ID` tells how it stands and what to do next.
    """

    code = "plugin"

    def __init__(self, message: str, *, plugin_id: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.plugin_id = plugin_id


class PluginNotFound(PluginError):
    """No plugin has that id.

    Cause: a misspelled id, or a plugin that is in none of the places that are searched.
    Example: plugbus plugin start bilings
    Fix: `plugbus plugin list` has the ids; `plugin_paths` says where they are looked for.
    """

    code = "plugin-not-found"


class PluginAlreadyRegisteredError(PluginError):
    """The id is taken.

    Cause: a plugin with this id was registered or loaded before.
    Example: harness.load(Billing) twice in one test
    Fix: unload the first, or give the second another plugin_id.
    """

    code = "plugin-already-registered"


class PluginBusy(PluginError):
    """Another lifecycle operation of the same plugin is under way.

    Cause: a start or a stop of it has not ended yet.
    Example: plugbus plugin stop x while x is initializing
    Fix: wait for it; `plugbus plugin show ID` tells what is being done.
    """

    code = "plugin-busy"


class PluginStateError(PluginError):
    """The plugin is not in a state from which this step is possible.

    Cause: the step does not follow from its state, or its code acquires something after its end.
    Example: context.spawn(…) in a plugin that has stopped
    Fix: `plugbus plugin show ID` tells the state; acquire in `initialize`, in `start` or in a handler.
    """

    code = "plugin-state"


class StateChanged(PlugbusError):
    """What was to be changed is not any more as the asker has seen it.

    Cause: somebody else has changed it between the look and the command.
    Example: POST /admin/groups/billing.bill/resume with the ETag of before it was paused
    Fix: look again (GET), and repeat the command with the new ETag if it is still wanted.
    """

    code = "state-changed"


class PluginQuarantinedError(PluginStateError):
    """The plugin is in quarantine, and is not started until it is released.

    Cause: its starts failed again and again, it could not be stopped, or an operator put it there.
    Example: `plugbus plugin start billing` after its fifth failed start within ten minutes
    Fix: `plugbus plugin show ID` tells what failed; mend it, then `plugbus plugin quarantine release ID`.
    """

    code = "plugin-quarantined"


class PluginActivationFailed(PluginError):
    """A plugin that is loaded when it is needed could not be started for a call or a request.

    Cause: its start failed; it is not tried again until a growing pause has passed.
    Example: a call of a capability whose provider raises in `initialize`
    Fix: `plugbus plugin show ID` tells what failed; mend it, then ask again.
    """

    code = "plugin-activation-failed"


class PluginStepFailed(PluginError):
    """A lifecycle step of a plugin raised or ran over its deadline; the step was undone.

    Cause: the plugin's own code: `initialize`, `start`, `stop` or `shutdown`.
    Example: initialize opens a file that is not there
    Fix: mend the place that is named, then `plugbus plugin start ID`.
    """

    code = "plugin-step-failed"

    def __init__(self, message: str, *, step: str = "", info: ErrorInfo | None = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.step = step
        self.info = info


class DependencyError(PluginError):
    """Base of what the resolver finds; `chain` leads from the plugin to the cause.

    Cause: what a plugin depends on is not to be had; the code of the error itself says why.
    Example: dependencies = ["customers>=1.2"]
    Fix: follow the chain in the message to its last plugin, and mend that.
    """

    code = "dependency"

    def __init__(self, message: str, *, chain: Iterable[str] = (), **more: Any) -> None:
        super().__init__(message, **more)
        self.chain = tuple(chain)


class MissingDependency(DependencyError):
    """A plugin that is depended on is not installed, disabled, or itself refused.

    Cause: it is not installed, not enabled, or refused for a reason of its own.
    Example: dependencies = ["customers"], and no plugin customers
    Fix: install or enable it; where events would do, drop the dependency.
    """

    code = "missing-dependency"


class VersionConflict(DependencyError):
    """An installed plugin does not satisfy a version specifier.

    Cause: the installed version is outside the range that the dependent plugin gives.
    Example: dependencies = ["customers>=2"], and customers 1.4 is installed
    Fix: install a version that fits, or widen the range.
    """

    code = "version-conflict"

    def __init__(self, message: str, *, required: str = "", found: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.required = required
        self.found = found


class RequirementNotMet(DependencyError):
    """A plugin requires a distribution that is not installed, or in another version.

    Cause: what its own distribution, or the pyproject.toml in its folder, requires was never installed, or
    another plugin requires a version that excludes it.
    Example: Requires-Dist: httpx>=2, and httpx 0.27 is installed
    Fix: install what the message names; of two plugins that exclude each other disable one.
    """

    code = "requirement-not-met"

    def __init__(self, message: str, *, required: str = "", found: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.required = required
        self.found = found


class CircularDependencyError(DependencyError):
    """Plugins depend on each other in a circle, so none can start first; `chain` is the circle.

    Cause: each waits for the other to be started first.
    Example: a depends on b, and b on a
    Fix: let one speak to the other by events, which need no dependency.
    """

    code = "circular-dependency"


class SettingsError(PlugbusError):
    """A setting is unknown or does not fit; names the key and where it came from.

    Cause: an unknown key, a value of another kind, or two sources that contradict each other.
    Example: PLUGBUS_BUS__UR=redis://127.0.0.1
    Fix: the key and the place that are named; kernel/README.md lists all settings.
    """

    code = "settings"


class StateFolderLocked(PlugbusError):
    """Another kernel runs on the same state folder.

    Cause: a kernel was started twice in one folder.
    Example: plugbus run in two terminals
    Fix: stop the other one, or give this one another --state-dir.
    """

    code = "state-folder-locked"


class AddressInUse(PlugbusError):
    """The address to listen on is taken.

    Cause: another program, or another kernel, listens on that port.
    Example: plugbus run twice, with two state folders
    Fix: --port 0 for a free one, or end the other program.
    """

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
            message=_message(error)[:MESSAGE_LIMIT],
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


def _message(error: BaseException) -> str:
    if isinstance(error, PlugbusError):
        return error.message
    if isinstance(error, ValidationError):  # its own text has the values, and a link for each of them
        return f"{error.title}: {'; '.join(field_problems(error)[:_FIELDS])}"
    return str(error)


def field_problems(error: ValidationError) -> tuple[str, ...]:
    """Each field with what was expected, without its value; a misspelled one with what was meant."""
    items = error.errors(include_url=False, include_input=False)
    missing = [str(item["loc"][-1]) for item in items if item["type"] == "missing" and item["loc"]]
    return tuple(_field_problem(item["loc"], item["type"], item["msg"], missing) for item in items)


def _field_problem(location: tuple[int | str, ...], kind: str, text: str, missing: list[str]) -> str:
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), missing, n=1)
        text = f"unknown field, did you mean {near[0]!r}?" if near else "unknown field"
    return f"{'.'.join(map(str, location)) or '(whole)'}: {text}"


class RemoteError(PlugbusError):
    """Something raised on the other side of a host; `info` is all that is known of it.

    Cause: the code of a plugin raised an error that is none of Plugbus's.
    Example: a handler that raises KeyError
    Fix: read `error.info`: its type, message and place.
    """

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
    """The last line that the error came through; of data that do not fit, the line that made the model."""
    frames = list(_traceback.extract_tb(error.__traceback__))
    if isinstance(error, ValidationError):
        frames = [frame for frame in frames if not frame.filename.startswith(_PYDANTIC)] or frames
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


_OURS = {qualified_name(cls): cls for cls in _subclasses(PlugbusError) if cls is not RemoteError}
"""Errors that are made again on the other side of a wire."""
