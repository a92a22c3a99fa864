"""Spans of the bus, by OpenTelemetry's messaging conventions (semantic conventions 1.44).

Imported only where flows are traced. A message carries the context of the span that has sent it. Whether a
flow is sampled is decided once, where it begins: what comes with a context that is not sampled makes no span,
and its context is handed on as it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Coroutine, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from opentelemetry import context as variables
from opentelemetry import trace
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
)

from contracts.bus import Call, Handler, SubscriptionSpec
from contracts.errors import ErrorInfo, HandlerTimeout, qualified_name
from contracts.event import EventResult, Receipt
from contracts.message import Message, PluginEvent
from contracts.patterns import topic_of
from contracts.tracing import SCHEMA, exception_of, read_trace, trace_of

from .faults import described, kind_of
from .measures import Measures
from .policy.causes import CURRENT
from .spans import Begun, Client, Named

if TYPE_CHECKING:
    from .groups import Delivery

T = TypeVar("T")

_NOWHERE = variables.Context()
_SAMPLED = frozenset("13579bdf")
_WORKED = EventResult.ok()
"""Stands for None, so that the settler hears of the end of a traced attempt."""


@functools.cache
def tracer() -> Tracer:
    """One for the process: it follows the provider that is in force."""
    return trace.get_tracer("plugbus", schema_url=SCHEMA)


# --- contexts ---------------------------------------------------------------------------------------------

# Contexts travel as text, and OpenTelemetry has objects for them. Most are made and read in one process, and
# those that are not sampled are the same for a whole flow: so what was converted lately is kept.
_KEPT = 4_096
_contexts: dict[str, SpanContext] = {}
_last: tuple[SpanContext, str] = (trace.INVALID_SPAN_CONTEXT, "")


def text_of(context: SpanContext) -> str:
    """As it travels: `str` of a `contracts.tracing.TraceContext`."""
    global _last  # noqa: PLW0603 - many events are published below one span
    if _last[0] is context:
        return _last[1]
    text = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    if context.trace_state:
        text = f"{text} {context.trace_state.to_header()}"
    _keep(_contexts, text, context)
    _last = context, text
    return text


def context_of(text: str) -> SpanContext | None:
    """The inverse; None for what is no context."""
    found = _contexts.get(text)
    if found is None:
        said = read_trace(text)
        if said is None:
            return None
        state = TraceState.from_header([said.state]) if said.state else None
        found = SpanContext(
            int(said.trace_id, 16), int(said.span_id, 16), True, TraceFlags(said.flags), state
        )  # fmt: skip
        _keep(_contexts, text, found)
    return found


def _keep(kept: dict[str, T], text: str, what: T) -> None:
    if len(kept) >= _KEPT:
        kept.clear()
    kept[text] = what


def here() -> SpanContext | None:
    """Of whoever publishes: the span that is current, else the event that is being handled."""
    around = variables.get_current()
    if around and (context := trace.get_current_span(around).get_span_context()).is_valid:
        return context
    current = CURRENT.get()
    if current is None:
        return None
    return None if current.message.trace is None else context_of(current.message.trace)


def forget() -> None:
    """From here on nothing is below what was current."""
    variables.attach(variables.Context())


def _around(span: Span) -> variables.Context:
    """Nothing else is in it: what a handler has left attached in its lane is not handed on to the next."""
    return trace.set_span_in_context(span, _NOWHERE)


class _Unsampled(NonRecordingSpan):
    """The span of whatever is handled here: one for all, because hardly anybody asks for its context."""

    def __init__(self) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)

    def get_span_context(self) -> SpanContext:
        current = CURRENT.get()
        text = None if current is None else current.message.trace
        return (text and context_of(text)) or trace.INVALID_SPAN_CONTEXT


_UNSAMPLED = _around(_Unsampled())


def _below(parent: SpanContext | None) -> variables.Context:
    return _NOWHERE if parent is None else _around(NonRecordingSpan(parent))


# --- sending ----------------------------------------------------------------------------------------------


def begin(client: Client, type: str) -> Begun:
    """The trace of what is published now, and the span of that; None: its flow is not sampled.

    A tracer that can `draw` tells of a flow that begins whether it is sampled, without a span.
    """
    parent = here()
    if parent is not None and not parent.trace_flags & TraceFlags.SAMPLED:
        return text_of(parent), None
    if parent is None and (draw := getattr(tracer(), "draw", None)) is not None:
        dropped: int | None = draw()
        if dropped is not None:
            return dropped, None
    name, attributes = client.sends.get(type) or _send_of(client, type)
    span = tracer().start_span(name, _below(parent), SpanKind.PRODUCER, attributes)
    return text_of(span.get_span_context()), span if span.is_recording() else None


async def publishing(
    measures: Measures, message: Message, span: Span, publish: Coroutine[Any, Any, Receipt]
) -> Receipt:
    """What `publish` gives, and then its span ends."""
    try:
        receipt = await measures.sending(message.type, publish)
    except BaseException as error:
        span.set_attributes(_names_of(message, message.id))
        _close(span, error)
        raise
    _sent(span, message, receipt)
    return receipt


def _send_of(client: Client, type: str) -> Named:
    operation = {"messaging.operation.name": "publish", "messaging.operation.type": "send"}
    found = _of_type("publish", type, {**client.attributes, **operation})
    _keep(client.sends, type, found)
    return found


def _of_type(operation: str, type: str, attributes: dict[str, str | int]) -> Named:
    topic = topic_of(type)
    more = {"messaging.destination.name": topic, "cloudevents.event_type": type}
    return f"{operation} {topic}", {**attributes, **more}


def _sent(span: Span, message: Message, receipt: Receipt) -> None:
    more, place = _names_of(message, receipt.id), receipt.position.partition("/")[2]
    if place:
        more["messaging.destination.partition.id"] = place.partition(":")[0]
    if receipt.duplicate:
        more["plugbus.outcome"] = "duplicate"
    span.set_attributes(more)
    span.end()


# Each attribute costs the SDK 0.4 µs: what is the same in all events (`cloudevents.event_spec_version`) is
# left out.


def _names_of(message: Message, id: str) -> dict[str, str | int]:
    """What tells this event from others. The one that begins a conversation gives it its id."""
    found: dict[str, str | int] = {"cloudevents.event_source": message.source}
    if id:  # else the publish has failed before there was one
        found["messaging.message.id"] = found["cloudevents.event_id"] = id
        found["messaging.message.conversation_id"] = message.correlationid or id
    if message.subject is not None:
        found["cloudevents.event_subject"] = message.subject
    return found


def ask_in_trace_of(message: Message) -> None:
    """What is asked before its handler starts is in its trace, below whoever sent it; nothing ends that."""
    if _is_unsampled(message):
        if variables.get_current() is not _UNSAMPLED:
            variables.attach(_UNSAMPLED)
    else:
        variables.attach(_below(None if message.trace is None else context_of(message.trace)))


def _is_unsampled(message: Message) -> bool:
    return message.is_unsampled or (message.trace is not None and message.trace[54:55] not in _SAMPLED)


# --- handling ---------------------------------------------------------------------------------------------


def traced(handler: Handler, spec: SubscriptionSpec, measures: Measures) -> Handler:
    """`handler`, in a span for each attempt of what is sampled; the settler ends it, see `ended`.

    How long it runs is measured. What was made current stays so in its lane until the next attempt: what the
    handler has returned is published behind it.
    """
    attributes = {
        **measures.client.attributes, "messaging.operation.name": "process",
        "messaging.operation.type": "process", "messaging.consumer.group.name": spec.group,
    }  # fmt: skip
    kinds: dict[str, Named] = {}
    group, monotonic, failed, well = (
        spec.group, measures.monotonic, measures.handled.of, measures.handled_well(spec.group),
    )  # fmt: skip

    async def handle(event: PluginEvent) -> EventResult | None:
        """It is a `Delivery`: the loop calls it."""
        message, span = event.message, None
        if message.is_unsampled or ((text := message.trace) is not None and text[54:55] not in _SAMPLED):
            if variables.get_current() is not _UNSAMPLED:
                variables.attach(_UNSAMPLED)
        else:
            named = kinds.get(message.type)
            if named is None:
                named = _of_type("process", message.type, attributes)
                _keep(kinds, message.type, named)
            span = _start(cast("Delivery", event), None if text is None else context_of(text), named)
            variables.attach(_around(span))
            event.span = span
        began = monotonic()
        try:
            result = await handler(event)
        except BaseException as error:
            now = monotonic()
            failed(group, topic_of(message.type), _reason(error, event, now)).record(now - began)
            raise
        now = monotonic()
        if _has_swallowed(event, now):
            failed(group, topic_of(message.type), qualified_name(HandlerTimeout)).record(now - began)
            return result
        if result is None:
            well[message.type].record(now - began)
            return None if span is None else _WORKED
        failed(group, topic_of(message.type), _wrong(result)).record(now - began)
        return result

    return handle


def _reason(error: BaseException, event: PluginEvent, now: float) -> str:
    """What `error.type` says; whose time was up is cancelled."""
    is_late = isinstance(error, asyncio.CancelledError) and now >= (event.deadline or now)
    return qualified_name(HandlerTimeout) if is_late else kind_of(error)


def _has_swallowed(event: PluginEvent, now: float) -> bool:
    """Whether its time was up, and it went on in spite of its cancellation: its result does not count."""
    if event.deadline is None or now < event.deadline:
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _wrong(result: object) -> str:
    """The same, of what the handler returned."""
    if not isinstance(result, EventResult):
        return "TypeError"
    return "" if result.action in ("ok", "discard") else f"EventResult.{result.action}"


def _start(event: Delivery, origin: SpanContext | None, named: Named) -> Span:
    message = event.message
    name, attributes = named
    more = {**attributes, **_names_of(message, message.id)}
    more["messaging.destination.partition.id"] = str(event.part.number)
    if event.attempt > 1:  # as a child of the same span: what tells the attempts apart
        more["plugbus.attempt"] = event.attempt
    if event.replayed:
        more["plugbus.replayed"] = True
    links = [] if origin is None else [Link(origin)]
    if message.extra is not None and (begun := _begun_in(message.extra)) is not None:
        links.append(Link(begun))
    return tracer().start_span(name, _below(origin), SpanKind.CONSUMER, more, links=links)


def _begun_in(extra: Mapping[str, Any]) -> SpanContext | None:
    """CloudEvents' tracing extension of an event from outside: where its transmission began.

    That is a link, not a parent: the parent is the last hop, as the transport's own headers have told.
    """
    said = trace_of([str(extra.get("traceparent", ""))], [str(extra.get("tracestate", ""))])
    return None if said is None else context_of(str(said))


def ended(span: Any, outcome: str, error: ErrorInfo | None = None, *, is_last: bool = False) -> None:
    """The attempt is over. Only a failure that is the last one is an error of the flow."""
    if not span.is_recording():
        return
    if outcome:
        span.set_attribute("plugbus.outcome", outcome)
    if error is not None:
        span.add_event("exception", exception_of(error))
    if is_last:
        kind = error.type if error is not None else outcome
        span.set_attribute("error.type", kind)
        span.set_status(Status(StatusCode.ERROR, str(error) if error is not None else outcome))
    span.end()


# --- calls ------------------------------------------------------------------------------------------------


class Asking:
    """One request to a capability, whoever answers it: `with` it, and hand its `trace` on with the call."""

    __slots__ = ("_span", "trace")

    def __init__(self, capability: str) -> None:
        parent = here()
        self._span: Span | None = None
        if parent is not None and not parent.trace_flags & TraceFlags.SAMPLED:
            self.trace = text_of(parent)
            return
        self._span = tracer().start_span(capability, _below(parent), SpanKind.CLIENT, _call(capability))
        self.trace = text_of(self._span.get_span_context())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._span is not None:
            _close(self._span, error)


@contextlib.contextmanager
def executing(call: Call, plugin_id: str) -> Iterator[None]:
    """What a provider does for a call, below the span of who asked."""
    origin = None if call.trace is None else context_of(call.trace)
    if origin is not None and not origin.trace_flags & TraceFlags.SAMPLED:
        span: Span = NonRecordingSpan(origin)
    else:
        attributes = {**_call(call.capability), "plugbus.plugin.id": plugin_id}
        span = tracer().start_span(call.capability, _below(origin), SpanKind.SERVER, attributes)
    token = variables.attach(_around(span))
    try:
        yield
    except BaseException as error:
        _close(span, error)
        raise
    else:
        _close(span, None)
    finally:
        variables.detach(token)


def _call(capability: str) -> dict[str, str]:
    return {"rpc.system.name": "plugbus", "rpc.method": capability}


def _close(span: Span, error: BaseException | None) -> None:
    if error is not None:
        info = described(error)
        span.set_attribute("error.type", info.type)
        span.set_status(Status(StatusCode.ERROR, str(info)))
    span.end()
