"""OpenTelemetry's SDK with a lighter span.

Sampler, limits, ids, resource, processors and exporters are the SDK's own; `OTEL_*` variables mean what they
mean there. But its spans take twice what a whole delivery with everything else does: each of them copies and
checks its attributes one by one and has a lock, and a copy is made of it when it ends. Here the attributes of
a span are one dict, which is checked where it does not come from ourselves; nobody copies it.
"""

from __future__ import annotations

import logging
import math
import random
import re
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TypeVar, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    Event,
    ReadableSpan,
    SpanLimits,
    SynchronousMultiSpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
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
    get_current_span,
)
from opentelemetry.util.types import AnyValue, Attributes

from contracts.errors import qualified_name
from contracts.logs import Quoted

T = TypeVar("T")
log = logging.getLogger("plugbus.telemetry")

_UNSET = Status(StatusCode.UNSET)
_SIMPLE = frozenset({str, int, float, bool})
"""Values that are what the conventions want already."""
_LOWER_HALF = TraceIdRatioBased.TRACE_ID_LIMIT
_RATIO = re.compile(r"(?:ParentBased\{root:)?TraceIdRatioBased\{([0-9.e-]+)\}")
_FOLLOWS = (
    "remoteParentSampled:AlwaysOnSampler,remoteParentNotSampled:AlwaysOffSampler,"
    "localParentSampled:AlwaysOnSampler,localParentNotSampled:AlwaysOffSampler}"
)
"""How a sampler describes itself that decides as the parent did: it need not be asked where there is one."""


class Provider(TracerProvider):
    """Gives tracers whose spans are light."""

    def __init__(self, resource: Resource, sampler: Sampler | None = None) -> None:
        """`sampler`: where it is not the one that the variables name."""
        self.ids = _Ids()
        self.processors = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]
        self.limits = limits = SpanLimits()
        most = math.inf if limits.max_span_attributes is None else limits.max_span_attributes
        self.room = -1 if limits.max_span_attribute_length is not None else most
        """Attributes of a span that need no care: none where their length is limited."""
        super().__init__(
            resource=resource, sampler=sampler, shutdown_on_exit=False,
            active_span_processor=self.processors, span_limits=self.limits, id_generator=self.ids,
        )  # fmt: skip

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Tracer:
        theirs = super().get_tracer(
            instrumenting_module_name, instrumenting_library_version, schema_url, attributes
        )
        if not isinstance(theirs, SdkTracer):  # it is switched off
            return theirs
        scope = InstrumentationScope(
            instrumenting_module_name, instrumenting_library_version or "", schema_url, attributes
        )
        return _Tracer(theirs, self, scope)


class _Ids(RandomIdGenerator):
    """The SDK's, but that a trace gets the id by which it was decided upon."""

    def __init__(self) -> None:
        self._decided = threading.local()

    def decide(self, trace_id: int) -> None:
        """The next trace that begins in this thread has this id."""
        self._decided.id = trace_id

    def generate_trace_id(self) -> int:
        decided: int | None = self._decided.__dict__.pop("id", None)
        return super().generate_trace_id() if decided is None else decided


class _Tracer(SdkTracer):
    def __init__(self, theirs: SdkTracer, provider: Provider, scope: InstrumentationScope) -> None:
        vars(self).update(vars(theirs))  # it is theirs, but for the spans that it starts
        self._provider = provider
        self._scope = scope
        self._sampler: Sampler = provider.sampler
        self._ids = provider.ids
        self._follows = self._sampler.get_description().endswith(_FOLLOWS)
        self._bound = _bound_of(self._sampler)
        self._random = TraceFlags.RANDOM_TRACE_ID if self._ids.is_trace_id_random() else 0

    def draw(self) -> int | None:
        """A new trace that its sampler drops, by its id. None: begin a span, which asks the sampler."""
        if self._bound is None:
            return None
        trace_id = random.getrandbits(128) or 1  # as the SDK makes them
        if trace_id & _LOWER_HALF >= self._bound:
            return trace_id
        self._ids.decide(trace_id)
        return None

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        parent: SpanContext | None = None
        if context or context is None:  # else it is empty: a flow begins
            parent = get_current_span(context).get_span_context()
        if parent is not None and parent.is_valid:
            trace_id, random = parent.trace_id, parent.trace_flags & TraceFlags.RANDOM_TRACE_ID
        else:
            parent, trace_id, random = None, self._ids.generate_trace_id(), self._random
        if parent is not None and self._follows:
            sampled = parent.trace_flags & TraceFlags.SAMPLED
            state: TraceState | None = parent.trace_state
            records = bool(sampled)
        else:
            said = self._sampler.should_sample(context, trace_id, name, kind, attributes, links)
            sampled = TraceFlags.SAMPLED if said.decision is Decision.RECORD_AND_SAMPLE else 0
            state, attributes, records = said.trace_state, said.attributes, said.decision is not Decision.DROP
        own = SpanContext(trace_id, self._ids.generate_span_id(), False, _FLAGS[sampled | random], state)
        if not records:
            return NonRecordingSpan(own)
        return _Span(
            self._provider, self._scope, name, own, parent, kind, attributes, links, start_time, context,
            (record_exception, set_status_on_exception),
        )  # fmt: skip


def _bound_of(sampler: Sampler) -> int | None:
    """Where the id of a trace alone decides about one that begins: what its lower half must be below."""
    rate = _RATIO.match(sampler.get_description())
    return None if rate is None else TraceIdRatioBased.get_bound_for_rate(float(rate[1]))


_FLAGS = tuple(TraceFlags(number) for number in range(4))


class _Span(ReadableSpan, Span):
    """What is written while it lasts, and what is read when it has ended, in one."""

    def __init__(
        self, provider: Provider, scope: InstrumentationScope, name: str, own: SpanContext,
        parent: SpanContext | None, kind: SpanKind, attributes: Attributes, links: Sequence[Link] | None,
        start_time: int | None, context: Context | None, on_exit: tuple[bool, bool],
    ) -> None:  # fmt: skip
        self._provider = provider
        self._of = scope
        self._called = name
        self._own = own
        self._above = parent
        self._is = kind
        self._values = self._fresh(attributes or {})
        self._linked: Sequence[Link] = links or ()
        if links and not all(_is_plain(link) for link in links):
            self._linked = [self._link(link.context, link.attributes) for link in links if _is_one(link)]
        self._happened: deque[Event] = deque(maxlen=provider.limits.max_events)
        self._event_count = 0
        self._ended_as = _UNSET
        self._on_exit = on_exit
        self._began: int = time.time_ns() if start_time is None else start_time
        self._ended: int | None = None
        provider.processors.on_start(self, context)  # type: ignore[arg-type]  # it has all that theirs has

    # --- written --------------------------------------------------------------------------------------

    def get_span_context(self) -> SpanContext:
        return self._own

    def is_recording(self) -> bool:
        return self._ended is None

    def set_attribute(self, key: str, value: AnyValue) -> None:
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, AnyValue]) -> None:
        if not self._may("an attribute"):
            return
        values = self._values
        if isinstance(values, dict):
            if _are_simple(attributes) and len(values) + len(attributes) <= self._provider.room:
                values.update(attributes)
                return
            values = self._values = self._bounded(values)
        for key, value in attributes.items():
            values[key] = value

    def _fresh(self, attributes: Mapping[str, AnyValue]) -> dict[str, AnyValue] | BoundedAttributes:
        if len(attributes) <= self._provider.room and _are_simple(attributes):
            return dict(attributes)
        return self._bounded(attributes)

    def _bounded(self, attributes: Mapping[str, AnyValue]) -> BoundedAttributes:
        """As the SDK keeps them: whatever is not simple is made so, dropped or cut there."""
        limits = self._provider.limits
        return BoundedAttributes(
            limits.max_span_attributes, attributes, immutable=False,
            max_value_len=limits.max_span_attribute_length,
        )  # fmt: skip

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        if self._may("an event"):
            limits = self._provider.limits
            told = BoundedAttributes(
                limits.max_event_attributes, attributes, max_value_len=limits.max_attribute_length
            )
            self._happened.append(Event(name, told, timestamp))
            self._event_count += 1

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        if _is_one(Link(context, attributes)) and self._may("a link"):
            self._linked = [*self._linked, self._link(context, attributes)]

    def _link(self, context: SpanContext, attributes: Attributes) -> Link:
        if not attributes:
            return Link(context)
        limits = self._provider.limits
        told = BoundedAttributes(
            limits.max_link_attributes, attributes, max_value_len=limits.max_attribute_length
        )
        return Link(context, told)

    def update_name(self, name: str) -> None:
        if self._may("a name"):
            self._called = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """By the rules of the API: `ok` is final, `unset` changes nothing."""
        new = Status(status, description) if isinstance(status, StatusCode) else status
        is_final = self._ended_as.status_code is StatusCode.OK
        if not is_final and new.status_code is not StatusCode.UNSET and self._may("a status"):
            self._ended_as = new

    def record_exception(
        self, exception: BaseException, attributes: Attributes = None, timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:  # fmt: skip
        told: dict[str, AnyValue] = {
            "exception.type": qualified_name(type(exception)), "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }  # fmt: skip
        self.add_event("exception", {**told, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        if self._may("its end"):
            self._ended = time.time_ns() if end_time is None else end_time
            self._provider.processors.on_end(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        records, sets = self._on_exit
        if error is not None and self.is_recording():
            if records:
                self.record_exception(error, escaped=True)
            if sets:
                self.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        super().__exit__(kind, error, frames)

    def _may(self, what: str) -> bool:
        if self._ended is not None:
            log.warning("span %r has ended: %s comes too late", Quoted(self._called), what)
        return self._ended is None

    # --- read -----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._called

    @property
    def context(self) -> SpanContext:
        return self._own

    @property
    def parent(self) -> SpanContext | None:
        return self._above

    @property
    def kind(self) -> SpanKind:
        return self._is

    @property
    def start_time(self) -> int:
        return self._began

    @property
    def end_time(self) -> int | None:
        return self._ended

    @property
    def status(self) -> Status:
        return self._ended_as

    @property
    def attributes(self) -> Attributes:
        return MappingProxyType(self._values)

    @property
    def events(self) -> Sequence[Event]:
        return tuple(self._happened)

    @property
    def links(self) -> Sequence[Link]:
        return tuple(_last(self._linked, self._provider.limits.max_links))

    @property
    def dropped_attributes(self) -> int:
        return self._values.dropped if isinstance(self._values, BoundedAttributes) else 0

    @property
    def dropped_events(self) -> int:
        return self._event_count - len(self._happened)

    @property
    def dropped_links(self) -> int:
        return len(self._linked) - len(self.links)

    @property
    def resource(self) -> Resource:
        return self._provider.resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        return self._of

    def to_json(self, indent: int | None = 4) -> str:
        """As the SDK writes it."""
        links = [Link(link.context, link.attributes or {}) for link in self.links]
        theirs = ReadableSpan(
            self._called, self._own, self._above, self.resource, dict(self._values), self.events, links,
            self._is, None, self._ended_as, self._began, self._ended, self._of,
        )  # fmt: skip
        return cast(str, theirs.to_json(indent))


def _are_simple(attributes: Mapping[str, AnyValue]) -> bool:
    return _SIMPLE.issuperset(map(type, attributes.values())) and "" not in attributes


def _is_plain(link: Link) -> bool:
    return link.attributes is None and link.context.is_valid


def _is_one(link: Link) -> bool:
    """It leads somewhere, or says something all the same."""
    return link.context.is_valid or bool(link.attributes) or bool(link.context.trace_state)


def _last(things: Sequence[T], most: int | None) -> Sequence[T]:
    return things if most is None or len(things) <= most else things[len(things) - most :]
