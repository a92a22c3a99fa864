"""`/metrics`, read by Prometheus' own parsers."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from contracts.messages import MetricsRecord, ShowMetrics
from contracts.metrics import Histogram, Metric, Point
from plugins.gateway.prometheus import exposed


def record() -> MetricsRecord:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.5, 0.5, 3.0):
        histogram.record(value)
    failed = Point(attributes={"messaging.destination.name": "orders", "error.type": 'a"b\\c\nd'}, value=2)
    worked = Point(attributes={"messaging.destination.name": "orders"}, value=5)
    return MetricsRecord(
        replica="a", since=datetime.now(UTC),
        metrics=(
            Metric(name="messaging.client.sent.messages", kind="counter", unit="{message}",
                   description="Sent.", points=(worked, failed)),
            Metric(name="messaging.process.duration", kind="histogram", unit="s", description="Time.",
                   points=(histogram.point({"messaging.consumer.group.name": "a.b"}),)),
            Metric(name="plugbus.group.oldest_age", kind="gauge", unit="s", description="Age.",
                   points=(Point(value=1.5),)),
            Metric(name="plugbus.group.waiting", kind="gauge", unit="{message}", description="Lag."),
        ),
    )  # fmt: skip


def test_names_units_labels_and_buckets_are_prometheus_own() -> None:
    for accept, read in (("", read_text), ("application/openmetrics-text; version=1.0.0", read_openmetrics)):
        text, media_type = exposed(record(), accept)
        assert media_type.startswith("application/openmetrics-text" if accept else "text/plain")
        samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in read(text.decode())
            for sample in family.samples
        }
        group, topic = ("messaging_consumer_group_name", "a.b"), ("messaging_destination_name", "orders")
        assert samples == {
            ("messaging_client_sent_messages_total", ("error_type", ""), topic): 5,
            ("messaging_client_sent_messages_total", ("error_type", 'a"b\\c\nd'), topic): 2,
            ("messaging_process_duration_seconds_bucket", ("le", "0.1"), group): 1,
            ("messaging_process_duration_seconds_bucket", ("le", "1.0"), group): 3,
            ("messaging_process_duration_seconds_bucket", ("le", "+Inf"), group): 4,
            ("messaging_process_duration_seconds_count", group): 4,
            ("messaging_process_duration_seconds_sum", group): 4.05,
            ("plugbus_group_oldest_age_seconds",): 1.5,
        }


def test_an_accept_that_is_none_gets_the_text_format() -> None:
    for accept in ("application/openmetrics-text;version=abc", "application/openmetrics-text; version=1.x.0"):
        text, media_type = exposed(record(), accept)
        assert media_type.startswith("text/plain")
        assert b"messaging_client_sent_messages_total" in text


async def test_it_asks_for_a_token_that_may_read(http: httpx.AsyncClient) -> None:
    assert ShowMetrics.__capability__ == "kernel.metrics.show"
    for token, status in (("", 401), ("Bearer t-publish", 403)):
        assert (await http.get("/metrics", headers={"Authorization": token})).status_code == status
