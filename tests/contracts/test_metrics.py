"""The histogram that counts durations."""

from __future__ import annotations

from contracts.metrics import Histogram


def test_a_value_counts_where_it_is_at_most_the_bound() -> None:
    """As OpenTelemetry has it: upper bounds are inclusive, the last bucket is what is above all."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.1, 9.0):
        histogram.record(value)
    point = histogram.point({"a": "b"})
    assert (point.bounds, point.counts, point.count) == ((1.0, 2.0), (2, 2, 2), 6)
    assert point.sum == 15.6
    assert point.attributes == {"a": "b"}
