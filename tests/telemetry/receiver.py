"""An OTLP/HTTP backend of the tests' own: decodes what comes, and may be slow, or say no."""

from __future__ import annotations

import gzip
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    HistogramDataPoint,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

KINDS = {number: name.removeprefix("SPAN_KIND_").lower() for name, number in ProtoSpan.SpanKind.items()}
STATUSES = {number: name.removeprefix("STATUS_CODE_").lower() for name, number in Status.StatusCode.items()}


@dataclass(frozen=True)
class Exported:
    """One span, as it came over the wire."""

    trace_id: str
    span_id: str
    parent_id: str
    state: str
    name: str
    kind: str
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    events: tuple[tuple[str, dict[str, Any]], ...]
    status: tuple[str, str]
    """`unset`, `ok` or `error`, and what is said of it."""
    resource: dict[str, Any]
    scope: str
    schema_url: str

    @property
    def is_error(self) -> bool:
        return self.status[0] == "error"


@dataclass(frozen=True)
class Measured:
    """One point of a metric, as it came over the wire."""

    name: str
    kind: str
    """`sum`, `gauge` or `histogram`; `cumulative` and `monotonic` behind it where they hold."""
    unit: str
    description: str
    attributes: dict[str, Any]
    value: float
    """Of a histogram how many there were."""
    buckets: tuple[tuple[float, ...], tuple[int, ...], float] | None
    """Of a histogram bounds, counts and sum."""
    start_ns: int
    time_ns: int
    resource: dict[str, Any]
    scope: str
    schema_url: str


@dataclass
class Receiver:
    """`with` it; `url` is what `OTEL_EXPORTER_OTLP_ENDPOINT` wants."""

    status: int = 200
    delay: float = 0.0
    """Seconds until it answers."""
    spans: list[Exported] = field(default_factory=list)
    measured: list[list[Measured]] = field(default_factory=list)
    """The points of each export."""
    requests: int = 0

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.requests += 1
                time.sleep(receiver.delay)
                if receiver.status == 200 and self.path == "/v1/traces":
                    receiver.spans += decoded(body)
                if receiver.status == 200 and self.path == "/v1/metrics":
                    receiver.measured.append(decoded_metrics(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(receiver.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="otlp receiver")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def named(self, name: str) -> list[Exported]:
        return [span for span in self.spans if span.name == name]


def decoded(body: bytes) -> list[Exported]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Exported(
            span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.trace_state,
            span.name, KINDS[span.kind], _values(span.attributes),
            tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
            tuple((event.name, _values(event.attributes)) for event in span.events),
            (STATUSES[span.status.code], span.status.message),
            _values(resource.resource.attributes), scope.scope.name, scope.schema_url,
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]  # fmt: skip


def decoded_metrics(body: bytes) -> list[Measured]:
    request = ExportMetricsServiceRequest.FromString(body)
    return [
        Measured(
            metric.name, _kind(metric), metric.unit, metric.description, _values(point.attributes),
            *_value(point), point.start_time_unix_nano, point.time_unix_nano,
            _values(resource.resource.attributes), scope.scope.name, scope.schema_url,
        )
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in getattr(metric, str(metric.WhichOneof("data"))).data_points
    ]  # fmt: skip


def _kind(metric: Any) -> str:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    words = [kind]
    if kind != "gauge" and data.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE:
        words.append("cumulative")
    if kind == "sum" and data.is_monotonic:
        words.append("monotonic")
    return " ".join(words)


def _value(point: Any) -> tuple[float, tuple[tuple[float, ...], tuple[int, ...], float] | None]:
    if isinstance(point, HistogramDataPoint):
        return point.count, (tuple(point.explicit_bounds), tuple(point.bucket_counts), point.sum)
    return getattr(point, str(point.WhichOneof("value"))), None


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
