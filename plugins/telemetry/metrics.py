"""Exports the kernel's figures by OTLP over HTTP, where the standard variables ask for it.

The kernel has counted them already, so they need no instruments of the SDK: only its exporter, and the form
in which that takes them. They are cumulative: an export that fails loses nothing that the next one has not.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple, cast

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as Exported
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from contracts.messages import MetricsRecord
from contracts.metrics import HistogramPoint, Metric, Point
from contracts.tracing import SCHEMA

from .backend import Backend, can_export, endpoint, not_installed, wrong_variable

_INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
_CUMULATIVE = AggregationTemporality.CUMULATIVE


class MetricsExport(NamedTuple):
    """`export` waits for the backend: from a thread of its own."""

    interval: float
    """Seconds from one export to the next."""
    resource: Resource
    """Which kernel it is: each tells its own figures, also where two are in one process."""
    exporter: MetricExporter
    backend: Backend

    def export(self, record: MetricsRecord) -> None:
        result = self.exporter.export(as_otlp(record, self.resource, datetime.now(UTC)))
        self.backend.told(result is MetricExportResult.SUCCESS)

    def end(self) -> None:
        self.exporter.shutdown()
        self.backend.end()


def exporting_metrics(
    environment: Mapping[str, str], resource: Resource, replica: str
) -> MetricsExport | None:
    """What the standard variables ask for; None where they ask for nothing, or for what cannot be had.

    That is said: a variable that is wrong costs the metrics, never the kernel.
    """
    if not can_export(environment, "METRICS"):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        interval = _milliseconds(environment.get(_INTERVAL) or "60000")
        exporter = OTLPMetricExporter()
    except ImportError:
        not_installed("metrics", "METRICS")
        return None
    except Exception as error:  # noqa: BLE001 - whatever it is that a variable has led to
        wrong_variable("metrics", error)
        return None
    backend = Backend("metrics", "METRICS", endpoint(environment, "METRICS"))
    backend.begin()
    own = resource.merge(Resource({"service.instance.id": replica}))
    return MetricsExport(interval, own, exporter, backend)


def _milliseconds(text: str) -> float:
    """In seconds."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number <= 0:
        raise ValueError(f"{_INTERVAL} is {text!r}, not a whole number of milliseconds above 0")
    return number / 1_000


def as_otlp(record: MetricsRecord, resource: Resource, now: datetime) -> MetricsData:
    since_ns, now_ns = (int(moment.timestamp() * 1e9) for moment in (record.since, now))
    metrics = [
        _metric(metric, 0 if metric.is_shared else since_ns, now_ns)  # 0: OTLP's word for not known
        for metric in record.metrics
        if metric.points
    ]
    scope = ScopeMetrics(InstrumentationScope("plugbus", schema_url=SCHEMA), metrics, SCHEMA)
    return MetricsData([ResourceMetrics(resource, [scope], resource.schema_url)])


def _metric(metric: Metric, since_ns: int, now_ns: int) -> Exported:
    data: Histogram | Sum | Gauge
    if metric.kind == "histogram":
        data = Histogram(
            [_buckets(p, since_ns, now_ns) for p in metric.points if isinstance(p, HistogramPoint)],
            _CUMULATIVE,
        )  # fmt: skip
    else:
        points = [
            NumberDataPoint(p.attributes, since_ns, now_ns, p.value)
            for p in metric.points
            if isinstance(p, Point)
        ]
        data = Gauge(points) if metric.kind == "gauge" else Sum(points, _CUMULATIVE, is_monotonic=True)
    return Exported(metric.name, metric.description, metric.unit, data)


def _buckets(point: HistogramPoint, since_ns: int, now_ns: int) -> HistogramDataPoint:
    unknown = cast(float, None)  # OTLP has both as optional, the SDK's type has not
    return HistogramDataPoint(
        point.attributes, since_ns, now_ns, point.count, point.sum, point.counts, point.bounds,
        min=unknown, max=unknown,
    )  # fmt: skip
