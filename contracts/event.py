"""Events: what plugins publish, how the bus labels it, and what a handler sees.

An event is known by its type name and version, never by its Python class. A handler receives an
instance of the model that *it* declared: the published object itself where that is the very class and
deeply immutable, otherwise one made from the data.
"""

from __future__ import annotations

import builtins
import enum
import json
import types
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic_core import CoreSchema, core_schema

from .errors import EventDefinitionError, InvalidEvent, InvalidPattern
from .patterns import check_type_name

Upcast = Callable[[dict[str, Any]], dict[str, Any]]
E = TypeVar("E", bound="Event")
M = TypeVar("M", bound=BaseModel)
_UPCAST = "__plugbus_upcast__"


class Event(BaseModel):
    """A fact that a plugin publishes: a frozen model with a type name and an integer version.

    ```python
    class OrderPlaced(Event, type="orders.placed", version=2):
        \"\"\"A customer confirmed an order.\"\"\"
        order_id: str
    ```

    Strict when made: unknown fields are refused. Tolerant when received by another class: unknown
    fields are ignored. A class without `type` is a common base and cannot be published. Raises
    `EventDefinitionError` where the class is made: bad name or version, a field without a JSON schema,
    a gap in the chain of upcasts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    __event_type__: ClassVar[str] = ""
    __event_version__: ClassVar[int] = 1
    __event_upcasts__: ClassVar[Mapping[int, Upcast]] = {}
    __event_immutable__: ClassVar[bool] = False
    __event_schema__: ClassVar[dict[str, JsonValue] | None] = None

    def __init_subclass__(cls, *, type: str = "", version: int = 1, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, type: str = "", version: int = 1, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.__event_type__ = ""
        if not type:
            return
        try:
            cls.__event_type__ = check_type_name(type)
        except InvalidPattern as error:
            raise EventDefinitionError(str(error), where=_where(cls), fix=error.fix) from None
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise EventDefinitionError(
                f"event {type!r} has version {version!r}", where=_where(cls), fix="an integer from 1"
            )
        cls.__event_version__ = version
        cls.__event_upcasts__ = _upcasts(cls)
        if cls.__pydantic_complete__:
            event_schema(cls)
        cls.__event_immutable__ = _is_immutable(cls)


def upcast(from_version: int) -> Callable[[Callable[..., dict[str, Any]]], Any]:
    """Mark a function of an event class that lifts data of `from_version` to the next version.

    It takes and returns the event's data as a dict. Hops are chained; a handler only ever sees the
    version that its class declares.
    """

    def mark(function: Callable[..., dict[str, Any]]) -> Any:
        target = function.__func__ if isinstance(function, staticmethod) else function
        setattr(target, _UPCAST, from_version)
        return staticmethod(target)

    return mark


@dataclass(frozen=True, slots=True)
class Envelope:
    """The CloudEvents 1.0.2 attributes of an event, with the official extensions that Plugbus uses."""

    id: str
    source: str
    type: str
    time: datetime
    specversion: str = "1.0"
    subject: str | None = None
    datacontenttype: str = "application/json"
    dataschema: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    partitionkey: str | None = None
    """The ordering key."""
    correlationid: str | None = None
    """Id of the event with which the causal chain began."""
    causationid: str | None = None
    """Id of the event while handling which this one was published."""
    expirytime: datetime | None = None
    extensions: Mapping[str, str | int | bool] = field(default_factory=dict)
    """Further extension attributes that came from outside; handed on untouched."""

    def attributes(self) -> dict[str, str | int | bool]:
        """All attributes that are set, as CloudEvents spells them (times as RFC 3339)."""
        known: dict[str, str | int | bool | None] = {
            "specversion": self.specversion,
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": format_time(self.time),
            "datacontenttype": self.datacontenttype,
            "dataschema": self.dataschema,
            "traceparent": self.traceparent,
            "tracestate": self.tracestate,
            "partitionkey": self.partitionkey,
            "correlationid": self.correlationid,
            "causationid": self.causationid,
            "expirytime": format_time(self.expirytime) if self.expirytime else None,
        }
        return {**self.extensions, **{name: value for name, value in known.items() if value is not None}}


class Message:
    """One event as it travels: its attributes, and its data as an object, as JSON bytes, or both.

    Bus, host and plugin context pass this on; nothing in it changes after publish. `event` is the
    published object where it may be shared (deeply immutable), else None; the bytes are made at most
    once, when somebody first needs them. Backends number what they store in `sequence`.
    """

    __slots__ = (
        "_data",
        "causationid",
        "correlationid",
        "depth",
        "event",
        "expires_ns",
        "extra",
        "id",
        "key",
        "sequence",
        "source",
        "subject",
        "time_ns",
        "type",
        "version",
    )

    def __init__(
        self,
        id: str,
        source: str,
        type: str,
        version: int,
        time_ns: int,
        event: Event | None,
        data: bytes | None,
        key: str | None = None,
        subject: str | None = None,
        expires_ns: int | None = None,
        correlationid: str | None = None,
        causationid: str | None = None,
        depth: int = 0,
        extra: Mapping[str, str | int | bool] | None = None,
    ) -> None:
        self.id = id
        self.source = source
        self.type = type
        self.version = version
        self.time_ns = time_ns
        """Wall clock, nanoseconds since the epoch."""
        self.event = event
        self._data = data
        self.key = key
        self.subject = subject
        self.expires_ns = expires_ns
        self.correlationid = correlationid
        self.causationid = causationid
        self.depth = depth
        """How many events caused this one, one after the other."""
        self.extra = extra
        """Further attributes (trace context, data schema, foreign extensions)."""
        self.sequence = -1

    @property
    def data(self) -> bytes:
        """The event's data as JSON text."""
        if self._data is None:
            self._data = dump_event(cast(Event, self.event))
        return self._data

    @property
    def envelope(self) -> Envelope:
        extra = dict(self.extra) if self.extra else {}
        named: dict[str, Any] = {name: extra.pop(name, None) for name in _EXTRA_NAMES}
        named["datacontenttype"] = extra.pop("datacontenttype", _JSON)
        if named["dataschema"] is None:
            named["dataschema"] = schema_uri(self.type, self.version)
        return Envelope(
            id=self.id,
            source=self.source,
            type=self.type,
            time=_datetime(self.time_ns),
            subject=self.subject,
            partitionkey=self.key,
            correlationid=self.correlationid or self.id,
            causationid=self.causationid,
            expirytime=None if self.expires_ns is None else _datetime(self.expires_ns),
            extensions=extra,
            **named,
        )

    @classmethod
    def from_envelope(cls, envelope: Envelope, data: bytes, *, version: int = 1) -> Message:
        """The inverse of `envelope` and `data`: what a host makes of what came over the wire."""
        extra: dict[str, Any] = dict(envelope.extensions)
        for name in _EXTRA_NAMES:
            value = getattr(envelope, name)
            if value is not None and not (
                name == "dataschema" and value == schema_uri(envelope.type, version)
            ):
                extra[name] = value
        if envelope.datacontenttype != _JSON:
            extra["datacontenttype"] = envelope.datacontenttype
        return cls(
            envelope.id,
            envelope.source,
            envelope.type,
            version,
            _nanoseconds(envelope.time),
            None,
            data,
            envelope.partitionkey,
            envelope.subject,
            None if envelope.expirytime is None else _nanoseconds(envelope.expirytime),
            envelope.correlationid,
            envelope.causationid,
            0,
            extra or None,
        )


class PluginEvent:
    """What a handler sees of one attempt: the envelope, the attempt, the deadline, the data.

    It is also what the bus hands to a host, and what crosses to a worker (`WireEvent` is its form on
    the wire). Two attempts of one event are two `PluginEvent`s of one `Message`.
    """

    __slots__ = ("_parsed", "attempt", "deadline", "handler", "message")

    def __init__(
        self, message: Message, handler: str, attempt: int = 1, deadline: float | None = None
    ) -> None:
        self.message = message
        self.handler = handler
        """Name of the subscription within its plugin, e.g. `watch`."""
        self.attempt = attempt
        """Counts from 1."""
        self.deadline = deadline
        """When the attempt is cancelled, on the bus's monotonic clock (seconds), or None."""
        self._parsed: JsonValue | None = None

    @property
    def type(self) -> str:
        return self.message.type

    @property
    def id(self) -> str:
        return self.message.id

    @property
    def envelope(self) -> Envelope:
        return self.message.envelope

    @property
    def data(self) -> JsonValue:
        """The event's data as JSON values (`dict`, `list`, `str` …), of the version it was published in."""
        if self._parsed is None:
            self._parsed = json.loads(self.message.data)
        return self._parsed

    def as_(self, model: builtins.type[E]) -> E:
        """The event as an instance of `model`: lifted to its version, unknown fields ignored.

        Raises `InvalidEvent` if the data do not fit, or are of a newer version than `model` knows.
        """
        return event_from_message(self.message, model)

    def derived_id(self, index: int) -> str:
        """Id of the `index`-th event that the handler returns: the same at each attempt.

        So a repetition after a crash publishes nothing twice within the idempotency window.
        """
        name = f"{self.message.source}\n{self.message.id}\n{self.handler}\n{index}"
        return uuid.uuid5(_RETURNED, name).hex

    @classmethod
    def of(
        cls, event: Event, *, id: str = "test", source: str = "/test", key: str | None = None
    ) -> PluginEvent:
        """A `PluginEvent` for calling a handler by hand, in tests."""
        now = _nanoseconds(datetime.now(UTC))
        kind = builtins.type(event)
        message = Message(id, source, kind.__event_type__, kind.__event_version__, now, event, None, key)
        return cls(message, "test")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        wire = handler.generate_schema(WireEvent)
        return core_schema.no_info_before_validator_function(
            lambda value: WireEvent.pack(value) if isinstance(value, PluginEvent) else value,
            core_schema.no_info_after_validator_function(WireEvent.unpack, wire),
            serialization=core_schema.plain_serializer_function_ser_schema(
                WireEvent.pack, return_schema=wire
            ),
        )


class WireEvent(BaseModel):
    """A `PluginEvent` as it crosses between kernel and host."""

    model_config = ConfigDict(frozen=True)

    envelope: Envelope
    version: int
    data: str
    """JSON text, untouched."""
    handler: str
    attempt: int
    deadline: float | None
    depth: int = 0

    @classmethod
    def pack(cls, event: PluginEvent) -> WireEvent:
        message = event.message
        return cls(
            envelope=message.envelope,
            version=message.version,
            data=message.data.decode(),
            handler=event.handler,
            attempt=event.attempt,
            deadline=event.deadline,
            depth=message.depth,
        )

    def unpack(self) -> PluginEvent:
        message = Message.from_envelope(self.envelope, self.data.encode(), version=self.version)
        message.depth = self.depth
        return PluginEvent(message, self.handler, self.attempt, self.deadline)


class EventData(BaseModel):
    """An event as data: how it crosses from a worker, from the web, from the command line."""

    model_config = ConfigDict(frozen=True)

    type: str
    version: int = 1
    data: str = "{}"
    """JSON text of an object."""

    @classmethod
    def of(cls, event: Event) -> EventData:
        kind = type(event)
        return cls(type=kind.__event_type__, version=kind.__event_version__, data=dump_event(event).decode())


AnyEvent = Event | EventData


@dataclass(frozen=True, slots=True)
class EventResult:
    """What a handler decided. Make one with the four methods; `None` or an event means `ok`.

    Raising is not a result: the subscription's retry policy judges the error.
    """

    action: Literal["ok", "retry", "discard", "dead_letter"]
    events: tuple[Event | EventData, ...] = ()
    reason: str = ""
    after: float | None = None

    @classmethod
    def ok(cls, *events: Event) -> EventResult:
        """Done. `events` are published before the delivery is acknowledged, with derived ids."""
        return cls("ok", events)

    @classmethod
    def retry(cls, reason: str, *, after: float | None = None) -> EventResult:
        """Try again `after` seconds (None: the policy's backoff). Counts as a failed attempt."""
        return cls("retry", reason=reason, after=after)

    @classmethod
    def discard(cls, reason: str) -> EventResult:
        """Give the event up on purpose; counted and announced."""
        return cls("discard", reason=reason)

    @classmethod
    def dead_letter(cls, reason: str) -> EventResult:
        """Give the event to the dead letters at once, without further attempts."""
        return cls("dead_letter", reason=reason)


HandlerResult = Event | EventResult | None
"""What a handler may return."""


@dataclass(slots=True)  # not frozen: one is made for each publish, and freezing trebles what that costs
class Receipt:
    """The backend has taken the event.

    `duplicate`: the same (source, id) was already taken within the idempotency window; `position` is
    then that of the first.
    """

    id: str
    position: str
    duplicate: bool = False


# --- data to model, model to data -------------------------------------------------------------------


def dump_event(event: BaseModel) -> bytes:
    """JSON bytes of an event's or query's data."""
    return event.__pydantic_serializer__.to_json(event)


def load_model(model: type[M], data: bytes | str, *, what: str) -> M:
    """Make a `model` from JSON; unknown fields are ignored. Raises `InvalidEvent`."""
    try:
        return model.model_validate_json(data, extra="ignore")
    except ValidationError as error:
        raise invalid(what, error) from None


def invalid(what: str, error: ValidationError) -> InvalidEvent:
    """An `InvalidEvent` that lists each field with what was expected."""
    problems = tuple(
        f"{'.'.join(str(part) for part in item['loc']) or '(whole)'}: {item['msg']}"
        for item in error.errors()
    )
    return InvalidEvent(
        f"{what} does not fit: {'; '.join(problems[:5])}",
        errors=problems,
        fix="send the fields that the event's schema names",
    )


def event_from_message(message: Message, model: type[E]) -> E:
    """`message` as an instance of `model`; see `PluginEvent.as_`."""
    event = message.event
    if type(event) is model:
        return event
    data: bytes | str = message.data
    wanted = model.__event_version__
    if message.version != wanted and model.__event_type__ == message.type:
        data = _lift(message, model, wanted)
    return load_model(model, data, what=f"{message.type} v{message.version} (id {message.id})")


def _lift(message: Message, model: type[Event], wanted: int) -> str:
    if message.version > wanted or message.version not in model.__event_upcasts__:
        raise InvalidEvent(
            f"{message.type} has version {message.version}; {model.__qualname__} knows {wanted}",
            where=_where(model),
            fix=f"add @upcast({message.version}) to {model.__qualname__}, or upgrade the plugin",
        )
    data = json.loads(message.data)
    for version in range(message.version, wanted):
        data = model.__event_upcasts__[version](data)
    return json.dumps(data)


# --- CloudEvents spelling -----------------------------------------------------------------------------

_RETURNED = uuid.UUID("6b0d4d3e-8f43-5a63-9df5-0b8e0a4a7c11")
_EXTRA_NAMES = ("dataschema", "traceparent", "tracestate")
_SCHEMA = "urn:plugbus:"
_LONGEST = 10
"""Digits of a version; more is nonsense, and slow to read."""
_JSON = "application/json"


def schema_uri(type_name: str, version: int) -> str:
    """`dataschema` of our own events: how the version travels in CloudEvents."""
    return f"{_SCHEMA}{type_name}:{version}"


def schema_version(uri: str | None, type_name: str) -> int:
    """The version in a `dataschema` of ours; 1 where it says nothing of that type.

    Raises `InvalidEvent` where it is of that type and its version is no number from 1.
    """
    prefix = f"{_SCHEMA}{type_name}:"
    if not uri or not uri.startswith(prefix):
        return 1
    digits = uri.removeprefix(prefix)
    if not (digits.isascii() and digits.isdigit() and len(digits) < _LONGEST and int(digits)):
        raise InvalidEvent(
            f"dataschema names a version of {type_name} that cannot be one", fix=schema_uri(type_name, 1)
        )
    return int(digits)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC, with `Z`."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _datetime(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def _nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6) * 1_000


# --- what is checked once, when an event class is made --------------------------------------------------


def _where(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _upcasts(cls: type[Event]) -> Mapping[int, Upcast]:
    found: dict[int, Upcast] = {}
    for base in cls.__mro__:
        for value in list(vars(base).values()):
            if isinstance(value, staticmethod) and (version := getattr(value.__func__, _UPCAST, None)):
                found.setdefault(version, cast(Upcast, value.__func__))
    versions = sorted(found)
    if versions and versions != list(range(versions[0], cls.__event_version__)):
        raise EventDefinitionError(
            f"the upcasts of {cls.__event_type__!r} lift versions {versions}, "
            f"which does not lead without a gap to version {cls.__event_version__}",
            where=_where(cls),
            fix=f"one @upcast for each version from {versions[0]} to {cls.__event_version__ - 1}",
        )
    return found


def event_schema(cls: type[Event]) -> dict[str, JsonValue]:
    """The JSON schema of an event class; made once. Raises `EventDefinitionError` if there is none."""
    found = cls.__dict__.get("__event_schema__")
    if found is None:
        try:
            found = cls.model_json_schema()
        except (PydanticInvalidForJsonSchema, PydanticUserError) as error:
            why = str(error).splitlines()[0]
            raise EventDefinitionError(
                f"event {cls.__event_type__!r} has a field without a JSON schema: {why}",
                where=_where(cls),
                fix="use JSON types, or a pydantic type that has a JSON schema",
            ) from None
        cls.__event_schema__ = found
    return cast(dict[str, JsonValue], found)


_SCALARS = (
    str, int, float, bool, bytes, type(None), Decimal, datetime, date, time, timedelta, uuid.UUID,
)  # fmt: skip


def _is_immutable(annotation: Any) -> bool:
    """Whether no value of this type can be changed: decides if one object may serve all handlers.

    Frozen is shallow: a list field of a frozen model would be shared, so only tuples, frozen sets,
    scalars and frozen models of these count.
    """
    origin = get_origin(annotation)
    if origin is None:
        return _is_immutable_class(annotation)
    if origin is Literal:
        return True
    if origin is Annotated:
        return _is_immutable(get_args(annotation)[0])
    if origin in (tuple, frozenset, Union, types.UnionType):
        return _all_immutable(arg for arg in get_args(annotation) if arg is not Ellipsis)
    return False


def _is_immutable_class(annotation: Any) -> bool:
    if not isinstance(annotation, type):
        return annotation is None
    if issubclass(annotation, BaseModel):
        frozen = bool(annotation.model_config.get("frozen")) and annotation.__pydantic_complete__
        return (
            frozen
            and not annotation.__private_attributes__
            and _all_immutable(info.annotation for info in annotation.model_fields.values())
        )
    return issubclass(annotation, (*_SCALARS, enum.Enum))


def _all_immutable(annotations: Iterable[Any]) -> bool:
    return all(_is_immutable(annotation) for annotation in annotations)
