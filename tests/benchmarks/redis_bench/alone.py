"""What is measured of the bus alone: connections, idling, replicas, memory."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psutil
import redis
from rounds import Result

from contracts.bus import BusLimits, EventBus
from contracts.event import EventData
from contracts.message import PluginEvent
from contracts.subscription import SubscriptionSpec

from .children import Child, serve
from .load import PATIENCE, Handled, Lost, eventually
from .ours import SOURCE, SPEC, Ours, Trade, check_bus, make, new_bus, pad_for

SUBSCRIPTIONS = 100
KEYS = 1_000
WORK = 0.001
"""Seconds of processor time that a handler takes where replicas share the work."""
RETAIN = 10_000
EVERY = 5_000
"""Events after which memory has to be flat; events between two looks."""


# --- one kernel, many subscriptions ----------------------------------------------------------------


async def subscriptions(url: str, partitions: int, topics: int, seconds: float) -> Result:
    """Connections of one handle, and what it and the server do while nothing is published."""
    async with asyncio.timeout(PATIENCE * 4 + seconds):
        bus = new_bus(url, BusLimits(partitions=partitions))
        await bus.open()
        await _subscribe_all(bus, topics)
        with redis.Redis.from_url(url) as server:
            connections = _others(server)
            before, used = time.process_time(), _server_cpu(server)
            await asyncio.sleep(seconds)  # idling is what is measured
            idle, served = time.process_time() - before, _server_cpu(server) - used
        await bus.close()
    return {"connections": connections, "cpu": idle / seconds * 100, "server": served / seconds * 100}


async def _subscribe_all(bus: EventBus, topics: int) -> None:
    """Each handles one event, so that all topics are there."""
    handled = Handled()

    async def handle(event: PluginEvent) -> None:
        handled.add(0)

    for number in range(SUBSCRIPTIONS):
        spec = SubscriptionSpec(
            group=f"bench.h{number}", plugin_id="bench", handler=f"h{number}",
            patterns=(f"t{number % topics}.done",),
        )  # fmt: skip
        await bus.subscribe(spec, handle)
    reached = handled.expect(SUBSCRIPTIONS)
    for number in range(topics):
        await bus.publish(EventData(type=f"t{number}.done"), source=SOURCE)
    await reached
    await _quiet(bus)
    if handled.count != SUBSCRIPTIONS:
        raise Lost(f"{SUBSCRIPTIONS} deliveries, handled {handled.count}")


async def _quiet(bus: EventBus) -> None:
    try:
        async with asyncio.timeout(PATIENCE * 2):
            await bus.quiet()
    except TimeoutError:
        raise Lost(f"not quiet: {await bus.groups()}") from None


def _others(server: Any) -> int:
    """Connections but our own look."""
    own = server.client_id()
    return sum(int(client["id"]) != own for client in server.client_list())


def _server_cpu(server: Any) -> float:
    told = server.info("cpu")
    return float(told["used_cpu_sys"] + told["used_cpu_user"])


# --- replicas ----------------------------------------------------------------------------------------


async def replicas(url: str, job: str, count: int, partitions: int, events: int) -> Result:
    """Handled a second of a backlog with keys, by so many processes that share one group."""
    bus = new_bus(url, BusLimits(partitions=partitions))
    await bus.open()
    await bus.declare_group(SPEC)
    await _publish_backlog(bus, events)
    sharing = [await Child.start("replica", job, url) for _ in range(count)]
    start = time.perf_counter()
    await asyncio.gather(*(child.ask("subscribe") for child in sharing))
    await _quiet(bus)
    told = [await child.ask("tell") for child in sharing]
    await check_bus(bus, events, sum(handled for handled, _ in told))
    for child in sharing:
        await child.end()
    await bus.close()
    rate = events / (max(last for _, last in told) - start)
    return {"rate": rate, "share": max(handled for handled, _ in told) / events}


async def _publish_backlog(bus: EventBus, events: int) -> None:
    pad, numbers = pad_for(200), iter(range(events))

    async def publisher() -> None:
        for number in numbers:
            await bus.publish(make(pad), source=SOURCE, key=f"k{number % KEYS}")

    await asyncio.gather(*(publisher() for _ in range(Ours.publishers)))


async def replica(url: str, partitions: int) -> None:
    """One of them: subscribes when it is told to; tells how many it handled, and when the last one ended."""
    bus = new_bus(url, BusLimits(partitions=partitions))
    handled, last = 0, 0.0

    async def handle(event: PluginEvent) -> None:
        nonlocal handled, last
        event.as_(Trade)
        end = time.thread_time() + WORK
        while time.thread_time() < end:
            pass
        handled, last = handled + 1, time.perf_counter()

    async def carry_out(order: str) -> tuple[int, float]:
        if order == "subscribe":
            await bus.subscribe(SPEC, handle)
        return handled, last

    await bus.open()
    await serve(carry_out)
    await bus.close()


# --- memory -----------------------------------------------------------------------------------------------


async def memory(url: str, partitions: int, events: int) -> Result:
    """Megabytes in the second quarter of the events and in the last, and what is still stored.

    `young_seconds` is short, so that what decides is `retain`.
    """
    limits = BusLimits(partitions=partitions, retain=RETAIN, young_seconds=1)
    side, handled, looks = Ours(url, 200, limits), Handled(), list[Result]()
    await side.open()
    await side.declare()
    await side.consume(handled)
    with redis.Redis.from_url(url) as server:
        start = time.perf_counter()
        while handled.count < events:
            reached = handled.expect(EVERY)
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(side.produce(EVERY), reached)
            looks.append(_look(server))
        seconds = time.perf_counter() - start
        await side.check(events, handled.count)

        async def untrimmed() -> str | None:
            left = _stored(server)
            return (
                f"{left} events are stored, {RETAIN} retained" if left > RETAIN * partitions * 1.05 else None
            )

        await eventually(untrimmed)
        stored = _stored(server)
    await side.close()
    # In the first quarter the window of ids fills, two generations of five seconds or more; it holds what
    # came lately, so that it goes up and down.
    quarter = events // 4
    first, last = (_most(looks, end - quarter, end) for end in (2 * quarter, events))
    return {
        "rate": events / seconds, "stored": stored, "stored_peak": _most(looks, 0, events)["stored"],
        **{f"{name}_first": first[name] for name in ("process", "server")},
        **{f"{name}_last": last[name] for name in ("process", "server")},
    }  # fmt: skip


def _look(server: Any) -> Result:
    return {
        "process": psutil.Process().memory_info().rss / 1e6,
        "server": server.info("memory")["used_memory"] / 1e6,
        "stored": _stored(server),
    }


def _stored(server: Any) -> int:
    """Entries of all streams."""
    return sum(server.xlen(key) for key in server.scan_iter(count=1000, _type="stream"))


def _most(looks: list[Result], begin: int, end: int) -> Result:
    """The highest of each figure, from one event to another."""
    part = looks[begin // EVERY : end // EVERY]
    return {name: max(look[name] for look in part) for name in part[0]}
