"""What a handler logs says what it belongs to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from kernel import records
from kernel.testing import Harness
from plugbus import BasePlugin, Event, PluginEvent, RetryPolicy, on

LOG = logging.getLogger("plugins.shop")


class Placed(Event, type="orders.placed"):
    n: int


class Shop(BasePlugin, plugin_id="shop", version="1.0.0", security_level="trusted"):
    @on("orders.*", retry=RetryPolicy(attempts=2, first_delay=0.01))
    async def handle(self, event: Placed, meta: PluginEvent) -> None:
        LOG.warning("in the handler")
        await asyncio.create_task(self._later())
        if meta.attempt == 1:
            raise ValueError("once more")

    async def _later(self) -> None:
        LOG.warning("in a task")


@pytest.fixture
def installed() -> Iterator[None]:
    undo = records.install()
    yield
    undo()


async def test_records_of_a_handler_name_event_plugin_and_attempt(
    harness: Harness, installed: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Also those of a task that it starts; outside of handlers there is nothing to name."""
    await harness.load(Shop)
    LOG.warning("outside")
    receipt = await harness.publish(Placed(n=1))
    await harness.quiet()
    found = [record for record in caplog.records if record.name == LOG.name]
    outside = vars(next(record for record in found if record.message == "outside"))
    assert (outside["event_id"], outside["plugin_id"], outside["trace_id"]) == ("", "", "")
    inside = [vars(record) for record in found if record.message != "outside"]
    assert [(record["message"], record["attempt"]) for record in inside] == [
        ("in the handler", 1), ("in a task", 1), ("in the handler", 2), ("in a task", 2),
    ]  # fmt: skip
    for record in inside:
        assert record["event_id"] == receipt.id
        assert (record["event_type"], record["plugin_id"]) == ("orders.placed", "shop")
        assert record["generation"] == 1
        assert record["trace_id"] == ""


async def test_records_of_a_traced_handler_name_trace_and_span(
    harness: Harness, installed: None, spans: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Each attempt its own span."""
    await harness.load(Shop)
    await harness.publish(Placed(n=1))
    await harness.quiet()
    found = [vars(record) for record in caplog.records if record.name == LOG.name]
    attempts: list[ReadableSpan] = spans.of("process orders")
    told = [(f"{one.context.trace_id:032x}", f"{one.context.span_id:016x}") for one in attempts]
    assert [(record["trace_id"], record["span_id"]) for record in found] == [
        told[0], told[0], told[1], told[1],
    ]  # fmt: skip
