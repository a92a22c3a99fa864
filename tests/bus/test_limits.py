"""Limits of a broker: partitions by topic, shared brokers that disagree, the window, the lot."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bus.memory import MemoryBroker, open_bus
from contracts.bus import BusLimits
from contracts.errors import BusFull, InvalidOption
from contracts.event import EventData


async def test_topics_have_partitions_by_name(rig: Any) -> None:
    """Others have one, and so have the reserved ones."""
    rig.limit(partitions={"orders": 4})
    bus = await rig.open()
    await bus.declare_group(rig.spec("**"))
    for n in range(20):
        await rig.publish(bus, n)
    await bus.publish(EventData(type="bills.item"), source="/test")
    await bus.pause_group("shop.handle")
    await asyncio.sleep(0)
    assert {info.topic: info.partitions for info in await bus.topics()} == {"bills": 1, "bus": 1, "orders": 4}


@pytest.mark.parametrize("partitions", [0, -1, {"orders": 0}, {"bus": 2}])
def test_what_is_no_number_of_partitions_is_refused(partitions: Any) -> None:
    """With the topic and the fix."""
    with pytest.raises(InvalidOption) as caught:
        MemoryBroker(limits=BusLimits(partitions=partitions))
    assert caught.value.fix


def test_buses_that_share_a_broker_have_the_same_limits() -> None:
    """Who asks for others is told both and the fix; who asks for none takes what is there."""
    first = open_bus("memory://limits", namespace="t", partitions=4, limits=BusLimits(retain=7))
    same = open_bus("memory://limits", namespace="t", limits=BusLimits(retain=7, partitions=4))
    silent = open_bus("memory://limits", namespace="t")
    assert first.broker is same.broker is silent.broker
    for options in (
        {"partitions": 2},
        {"limits": BusLimits(retain=8, partitions=4)},
        {"partitions": {"orders": 4}},
    ):
        with pytest.raises(InvalidOption) as caught:
            open_bus("memory://limits", namespace="t", **options)
        name = "retain" if "limits" in options else "partitions"
        assert f"{name}=" in caught.value.message
        assert caught.value.fix
    assert open_bus("memory://limits", namespace="other", partitions=2).broker is not first.broker
    assert open_bus("memory://", namespace="t", partitions=2).broker is not first.broker


async def test_the_window_is_as_long_as_the_longest_publish(rig: Any) -> None:
    """However many ids come, of topics that are new too."""
    rig.limit(window=3, window_seconds=1)
    bus = await rig.open()
    await rig.publish(bus, -1)
    await rig.publish(bus, 0, id="x", timeout=500)
    await bus.publish(EventData(type="new.topic"), source="/test", id="x")
    for n in range(50):
        await rig.publish(bus, n, id=f"n{n}")
        await bus.publish(EventData(type="new.topic"), source="/test", id=f"n{n}")
    await asyncio.sleep(499)
    assert (await rig.publish(bus, 0, id="x"))[0].duplicate
    assert (await bus.publish(EventData(type="new.topic"), source="/test", id="x")).duplicate


async def test_many_share_one_deadline(rig: Any, item: Any) -> None:
    """When it has passed, what finds no room fails at once."""
    rig.limit(limit=2)
    bus = await rig.open()
    await bus.declare_group(rig.spec())
    start = asyncio.get_running_loop().time()
    with pytest.raises(BusFull):
        await bus.publish_many([item(n=n) for n in range(5)], source="/test", timeout=7)
    assert asyncio.get_running_loop().time() - start == pytest.approx(7)
    for timeout in (0, -1, float("nan")):
        with pytest.raises(InvalidOption):
            await bus.publish_many([], source="/test", timeout=timeout)


@pytest.mark.parametrize("name", ["orders.placed", "Orders", "**", ""])
def test_partitions_are_given_for_topics(rig: Any, name: str) -> None:
    """The name of an event type, or of nothing at all, would be passed over in silence."""
    with pytest.raises(InvalidOption, match="is no topic"):
        rig.make_broker(partitions={name: 3})
