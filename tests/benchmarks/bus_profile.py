"""One message, step by step: what each line of the hot path costs. `python tests/benchmarks/bus_profile.py`.

Each step is the statement of the source with the real objects, timed alone (best of seven), less an empty
call. Alone, a step finds everything in the processor's cache: the steps add up to less than the whole.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bus_memory import EVENTS, subscribed
from rounds import table

from bus.codec import plans
from bus.groups import Delivery
from bus.memory import MemoryBus
from bus.memory.taken import PlainMessage, PlainReceipt
from bus.policy.causes import CURRENT
from bus.policy.timeout import Lane
from contracts.event import Event
from contracts.message import PluginEvent

BATCH = 256
Step = tuple[str, str, Callable[[], Any], int]


async def handle(event: PluginEvent) -> None: ...


def drive(coroutine: Any) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return


async def nothing(
    event: Event, *, source: str, key: str | None = None, id: str | None = None, subject: str | None = None,
    delay: float | None = None, at: Any = None, expires: Any = None, timeout: float = 5.0,
) -> None: ...  # fmt: skip


def publish_steps(bus: MemoryBus) -> list[Step]:
    broker, event, new = bus.broker, EVENTS[0], object.__new__
    plan = plans[id(type(event))]
    route = broker.route(plan.name)
    partition = route.first
    message = new(PlainMessage)

    def cause() -> None:
        CURRENT.get()

    def envelope() -> None:
        made = new(PlainMessage)
        made.source, made.type, made.version = "/bench", plan.name, plan.version
        made.event = event
        made.time_ns = broker.clock.time_ns()

    def log() -> None:
        messages = partition.messages
        if len(messages) >= partition.look_at:
            raise AssertionError("it must not be full")
        message.partition = partition
        message.sequence = partition.base + len(messages)
        messages.append(message)
        messages.pop()

    def receipt() -> None:
        made = new(PlainReceipt)
        made.message = message

    return [
        ("publish", "the coroutine, its eight options", lambda: drive(nothing(event, source="/bench")), 1),
        ("publish", "who causes it: `CURRENT.get()`", cause, 1),
        ("publish", "the plan of its class", lambda: plans.get(id(type(event))), 1),
        ("publish", "a bound on its size", lambda: plan.weigh(event.__dict__), 1),
        ("publish", "the message: six values and the wall clock", envelope, 1),
        ("publish", "the compiled route", lambda: broker._routes.get(plan.name), 1),
        ("publish", "room, number, log", log, 1),
        ("publish", "the receipt", receipt, 1),
    ]


def delivery_steps(bus: MemoryBus) -> list[Step]:
    group = next(iter(bus.broker.groups.values()))
    part = next(iter(group.parts.values()))
    messages = list(next(iter(bus.broker.all_partitions())).messages)[:BATCH]
    lane, monotonic, begin = Lane(30.0), bus.broker.clock.monotonic, CURRENT.set
    part.backlog.extend(messages)
    deliveries: list[Delivery] = []
    part._take_waiting(BATCH, deliveries)
    delivery = deliveries[0]

    def fan_out() -> None:
        for _ in range(BATCH):
            part.backlog.append(messages[0])
            if part.idle:
                continue
        part.backlog.clear()

    def take() -> None:
        part.backlog.extend(messages)
        part._take_waiting(BATCH, [])

    def look() -> None:
        if not delivery.is_open or delivery.part.irregular:
            raise AssertionError("it must be straight")

    def stamp() -> None:
        lane.delivery = delivery
        delivery.deadline = lane.deadline = monotonic() + lane.timeout

    def settle() -> None:
        if not lane.cancels and delivery.is_open and not delivery.part.irregular:
            delivery.is_open = True

    return [
        ("each group", "into its backlog", fan_out, BATCH),
        ("each group", "taken: the `PluginEvent`", take, BATCH),
        ("each group", "is it still ours, is anything irregular", look, 1),
        ("each group", "lane and deadline: the monotonic clock", stamp, 1),
        ("each group", "the cause of what it publishes: `CURRENT.set()`", lambda: begin(delivery), 1),
        ("each group", "the handler's coroutine, empty", lambda: drive(handle(delivery)), 1),
        ("each group", "acknowledged: one attribute", settle, 1),
    ]


def nanoseconds(step: Callable[[], Any], each: int, number: int) -> float:
    number = max(2, number // each)
    empty = min(timeit.repeat(lambda: None, number=number, repeat=7)) / number
    return (min(timeit.repeat(step, number=number, repeat=7)) / number - empty) / each * 1e9


async def profile(number: int) -> str:
    async with MemoryBus() as bus:
        await subscribed(bus, 1, lambda: handle)
        for index in range(BATCH):
            await bus.publish(EVENTS[index % len(EVENTS)], source="/bench")
        await bus.quiet()
        gc.collect()
        gc.disable()
        rows = [
            [where, what, f"{nanoseconds(step, each, number):.0f}"]
            for steps in (publish_steps(bus), delivery_steps(bus))
            for where, what, step, each in steps
        ]
        gc.enable()
    return table(["once for", "step", "ns"], rows)


if __name__ == "__main__":
    print(asyncio.run(profile(100 if "--quick" in sys.argv else 200_000)))
