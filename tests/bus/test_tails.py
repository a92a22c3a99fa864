"""Tails: reading along without disturbing anybody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bus.memory import MemoryBroker, MemoryBus
from contracts.errors import InvalidOption, InvalidPattern
from contracts.event import EventData


def numbers(items: list[Any]) -> list[str]:
    return [item.data for item in items]


async def test_a_tail_reads_from_now_on(rig: Any, bus: Any) -> None:
    """What its patterns select, in order, nothing older, also of topics that are born later."""
    await rig.publish(bus, 1)
    tail = bus.tail("orders.**", "late.*")
    await rig.publish(bus, 2, 3)
    assert numbers(tail.read_nowait()) == ['{"n":2}', '{"n":3}']
    assert tail.read_nowait() == []


async def test_a_tail_from_the_oldest(rig: Any, bus: Any) -> None:
    """`position="oldest"` reads everything that is retained."""
    await rig.publish(bus, 1, 2)
    assert numbers(bus.tail("**", position="oldest").read_nowait()) == ['{"n":1}', '{"n":2}']


async def test_a_tail_goes_on_after_a_position(rig: Any, bus: Any) -> None:
    """The position of an item is where another tail continues, over all topics."""
    tail = bus.tail("**")
    await rig.publish(bus, 1, 2, 3)
    first = await anext(tail)
    tail.close()
    await rig.publish(bus, 4)
    assert numbers(bus.tail("**", position=first.position).read_nowait()) == ['{"n":2}', '{"n":3}', '{"n":4}']


async def test_a_waiting_tail_wakes(rig: Any, bus: Any) -> None:
    """An iterating tail gets what is published while it waits, and ends when it is closed."""
    tail, seen = bus.tail("orders.*"), []

    async def follow() -> None:
        async for item in tail:
            seen.append(item.data)  # noqa: PERF401 - the list is looked at meanwhile

    follower = asyncio.create_task(follow())
    await asyncio.sleep(1)
    await rig.publish(bus, 1)
    await asyncio.sleep(1)
    assert seen == ['{"n":1}']
    tail.close()
    tail.close()
    await follower
    assert tail.read_nowait() == []


async def test_a_cancelled_wait_loses_nothing(rig: Any, bus: Any) -> None:
    """Cancelling `anext` leaves the cursor where it was."""
    tail = bus.tail("orders.*")
    waiting = asyncio.create_task(anext(tail))
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait([waiting])
    await rig.publish(bus, 1)
    assert (await anext(tail)).data == '{"n":1}'


async def test_a_slow_tail_is_told_what_it_missed(rig: Any) -> None:
    """It holds nothing back; the gap is reported with the next item."""
    rig.limit(retain=3, young_seconds=0, limit=8)
    bus = await rig.open()
    tail = bus.tail("orders.*")
    await rig.publish(bus, *range(20))
    items = tail.read_nowait()
    assert items[0].missed == 20 - len(items)
    assert items[0].missed > 0
    assert all(item.missed == 0 for item in items[1:])
    assert numbers(items)[-1] == '{"n":19}'


async def test_a_position_of_a_broker_that_is_gone_reports_a_gap(rig: Any, bus: Any) -> None:
    """After a restart a memory bus begins at its oldest event, and says that something was missed."""
    tail = bus.tail("orders.*")
    await rig.publish(bus, 1)
    position = (await anext(tail)).position
    async with MemoryBus(MemoryBroker(clock=rig.clock)) as other:
        await rig.publish(other, 7)
        [item] = other.tail("orders.*", position=position).read_nowait()
    assert (item.data, item.missed) == ('{"n":7}', 1)


@pytest.mark.parametrize("position", ["", "x", "[]", '["a",3]', '["a",{"b":"c"}]', "null", "5"])
def test_what_is_no_position_is_refused(position: str) -> None:
    """Named with a fix."""

    async def body() -> None:
        async with MemoryBus() as bus:
            with pytest.raises(InvalidOption, match="not a position"):
                bus.tail("**", position=position)

    asyncio.run(body())


async def test_a_bad_pattern_is_refused(bus: Any) -> None:
    """And leaves no tail behind."""
    with pytest.raises(InvalidPattern):
        bus.tail("orders.*", "Bad")


async def test_two_tails_and_a_group_do_not_disturb_each_other(rig: Any, bus: Any, recorder: Any) -> None:
    """Each has its own place."""
    handler, first, second = recorder(), bus.tail("**"), bus.tail("orders.item")
    await rig.on(bus, handler)
    await rig.publish(bus, 1)
    first.close()
    await rig.publish(bus, 2)
    await bus.quiet()
    assert handler.numbers == [1, 2]
    assert numbers(second.read_nowait()) == ['{"n":1}', '{"n":2}']


async def test_topics_take_turns(rig: Any, bus: Any) -> None:
    """A busy topic does not hide the others."""
    tail = bus.tail("**")
    await rig.publish(bus, *range(100))
    await bus.publish(EventData(type="other.one"), source="/test")
    types = [item.envelope.type for item in tail.read_nowait()]
    assert types.index("other.one") < 3


@pytest.mark.parametrize(
    "position",
    [
        '["i",{"orders/0:":1e999}]',
        "[" * 100_000,
        '["i",{"o/0:":"' + "9" * 5_000 + '"}]',
        "o/0:" + "9" * 5_000,
    ],
    ids=["infinite", "deep", "long", "long receipt"],
)
async def test_whatever_is_no_position_is_refused(rig: Any, bus: Any, position: str) -> None:
    """It may come from anybody, e.g. as `Last-Event-ID`."""
    await bus.declare_group(rig.spec())
    with pytest.raises(InvalidOption):
        bus.tail("**", position=position)
    with pytest.raises(InvalidOption):
        await bus.replay("shop.handle", start=position)
    with pytest.raises(InvalidOption):
        await bus.quiet(position)
