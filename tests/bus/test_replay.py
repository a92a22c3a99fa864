"""Replay: retained events once more, for one group, beside live traffic."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from bus.groups import GroupPartition
from bus.replay import Replay
from contracts.bus import RetryPolicy
from contracts.errors import InvalidOption
from contracts.event import Event
from contracts.message import Message


class Bill(Event, type="bills.item"):
    n: int


def now(rig: Any) -> datetime:
    return datetime.fromtimestamp(rig.clock.time_ns() / 1e9, UTC)


def once_more(handler: Any) -> list[int]:
    return [event.data["n"] for event in handler.events if event.replayed]


async def test_retained_events_are_delivered_once_more(rig: Any, bus: Any, recorder: Any) -> None:
    """To one group alone, marked as replayed, each as a first attempt; quiet waits until it is through."""
    handler, other = recorder(), recorder()
    await rig.on(bus, handler)
    await rig.on(bus, other, "**", group="x.h")
    await rig.publish(bus, 1, 2, 3)
    await bus.publish(Bill(n=4), source="/test")
    await bus.quiet()
    assert await bus.replay("shop.handle") == 3
    await bus.quiet()
    assert handler.seen == [(1, 1), (2, 1), (3, 1)] * 2
    assert once_more(handler) == [1, 2, 3]
    assert len(other.seen) == 4
    assert (await rig.info()).replaying == 0


async def test_from_where_to_where(rig: Any, recorder: Any) -> None:
    """A receipt's position, a tail's, a time: at the start and after it, before the end."""
    rig.make_broker(partitions={"orders": 1})
    bus = await rig.open()
    handler, tail = recorder(), bus.tail("orders.*")
    await rig.on(bus, handler)
    receipts, times = [], []
    for n in range(6):
        times.append(now(rig))
        receipts += await rig.publish(bus, n)
        await asyncio.sleep(0.4)
    items = tail.read_nowait()
    await bus.quiet()
    for marks in ([one.position for one in receipts], [one.position for one in items], times):
        for start, end, wanted in ((2, None, [2, 3, 4, 5]), (1, 3, [1, 2]), (3, 3, []), (4, 2, [])):
            handler.events.clear()
            until = None if end is None else marks[end]
            assert await bus.replay("shop.handle", start=marks[start], end=until) == len(wanted)
            await bus.quiet()
            assert once_more(handler) == wanted
    assert await bus.replay("shop.handle", end=now(rig)) == 6
    assert await bus.cancel_replay("shop.handle") == 6


async def test_the_position_of_a_receipt_concerns_its_partition(rig: Any, recorder: Any) -> None:
    """Others are left out; a time concerns all."""
    rig.make_broker(partitions=4)
    bus = await rig.open()
    handler = recorder()
    await rig.on(bus, handler)
    receipts = [(await rig.publish(bus, n, key=f"k{n % 8}"))[0] for n in range(32)]
    await bus.quiet()
    partition = receipts[5].position.partition(":")[0]
    wanted = [n for n in range(5, 32) if receipts[n].position.startswith(f"{partition}:")]
    assert await bus.replay("shop.handle", start=receipts[5].position) == len(wanted)
    await bus.quiet()
    assert once_more(handler) == wanted
    assert await bus.replay("shop.handle") == 32
    await bus.quiet()


@pytest.mark.parametrize("position", ["", "newest", "orders/0", "orders/7:1", '["a",3]', '["gone",{}]'])
async def test_what_is_no_position_is_refused(rig: Any, bus: Any, position: str) -> None:
    """As start and as end, with a fix; a replay that is under way goes on."""
    await bus.declare_group(rig.spec())
    await rig.publish(bus, 1)
    await bus.replay("shop.handle")
    for options in ({"start": position}, {"end": position}):
        with pytest.raises(InvalidOption) as caught:
            await bus.replay("shop.handle", **options)
        assert caught.value.fix
    with pytest.raises(InvalidOption, match="time zone"):
        await bus.replay("shop.handle", start=datetime(2020, 1, 1))  # noqa: DTZ001 - that is the mistake
    assert (await rig.info()).replaying == 1


async def test_another_replay_takes_the_place_of_the_first(rig: Any, bus: Any) -> None:
    """And it can be ended; it is told how many were left."""
    await bus.declare_group(rig.spec())
    receipts = await rig.publish(bus, *range(10))
    assert await bus.replay("shop.handle") == 10
    assert await bus.replay("shop.handle", start=receipts[7].position) == 3
    assert (await rig.info()).replaying == 3
    assert await bus.cancel_replay("shop.handle") == 3
    assert await bus.cancel_replay("shop.handle") == 0


@pytest.mark.parametrize("lanes", [1, 2, 3])
async def test_with_few_lanes_every_fourth_turn_is_a_replay(
    rig: Any, bus: Any, recorder: Any, lanes: int
) -> None:
    """While live events wait; then the rest follows without a pause."""
    handler = recorder()
    await rig.publish(bus, *range(12))
    await rig.on(bus, handler, start="new", concurrency=lanes)
    await rig.publish(bus, *range(100, 118))
    await bus.replay("shop.handle")
    await bus.cancel_replay("shop.handle")
    assert await bus.replay("shop.handle", end="orders/0:12") == 12
    await bus.quiet()
    marks = [event.replayed for event in handler.events]
    if lanes == 1:
        assert marks == [False, False, False, True] * 6 + [True] * 6
    assert once_more(handler) == list(range(12))
    assert [n for n in handler.numbers if n >= 100] == list(range(100, 118))


async def test_with_many_lanes_a_quarter_of_them_replays(rig: Any, bus: Any, recorder: Any) -> None:
    """Never more at once, whether live events wait or not."""
    running, most = 0, 0

    async def act(n: int, attempt: int) -> None:
        nonlocal running, most
        running += n < 100
        most = max(most, running)
        await asyncio.sleep(1)
        running -= n < 100

    handler = recorder(act)
    await rig.publish(bus, *range(40))
    await rig.on(bus, handler, start="new", concurrency=8)
    await bus.replay("shop.handle")
    await rig.publish(bus, *range(100, 130))
    await bus.quiet()
    assert most == 2
    assert sorted(once_more(handler)) == list(range(40))


async def test_a_replayed_event_never_runs_beside_a_live_one_of_its_key(rig: Any, recorder: Any) -> None:
    """And the replayed ones keep the order of their keys, through retries too."""
    rig.make_broker(partitions=2)
    bus = await rig.open()
    running: set[str] = set()
    failed: set[int] = set()
    handler = recorder()

    async def handle(event: Any) -> None:
        key, n = event.message.key, event.data["n"]
        assert key not in running
        running.add(key)
        await asyncio.sleep(1)
        running.discard(key)
        if n % 5 == 0 and event.replayed and n not in failed:
            failed.add(n)
            raise ValueError
        await handler(event)

    await rig.on(bus, handle, concurrency=8, retry=RetryPolicy(first_delay=3, jitter=0))
    for n in range(30):
        await rig.publish(bus, n, key=f"k{n % 4}")
    await bus.quiet()
    await bus.replay("shop.handle")
    for n in range(100, 130):
        await rig.publish(bus, n, key=f"k{n % 4}")
    await bus.quiet()
    assert len(failed) == 6
    for rest in range(4):
        replayed = [n for n in once_more(handler) if n % 4 == rest]
        assert replayed == [n for n in range(30) if n % 4 == rest]
        live = [event.data["n"] for event in handler.events if not event.replayed]
        assert [n for n in live if n % 4 == rest and n >= 100] == [
            n for n in range(100, 130) if n % 4 == rest
        ]


async def test_a_replay_that_is_asked_for_while_paused_begins_when_resumed(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """Nothing else needs to happen for it."""
    handler = recorder()
    await rig.on(bus, handler)
    await rig.publish(bus, 1, 2)
    await bus.quiet()
    await bus.pause_group("shop.handle")
    await bus.replay("shop.handle")
    await asyncio.sleep(10)
    assert once_more(handler) == []
    await bus.resume_group("shop.handle")
    await bus.quiet()
    assert once_more(handler) == [1, 2]


async def test_a_replay_goes_on_at_the_next_owner(rig: Any, recorder: Any) -> None:
    """What was replayed at the crash is repeated, still marked; a paused group waits."""
    a, b = await rig.open("a"), await rig.open("b")
    first, second = recorder(lambda n, attempt: asyncio.sleep(10)), recorder()
    await rig.on(a, first)
    await rig.publish(a, *range(4))
    await a.quiet()
    await a.replay("shop.handle")
    await asyncio.sleep(15)
    await a.pause_group("shop.handle")
    a.kill()
    await rig.on(b, second)
    await asyncio.sleep(100)
    assert second.seen == []
    await b.resume_group("shop.handle")
    await b.quiet()
    assert once_more(second) == [1, 2, 3]


async def test_a_replay_does_not_hold_the_log(rig: Any, recorder: Any) -> None:
    """What is trimmed before its turn is left out, and told once."""
    rig.limit(retain_seconds=1_000)
    bus = await rig.open()
    tail = bus.tail("bus.gap")
    handler = recorder(lambda n, attempt: asyncio.sleep(100))
    await rig.on(bus, handler, timeout=1_000)
    receipts = await rig.publish(bus, *range(7))
    await bus.quiet()
    assert await bus.replay("shop.handle", end=receipts[6].position) == 6
    await asyncio.sleep(350)
    await bus.declare_group(rig.spec(group="x.h"))  # which looks at what is retained
    assert (await rig.info()).replaying == 0
    await bus.drop_group("x.h")
    await bus.quiet()
    assert once_more(handler) == [0, 1, 2, 3]
    [gap] = [json.loads(item.data) for item in tail.read_nowait()]
    assert gap == {"group": "shop.handle", "topic": "orders", "partition": 0, "count": 2}


async def test_a_position_that_is_gone_already_is_a_gap(rig: Any, recorder: Any) -> None:
    """What is retained is replayed."""
    rig.limit(retain=3, young_seconds=0)
    bus = await rig.open()
    tail = bus.tail("bus.gap")
    handler = recorder()
    await rig.on(bus, handler)
    receipts = await rig.publish(bus, *range(10))
    await bus.quiet()
    await asyncio.sleep(10)
    await bus.declare_group(rig.spec("orders.item", group="x.h"))
    assert await bus.replay("shop.handle", start=receipts[4].position) == 3
    await bus.drop_group("x.h")
    await bus.quiet()
    assert once_more(handler) == [7, 8, 9]
    [gap] = [json.loads(item.data) for item in tail.read_nowait()]
    assert gap["count"] == 3


async def test_an_expired_event_is_not_replayed(rig: Any, bus: Any, recorder: Any) -> None:
    """Its time has passed."""
    handler = recorder()
    await rig.on(bus, handler)
    await bus.publish(
        Bill(n=0), source="/test", expires=datetime.fromtimestamp(rig.clock.time_ns() / 1e9 + 5, UTC)
    )
    await rig.on(bus, handler, "bills.*", group="x.h")
    await bus.quiet()
    await asyncio.sleep(10)
    await bus.replay("x.h")
    await bus.quiet()
    assert len(handler.events) == 1
    assert (await rig.info("x.h")).expired == 1


def test_what_was_handed_back_of_a_replay_comes_before_what_follows() -> None:
    """The next of a key is not taken while an earlier one waits to be taken again."""
    messages = [Message(str(n), "/test", "orders.item", 1, 0, None, b"{}", "k") for n in range(2)]
    for number, message in enumerate(messages):
        message.sequence = number

    class Kept:
        base = 0

        def read(self, start: int) -> Iterator[Message]:
            return iter(messages[start:])

    part = GroupPartition("shop.handle", "orders", 0, "handle", order="key", lot_limit=10)
    part.begin_replay(Replay(Kept(), 0, 2, ("orders.**",)))
    [first] = part.take_replayed(1)
    part.give_back(first)
    assert part.take_replayed(1) == []
    [again] = part.take(1)
    assert (again.message, again.replayed) == (messages[0], True)
    [following] = part.take_replayed(1)
    assert following.message is messages[1]
