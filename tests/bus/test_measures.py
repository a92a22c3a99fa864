"""What a bus counts stays bounded, whatever the names are."""

from __future__ import annotations

import pytest

from bus.clock import SystemClock
from bus.measures import Count, Family, Measures
from bus.spans import Client
from contracts.errors import BusFull
from contracts.event import Receipt
from contracts.metrics import MOST_POINTS


def test_too_many_sets_of_attributes_are_counted_together() -> None:
    """OpenTelemetry's rule for its cardinality limit; none is lost."""
    family = Family(Count, "a", "b", most=3)
    for number in range(5):
        family.of(str(number), "").value += 1
    family.of("0", "").value += 1
    found = {tuple(sorted(attributes.items())): count.value for attributes, count in family.items()}
    assert found == {(("a", "0"),): 2, (("a", "1"),): 1, (("otel.metric.overflow", True),): 3}


def test_types_and_topics_without_end_take_no_memory_without_end() -> None:
    measures = Measures(Client("inmemory", "a"), SystemClock())
    for number in range(3 * MOST_POINTS):
        measures.sent_well[f"topic-{number}.made"].record(0.001)
    [sent] = [metric for metric in measures.metrics() if metric.name == "messaging.client.sent.messages"]
    assert len(sent.points) == MOST_POINTS
    assert len(measures.sent_well) <= MOST_POINTS
    assert sum(getattr(point, "value", 0) for point in sent.points) == 3 * MOST_POINTS


async def test_a_publish_that_fails_is_counted_by_its_error() -> None:
    measures = Measures(Client("inmemory", "a"), SystemClock())

    async def fail() -> Receipt:
        raise BusFull("no room")

    with pytest.raises(BusFull):
        await measures.sending("orders.placed", fail())
    [sent] = [metric for metric in measures.metrics() if metric.name == "messaging.client.sent.messages"]
    [point] = sent.points
    assert point.attributes["error.type"] == "contracts.errors.BusFull"
    assert getattr(point, "value", 0) == 1
