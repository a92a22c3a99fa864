"""Groups: paused, dormant and retired, plugin versions, exclusive, broadcast, order by topic."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from contracts.bus import RetryPolicy
from contracts.errors import GroupConflict, GroupNotFound, InvalidOption
from contracts.event import Event, EventData, EventResult

DAY = 86_400.0


class Bill(Event, type="bills.item"):
    n: int


def said(tail: Any, type_name: str) -> list[dict[str, Any]]:
    """What the bus has announced of one type."""
    return [json.loads(item.data) for item in tail.read_nowait() if item.envelope.type == type_name]


# --- pausing ----------------------------------------------------------------------------------------


async def test_a_paused_group_starts_nothing_and_what_runs_finishes(rig: Any, recorder: Any) -> None:
    """On all replicas, prefetched deliveries too; resumed, it goes on where it was."""
    rig.make_broker(partitions=4)
    a, b = await rig.open("a"), await rig.open("b")
    first, second = (recorder(lambda n, attempt: asyncio.sleep(5)) for _ in range(2))
    await rig.on(a, first)
    await rig.on(b, second)
    for n in range(12):
        await rig.publish(a, n, key=f"k{n % 4}")
    await asyncio.sleep(1)
    started = first.numbers + second.numbers
    assert await b.pause_group("shop.handle", reason="maintenance")
    assert not await a.pause_group("shop.handle", reason="again")
    await asyncio.sleep(100)
    assert first.done + second.done == started
    info = await rig.info()
    assert (info.paused, info.waiting, info.in_flight) == ("maintenance", 12 - len(started), 0)
    assert await a.resume_group("shop.handle")
    assert not await a.resume_group("shop.handle")
    await a.quiet()
    assert sorted(first.done + second.done) == list(range(12))
    for rest in range(4):
        order = [n for n in first.done + second.done if n % 4 == rest]
        assert order == sorted(order)
    assert (await rig.info()).paused is None


async def test_several_lanes_stop_too(rig: Any, bus: Any, recorder: Any) -> None:
    """What waits behind a running key is handed back as well, without a counted attempt."""
    handler = recorder(lambda n, attempt: asyncio.sleep(5))
    await rig.on(bus, handler, concurrency=3)
    for n in range(12):
        await rig.publish(bus, n, key=f"k{n % 4}")
    await asyncio.sleep(1)
    await bus.pause_group("shop.handle")
    await asyncio.sleep(100)
    assert sorted(handler.done) == [0, 1, 2]
    await bus.resume_group("shop.handle")
    await bus.quiet()
    assert sorted(handler.seen) == [(n, 1) for n in range(12)]


async def test_pausing_and_resuming_is_announced(rig: Any, bus: Any) -> None:
    """With the group, its plugin and the reason, once for each change."""
    tail = bus.tail("bus.**")
    await bus.declare_group(rig.spec())
    for _ in range(2):
        await bus.pause_group("shop.handle", reason="maintenance")
    for _ in range(2):
        await bus.resume_group("shop.handle")
    await bus.quiet()
    types = [(item.envelope.type, json.loads(item.data)) for item in tail.read_nowait()]
    assert types == [
        ("bus.group_paused", {"group": "shop.handle", "plugin_id": "shop", "reason": "maintenance"}),
        ("bus.group_resumed", {"group": "shop.handle", "plugin_id": "shop"}),
    ]


async def test_a_paused_group_that_nobody_handles_stays_paused(rig: Any, recorder: Any) -> None:
    """Through the crash of its only host, for the next one, and in a topic that is new."""
    a, b = await rig.open("a"), await rig.open("b")
    await rig.on(a, recorder(), "**")
    await a.pause_group("shop.handle", reason="x")
    a.kill()
    await rig.publish(b, 1)
    handler = recorder()
    await rig.on(b, handler, "**")
    await b.publish(Bill(n=2), source="/test")
    await asyncio.sleep(100)
    assert handler.seen == []
    await b.resume_group("shop.handle")
    await b.quiet()
    assert len(handler.seen) == 2


async def test_a_rule_parks_until_the_group_is_resumed(rig: Any, bus: Any, recorder: Any) -> None:
    """The delivery goes first, at once, and other retries keep their time."""

    def act(n: int, attempt: int) -> None:
        if n == 0 and attempt == 1:
            raise ValueError
        if n == 1 and attempt == 1:
            raise ConnectionError

    policy = RetryPolicy(
        first_delay=1_000, jitter=0, rules=({"errors": "ConnectionError", "action": "pause"},)
    )
    handler = recorder(act)
    await rig.on(bus, handler, retry=policy)
    await rig.publish(bus, 0, key="slow")
    await rig.publish(bus, 1, 2, key="k")
    await asyncio.sleep(10)
    assert handler.seen == [(0, 1), (1, 1)]
    assert "ConnectionError" in (await rig.info()).paused
    await bus.resume_group("shop.handle")
    await asyncio.sleep(10)
    assert handler.seen == [(0, 1), (1, 1), (1, 2), (2, 1)]
    await bus.quiet()
    assert handler.seen[-1] == (0, 2)


async def test_quiet_waits_for_a_paused_group(rig: Any, bus: Any, recorder: Any) -> None:
    """Its events have no outcome."""
    await rig.on(bus, recorder())
    await bus.pause_group("shop.handle")
    await rig.publish(bus, 1)
    quiet = asyncio.ensure_future(bus.quiet())
    await asyncio.sleep(1)
    assert not quiet.done()
    await bus.resume_group("shop.handle")
    await quiet


@pytest.mark.parametrize("name", ["pause_group", "resume_group", "replay", "cancel_replay"])
async def test_a_group_that_does_not_exist_is_not_found(bus: Any, name: str) -> None:
    """Each command says so, with a fix; dropping it is no mistake."""
    with pytest.raises(GroupNotFound) as caught:
        await getattr(bus, name)("no.such")
    assert caught.value.fix
    await bus.drop_group("no.such")


# --- dormant and retired ----------------------------------------------------------------------------


async def test_a_group_that_nobody_handles_is_retired_after_its_time(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """Announced with what was given up: waiting, parked, dead."""

    def act(n: int, attempt: int) -> EventResult | None:
        if n == 1:
            return EventResult.dead_letter("no")
        if n == 2:
            raise ValueError
        return None

    tail = bus.tail("bus.group_retired")
    handler = recorder(act)
    policy = RetryPolicy(first_delay=10 * DAY, max_delay=10 * DAY)
    subscription = await rig.on(bus, handler, keep=2 * DAY, retry=policy)
    await rig.publish(bus, 1, 2)
    await asyncio.sleep(3 * DAY)
    await subscription.remove()
    await rig.publish(bus, 3, 4, 5)
    await asyncio.sleep(2 * DAY - 1)
    assert (await rig.info()).state == "dormant"
    await asyncio.sleep(2)
    assert await bus.groups() == []
    [retired] = said(tail, "bus.group_retired")
    counts = (retired["group"], retired["waiting"], retired["parked"], retired["dead"])
    assert counts == ("shop.handle", 3, 1, 1)
    assert await bus.dead_letters() == []
    await bus.quiet()


async def test_coming_back_in_time_cancels_the_end(rig: Any, bus: Any, recorder: Any) -> None:
    """The time counts from the last host's leaving."""
    subscription = await rig.on(bus, recorder(), keep=100)
    await subscription.remove()
    await asyncio.sleep(90)
    handler = recorder()
    subscription = await rig.on(bus, handler, keep=100)
    await asyncio.sleep(500)
    await rig.publish(bus, 1)
    await bus.quiet()
    assert handler.numbers == [1]
    await subscription.remove()
    await asyncio.sleep(99)
    assert (await rig.info()).state == "dormant"
    await asyncio.sleep(2)
    assert await bus.groups() == []


async def test_a_group_that_was_only_declared_counts_from_then(rig: Any, bus: Any) -> None:
    """Several, with different times, on one timer; one that never was hosted goes too."""
    await bus.declare_group(rig.spec(group="a.h", keep=300))
    await bus.declare_group(rig.spec(group="b.h", keep=100))
    await asyncio.sleep(50)
    await bus.declare_group(rig.spec(group="c.h", keep=100))
    left = []
    for _ in range(3):
        await asyncio.sleep(75)
        left.append([info.group for info in await bus.groups()])
    await asyncio.sleep(75)
    assert left == [["a.h", "c.h"], ["a.h"], ["a.h"]]
    assert await bus.groups() == []


async def test_a_crash_makes_dormant_too(rig: Any, recorder: Any) -> None:
    """And what a retired group held is free for trimming and publishing."""
    rig.limit(limit=2)
    a, b = await rig.open("a"), await rig.open("b")
    await rig.on(a, recorder(lambda n, attempt: asyncio.sleep(1_000)), keep=100, timeout=5_000)
    await rig.publish(a, 1, 2)
    await asyncio.sleep(1)
    a.kill()
    waiting = asyncio.ensure_future(rig.publish(b, 3, timeout=1_000))
    await asyncio.sleep(99)
    assert not waiting.done()
    await waiting


async def test_dropping_is_announced_with_its_reason(rig: Any, bus: Any, recorder: Any) -> None:
    """What runs is cancelled and counts as given up."""
    tail = bus.tail("bus.group_retired")
    await rig.on(bus, recorder(lambda n, attempt: asyncio.sleep(1_000)))
    await rig.publish(bus, 1, 2)
    await asyncio.sleep(1)
    await bus.drop_group("shop.handle", reason="uninstalled")
    await bus.quiet()
    [retired] = said(tail, "bus.group_retired")
    assert (retired["reason"], retired["waiting"], retired["plugin_id"]) == ("uninstalled", 2, "shop")


# --- versions ---------------------------------------------------------------------------------------


async def test_only_the_highest_version_handles(rig: Any, recorder: Any) -> None:
    """Partitions move to it when nothing of them runs, and back when it leaves."""
    rig.make_broker(partitions=4)
    a, b = await rig.open("a"), await rig.open("b")
    old, new = (recorder(lambda n, attempt: asyncio.sleep(1)) for _ in range(2))

    async def on(bus: Any, handler: Any, version: str) -> Any:
        return await bus.subscribe(rig.spec().model_copy(update={"plugin_version": version}), handler)

    await on(a, old, "1.9.0")
    for n in range(8):
        await rig.publish(a, n, key=f"k{n}")
    await asyncio.sleep(0.5)
    newer = await on(b, new, "1.10.0")
    await a.quiet()
    assert (await rig.info()).owners == {"b": 4}
    assert (len(old.done), sorted(old.done + new.done)) == (1, list(range(8)))
    await rig.publish(a, 8, 9)
    await a.quiet()
    assert new.done[-2:] == [8, 9]
    await newer.remove()
    await rig.publish(a, 10)
    await a.quiet()
    assert old.done[-1] == 10
    assert (await rig.info()).owners == {"a": 4}


async def test_an_older_version_does_not_take_patterns_back(rig: Any, recorder: Any) -> None:
    """While the newer is handled, what the older one declares changes nothing."""
    a, b = await rig.open("a"), await rig.open("b")
    handler = recorder()
    newer = rig.spec("orders.**", "bills.**").model_copy(update={"plugin_version": "2"})
    await a.subscribe(newer, handler)
    await b.subscribe(rig.spec().model_copy(update={"plugin_version": "1"}), recorder())
    await b.publish(Bill(n=1), source="/test")
    await b.quiet()
    assert len(handler.seen) == 1
    assert (await rig.info()).patterns == ("orders.**", "bills.**")


# --- exclusive --------------------------------------------------------------------------------------


async def test_an_exclusive_group_is_on_one_replica(rig: Any, recorder: Any) -> None:
    """The others stand by; the next takes all, and only when nothing runs at the former any more."""
    rig.make_broker(partitions=8)
    buses = [await rig.open(name) for name in "abc"]
    running: set[str] = set()
    together: list[int] = []
    handlers = {}

    def handler(name: str) -> Any:
        async def act(n: int, attempt: int) -> None:
            running.add(name)
            together.append(len(running))
            await asyncio.sleep(3)
            running.discard(name)

        handlers[name] = recorder(act)
        return handlers[name]

    subscriptions = {bus.replica: await rig.on(bus, handler(bus.replica), exclusive=True) for bus in buses}
    for n in range(20):
        await rig.publish(buses[0], n, key=f"k{n}")
    await asyncio.sleep(4)
    [(first, count)] = (await rig.info()).owners.items()
    for number in range(20):
        await rig.on(await rig.open(f"late{number}"), handler(f"late{number}"), exclusive=True)
    await asyncio.sleep(10)
    assert (count, (await rig.info()).owners) == (8, {first: 8})
    await subscriptions[first].drain(60)
    await subscriptions.pop(first).remove()
    await buses[0].quiet()
    [(second, count)] = (await rig.info()).owners.items()
    assert (count, second == first) == (8, False)
    assert sum(len(one.done) for one in handlers.values()) == 20
    assert set(together) == {1}


# --- broadcast --------------------------------------------------------------------------------------


async def test_every_replica_handles_every_broadcast_event(rig: Any, recorder: Any) -> None:
    """From its subscribing on, in a group of its own that ends with the subscription, without a word."""
    a, b = await rig.open("a"), await rig.open("b")
    tail = a.tail("bus.**")
    first, second = recorder(), recorder()
    await rig.publish(a, 0)
    one = await a.subscribe(rig.spec(broadcast=True), first)
    await rig.publish(a, 1)
    await b.subscribe(rig.spec(broadcast=True), second)
    with pytest.raises(GroupConflict):
        await b.subscribe(rig.spec(broadcast=True), recorder())
    await rig.publish(a, 2)
    await a.publish(EventData(type="orders.item", data='{"n":3}'), source="/test")
    await a.quiet()
    assert (first.numbers, second.numbers) == ([1, 2, 3], [2, 3])
    assert {info.group: info.state for info in await a.groups()} == {
        "shop.handle@a": "ephemeral",
        "shop.handle@b": "ephemeral",
    }
    await one.remove()
    b.kill()
    assert await a.groups() == []
    await a.quiet()
    assert tail.read_nowait() == []


async def test_declaring_a_broadcast_subscription_keeps_no_place(rig: Any, bus: Any) -> None:
    """Its options are checked all the same."""
    await bus.declare_group(rig.spec(broadcast=True))
    assert await bus.groups() == []


async def test_a_broadcast_subscription_holds_nothing_and_learns_of_its_gap(rig: Any, recorder: Any) -> None:
    """What was trimmed before its turn is missed, counted, and told once; nobody waits for room."""
    rig.limit(limit=10, retain=3, young_seconds=0)
    bus = await rig.open()
    tail = bus.tail("bus.**")
    gate = asyncio.Event()
    handler = recorder(lambda n, attempt: gate.wait())
    await bus.subscribe(rig.spec(broadcast=True), handler)
    await rig.publish(bus, 0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for n in range(1, 40):
        await rig.publish(bus, n, timeout=1)
    assert (await rig.info("shop.handle@a")).waiting < 10
    gate.set()
    await bus.quiet()
    assert handler.numbers[0] == 0
    assert handler.numbers[-3:] == [37, 38, 39]
    [gap] = said(tail, "bus.gap")
    assert gap == {
        "group": "shop.handle@a", "topic": "orders", "partition": 0, "count": 40 - len(handler.numbers),
    }  # fmt: skip
    assert (await rig.info("shop.handle@a")).dropped == gap["count"]


# --- order by topic ---------------------------------------------------------------------------------


async def test_in_the_order_of_the_topic_a_retry_holds_everything_of_it(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """Whatever the keys; another topic goes on."""

    def act(n: int, attempt: int) -> None:
        if n == 1 and attempt < 3:
            raise ValueError

    handler = recorder(act)
    await rig.on(bus, handler, "**", order="topic", retry=RetryPolicy(first_delay=100, jitter=0))
    for n in range(1, 5):
        await rig.publish(bus, n, key=f"k{n}")
    await rig.publish(bus, 5)
    await bus.publish(Bill(n=9), source="/test")
    await asyncio.sleep(10)
    assert handler.done == [-1]
    await bus.quiet()
    assert handler.done == [-1, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("partitions", "pattern", "is_refused"),
    [
        (2, "orders.*", True),
        (2, "**", True),
        (2, "bus.**", False),
        ({"orders": 2}, "orders.*", True),
        ({"orders": 2}, "bills.*", False),
        ({"orders": 2}, "**", True),
        ({"orders": 1}, "**", False),
        (1, "**", False),
    ],
)
async def test_the_order_of_a_topic_needs_one_partition(
    rig: Any, recorder: Any, partitions: Any, pattern: str, is_refused: bool
) -> None:
    """Also of topics that are still to come; refused where it is subscribed and where it is declared."""
    rig.make_broker(partitions=partitions)
    bus = await rig.open()
    spec = rig.spec(pattern, order="topic")
    if not is_refused:
        await bus.subscribe(spec, recorder())
        return
    for attempt in (bus.declare_group(spec), bus.subscribe(spec, recorder())):
        with pytest.raises(InvalidOption, match="partitions") as caught:
            await attempt
        assert caught.value.fix
    assert await bus.groups() == []
