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


def is_wanted(event: Placed) -> bool:
    LOG.warning("predicate %d", event.n)
    return event.n != 2


class Choosy(BasePlugin, plugin_id="choosy", version="1.0.0", security_level="trusted"):
    @on(where=is_wanted)
    async def handle(self, event: Placed) -> None:
        LOG.warning("handler %d", event.n)


async def of_predicates(harness: Harness, caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, Any]]:
    """What was logged by whom, after three events of which the second is not wanted."""
    await harness.load(Choosy)
    receipts = [await harness.publish(Placed(n=n)) for n in (1, 2, 3)]
    await harness.quiet()
    found = {record.message: vars(record) for record in caplog.records if record.name == LOG.name}
    assert list(found) == ["predicate 1", "handler 1", "predicate 2", "predicate 3", "handler 3"]
    for message, record in found.items():
        assert record["event_id"] == receipts[int(message[-1]) - 1].id, message
        assert (record["event_type"], record["plugin_id"]) == ("orders.placed", "choosy")
    return found


async def test_records_of_a_predicate_name_its_event(
    harness: Harness, installed: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the event before; afterwards there is nothing to name."""
    found = await of_predicates(harness, caplog)
    assert {record["trace_id"] for record in found.values()} == {""}
    LOG.warning("outside")
    assert vars(caplog.records[-1])["event_id"] == ""


async def test_records_of_a_predicate_are_in_the_trace_of_its_event(
    harness: Harness, installed: None, spans: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Below whoever published it: one that is not wanted has no attempt."""
    found = await of_predicates(harness, caplog)
    sent = [
        (f"{one.context.trace_id:032x}", f"{one.context.span_id:016x}") for one in spans.of("publish orders")
    ]
    asked = [found[f"predicate {n}"] for n in (1, 2, 3)]
    assert [(record["trace_id"], record["span_id"]) for record in asked] == sent
