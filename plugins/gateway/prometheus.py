"""The kernel's figures in Prometheus' formats.

Names follow OpenTelemetry's mapping: dots become underscores, the unit and, of a counter, `_total` are put
behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from prometheus_client import Metric as Family
from prometheus_client import exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from contracts.messages import MetricsRecord
from contracts.metrics import HistogramPoint, Metric, Point

_UNITS = {"s": "seconds"}
"""How Prometheus spells what is not a mere word of what is counted."""


def exposed(record: MetricsRecord, accept: str) -> tuple[bytes, str]:
    """The text and its media type: Prometheus' text format, or OpenMetrics for whoever accepts it."""
    try:
        encode, media_type = exposition.choose_encoder(accept)
    except (TypeError, ValueError):  # it accepts a version that is none
        encode, media_type = exposition.choose_encoder("")
    return encode(_Record(record)), media_type


class _Record(Collector):
    """What the encoders of `prometheus_client` ask for."""

    def __init__(self, record: MetricsRecord) -> None:
        self._record = record

    def collect(self) -> Iterator[Family]:
        return map(_family, self._record.metrics)


def _family(metric: Metric) -> Family:
    name, unit = metric.name.replace(".", "_"), _UNITS.get(metric.unit, "")
    # The same labels for all of a family: an empty one is none.
    attributes = sorted({attribute for point in metric.points for attribute in point.attributes})
    labels = [attribute.replace(".", "_") for attribute in attributes]
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(name, metric.description, labels=labels, unit=unit)
        for point in metric.points:
            if isinstance(point, HistogramPoint):
                histogram.add_metric(_values(point, attributes), _buckets(point), point.sum)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(name, metric.description, labels=labels, unit=unit)
    for point in metric.points:
        if isinstance(point, Point):
            family.add_metric(_values(point, attributes), point.value)
    return family


def _values(point: Point | HistogramPoint, attributes: list[str]) -> list[str]:
    return [_spelled(point.attributes.get(attribute, "")) for attribute in attributes]


def _spelled(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _buckets(point: HistogramPoint) -> list[tuple[str, float]]:
    ends = [*map(floatToGoString, point.bounds), "+Inf"]
    return list(zip(ends, itertools.accumulate(point.counts), strict=True))
