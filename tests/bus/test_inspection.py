"""What can be seen of groups and topics."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.bus import CircuitBreaker, RetryPolicy, TopicInfo
from contracts.envelope import moment_of
from contracts.event import Event, EventData, EventResult


class Bill(Event, type="bills.item"):
    n: int


async def topic(bus: Any, name: str = "orders") -> TopicInfo:
    return {info.topic: info for info in await bus.topics()}[name]


async def test_a_group_tells_what_waits_runs_and_is_over(rig: Any, bus: Any, recorder: Any) -> None:
    """Each number is what its name says."""
    gate = asyncio.Event()

    def act(n: int, attempt: int) -> Any:
        if n == 1:
            return EventResult.dead_letter("no")
        if n == 2:
            return EventResult.discard("no")
        if n == 3:
            raise ValueError
        return gate.wait() if n == 4 else None

    await rig.on(bus, recorder(act), retry=RetryPolicy(first_delay=100_000, max_delay=100_000), timeout=500)
    await rig.publish(bus, 0, 1, 2, 3, 4)
    await asyncio.sleep(10)
    await rig.publish(bus, 5, 6)
    info = await rig.info()
    assert (info.waiting, info.in_flight, info.parked, info.dead) == (2, 1, 1, 1)
    assert (info.handled, info.failed, info.discarded, info.peak) == (1, 1, 1, 5)
    assert (info.owners, info.state, info.paused) == ({"a": 1}, "active", None)
    assert info.oldest_age == pytest.approx(10)
    gate.set()
    await asyncio.sleep(1)
    assert (await rig.info()).handled == 4


async def test_the_age_is_that_of_the_oldest_without_an_outcome(rig: Any, bus: Any, recorder: Any) -> None:
    """Waiting or parked; none where everything is final."""

    def act(n: int, attempt: int) -> None:
        if n == 1 and attempt == 1:
            raise ValueError

    await bus.declare_group(rig.spec())
    assert (await rig.info()).oldest_age is None
    await rig.publish(bus, 1)
    await asyncio.sleep(30)
    await rig.publish(bus, 2)
    assert (await rig.info()).oldest_age == pytest.approx(30)
    await rig.on(bus, recorder(act), retry=RetryPolicy(first_delay=100, jitter=0))
    await asyncio.sleep(10)
    assert (await rig.info()).oldest_age == pytest.approx(40)
    await bus.quiet()
    assert (await rig.info()).oldest_age is None


async def test_rates_are_those_of_the_last_minute(rig: Any, bus: Any, recorder: Any) -> None:
    """Or since the first; none without traffic."""
    await rig.on(bus, recorder())
    assert ((await rig.info()).rate, await bus.topics()) == (0.0, [])
    for n in range(200):
        await rig.publish(bus, n)
        await asyncio.sleep(0.1)
    assert (await rig.info()).rate == pytest.approx(10, rel=0.1)
    assert (await topic(bus)).rate == pytest.approx(10, rel=0.1)
    for n in range(200):
        await rig.publish(bus, n)
        await asyncio.sleep(1)
    assert (await rig.info()).rate == pytest.approx(1, rel=0.1)
    assert (await topic(bus)).rate == pytest.approx(1, rel=0.1)
    await asyncio.sleep(200)
    assert (await rig.info()).rate == 0
    assert (await topic(bus)).rate == 0


async def test_a_topic_tells_what_it_keeps_and_who_holds_it(rig: Any, recorder: Any) -> None:
    """Kept, published, the most that was ever kept; the holder only where trimming waits for it."""
    rig.limit(retain=5, young_seconds=10, limit=1_000, partitions={"bills": 3})
    bus = await rig.open()
    await rig.publish(bus, *range(20))
    await bus.publish(Bill(n=1), source="/test")
    info = await topic(bus)
    assert (info.events, info.peak, info.published, info.limit) == (20, 20, 20, 1_000)
    assert (info.partitions, info.holder, (await topic(bus, "bills")).partitions) == (1, None, 3)
    await bus.declare_group(rig.spec(group="slow.h"))
    await rig.on(bus, recorder(), group="quick.h")
    assert (await topic(bus)).holder is None
    await asyncio.sleep(60)
    await bus.declare_group(rig.spec("orders.item", group="late.h", start="new"))
    info = await topic(bus)
    assert (info.holder, info.events) == ("slow.h", 20)
    assert info.oldest_age == pytest.approx(60)
    await bus.drop_group("slow.h")
    await asyncio.sleep(1)
    await bus.declare_group(rig.spec(group="later.h"))
    info = await topic(bus)
    assert (info.holder, info.events, info.peak, info.published) == (None, 5, 20, 20)
    assert [one.topic for one in await bus.topics()] == ["bills", "bus", "orders"]


async def test_an_open_breaker_is_seen(rig: Any, recorder: Any) -> None:
    """By the replica where it is open."""
    a, b = await rig.open("a"), await rig.open("b")

    def act(n: int, attempt: int) -> None:
        raise ValueError

    await rig.on(a, recorder(act), breaker=CircuitBreaker(minimum=2))
    await rig.publish(b, 1, 2, 3)
    await asyncio.sleep(1)
    assert (await rig.info()).open_breakers == ("a",)


async def test_a_tail_begins_at_a_time(rig: Any, bus: Any, item: Any) -> None:
    """With the first event that was published then or later."""
    moments = []
    for n in range(5):
        moments.append(rig.clock.time_ns())
        await rig.publish(bus, n)
        await asyncio.sleep(0.3)
    for n, when in enumerate(moments):
        items = bus.tail("orders.*", position=moment_of(when)).read_nowait()
        assert [one.data for one in items] == [f'{{"n":{m}}}' for m in range(n, 5)]


async def test_many_topics_do_not_hold_up_the_loop(rig: Any, bus: Any) -> None:
    """They are looked at a part at a time; all are told."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    for number in range(1_000):
        await bus.publish(EventData(type=f"t{number}.x", data="{}"), source="/test")
    task = asyncio.create_task(others())
    assert len(await bus.topics()) >= 1_000
    task.cancel()
    assert turns >= 3
