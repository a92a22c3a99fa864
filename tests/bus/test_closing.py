"""Closing: within the grace, without a trace, twice if you like."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bus.memory import MemoryBus, open_bus
from contracts.bus import CatalogEntry, EventBus
from contracts.errors import BusClosed
from contracts.event import Event, EventResult
from contracts.message import PluginEvent


class Answer(Event, type="answers.answer"):
    n: int


async def test_close_lets_handlers_finish_and_takes_what_they_return(rig: Any, bus: Any) -> None:
    """Within the grace: the running event is acknowledged, its returned event is published."""
    other = await rig.open("b")
    tail = other.tail("answers.*")

    async def handle(event: PluginEvent) -> EventResult:
        await asyncio.sleep(5)
        return EventResult.ok(Answer(n=event.data["n"]))

    await rig.on(bus, handle)
    await rig.publish(bus, 1, 2)
    await asyncio.sleep(1)
    await bus.close(grace=10)
    assert [item.data for item in tail.read_nowait()] == ['{"n":1}']
    info = await rig.info()
    assert (info.handled, info.waiting, info.state) == (1, 1, "dormant")


async def test_close_takes_no_longer_than_its_grace(rig: Any, bus: Any, recorder: Any) -> None:
    """What still runs is cancelled and handed back, for all handlers side by side."""
    for group in ("a.h", "b.h", "c.h"):
        await rig.on(bus, recorder(lambda n, attempt: asyncio.sleep(500)), group=group, timeout=1_000)
    await rig.publish(bus, 1)
    await asyncio.sleep(1)
    start = asyncio.get_running_loop().time()
    await bus.close(grace=10)
    assert asyncio.get_running_loop().time() - start == pytest.approx(10, abs=0.1)
    assert [info.waiting for info in await bus.groups()] == [1, 1, 1]


async def test_close_twice_and_at_the_same_time(rig: Any, bus: Any, recorder: Any) -> None:
    """The second returns when the first has; a third at once."""
    await rig.on(bus, recorder(lambda n, attempt: asyncio.sleep(5)))
    await rig.publish(bus, 1)
    await asyncio.sleep(1)
    await asyncio.gather(bus.close(), bus.close())
    await bus.close()
    assert (await rig.info()).handled == 1


async def test_closing_ends_waiting_publishes_and_tails(rig: Any) -> None:
    """Nobody waits for a bus that is gone."""
    rig.limit(limit=1)
    bus = await rig.open()
    await bus.declare_group(rig.spec())
    await rig.publish(bus, 1)
    publish = asyncio.create_task(rig.publish(bus, 2, timeout=1_000))
    tail = bus.tail("**")
    reading = asyncio.create_task(anext(tail))
    await asyncio.sleep(1)
    await bus.close()
    with pytest.raises(BusClosed):
        await publish
    with pytest.raises(StopAsyncIteration):
        await reading


async def test_a_killed_bus_can_be_closed(rig: Any, bus: Any, recorder: Any) -> None:
    """Close after kill only waits for the tasks to be gone; kill twice is once."""
    await rig.on(bus, recorder(lambda n, attempt: asyncio.Event().wait()))
    await rig.publish(bus, 1)
    await asyncio.sleep(1)
    bus.kill()
    bus.kill()
    await bus.close()


async def test_delayed_events_outlive_the_bus_that_published_them(rig: Any, bus: Any, recorder: Any) -> None:
    """They belong to the broker; the next bus lets them out."""
    await rig.publish(bus, 1, delay=60)
    await bus.close()
    await asyncio.sleep(100)
    other = await rig.open("b")
    handler = recorder()
    await rig.on(other, handler)
    await other.quiet()
    assert handler.numbers == [1]


@pytest.mark.parametrize("turns", range(8))
async def test_closing_at_any_moment_loses_nothing(rig: Any, recorder: Any, turns: int) -> None:
    """After any number of turns of the loop, with several lanes: the next owner gets the rest, in order."""
    a, b = await rig.open("a"), await rig.open("b")
    first = recorder(lambda n, attempt: asyncio.sleep(n % 3))
    await rig.on(a, first, concurrency=3)
    for n in range(20):
        await rig.publish(a, n, key=f"k{n % 4}")
    for _ in range(turns):
        await asyncio.sleep(0)
    await a.close(grace=1)
    second = recorder()
    await rig.on(b, second, concurrency=3)
    await b.quiet()
    assert sorted(first.done + second.done) == list(range(20))
    for rest in range(4):
        order = [n for n in first.done + second.done if n % 4 == rest]
        assert order == sorted(order)


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancelled_publish_is_published_or_not_but_never_twice(
    rig: Any, recorder: Any, turns: int
) -> None:
    """Cancelled at any moment while it waits for room; repeating it with the same id is safe."""
    rig.limit(limit=1)
    bus = await rig.open()
    gate = asyncio.Event()
    handler = recorder(lambda n, attempt: gate.wait())
    await rig.on(bus, handler)
    await rig.publish(bus, 1)
    waiting = asyncio.create_task(rig.publish(bus, 2, id="two"))
    await asyncio.sleep(1)
    gate.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await rig.publish(bus, 2, id="two")
    await bus.quiet()
    assert handler.numbers == [1, 2]


async def test_the_catalogue_lists_types_as_long_as_somebody_declares_them(bus: Any) -> None:
    """By type and version; what takes them out is safe twice and takes only its own."""
    one = CatalogEntry(type="b.two", version=1, plugin_id="x")
    two = CatalogEntry(type="b.two", version=1, plugin_id="y")
    undo_one = bus.add_types([one, CatalogEntry(type="a.one", version=2)])
    undo_two = bus.add_types([two])
    assert [(entry.type, entry.plugin_id) for entry in bus.types()] == [
        ("a.one", ""),
        ("b.two", "x"),
        ("b.two", "y"),
    ]
    undo_one()
    undo_one()
    assert bus.types() == [two.model_copy(update={"replicas": (bus.replica,)})]
    undo_two()
    assert bus.types() == []


async def test_buses_are_opened_by_url(rig: Any) -> None:
    """`memory://` stands alone; the same name and namespace share a broker while one of them lives."""
    alone, also = open_bus("memory://", namespace="n"), open_bus("memory://", namespace="n")
    one, two = open_bus("memory://x", namespace="n"), open_bus("memory://x", namespace="n", replica="r")
    other = open_bus("memory://x", namespace="m")
    assert alone.broker is not also.broker
    assert one.broker is two.broker
    assert other.broker is not one.broker
    assert two.replica == "r"
    assert isinstance(alone, MemoryBus)
    bus: EventBus = one
    assert not bus.features.persistent
