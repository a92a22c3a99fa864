"""Figures as OpenTelemetry has them: a name, a unit, and a point for each set of attributes.

Counted here and not by the SDK's instruments, which take several microseconds for each message: more than a
whole delivery.
"""

from __future__ import annotations

import bisect
from typing import Literal

from pydantic import BaseModel, ConfigDict

DURATION_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds: the boundaries that the messaging conventions advise."""
MOST_POINTS = 2_000
"""Sets of attributes that a metric may have, OpenTelemetry's own limit. What comes then is counted together,
in a point with the one attribute `otel.metric.overflow`."""


Attributes = dict[str, str | int | bool]


class Point(BaseModel):
    """One value of a counter or gauge."""

    model_config = ConfigDict(frozen=True)

    attributes: Attributes = {}
    value: float


class HistogramPoint(BaseModel):
    """How many values were at most how large. Cumulative in time, not over the buckets."""

    model_config = ConfigDict(frozen=True)

    attributes: Attributes = {}
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    """Above the bound before and up to this one; the last is what is above all: one more than bounds."""
    sum: float

    @property
    def count(self) -> int:
        return sum(self.counts)


class Metric(BaseModel):
    """What is known of one figure at one moment."""

    model_config = ConfigDict(frozen=True)

    name: str
    """OpenTelemetry's: lower case, with dots. Prometheus writes it with underscores, unit and `_total`."""
    kind: Literal["counter", "gauge", "histogram"]
    """`counter`: only rises. `gauge`: as it is now."""
    unit: str
    """UCUM: `s`, or what is counted: `{message}`."""
    description: str
    is_shared: bool = False
    """Of the bus as a whole: each replica tells the same, and when counting began nobody knows."""
    points: tuple[Point | HistogramPoint, ...] = ()


class Histogram:
    """Counts values into buckets. Not for several threads at once."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = DURATION_BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def record(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def point(self, attributes: Attributes) -> HistogramPoint:
        """As it is now."""
        return HistogramPoint(
            attributes=attributes, bounds=self.bounds, counts=tuple(self.counts), sum=self.sum
        )
