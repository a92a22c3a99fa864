"""The memory bus beside an unbounded `asyncio.Queue` pair: `python tests/benchmarks/bus_memory.py`.

Publish → handled, a frozen pydantic event of five fields, bursts of 64 that end when every handler ran.
On the bus's side: full envelope, id, sequence, log, acknowledgement, handler timeout in force. On the
queue's side: one queue and one task for each subscriber, nothing else; publishing is one async call on
both sides. The handlers are empty, but for the row that says otherwise. `bubus` and `taskiq` are measured
too where they are installed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import json
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rounds import Result, interleave, percentile, table

from bus.memory import MemoryBus
from contracts.bus import SubscriptionSpec
from contracts.event import Event
from contracts.message import PluginEvent
from contracts.metering import Meter

BURST = 64
RATE = 500
PATTERNS = 1_000
clock = time.perf_counter


class Trade(Event, type="bench.trade"):
    """Five immutable fields."""

    id: str
    user: str
    quantity: int
    price: float
    stamp: float


EVENTS = [Trade(id=f"a{number}", user="bob", quantity=3, price=9.5, stamp=0.0) for number in range(BURST)]
Publish = Callable[[int], Awaitable[Any]]
Done = Callable[[], int]


async def throughput(publish: Publish, done: Done, each: int, seconds: float) -> float:
    """Handler calls a second. What stood before is kept out of the collector's full passes."""
    gc.collect()
    gc.freeze()
    start = clock()
    end, count, before = start + seconds, 0, done()
    while clock() < end:
        for number in range(BURST):
            await publish(number)
        count += BURST
        while done() - before < count * each:  # noqa: ASYNC110 - the loop itself is measured
            await asyncio.sleep(0)
    return (done() - before) / (clock() - start)


async def latency(publish_now: Callable[[], Awaitable[Any]], samples: list[float], seconds: float) -> Result:
    """Microseconds from publish to handler at a steady rate."""
    start, count = clock(), int(RATE * seconds)
    for number in range(count):
        await asyncio.sleep(max(0.0, start + number / RATE - clock()))
        await publish_now()
    await asyncio.sleep(0.05)
    settled = [sample * 1e6 for sample in samples[count // 10 :]]
    return {"p50": percentile(settled, 0.5), "p99": percentile(settled, 0.99)}


def spin(seconds: float) -> None:
    end = clock() + seconds
    while clock() < end:
        pass


# --- the bus -------------------------------------------------------------------------------------


async def subscribed(
    bus: MemoryBus, count: int, handler: Callable[[], Any], pattern: str = "bench.trade",
    meter: Meter | None = None,
) -> None:  # fmt: skip
    for number in range(count):
        spec = SubscriptionSpec(
            group=f"bench.h{number}", plugin_id="bench", handler=f"h{number}", patterns=(pattern,)
        )
        await bus.subscribe(spec, handler(), meter=meter)


async def bus_throughput(
    subscribers: int, seconds: float, work: float = 0.0, meter: Meter | None = None
) -> Result:
    async with MemoryBus() as bus:
        calls = [0]

        def make() -> Callable[[PluginEvent], Awaitable[None]]:
            async def handle(event: PluginEvent) -> None:
                calls[0] += 1
                if work:
                    spin(work)

            return handle

        await subscribed(bus, subscribers, make, meter=meter)

        async def publish(number: int) -> None:
            await bus.publish(EVENTS[number], source="/bench")

        await throughput(publish, lambda: calls[0], subscribers, 0.05)
        return {"rate": await throughput(publish, lambda: calls[0], subscribers, seconds)}


async def bus_patterns(patterns: int, seconds: float) -> Result:
    """One type is published and handled by one of `patterns` subscriptions with patterns of their own."""
    async with MemoryBus() as bus:
        calls = [0]

        async def handle(event: PluginEvent) -> None:
            calls[0] += 1

        await subscribed(bus, 1, lambda: handle, "bench.*")
        for number in range(patterns - 1):
            spec = SubscriptionSpec(
                group=f"b.h{number}", plugin_id="b", handler="h", patterns=(f"app.mod{number}.*",)
            )
            await bus.subscribe(spec, handle)
        types = [f"app.mod{number}.done" for number in range(PATTERNS)]
        bus.broker.route("app.first")  # makes the topic
        cold = clock()
        for name in types:
            bus.broker.route(name)
        cold = (clock() - cold) / PATTERNS * 1e6

        async def publish(number: int) -> None:
            await bus.publish(EVENTS[number], source="/bench")

        await throughput(publish, lambda: calls[0], 1, 0.05)
        return {"rate": await throughput(publish, lambda: calls[0], 1, seconds), "cold": cold}


async def bus_latency(seconds: float, meter: Meter | None = None) -> Result:
    async with MemoryBus() as bus:
        samples: list[float] = []

        async def handle(event: PluginEvent) -> None:
            samples.append(clock() - event.as_(Trade).stamp)

        await subscribed(bus, 1, lambda: handle, meter=meter)

        async def publish() -> None:
            await bus.publish(EVENTS[0].model_copy(update={"stamp": clock()}), source="/bench")

        return await latency(publish, samples, seconds)


async def bus_idle(count: int = 1_000) -> Result:
    """Bytes of a subscription that nothing is published to."""
    async with MemoryBus() as bus:

        async def handle(event: PluginEvent) -> None: ...

        await subscribed(bus, 10, lambda: handle, "warm.up")
        await asyncio.sleep(0)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            spec = SubscriptionSpec(
                group=f"idle.h{number}", plugin_id="idle", handler="h", patterns=(f"idle.t{number}",)
            )
            await bus.subscribe(spec, handle)
        await asyncio.sleep(0)
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return {"bytes": used / count}


# --- the peers -----------------------------------------------------------------------------------


async def queue_throughput(subscribers: int, seconds: float, work: float = 0.0) -> Result:
    queues: list[asyncio.Queue[Trade]] = [asyncio.Queue() for _ in range(subscribers)]
    calls = [0]

    async def handle(event: Trade) -> None:
        calls[0] += 1
        if work:
            spin(work)

    async def consume(queue: asyncio.Queue[Trade]) -> None:
        while True:
            await handle(await queue.get())

    async def put(event: Trade) -> None:
        for queue in queues:
            queue.put_nowait(event)

    async def publish(number: int) -> None:
        await put(EVENTS[number])

    tasks = [asyncio.create_task(consume(queue)) for queue in queues]
    await throughput(publish, lambda: calls[0], subscribers, 0.05)
    rate = await throughput(publish, lambda: calls[0], subscribers, seconds)
    for task in tasks:
        task.cancel()
    return {"rate": rate}


async def queue_latency(seconds: float) -> Result:
    queue: asyncio.Queue[Trade] = asyncio.Queue()
    samples: list[float] = []

    async def consume() -> None:
        while True:
            event = await queue.get()
            samples.append(clock() - event.stamp)

    async def publish() -> None:
        queue.put_nowait(EVENTS[0].model_copy(update={"stamp": clock()}))

    task = asyncio.create_task(consume())
    result = await latency(publish, samples, seconds)
    task.cancel()
    return result


async def bubus_throughput(subscribers: int, seconds: float) -> Result:
    from bubus import BaseEvent, EventBus

    class Traded(BaseEvent):  # type: ignore[misc, type-arg]
        user: str
        quantity: int
        price: float

    bus, calls = EventBus(), [0]
    for number in range(subscribers):

        async def handle(event: Any) -> None:
            calls[0] += 1

        handle.__name__ = f"handle{number}"
        bus.on("Traded", handle)

    async def publish(number: int) -> None:
        bus.dispatch(Traded(user="bob", quantity=3, price=9.5))
        if number % 32 == 31:  # it raises when about a hundred are pending
            await bus.wait_until_idle()

    rate = await throughput(publish, lambda: calls[0], subscribers, seconds)
    await bus.stop(timeout=1, clear=True)
    return {"rate": rate}


async def taskiq_throughput(seconds: float) -> Result:
    from taskiq import InMemoryBroker

    broker, calls = InMemoryBroker(), [0]

    async def handle(event: dict[str, Any]) -> None:
        calls[0] += 1

    task = broker.register_task(handle, task_name="handle")
    await broker.startup()

    async def publish(number: int) -> None:
        await task.kiq(EVENTS[number].model_dump())

    rate = await throughput(publish, lambda: calls[0], 1, seconds)
    await broker.shutdown()
    return {"rate": rate}


CASES: dict[str, Callable[[float], Awaitable[Result]]] = {
    "queue-1": lambda seconds: queue_throughput(1, seconds),
    "bus-1": lambda seconds: bus_throughput(1, seconds),
    "queue-10": lambda seconds: queue_throughput(10, seconds),
    "bus-10": lambda seconds: bus_throughput(10, seconds),
    "queue-100": lambda seconds: queue_throughput(100, seconds),
    "bus-100": lambda seconds: bus_throughput(100, seconds),
    "queue-work": lambda seconds: queue_throughput(1, seconds, 100e-6),
    "bus-work": lambda seconds: bus_throughput(1, seconds, 100e-6),
    "metered-1": lambda seconds: bus_throughput(1, seconds, meter=Meter()),
    "metered-100": lambda seconds: bus_throughput(100, seconds, meter=Meter()),
    "patterns-1": lambda seconds: bus_patterns(1, seconds),
    "patterns-1000": lambda seconds: bus_patterns(PATTERNS, seconds),
    "queue-latency": lambda seconds: queue_latency(max(seconds, 0.2) * 5),
    "bus-latency": lambda seconds: bus_latency(max(seconds, 0.2) * 5),
    "idle": lambda seconds: bus_idle(),
}
if importlib.util.find_spec("bubus"):
    CASES["bubus-1"] = lambda seconds: bubus_throughput(1, seconds)
if importlib.util.find_spec("taskiq"):
    CASES["taskiq-1"] = taskiq_throughput


def report(found: dict[str, Result]) -> str:
    """The table: what was measured, the ratio, the floor, what is aimed at."""
    rows = []
    for name, text, floor, aim in (
        ("1", "1 subscriber", "0.3", "0.45"),
        ("10", "10 subscribers", "0.6", "0.9"),
        ("100", "100 subscribers", "0.9", "1.3"),
        ("work", "1 subscriber, handler of 100 µs", "", ""),
    ):
        bus, queue = found[f"bus-{name}"]["rate"], found[f"queue-{name}"]["rate"]
        rows.append(
            [
                f"handled/s, {text}, against asyncio.Queue",
                f"{bus:,.0f} / {queue:,.0f}",
                f"{bus / queue:.2f}",
                floor,
                aim,
            ]
        )
    for name, text in (("1", "1 subscriber"), ("100", "100 subscribers")):
        metered, bus = found[f"metered-{name}"]["rate"], found[f"bus-{name}"]["rate"]
        ratio = f"{metered / bus:.2f}"
        rows.append(
            [f"handled/s, {text}, metered against not", f"{metered:,.0f} / {bus:,.0f}", ratio, "0.9", ""]
        )
    few, many = found["patterns-1"], found["patterns-1000"]
    rows.append(
        [
            "published/s, 1,000 patterns against one",
            f"{many['rate']:,.0f} / {few['rate']:,.0f}",
            f"{many['rate'] / few['rate']:.2f}",
            "0.9",
            "",
        ]
    )
    rows.append(["first match of a new type, 1,000 patterns", f"{many['cold']:.1f} µs", "", "30 µs", "10 µs"])
    bus, queue = found["bus-latency"], found["queue-latency"]
    rows.append(
        [
            "p50 at 500/s, against asyncio.Queue",
            f"{bus['p50']:.0f} / {queue['p50']:.0f} µs",
            f"{bus['p50'] / queue['p50']:.2f}",
            "",
            "1.4",
        ]
    )
    rows.append(["p99 at 500/s", f"{bus['p99']:.0f} / {queue['p99']:.0f} µs", "", "1 ms", ""])
    rows.append(
        ["memory of an idle subscription", f"{found['idle']['bytes'] / 1000:.1f} kB", "", "10 kB", ""]
    )
    for peer in ("bubus-1", "taskiq-1"):
        if peer in found:
            ratio = found["bus-1"]["rate"] / found[peer]["rate"]
            rows.append(
                [
                    f"handled/s, 1 subscriber, against {peer[:-2]}",
                    f"{found[peer]['rate']:,.0f}",
                    f"{ratio:.0f}",
                    "",
                    "",
                ]
            )
    return table(["what", "measured (bus / peer)", "ratio", "floor", "aim"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--case", choices=CASES, help="one case, one round, as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    chosen = parser.parse_args()
    if chosen.case:
        run: Any = CASES[chosen.case](chosen.seconds)
        print(json.dumps(asyncio.run(run)))
    else:
        print(report(interleave(Path(__file__), list(CASES), chosen.rounds, chosen.seconds)))


if __name__ == "__main__":
    main()
