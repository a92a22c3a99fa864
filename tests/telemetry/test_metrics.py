"""What the kernel has counted, as it comes to a backend by OTLP."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conventions import not_in_force
from opentelemetry import context as variables
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.sdk.resources import Resource
from opentelemetry.semconv._incubating.metrics import messaging_metrics as conventions
from receiver import Measured, Receiver

from contracts.messages import MetricsRecord
from contracts.metrics import DURATION_BOUNDS
from contracts.tracing import SCHEMA, is_export_wanted
from kernel.metrics import Metrics
from kernel.testing import Harness
from plugbus import BasePlugin, Event, RetryPolicy, on
from plugins.telemetry.backend import endpoint, in_thread
from plugins.telemetry.metrics import exporting_metrics

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 30.0
EXPORTER = logging.getLogger("opentelemetry.exporter.otlp.proto.http.metric_exporter")


def speaks(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether what the exporter logs is written."""
    EXPORTER.error("a line of its own")
    return any(record.name == EXPORTER.name for record in caplog.records)


class Bought(Event, type="shop.bought"):
    name: str


class Till(BasePlugin, plugin_id="till", version="1.0.0", security_level="trusted"):
    @on(retry=RetryPolicy(attempts=1))
    async def count(self, event: Bought) -> None:
        if event.name == "bad":
            raise ValueError(event.name)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{receiver.url}/v1/metrics")
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "60000")
        yield receiver


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not is_so():  # noqa: ASYNC110 - another thread tells
            await asyncio.sleep(0.01)


async def test_figures_arrive_at_the_start_and_at_the_end(harness: Harness, receiver: Receiver) -> None:
    """With everything that the conventions say of them; what was counted last is not lost."""
    await harness.load(Till)
    await harness.load(ROOT / "plugins" / "telemetry")
    await until(lambda: receiver.measured)
    await harness.publish(Bought(name="good"))
    await harness.publish(Bought(name="bad"))
    await harness.quiet()
    await harness.unload("telemetry")
    first, last = receiver.measured
    assert not [point for point in first if point.attributes.get("messaging.destination.name") == "shop"]
    broker = {"messaging.system": "inmemory"}
    sent = {**broker, "messaging.operation.name": "publish", "messaging.destination.name": "shop"}
    handled = {
        **broker, "messaging.operation.name": "process", "messaging.destination.name": "shop",
        "messaging.consumer.group.name": "till.count",
    }  # fmt: skip
    failed = {**handled, "error.type": "ValueError"}
    counter, histogram = "sum cumulative monotonic", "histogram cumulative"
    expected = [
        ("messaging.client.sent.messages", counter, "{message}", sent, 2),
        ("messaging.client.operation.duration", histogram, "s",
         {**sent, "messaging.operation.type": "send"}, 2),
        ("messaging.client.consumed.messages", counter, "{message}", handled, 1),
        ("messaging.client.consumed.messages", counter, "{message}", failed, 1),
        ("messaging.process.duration", histogram, "s", handled, 1),
        ("messaging.process.duration", histogram, "s", failed, 1),
        ("plugbus.attempts.failed", counter, "{attempt}",
         {"messaging.consumer.group.name": "till.count", "plugbus.outcome": "dead_letter"}, 1),
        ("plugbus.group.dead_letters", "gauge", "{message}",
         {"messaging.consumer.group.name": "till.count"}, 1),
        ("plugbus.topic.published", counter, "{message}", {"messaging.destination.name": "shop"}, 2),
        ("plugbus.bus.connected", "gauge", "{bus}", {}, 1),
    ]  # fmt: skip
    found = [(point.name, point.kind, point.unit, point.attributes, point.value) for point in last]
    for row in expected:
        assert row in found
    [lag] = [point for point in last if point.name == "plugbus.loop.lag"]
    assert lag.kind == histogram
    assert all(_is_well_formed(point) for point in last)
    assert not_in_force(name for point in last for name in point.attributes) == set()
    named = {point.name: point.unit for point in last if not point.name.startswith("plugbus.")}
    known = {name: getattr(conventions, name.replace(".", "_").upper()) for name in named}
    assert all(name == said for name, said in known.items())
    assert sorted(named.values()) == ["s", "s", "{message}", "{message}"]
    assert {(point.scope, point.schema_url) for point in last} == {("plugbus", SCHEMA)}
    own = [point for point in (*first, *last) if point.kind != "gauge" and not _is_shared(point)]
    assert len({point.start_ns for point in own}) == 1, "cumulative: they begin together"
    assert {point.resource["service.instance.id"] for point in last} == {harness.bus.replica}


def _is_shared(point: Measured) -> bool:
    return point.name.startswith(("plugbus.group.", "plugbus.topic."))


def _is_well_formed(point: Measured) -> bool:
    if point.buckets is not None:
        bounds, counts, total = point.buckets
        assert len(counts) == len(bounds) + 1
        assert sum(counts) == point.value
        assert total >= 0
        assert not point.name.startswith("messaging.") or bounds == DURATION_BOUNDS
    has_begun = point.kind != "gauge" and not _is_shared(point)
    assert (point.start_ns != 0) == has_begun, "what the bus as a whole has counted began nobody knows when"
    assert point.start_ns <= point.time_ns
    assert point.resource["service.name"]
    assert point.description
    return True


async def test_a_backend_that_does_not_answer_is_said_once_and_delays_no_end(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver(delay=4.0) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{receiver.url}/v1/metrics")
        await harness.load(ROOT / "plugins" / "telemetry")
        await until(lambda: receiver.requests)
        began = asyncio.get_running_loop().time()
        await harness.unload("telemetry")
        assert asyncio.get_running_loop().time() - began < 3.0
    assert [r.getMessage() for r in caplog.records if r.name == "plugbus.telemetry"] == [
        "metrics that were not exported within 1.5 s are lost: the backend does not answer"
    ]
    assert speaks(caplog), "the exporter may speak again"


async def test_a_backend_that_refuses_is_said_once(
    harness: Harness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As Jaeger does, which takes no metrics; and what to do about it."""
    receiver.status = 404
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    await harness.load(ROOT / "plugins" / "telemetry")
    await until(lambda: receiver.requests > 3)
    assert not [r for r in caplog.records if r.name == EXPORTER.name]
    await harness.unload("telemetry")
    [told] = [r.getMessage() for r in caplog.records if r.name == "plugbus.telemetry"]
    said = r"Failed to export metrics batch code: 404, reason: Not Found"
    assert told.startswith(f"metrics cannot be exported to {receiver.url}/v1/metrics ({said}):")
    assert "OTEL_METRICS_EXPORTER=none" in told


@pytest.mark.parametrize("interval", ["soon", "-1", "0", "1.5"])
def test_a_wrong_interval_costs_the_metrics_and_no_more(
    interval: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", interval)
    assert exporting_metrics(os.environ, Resource.create(), "a") is None
    [told] = [record.getMessage() for record in caplog.records if record.name == "plugbus.telemetry"]
    assert f"OTEL_METRIC_EXPORT_INTERVAL is {interval!r}, not a whole number of milliseconds" in told


def test_the_standard_variables_choose_what_is_exported() -> None:
    both = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318"}
    traces = {**both, "OTEL_METRICS_EXPORTER": "none"}
    metrics = {"OTEL_METRICS_EXPORTER": "prometheus, otlp"}
    for environment, wants_traces, wants_metrics in (
        (both, True, True), (traces, True, False), (metrics, False, True), ({}, False, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x:4318/v1/metrics"}, False, True),
        ({**both, "OTEL_SDK_DISABLED": "TRUE"}, False, False),
        ({**both, "OTEL_METRICS_EXPORTER": "prometheus"}, True, False),
    ):  # fmt: skip
        assert is_export_wanted(environment) == wants_traces
        assert is_export_wanted(environment, "METRICS") == wants_metrics


async def test_the_end_comes_also_where_the_last_figures_cannot_be_had(
    harness: Harness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is left behind: the exporters' own log speaks again."""

    async def broken(self: Metrics) -> MetricsRecord:
        raise RuntimeError("no figures")

    await harness.load(ROOT / "plugins" / "telemetry")
    await until(lambda: receiver.measured)
    monkeypatch.setattr(Metrics, "look", broken)
    await harness.unload("telemetry")
    assert speaks(caplog)
    told = [record.getMessage() for record in caplog.records if record.name == "plugbus.telemetry"]
    assert len(told) == 1
    assert "no figures" in told[0]


async def test_who_exports_is_not_traced_itself() -> None:
    """By an application that instruments what it asks others over HTTP."""
    seen: list[object] = []
    await in_thread(lambda: seen.append(variables.get_value(_SUPPRESS_INSTRUMENTATION_KEY)))
    assert seen == [True]
    assert variables.get_value(_SUPPRESS_INSTRUMENTATION_KEY) is None


def test_the_password_of_an_endpoint_is_not_told() -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://ada:example-password@otlp.example:4318/x@y"}
    assert endpoint(environment, "TRACES") == "http://••••@otlp.example:4318/x@y"
