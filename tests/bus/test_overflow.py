"""Groups that drop what is too much for them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from contracts.event import EventResult


def dropped(tail: Any) -> list[tuple[int, str, str]]:
    return [
        (data["count"], data["first_position"], data["last_position"])
        for item in tail.read_nowait()
        if item.envelope.type == "bus.overflowed"
        for data in [json.loads(item.data)]
    ]


@pytest.mark.parametrize(
    ("policy", "kept", "first", "last"),
    [("drop_oldest", [0, 8, 9, 10], 1, 7), ("drop_new", [0, 1, 2, 3], 4, 10)],
)
async def test_above_its_bound_a_group_drops(
    rig: Any, bus: Any, recorder: Any, policy: str, kept: list[int], first: int, last: int
) -> None:
    """The oldest or the newest, for that group alone; told once for a burst, with the range."""
    tail = bus.tail("bus.**")
    gate = asyncio.Event()
    handler, other = recorder(lambda n, attempt: gate.wait()), recorder()
    await rig.on(bus, handler, overflow=policy, max_waiting=3)
    await rig.on(bus, other, group="x.h")
    await rig.publish(bus, 0)
    await asyncio.sleep(1)
    await rig.publish(bus, *range(1, 11))
    info = await rig.info()
    assert (info.waiting, info.dropped) == (3, 7)
    gate.set()
    await bus.quiet()
    assert handler.numbers == kept
    assert other.numbers == list(range(11))
    assert dropped(tail) == [(7, f"orders/0:{first}", f"orders/0:{last}")]


async def test_holding_drops_nothing(rig: Any, bus: Any, recorder: Any) -> None:
    """The default: the topic's limit holds publishers back."""
    await bus.declare_group(rig.spec())
    await rig.publish(bus, *range(100))
    assert ((await rig.info()).waiting, (await rig.info()).dropped) == (100, 0)


async def test_a_new_group_begins_within_its_bound(rig: Any, bus: Any, recorder: Any) -> None:
    """Of what is retained it gets as much as may wait."""
    await rig.publish(bus, *range(10))
    handler = recorder()
    await rig.on(bus, handler, overflow="drop_oldest", max_waiting=2)
    await bus.quiet()
    assert handler.numbers == [8, 9]


async def test_what_was_handed_back_counts_as_waiting(rig: Any, bus: Any, recorder: Any) -> None:
    """It is the oldest; what runs or is parked is not dropped."""

    def act(n: int, attempt: int) -> Any:
        if n == 0:
            return EventResult.retry("later", after=50) if attempt == 1 else None
        return asyncio.sleep(10)

    handler = recorder(act)
    await rig.on(bus, handler, overflow="drop_oldest", max_waiting=3)
    await rig.publish(bus, 0)
    await asyncio.sleep(1)
    await rig.publish(bus, 1, 2, 3)
    await asyncio.sleep(1)
    await bus.pause_group("shop.handle")
    await rig.publish(bus, 4, 5)
    assert ((await rig.info()).waiting, (await rig.info()).dropped) == (3, 1)
    await bus.resume_group("shop.handle")
    await bus.quiet()
    assert handler.done == [0, 1, 3, 4, 5, 0]


async def test_what_is_dropped_holds_neither_room_nor_quiet(rig: Any, recorder: Any) -> None:
    """A slow group with a bound never holds a publisher back."""
    rig.limit(limit=10, retain=0)
    bus = await rig.open()
    await bus.declare_group(rig.spec(overflow="drop_oldest", max_waiting=2))
    for n in range(50):
        await rig.publish(bus, n, key=f"k{n % 3}", timeout=1)
    handler = recorder()
    await rig.on(bus, handler, overflow="drop_oldest", max_waiting=2)
    await bus.quiet()
    assert handler.numbers == [48, 49]


async def test_a_group_that_listens_to_the_bus_is_not_told_of_its_own_drops(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """Else each drop would make the next."""
    gate = asyncio.Event()
    listener = recorder(lambda n, attempt: gate.wait())
    await rig.on(bus, listener, "bus.**", group="x.h", overflow="drop_new", max_waiting=1)
    for n in range(5):
        await bus.declare_group(rig.spec(group=f"g{n}.h"))
        await bus.pause_group(f"g{n}.h")
        await asyncio.sleep(1)
    gate.set()
    await bus.quiet()
    assert [event.type for event in listener.events] == ["bus.group_paused"] * 2
