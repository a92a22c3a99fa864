"""The telemetry plugin: what it keeps, what it exports and when, and that a bad backend delays nobody."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from receiver import Receiver

from bus.tracing import tracer
from contracts.errors import PluginStepFailed
from contracts.messages import RecentSpans, ShowTrace
from contracts.tracing import TRACING, is_export_wanted
from kernel.finding import is_on_by_default
from kernel.testing import Harness
from plugins.telemetry.backend import can_export
from plugins.telemetry.export_queue import ExportQueue, room_of
from plugins.telemetry.gate import gate_of
from plugins.telemetry.provider import Provider
from plugins.telemetry.record import FlowRecord
from plugins.telemetry.telemetry import Telemetry
from plugins.telemetry.traces import Export, Patient, end_export, exporting, share_export

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("environment", "is_wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp,none"}, False),
        ({"OTEL_TRACES_EXPORTER": " , "}, False),
    ],
)
def test_the_standard_variables_switch_export_on(environment: Mapping[str, str], is_wanted: bool) -> None:
    assert is_export_wanted(environment) == is_wanted


@pytest.mark.parametrize(("profile", "is_on"), [("run", True), ("demo", True), ("embedded", False)])
def test_where_an_export_is_asked_for_the_plugin_is_on(
    monkeypatch: pytest.MonkeyPatch, profile: Any, is_on: bool
) -> None:
    """Not where an application embeds the kernel: it decides itself."""
    assert is_on_by_default("telemetry", "demo")
    assert not is_on_by_default("telemetry", "run")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:4318")
    assert is_on_by_default("telemetry", profile) == is_on
    assert not is_on_by_default("webhooks", "run")


def test_a_wrong_variable_costs_the_traces_and_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One clear message."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    assert exporting(os.environ) is None
    [record] = [record for record in caplog.records if record.name == "plugbus.telemetry"]
    assert "an OTEL_* variable is wrong" in record.getMessage()
    assert "queue" in record.getMessage()
    assert record.exc_info is None


@pytest.mark.parametrize(
    ("environment", "exported", "said"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "jaeger,zipkin"},
            False,
            ["OTEL_TRACES_EXPORTER names 'jaeger' and 'zipkin', which is not to be had here"],
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp,console"}, True, ["OTEL_TRACES_EXPORTER names 'console'"]),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True, []),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            True,
            ["OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc', but http/protobuf is what is sent"],
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4317",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
            True,
            ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is 'http/json'"],
        ),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False, []),
    ],
)
def test_what_is_asked_for_and_not_to_be_had_is_said(
    environment: Mapping[str, str], exported: bool, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Once, with what to write instead; what can be had is exported."""
    assert can_export(environment, "TRACES") == exported
    told = [record.getMessage() for record in caplog.records if record.name == "plugbus.telemetry"]
    assert len(told) == len(said)
    for line, start in zip(told, said, strict=True):
        assert line.startswith(start)
        assert "; fix: " in line


def test_for_some_wrong_variables_the_sdk_has_a_default_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    found = exporting(os.environ)
    assert found is not None
    found.processor.shutdown()
    assert "soon" in caplog.text


def test_an_exporter_that_is_not_installed_is_said_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert exporting(os.environ) is None
    [record] = [record for record in caplog.records if record.name == "plugbus.telemetry"]
    assert "pip install 'plugbus[otlp]'" in record.getMessage()
    assert record.exc_info is None


class Answers(SpanExporter):
    """Says what it is told to say."""

    def __init__(self, *results: SpanExportResult) -> None:
        self._results = iter(results)

    def export(self, spans: Any) -> SpanExportResult:
        return next(self._results)


def test_that_exporting_fails_is_said_once_and_so_is_that_it_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is lost meanwhile is counted; the exporter's own many lines are not written, until it ends."""
    good, bad = SpanExportResult.SUCCESS, SpanExportResult.FAILURE
    chatty = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    clock = itertools.count(0, 2)
    patient = Patient(
        Answers(good, bad, bad, good, good, bad), "http://there:4318", lambda: float(next(clock))
    )
    patient.begin()
    chatty.error("Transient error no route to http://ada:example-password@there encountered")
    chatty.error("Failed to export traces batch due to timeout, max retries or shutdown.")
    for _ in range(6):
        patient.export([cast(ReadableSpan, None)] * 2)
    patient.shutdown()
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in told] == [
        "traces cannot be exported to http",
        "traces are exported to http",
        "traces cannot be exported to http",
    ]
    assert "4 spans were lost" in told[1]
    assert "no route" not in told[2], "what was the reason before is none of another failure"
    assert "(Transient error no route to http://••••@there encountered): nothing else" in told[0]
    chatty.error("a line of its own")
    assert caplog.records[-1].name == chatty.name
    assert patient.lost == 6


def test_after_a_failure_the_backend_is_left_alone_for_a_second() -> None:
    """What comes meanwhile is lost, and counted; to encode it would be for nothing."""
    moment = [0.0]
    answers = Answers(SpanExportResult.FAILURE, SpanExportResult.SUCCESS, SpanExportResult.SUCCESS)
    patient = Patient(answers, "http://there:4318", lambda: moment[0])
    results = list[SpanExportResult]()
    for moment[0] in (0.0, 0.1, 0.9, 1.0, 1.1):
        results.append(patient.export([cast(ReadableSpan, None)] * 2))
    assert [result.name for result in results] == ["FAILURE", "FAILURE", "FAILURE", "SUCCESS", "SUCCESS"]
    assert (patient.taken, patient.lost) == (10, 6)


async def test_it_is_on_while_somebody_wants_it(harness: Harness) -> None:
    """Two kernels in one process: the first that goes does not switch the other's off."""
    assert not TRACING.is_on
    await harness.load(ROOT / "plugins" / "telemetry")
    assert TRACING.is_on
    TRACING.turn_on()
    await harness.unload("telemetry")
    assert TRACING.is_on
    TRACING.turn_off()
    assert not TRACING.is_on


def test_the_record_keeps_the_last_spans_and_counts_the_others() -> None:
    """By trace and by event; nothing of what is dropped is found any more."""
    record, provider = FlowRecord(3), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(record)
    tracer, ids = provider.get_tracer("test"), list[str]()
    for number in range(5):
        with tracer.start_as_current_span(
            f"s{number}", attributes={"messaging.message.id": f"e{number}"}
        ) as span:
            ids.append(f"{span.get_span_context().trace_id:032x}")
    assert (len(record), record.dropped) == (3, 2)
    assert [step.name for id in ids for step in record.steps(id)] == ["s2", "s3", "s4"]
    assert record.steps("e1") == []
    [step] = record.steps("e4")
    assert (step.name, step.event_id, step.trace_id) == ("s4", "e4", ids[4])
    assert record.steps("no id of anything") == []
    assert record.oldest_ns is not None


FLOW = """
    import asyncio, sys, time
    from bus.memory import MemoryBus
    from contracts.bus import SubscriptionSpec
    from contracts.event import EventData
    from contracts.tracing import TRACING
    from plugins.telemetry.backend import within
    from plugins.telemetry.gate import Gate
    from plugins.telemetry.telemetry import provider_in_force
    from plugins.telemetry.traces import exporting
    import os

    async def main():
        provider, is_ours = provider_in_force()
        export = exporting(os.environ)
        provider.add_span_processor(Gate(export.processor))
        TRACING.is_on = True
        spec = SubscriptionSpec(group="a.b", plugin_id="a", handler="b", patterns=("x.*",))
        async with MemoryBus() as bus:
            async def handle(event): pass
            await bus.subscribe(spec, handle)
            began = time.perf_counter()
            for n in range(3000):
                await bus.publish(EventData(type="x.y", data="{}"), source="/t")
            await bus.quiet()
            print("handled", time.perf_counter() - began)
        began = time.perf_counter()
        await within(float(os.environ.get("LAST", "1.5")), export.processor.shutdown, "spans")
        print("ended", time.perf_counter() - began)
        print("lost", export.lost)
        print("over", time.monotonic())

    asyncio.run(main())
"""


SPANS, ROOM, BATCH = 6_000, 2_048, 512
"""Of that flow; and what the SDK's queue and one of its batches hold."""


@pytest.mark.parametrize("how", ["down", "says 500", "slow"])
def test_a_backend_that_is_no_good_delays_nobody(how: str) -> None:
    """Everything is handled, and the process has ended within two seconds of its work."""
    receiver = Receiver(status=500 if how == "says 500" else 200, delay=5.0 if how == "slow" else 0.0)
    with receiver:
        url = "http://127.0.0.1:9" if how == "down" else receiver.url
        done = subprocess.run(  # noqa: S603 - our own code
            [sys.executable, "-c", textwrap.dedent(FLOW)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin", "OTEL_EXPORTER_OTLP_ENDPOINT": url},
            timeout=60,
        )
        gone = time.monotonic()
    assert done.returncode == 0, done.stderr
    said = dict(line.split() for line in done.stdout.splitlines())
    assert float(said["ended"]) < 2.0
    told = [line for line in done.stderr.splitlines() if "cannot be exported" in line]
    assert len(told) <= 1, "once"
    assert len(done.stderr.splitlines()) <= 8, done.stderr
    if how == "says 500":
        assert told
        assert int(said["lost"]) == SPANS
    else:  # what was in the queue, and the batch that was under way, nobody could count any more
        assert int(said["lost"]) >= SPANS - ROOM - BATCH
    assert gone - float(said["over"]) < 2.0, "nor is the end of the process"


class Waits(SpanExporter):
    """Takes what it is given when it is told to."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self.exported = 0

    def export(self, spans: Any) -> SpanExportResult:
        self.has_begun.set()
        self.may_end.wait()
        self.exported += len(spans)
        return SpanExportResult.SUCCESS


def test_what_does_not_fit_into_the_queue_is_counted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """To the last span; and it enters none that the SDK's queue would drop."""
    exporter = Waits()
    patient = Patient(exporter, "http://there:4318")
    batches = BatchSpanProcessor(patient, max_queue_size=4, max_export_batch_size=2)
    export = Export(ExportQueue(batches, 4, lambda: patient.taken), patient)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.processor)
    tracer = provider.get_tracer("test")
    for _ in range(2):
        tracer.start_span("taken").end()
    assert exporter.has_begun.wait(10)
    for _ in range(9):
        tracer.start_span("queued, or dropped").end()
    assert export.lost == 5
    exporter.may_end.set()
    provider.shutdown()
    assert (exporter.exported, export.lost) == (6, 5)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "more spans than the backend takes" in told[0]


def test_what_is_not_sampled_takes_no_room(caplog: pytest.LogCaptureFixture) -> None:
    """A span may be recorded and not sampled: nobody exports it."""

    class RecordOnly(Sampler):
        def should_sample(self, *args: Any, **more: Any) -> SamplingResult:
            return SamplingResult(Decision.RECORD_ONLY)

        def get_description(self) -> str:
            return "records only"

    kept = InMemorySpanExporter()
    processor = ExportQueue(SimpleSpanProcessor(kept), 1, lambda: 0)
    provider = TracerProvider(sampler=RecordOnly(), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    for _ in range(3):
        provider.get_tracer("test").start_span("seen").end()
    assert (kept.get_finished_spans(), processor.dropped, caplog.records) == ((), 0, [])


@pytest.mark.parametrize(("said", "room"), [(None, 2_048), ("100", 100), ("many", 2_048)])
def test_the_room_is_that_of_the_sdk(said: str | None, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_BSP_MAX_QUEUE_SIZE", raising=False)
    if said is not None:
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", said)
    assert room_of(os.environ) == room == BatchSpanProcessor._default_max_queue_size()


async def test_the_last_spans_are_told_whatever_their_trace(harness: Harness) -> None:
    """As many as are asked for, the earliest first: for whoever does not know what to look for yet."""
    await harness.load(ROOT / "plugins" / "telemetry")
    tracer = trace.get_tracer("x")
    for name in ("first", "second", "third"):
        tracer.start_span(name, Context()).end()
    record = await harness.request(RecentSpans(limit=2))
    assert [step.name for step in record.steps] == ["second", "third"]
    assert "first" in [step.name for step in (await harness.request(RecentSpans())).steps]


async def test_the_command_tells_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What did not fit, and what could not be exported."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    plugin = Telemetry()
    plugin.record, plugin._replica, plugin._export = FlowRecord(1), "front-1", exporting(os.environ)
    assert plugin._export is not None
    plugin._export.exporter.lost, plugin._export.processor.dropped = 3, 4
    told = await plugin.show(ShowTrace(id="1"))
    plugin._export.processor.shutdown()
    assert told.lost == 7


def test_what_is_exported_arrives_whole() -> None:
    with Receiver() as receiver:
        done = subprocess.run(  # noqa: S603 - our own code
            [sys.executable, "-c", textwrap.dedent(FLOW)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": "/usr/bin:/bin",
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
                "OTEL_BSP_MAX_QUEUE_SIZE": "100000",
                "LAST": "60",  # a busy machine may take its time
                "OTEL_SERVICE_NAME": "shop",
            },
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert len(receiver.named("publish x")) == len(receiver.named("process x")) == 3000
        assert {span.resource["service.name"] for span in receiver.spans} == {"shop"}
        assert {span.schema_url for span in receiver.spans} == {"https://opentelemetry.io/schemas/1.44.0"}


async def test_kernels_of_one_process_share_one_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each span goes once, and goes on going until the last of them has ended."""
    provider = Provider(Resource.create())
    gate, tracer = gate_of(provider), provider.get_tracer("x")
    assert gate_of(provider) is gate
    with Receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        first, second = share_export(gate), share_export(gate)
        assert first is not None
        assert first is second
        tracer.start_span("one").end()
        await end_export(gate, 5.0)
        tracer.start_span("two").end()
        await end_export(gate, 5.0)
        tracer.start_span("three").end()
        assert [span.name for span in receiver.spans] == ["one", "two"]
        again = share_export(gate)
        assert again is not None
        assert again is not first
        tracer.start_span("four").end()
        await end_export(gate, 5.0)
        assert [span.name for span in receiver.spans] == ["one", "two", "four"]


@pytest.mark.parametrize("is_ours", [True, False])
async def test_only_what_is_ours_is_exported_by_us(
    harness: Harness, is_ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application keeps its provider, with its exporters. Of either nothing of ours is left behind."""
    provider = Provider(Resource.create()) if is_ours else TracerProvider(shutdown_on_exit=False)
    if is_ours:
        provider.made_by = "plugbus"  # type: ignore[attr-defined]  # as the plugin marks it
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    tracer = provider.get_tracer("x")
    with Receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{receiver.url}/v1/traces")
        for name in ("first", "second"):
            await harness.load(ROOT / "plugins" / "telemetry")
            with tracer.start_as_current_span(name) as span:
                id = f"{span.get_span_context().trace_id:032x}"
            record = await harness.request(ShowTrace(id=id))
            assert [step.name for step in record.steps] == [name]
            await harness.unload("telemetry")
            tracer.start_span("after the end").end()
        named = [span.name for span in receiver.spans if span.scope == "x"]
        assert named == (["first", "second"] if is_ours else [])
    assert gate_of(provider)._behind == ()


class Foreign(trace.TracerProvider):
    """A provider that has nothing of the SDK."""

    def __init__(self) -> None:
        self.named: list[str] = []

    def get_tracer(self, *names: Any, **more: Any) -> trace.Tracer:
        self.named.append(names[0])
        return trace.NoOpTracer()


async def test_a_provider_that_is_not_the_sdks_is_told(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It keeps the spans, and nobody wonders why none are here."""
    provider = Foreign()
    monkeypatch.setattr("bus.tracing.tracer", functools.cache(tracer.__wrapped__))  # not for other tests
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    with Receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{receiver.url}/v1/traces")
        await harness.load(ROOT / "plugins" / "telemetry")
        assert TRACING.is_on
        record = await harness.request(RecentSpans())
        await harness.unload("telemetry")
    [said] = [message for message in caplog.messages if "provider" in message]
    assert f"not the SDK's ({__name__}.Foreign)" in said
    assert (record.kept, receiver.spans) == (0, [])


async def test_where_it_is_switched_off_as_a_whole_nothing_is_traced(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    await harness.load(ROOT / "plugins" / "telemetry")
    assert not TRACING.is_on


async def test_a_limit_that_cannot_be_is_said_in_one_message(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: None)
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "-3")
    with pytest.raises(
        PluginStepFailed, match=r"an OTEL_\* variable is wrong: .*OTEL_ATTRIBUTE_VALUE"
    ) as caught:
        await harness.load(ROOT / "plugins" / "telemetry")
    assert caught.value.fix == "correct it, or unset it"
    assert not TRACING.is_on
