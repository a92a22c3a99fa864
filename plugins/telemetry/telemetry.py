"""Gives OpenTelemetry a provider, so that bus and kernel make spans, and measure what they send and handle.

The last spans are kept in memory. They are exported as well, by OTLP over HTTP, where the standard variables
ask for it: `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `OTEL_TRACES_EXPORTER=otlp`;
`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and the others are the SDK's own. Where
the application has a provider already, its exporters are used, and none is made here. Metrics are exported
in the same way, see `metrics.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from opentelemetry import context as variables
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NonRecordingSpan, SpanContext
from pydantic import BaseModel, Field

from contracts.messages import ShowBus, ShowMetrics, ShowTrace, TraceRecord
from contracts.tracing import TRACING, is_disabled, is_export_wanted
from plugbus import BasePlugin, provides

from .backend import Backend, endpoint, in_thread, not_installed, within, wrong_variable
from .export_queue import ExportQueue, room_of
from .metrics import MetricsExport, exporting_metrics
from .provider import Provider
from .record import FlowRecord

log = logging.getLogger("plugbus.telemetry")

_LAST = 1.5
"""Seconds that what is not exported yet may take at the end."""
_REST = 1.0
"""Seconds after a failed export in which none is tried."""


class Settings(BaseModel, extra="forbid"):
    spans: int = Field(default=20_000, ge=1)


class Gate(SpanProcessor):
    """A provider keeps its processors for ever: this one lets go of what was behind it when it is shut."""

    def __init__(self, *behind: SpanProcessor) -> None:
        self._behind = behind

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        for processor in self._behind:
            processor.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        for processor in self._behind:
            processor.on_end(span)

    def shut(self) -> None:
        self._behind = ()

    def shutdown(self) -> None:
        """Whoever opened it ends what is behind it."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return all(processor.force_flush(timeout_millis) for processor in self._behind)


class Telemetry(BasePlugin):
    """Traces flows while it runs."""

    record: FlowRecord
    _gate: Gate
    _export: Export | None
    _metrics: MetricsExport | None
    _replica: str

    async def start(self) -> None:
        settings = self.read_config(Settings)
        self.record = FlowRecord(settings.spans)
        self._replica = (await self.context.request(ShowBus())).replica
        provider, is_ours = provider_in_force()
        self._export = share_export(provider) if is_ours else None
        self._gate = Gate(self.record)
        self._metrics = exporting_metrics(os.environ, provider.resource, self._replica)
        provider.add_span_processor(self._gate)
        if not is_disabled(os.environ):
            TRACING.turn_on()
            self.context.on_close(TRACING.turn_off)
        if self._metrics is not None:
            self.context.every(self._metrics.interval, self._export_metrics, name="metrics")

    async def _export_metrics(self) -> None:
        if self._metrics is not None:
            with unsampled():
                record = await self.context.request(ShowMetrics())
            await in_thread(functools.partial(self._metrics.export, record))

    @provides
    async def show(self, asked: ShowTrace) -> TraceRecord:
        record, oldest = self.record, self.record.oldest_ns
        steps = await asyncio.to_thread(record.steps, asked.id)  # it looks at all that are kept
        return TraceRecord(
            replica=self._replica,
            steps=tuple(steps), kept=len(record), most=record.most, dropped=record.dropped,
            lost=0 if self._export is None else self._export.lost,
            oldest=None if oldest is None else datetime.fromtimestamp(oldest / 1e9, UTC),
        )  # fmt: skip

    async def stop(self) -> None:
        self._gate.shut()
        ends: list[Awaitable[None]] = []
        if self._metrics is not None:
            ends.append(self._end_metrics(self._metrics))
        if self._export is not None:
            ends.append(end_export(trace.get_tracer_provider(), self._export))
        for failed in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(failed, Exception):
                log.error("what was measured or traced last could not be exported: %s", failed)

    async def _end_metrics(self, metrics: MetricsExport) -> None:
        """The last figures, and then nothing more."""
        try:
            with unsampled():
                record = await self.context.request(ShowMetrics(), timeout=_LAST)
            await within(_LAST, functools.partial(metrics.export, record), "metrics")
        finally:
            metrics.end()


def provider_in_force() -> tuple[TracerProvider, bool]:
    """That of the application, else one of ours, which stays as long as the process; whether it is ours."""
    found = trace.get_tracer_provider()
    if isinstance(found, TracerProvider):
        return found, getattr(found, "made_by", "") == "plugbus"
    more = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "plugbus"}
    ours = Provider(Resource.create(more))
    ours.made_by = "plugbus"  # type: ignore[attr-defined]  # another generation of this plugin finds it
    trace.set_tracer_provider(ours)
    return ours, True


@contextlib.contextmanager
def unsampled() -> Iterator[None]:
    """What is asked here again and again makes no spans."""
    origin = SpanContext(random.getrandbits(128) or 1, random.getrandbits(64) or 1, is_remote=False)
    token = variables.attach(trace.set_span_in_context(NonRecordingSpan(origin), Context()))
    try:
        yield
    finally:
        variables.detach(token)


class _Shared(NamedTuple):
    """The export of a provider of ours: several kernels in one process have one."""

    export: Export
    gate: Gate
    users: list[None]


def share_export(provider: TracerProvider) -> Export | None:
    """That of the provider, which is begun here if there is none. Each who gets one ends it once."""
    shared: _Shared | None = getattr(provider, "export", None)
    if shared is None:
        export = exporting(os.environ)
        if export is None:
            return None
        shared = _Shared(export, Gate(export.processor), [])
        provider.export = shared  # type: ignore[attr-defined]  # whoever comes next finds it
        provider.add_span_processor(shared.gate)
    shared.users.append(None)
    return shared.export


async def end_export(provider: Any, export: Export) -> None:
    """It ends with the last who has it; others have their spans sent soon."""
    shared: _Shared = provider.export
    shared.users.pop()
    if not shared.users:
        provider.export = None
        shared.gate.shut()
        await within(_LAST, export.processor.shutdown, "spans")


class Patient(SpanExporter):
    """Exports; says once when that does not work, and once when it does again; counts what is lost.

    After a failure it rests: to encode what is refused takes as much of the processor as what is accepted.
    Where that makes sense the exporter itself has tried again already.
    """

    def __init__(self, inner: SpanExporter, where: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._inner = inner
        self._clock = clock
        self._rests_until = -math.inf
        self._backend = Backend("traces", "TRACES", where)
        self.taken = self.lost = 0

    def begin(self) -> None:
        self._backend.begin()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        if self._clock() < self._rests_until:
            self.lost += len(spans)
            return SpanExportResult.FAILURE
        result = self._inner.export(spans)
        is_taken = result is SpanExportResult.SUCCESS
        if not is_taken:
            self.lost += len(spans)
            self._rests_until = self._clock() + _REST
        self._backend.told(is_taken, f"; {self.lost} spans were lost")
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()
        self._backend.end()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


class Export(NamedTuple):
    processor: ExportQueue
    """Before one with a thread of its own; what does not fit into its queue is dropped."""
    exporter: Patient

    @property
    def lost(self) -> int:
        return self.exporter.lost + self.processor.dropped


def exporting(environment: Mapping[str, str]) -> Export | None:
    """What the standard variables ask for; None where they ask for nothing, or for what cannot be had.

    That is said: a variable that is wrong costs the traces, never the kernel.
    """
    if not is_export_wanted(environment):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = Patient(OTLPSpanExporter(), endpoint(environment, "TRACES"))
        batches = BatchSpanProcessor(exporter)
    except ImportError:
        not_installed("traces", "TRACES")
        return None
    except Exception as error:  # noqa: BLE001 - whatever it is that a variable has led to
        wrong_variable("traces", error)
        return None
    exporter.begin()
    return Export(ExportQueue(batches, room_of(environment), lambda: exporter.taken), exporter)
