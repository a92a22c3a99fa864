"""Messages: an event as it travels, and what a handler sees of it.

A handler receives an instance of the model that *it* declared: the published object itself where that is
the very class and deeply immutable, otherwise one made from the data.
"""

from __future__ import annotations

import builtins
import json
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic_core import CoreSchema, core_schema

from .definition import place_of
from .envelope import JSON, Envelope, moment_of, nanoseconds_of, schema_uri
from .errors import InvalidEvent, UndecodableEvent, VersionAhead
from .event import Event, dump_event, invalid

E = TypeVar("E", bound=Event)
_RETURNED = uuid.UUID("6b0d4d3e-8f43-5a63-9df5-0b8e0a4a7c11")
"""Name space of the ids of returned events."""
_EXTRA_NAMES = ("dataschema", "traceparent", "tracestate")


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
        "path",
        "sequence",
        "source",
        "subject",
        "time_ns",
        "trace",
        "type",
        "version",
    )

    is_unsampled: ClassVar[bool] = False
    """Known to belong to a flow that is not sampled, without a look at its trace."""

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
        path: tuple[str, ...] = (),
        trace: str | None = None,
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
        self.path = path
        """The groups whose handlers published the events of the chain that led here, the first one first."""
        self.trace = trace
        """Where flows are traced: the span that has sent it, as text of a `tracing.TraceContext`."""
        self.sequence = -1

    def __str__(self) -> str:
        return f"{self.type} v{self.version} (id {self.id})"

    @property
    def data(self) -> bytes:
        """The event's data as JSON text."""
        if self._data is None:
            self._data = dump_event(cast(Event, self.event))
        return self._data

    def let_go(self) -> None:
        """Keep the data instead of the object, whose class is to go."""
        if self.event is not None:
            self.data  # noqa: B018 - made now, while there is something to make it of
            self.event = None

    @property
    def traceparent(self) -> str | None:
        """Of the span that has sent it; where none was made here, what it came with."""
        if self.trace is not None:
            return self.trace.partition(" ")[0]
        return cast("str | None", self.extra.get("traceparent")) if self.extra else None

    @property
    def envelope(self) -> Envelope:
        extra = dict(self.extra) if self.extra else {}
        named: dict[str, Any] = {name: extra.pop(name, None) for name in _EXTRA_NAMES}
        named["datacontenttype"] = extra.pop("datacontenttype", JSON)
        if named["dataschema"] is None:
            named["dataschema"] = schema_uri(self.type, self.version)
        return Envelope(
            id=self.id,
            source=self.source,
            type=self.type,
            time=moment_of(self.time_ns),
            subject=self.subject,
            partitionkey=self.key,
            correlationid=self.correlationid or self.id,
            causationid=self.causationid,
            expirytime=None if self.expires_ns is None else moment_of(self.expires_ns),
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
        if envelope.datacontenttype != JSON:
            extra["datacontenttype"] = envelope.datacontenttype
        return cls(
            envelope.id,
            envelope.source,
            envelope.type,
            version,
            nanoseconds_of(envelope.time),
            None,
            data,
            envelope.partitionkey,
            envelope.subject,
            None if envelope.expirytime is None else nanoseconds_of(envelope.expirytime),
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

    __slots__ = ("_attempt", "_parsed", "_replayed", "_span", "deadline", "handler", "message")

    # Not set unless needed: one is made for each delivery, and each assignment is felt.
    _attempt: int
    _parsed: JsonValue
    _replayed: bool
    _span: Any

    def __init__(
        self, message: Message, handler: str, attempt: int = 1, deadline: float | None = None
    ) -> None:
        self.message = message
        self.handler = handler
        """Name of the subscription within its plugin, e.g. `watch`."""
        self.attempt = attempt
        self.deadline = deadline
        """When the attempt is cancelled, on the bus's monotonic clock (seconds), or None."""

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
    def attempt(self) -> int:
        """Counts from 1."""
        return getattr(self, "_attempt", 1)

    @attempt.setter
    def attempt(self, attempt: int) -> None:
        self._attempt = attempt

    @property
    def handled_by(self) -> tuple[str, int]:
        """Plugin and generation whose handler this attempt is of; empty where no bus has delivered it."""
        return "", 0

    @property
    def span(self) -> Any:
        """The OpenTelemetry span of this attempt; None where it is not traced."""
        return getattr(self, "_span", None)

    @span.setter
    def span(self, span: Any) -> None:
        self._span = span

    @property
    def replayed(self) -> bool:
        """Whether an operator has asked for it once more (`plugbus event replay`)."""
        return getattr(self, "_replayed", False)

    @property
    def data(self) -> JsonValue:
        """The event's data as JSON values (`dict`, `list`, `str` …), of the version it was published in.

        Raises `UndecodableEvent` for data that are no JSON.
        """
        found = getattr(self, "_parsed", None)
        if found is None:
            found = self._parsed = _parse(self.message)
        return found

    def as_(self, model: builtins.type[E]) -> E:
        """The event as an instance of `model`: lifted to its version, unknown fields ignored.

        Raises `InvalidEvent` if the data do not fit, its kinds `VersionAhead` if they are of a newer version
        than `model` knows, `UndecodableEvent` if they are no JSON.
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
        now = nanoseconds_of(datetime.now(UTC))
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


HANDLING: ContextVar[PluginEvent | None] = ContextVar("plugbus_handling", default=None)
"""The attempt that runs in this context, and in the tasks that its handler starts."""


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
    path: tuple[str, ...] = ()
    replayed: bool = False
    trace: str | None = None

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
            path=message.path,
            replayed=event.replayed,
            trace=message.trace,
        )

    def unpack(self) -> PluginEvent:
        message = Message.from_envelope(self.envelope, self.data.encode(), version=self.version)
        message.depth, message.path, message.trace = self.depth, self.path, self.trace
        event = PluginEvent(message, self.handler, self.attempt, self.deadline)
        event._replayed = self.replayed
        return event


def event_from_message(message: Message, model: type[E]) -> E:
    """`message` as an instance of `model`; see `PluginEvent.as_`."""
    event = message.event
    if type(event) is model:
        return event
    data: bytes | str = message.data
    wanted = model.__event_version__
    if message.version != wanted and model.__event_type__ == message.type:
        data = _lift(message, model, wanted)
    try:
        # `load_model`, written out: this runs for each event and handler.
        made: E = model.__pydantic_validator__.validate_json(data, extra="ignore")
    except ValidationError as error:
        _parse(message)  # what is no JSON at all has an error of its own
        raise invalid(str(message), error) from None
    return made


def _lift(message: Message, model: type[Event], wanted: int) -> str:
    if message.version > wanted:
        raise VersionAhead(
            f"{message.type} has version {message.version}; {model.__qualname__} knows {wanted}",
            where=place_of(model),
            fix="upgrade the plugin",
        )
    if message.version not in model.__event_upcasts__:
        raise InvalidEvent(
            f"{message.type} has version {message.version}; {model.__qualname__} knows {wanted}",
            where=place_of(model),
            fix=f"add @upcast({message.version}) to {model.__qualname__}",
        )
    data = _parse(message)
    for version in range(message.version, wanted):
        data = model.__event_upcasts__[version](cast(dict[str, Any], data))
    return json.dumps(data)


def _parse(message: Message) -> JsonValue:
    try:
        return cast(JsonValue, json.loads(message.data))
    except (ValueError, RecursionError) as error:
        raise UndecodableEvent(
            f"the data of {message} are no JSON: {error}", fix="publish a JSON object in UTF-8"
        ) from None
