"""Our spans beside the SDK's: the same program gives the same spans, whatever it does with them."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    AlwaysRecordSampler,
    ParentBased,
    TraceIdRatioBased,
)
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
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
    set_span_in_context,
)

from kernel.recent_log import RecentLog
from plugins.telemetry.provider import Provider

_LOWER = (1 << 64) - 1
Program = Callable[[Tracer], None]
REMOTE = SpanContext(7, 9, True, TraceFlags(3), TraceState([("vendor", "1")]))


def attributes_of_every_kind(tracer: Tracer) -> None:
    odd: dict[str, Any] = {
        "text": "x" * 20, "number": 1, "real": 1.5, "yes": True, "list": ["a", "b"], "mixed": ["a", 1],
        "bytes": b"raw", "none": None, "": "no key", "object": object, "nested": {"a": {"b": 1}},
    }  # fmt: skip
    span = tracer.start_span("odd", kind=SpanKind.PRODUCER, attributes=odd)
    span.set_attribute("later", ("t", "u"))
    span.set_attribute("", "no key either")
    span.set_attributes({"text": "again", "more": 2})
    span.end()
    plain = tracer.start_span("plain", attributes={"a": "1", "b": "2"})
    plain.set_attributes({"c": 3, "d": "4" * 9, "a": "new"})
    plain.set_attribute("e", [1])
    plain.set_attribute("f", 6)
    plain.end()


def events_links_and_names(tracer: Tracer) -> None:
    links = [Link(REMOTE, {"a": 1}), Link(INVALID_SPAN_CONTEXT), Link(REMOTE)]
    span = tracer.start_span("first", links=links, start_time=5)
    for number in range(4):
        span.add_event(f"event {number}", {"n": number, "text": "y" * 20}, timestamp=10 + number)
        span.add_link(REMOTE, {"n": number})
    span.update_name("second")
    span.end(end_time=99)


def statuses(tracer: Tracer) -> None:
    for said in (
        [(StatusCode.ERROR, "why"), (StatusCode.OK, None), (StatusCode.ERROR, "too late")],
        [(StatusCode.ERROR, "why"), (StatusCode.UNSET, None)],
        [(StatusCode.ERROR, "one"), (StatusCode.ERROR, "two")],
    ):  # fmt: skip
        span = tracer.start_span("status")
        for code, description in said:
            span.set_status(code, description)
        span.end()
    span = tracer.start_span("as an object")
    span.set_status(Status(StatusCode.ERROR, "told"))
    span.end()


def errors(tracer: Tracer) -> None:
    for options in ({}, {"record_exception": False}, {"set_status_on_exception": False}):
        for start in (tracer.start_span, tracer.start_as_current_span):
            with pytest.raises(ZeroDivisionError), start("breaks", **options):
                _ = 1 / 0
    span = tracer.start_span("recorded")
    span.record_exception(ValueError("v"), {"exception.message": "mine", "more": 1})
    span.end()


def after_the_end(tracer: Tracer) -> None:
    span = tracer.start_span("over", attributes={"a": 1})
    span.end(end_time=7)
    assert not span.is_recording()
    span.set_attribute("a", 2)
    span.set_attributes({"b": 2})
    span.add_event("late")
    span.add_link(REMOTE)
    span.update_name("other")
    span.set_status(StatusCode.ERROR)
    span.end(end_time=9)


def parents(tracer: Tracer) -> None:
    with tracer.start_as_current_span("root") as root, tracer.start_as_current_span("child") as child:
        assert get_current_span() is child
        assert child.get_span_context().trace_id == root.get_span_context().trace_id
        tracer.start_span("grandchild").end()
    for parent in (REMOTE, SpanContext(7, 9, True, TraceFlags(0)), SpanContext(7, 9, False, TraceFlags(0))):
        span = tracer.start_span("below", set_span_in_context(NonRecordingSpan(parent), Context()))
        tracer.start_span("deeper", set_span_in_context(span, Context())).end()
        span.end()

    @tracer.start_as_current_span("decorated")
    def run() -> None:
        tracer.start_span("inside").end()

    run()
    run()
    tracer.start_as_current_span("never entered")


PROGRAMS: list[Program] = [
    attributes_of_every_kind, events_links_and_names, statuses, errors, after_the_end, parents,
]  # fmt: skip
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "nothing said": {},
    "few": {
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "3", "OTEL_SPAN_EVENT_COUNT_LIMIT": "2",
        "OTEL_SPAN_LINK_COUNT_LIMIT": "2", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "1",
        "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "0",
    },
    "none": {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "0", "OTEL_SPAN_EVENT_COUNT_LIMIT": "0"},
    "short": {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "5"},
    "short on spans": {"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3"},
    "always on": {"OTEL_TRACES_SAMPLER": "always_on"},
    "never": {"OTEL_TRACES_SAMPLER": "always_off"},
    "never at the root": {"OTEL_TRACES_SAMPLER": "parentbased_always_off"},
    "none of all": {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
    "all below": {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1"},
    "off": {"OTEL_SDK_DISABLED": "true"},
}  # fmt: skip


class Watch(SpanProcessor):
    """What is known when a span begins: processors and samplers decide by it."""

    def __init__(self) -> None:
        self.began: list[tuple[str, dict[str, Any]]] = []

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        self.began.append((span.name, dict(span.attributes or {})))


def run(provider: TracerProvider, program: Program) -> tuple[list[Any], list[ReadableSpan]]:
    exporter, watch = InMemorySpanExporter(), Watch()
    provider.add_span_processor(watch)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    program(provider.get_tracer("lib", "1.0", "https://example.org/schema", {"a": "b"}))
    return watch.began, list(exporter.get_finished_spans())


def told(spans: Sequence[ReadableSpan]) -> list[dict[str, Any]]:
    """Everything but ids and times, which are never the same; who is below whom is told by names."""
    names = {span.get_span_context().span_id: span.name for span in spans}  # type: ignore[union-attr]
    return [_without_chance(span, names) for span in spans]


def _without_chance(span: ReadableSpan, names: Mapping[int, str]) -> dict[str, Any]:
    own = span.get_span_context()
    assert own is not None
    assert span.context == own
    assert span.start_time is not None
    assert span.end_time is not None
    parent = span.parent
    return {
        "name": span.name, "kind": span.kind, "resource": span.resource,
        "status": (span.status.status_code, span.status.description),
        "state": own.trace_state.to_header(), "flags": own.trace_flags, "is remote": own.is_remote,
        "parent": parent and names.get(parent.span_id, parent.span_id),
        "times": [_moment(span.start_time), _moment(span.end_time)],
        "attributes": _attributes(span.attributes),
        "events": [(e.name, _attributes(e.attributes), _moment(e.timestamp)) for e in span.events],
        "links": [(tuple(link.context), _attributes(link.attributes)) for link in span.links],
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
        "scope": span.instrumentation_scope,
    }  # fmt: skip


def _moment(time_ns: int) -> str:
    return str(time_ns) if time_ns < 1_000 else "now"


def _attributes(attributes: Any) -> dict[str, str]:
    return {name: repr(value) for name, value in (attributes or {}).items() if "stacktrace" not in name}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_the_same_program_gives_the_same_spans(
    program: Program, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENTS[environment].items():
        monkeypatch.setenv(name, value)
    resource = Resource.create({"service.name": "x"})
    their_begins, theirs = run(TracerProvider(resource=resource, shutdown_on_exit=False), program)
    our_begins, ours = run(Provider(resource), program)
    assert told(ours) == told(theirs)
    assert our_begins == their_begins
    assert ours or environment in ("never", "never at the root", "none of all", "off")


def test_what_a_span_says_cannot_be_changed_by_who_reads_it() -> None:
    given = {"a": "b"}
    _, [span] = run(
        Provider(Resource.create()), lambda tracer: tracer.start_span("x", attributes=given).end()
    )
    given["a"] = "changed"
    assert dict(span.attributes or {}) == {"a": "b"}
    with pytest.raises(TypeError):
        span.attributes["a"] = "c"  # type: ignore[index]  # that is what is tried


def test_whoever_follows_an_unsampled_flow_makes_no_span() -> None:
    """And the context is handed on as it came, but for the id."""
    seen: list[Span] = []
    parent = SpanContext(7, 9, True, TraceFlags(2), TraceState([("vendor", "1")]))

    def below(tracer: Tracer) -> None:
        seen.append(tracer.start_span("x", set_span_in_context(NonRecordingSpan(parent), Context())))

    assert run(Provider(Resource.create()), below) == ([], [])
    own = seen[0].get_span_context()
    assert (own.trace_id, own.trace_flags, own.trace_state) == (7, TraceFlags(2), parent.trace_state)


def test_it_is_written_as_the_sdk_writes_it() -> None:
    def make(tracer: Tracer) -> None:
        span = tracer.start_span("x", kind=SpanKind.CLIENT, attributes={"a": 1}, links=[Link(REMOTE)])
        span.add_event("happened", {"b": "c"})
        span.set_status(StatusCode.ERROR, "why")
        span.end()

    resource = Resource.create()
    _, [ours] = run(Provider(resource), make)
    _, [theirs] = run(TracerProvider(resource=resource, shutdown_on_exit=False), make)
    mine, said = json.loads(ours.to_json()), json.loads(theirs.to_json())
    for one in (mine, said):
        del one["context"], one["start_time"], one["end_time"], one["events"][0]["timestamp"]
    assert mine == said


def test_a_flow_that_begins_is_decided_upon_by_its_id_without_a_span() -> None:
    """As the sampler would decide, and by the same id: others who sample by ids agree."""
    sampler = ParentBased(TraceIdRatioBased(0.5))
    tracer: Any = Provider(Resource.create(), sampler).get_tracer("x")
    taken = dropped = 0
    for _ in range(200):
        trace_id = tracer.draw()
        if trace_id is None:
            span = tracer.start_span("x", Context())
            assert span.is_recording()
            assert span.get_span_context().trace_id & _LOWER < _LOWER / 2
            taken += 1
        else:
            assert not sampler.should_sample(None, trace_id, "x").decision.is_sampled()
            dropped += 1
    assert taken + dropped == 200
    assert min(taken, dropped) > 40, "by chance less than once in 10^15 times"


def test_what_was_drawn_is_of_the_thread_that_has_drawn_it() -> None:
    tracer: Any = Provider(Resource.create(), TraceIdRatioBased(0.999999)).get_tracer("x")
    drawn = tracer.draw()
    assert drawn is None, "by chance not so once in a million times"
    elsewhere: list[Span] = []
    other = threading.Thread(target=lambda: elsewhere.append(tracer.start_span("x", Context())))
    other.start()
    other.join()
    own = tracer.start_span("x", Context())
    assert own.get_span_context().trace_id != elsewhere[0].get_span_context().trace_id


@pytest.mark.parametrize(
    "sampler", [ALWAYS_ON, ALWAYS_OFF, ParentBased(ALWAYS_ON), AlwaysRecordSampler(ALWAYS_OFF)]
)
def test_other_samplers_are_asked_each_time(sampler: Any) -> None:
    tracer: Any = Provider(Resource.create(), sampler).get_tracer("x")
    assert tracer.draw() is None


def test_what_is_kept_of_the_log_has_no_name_of_a_span() -> None:
    """Others may call theirs what they like, an address or a statement with its values."""
    recent, span = RecentLog(), Provider(Resource.create()).get_tracer("x").start_span("GET /cards/4711")
    logging.getLogger("plugbus").addHandler(recent)
    try:
        span.end()
        span.set_attribute("late", 1)
    finally:
        logging.getLogger("plugbus").removeHandler(recent)
    assert [line.text for line in recent.lines()] == ["span '…' has ended: an attribute comes too late"]
