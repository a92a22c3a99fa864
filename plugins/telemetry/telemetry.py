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
import os
import random
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime

from opentelemetry import context as variables
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, ProxyTracerProvider, SpanContext
from pydantic import BaseModel, Field

from contracts.errors import SettingsError, qualified_name
from contracts.messages import RecentSpans, ShowBus, ShowMetrics, ShowTrace, TraceRecord, TraceStep
from contracts.tracing import TRACING, is_disabled
from plugbus import BasePlugin, provides

from .backend import in_thread, within
from .gate import Gate, gate_of
from .metrics import MetricsExport, exporting_metrics
from .provider import Provider
from .record import FlowRecord
from .traces import Export, end_export, share_export

log = logging.getLogger("plugbus.telemetry")

_LAST = 1.5
"""Seconds that what is not exported yet may take at the end."""


class Settings(BaseModel, extra="forbid"):
    spans: int = Field(default=20_000, ge=1)


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
        try:
            provider, is_ours = provider_in_force()
        except ValueError as error:
            raise SettingsError(
                f"flows cannot be traced: an OTEL_* variable is wrong: {error}",
                where="the environment", fix="correct it, or unset it",
            ) from error  # fmt: skip
        self._gate = gate_of(provider)
        self._gate.let_in(self.record)
        self.context.on_close(lambda: self._gate.let_out(self.record))
        self._export = share_export(self._gate) if is_ours else None
        self._metrics = exporting_metrics(os.environ, provider.resource, self._replica)
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
        # It looks at all that are kept.
        return self._told(await asyncio.to_thread(self.record.steps, asked.id))

    @provides
    async def recent(self, asked: RecentSpans) -> TraceRecord:
        return self._told(await asyncio.to_thread(self.record.last, asked.limit))

    def _told(self, steps: list[TraceStep]) -> TraceRecord:
        record, oldest = self.record, self.record.oldest_ns
        return TraceRecord(
            replica=self._replica,
            steps=tuple(steps), kept=len(record), most=record.most, dropped=record.dropped,
            lost=0 if self._export is None else self._export.lost,
            oldest=None if oldest is None else datetime.fromtimestamp(oldest / 1e9, UTC),
        )  # fmt: skip

    async def stop(self) -> None:
        ends: list[Awaitable[None]] = []
        if self._metrics is not None:
            ends.append(self._end_metrics(self._metrics))
        if self._export is not None:
            ends.append(end_export(self._gate, _LAST))
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
    """That of the application, else one of ours, which stays as long as the process; whether it is ours.

    Where the application has one that cannot be looked into, one of ours that nobody gives spans to.
    """
    found = trace.get_tracer_provider()
    if isinstance(found, TracerProvider):
        return found, getattr(found, "made_by", "") == "plugbus"
    more = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "plugbus"}
    ours = Provider(Resource.create(more))
    if not isinstance(found, ProxyTracerProvider):  # which stands for none
        log.warning(
            "the application has given OpenTelemetry a provider that is not the SDK's (%s), which gets the"
            " spans: none are kept or exported here; fix: a TracerProvider of opentelemetry-sdk, or disable"
            " the plugin telemetry", qualified_name(type(found)),
        )  # fmt: skip
        return ours, False
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
