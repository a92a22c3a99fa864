"""Silent replicas: who beats, who is lost, what of it is refused, and how it comes back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from bus.memory import MemoryBus
from contracts.bus import Call, CallReply, ProviderSpec, RetryPolicy
from contracts.errors import NoProvider, ProviderLost
from contracts.event import Event, EventResult
from contracts.message import PluginEvent

LEASE = 15.0


def lost(tail: Any) -> list[dict[str, Any]]:
    return [json.loads(item.data) for item in tail.read_nowait() if item.envelope.type == "bus.owner_lost"]


async def test_a_silent_replica_loses_its_partitions(rig: Any, recorder: Any) -> None:
    """After its lease and not before: others take over, what it had started is suspect, told once."""
    rig.make_broker(partitions=4)
    a, b = await rig.open("a"), await rig.open("b")
    tail = b.tail("bus.**")
    gate = asyncio.Event()
    stuck, heir = recorder(lambda n, attempt: gate.wait()), recorder()
    await rig.on(a, stuck, timeout=1_000)
    await rig.publish(a, *range(6), key="k")
    await asyncio.sleep(1)
    epoch = max(part.epoch for part in rig.broker.groups["shop.handle"].parts.values())
    a.suspend()
    await rig.on(b, heir)
    await asyncio.sleep(LEASE - 6)
    assert (heir.seen, (await rig.info()).owners) == ([], {"a": 4})
    await asyncio.sleep(12)
    assert heir.numbers == list(range(6))
    assert (await rig.info()).owners == {"b": 4}
    assert max(part.epoch for part in rig.broker.groups["shop.handle"].parts.values()) > epoch
    assert [(one["replica"], one["partitions"]) for one in lost(tail)] == [("a", 4)]
    gate.set()
    await asyncio.sleep(0)
    assert stuck.numbers == [0]
    assert (await rig.info()).stale == 1


async def test_an_owner_that_wakes_joins_again(rig: Any, recorder: Any) -> None:
    """It starts nothing that others have taken over, and gets partitions back when nothing of them runs."""
    rig.make_broker(partitions=8)
    a, b = await rig.open("a"), await rig.open("b")
    first, second = (recorder(lambda n, attempt: asyncio.sleep(1)) for _ in range(2))
    await rig.on(a, first)
    await rig.on(b, second)
    for n in range(40):
        await rig.publish(b, n, key=f"k{n % 16}")
    await asyncio.sleep(0.5)
    before = (await rig.info()).owners
    a.suspend()
    await asyncio.sleep(2 * LEASE)
    assert (await rig.info()).owners == {"b": 8}
    started = len(first.seen)
    a.wake()
    await asyncio.sleep(0)
    for n in range(40, 80):
        await rig.publish(b, n, key=f"k{n % 16}")
    await b.quiet()
    assert (await rig.info()).owners == before
    assert len(first.seen) > started == 1
    assert set(first.done) | set(second.done) == set(range(80))
    for rest in range(16):
        for handler in (first, second):
            order = [n for n in handler.done if n % 16 == rest]
            assert order == sorted(order)


async def test_a_short_pause_loses_nothing(rig: Any, recorder: Any) -> None:
    """Woken within its lease it goes on where it was."""
    a, b = await rig.open("a"), await rig.open("b")
    tail = b.tail("bus.**")
    handler = recorder(lambda n, attempt: asyncio.sleep(1))
    await rig.on(a, handler)
    await rig.publish(a, 1, 2, 3)
    await asyncio.sleep(0.5)
    a.suspend()
    await asyncio.sleep(LEASE - 6)
    assert handler.seen == [(1, 1)]
    a.wake()
    await b.quiet()
    assert handler.seen == [(1, 1), (2, 1), (3, 1)]
    assert (lost(tail), (await rig.info()).stale) == ([], 0)


async def test_nothing_is_published_by_a_suspended_bus(rig: Any, recorder: Any) -> None:
    """Publishes wait until it is woken: new ones, such as wait for room, and what handlers return."""
    rig.limit(limit=2)
    a, b = await rig.open("a"), await rig.open("b")
    await b.declare_group(rig.spec(group="slow.h"))
    await rig.publish(a, 1, 2)
    for_room = asyncio.ensure_future(rig.publish(a, 3, timeout=1_000))
    await asyncio.sleep(1)
    a.suspend()
    new = asyncio.ensure_future(a.publish_many([], source="/test"))
    later = asyncio.ensure_future(rig.publish(a, 4, timeout=1_000))
    await b.drop_group("slow.h")
    await asyncio.sleep(5)
    assert [for_room.done(), later.done()] == [False, False]
    [receipt] = await rig.publish(b, 5)
    assert receipt.position == "orders/0:2"
    a.wake()
    [[third], [fourth]] = await asyncio.gather(for_room, later)
    assert {third.position, fourth.position} == {"orders/0:3", "orders/0:4"}
    await new


async def test_what_a_stale_owner_returns_is_one_event(rig: Any, recorder: Any, item: Any) -> None:
    """Its handler ends after another one has taken over: refused, and nothing is published twice."""
    a, b = await rig.open("a"), await rig.open("b")
    gate = asyncio.Event()
    results = recorder()
    await rig.on(b, results, group="x.h")

    def handler(bus: MemoryBus) -> Any:
        async def handle(event: Any) -> EventResult | None:
            if event.data["n"] > 1:
                return None
            if bus is a:
                await gate.wait()
            return EventResult.ok(item(n=7))

        return handle

    await rig.on(a, handler(a), timeout=1_000)
    await rig.publish(b, 1)
    await asyncio.sleep(1)
    a.suspend()
    await rig.on(b, handler(b))
    await b.quiet()
    gate.set()
    await asyncio.sleep(1)
    a.wake()
    await asyncio.sleep(1)
    await b.quiet()
    assert results.numbers == [1, 7]
    assert (await rig.info()).stale == 1


async def test_its_providers_are_lost(rig: Any) -> None:
    """Who waits for one is told; nobody asks it until it is back, and its late answer is dropped."""
    a, b = await rig.open("a"), await rig.open("b")
    gate = asyncio.Event()

    async def answer(call: Call) -> CallReply:
        await gate.wait()
        return CallReply(data="1")

    await a.provide(ProviderSpec(capability="x.y", plugin_id="x", provider="y", timeout=1_000), answer)
    asking = asyncio.ensure_future(b.request("x.y", "{}", source="/", timeout=500))
    await asyncio.sleep(1)
    a.suspend()
    with pytest.raises(ProviderLost):
        await asking
    with pytest.raises(NoProvider):
        await b.request("x.y", "{}", source="/")
    assert b.providers() == []
    gate.set()
    a.wake()
    await asyncio.sleep(1)
    assert b.dropped_answers == 1
    assert [reply.replica for reply in await b.request("x.y", "{}", source="/")] == ["a"]


async def test_a_call_that_reaches_a_suspended_provider_waits(rig: Any) -> None:
    """It is executed when it is woken, if there is time left, and else not at all."""
    a, b = await rig.open("a"), await rig.open("b")
    calls = []

    async def answer(call: Call) -> CallReply:
        calls.append(call.data)
        return CallReply(data="1")

    await a.provide(ProviderSpec(capability="x.y", plugin_id="x", provider="y"), answer)
    a.suspend()
    short = asyncio.ensure_future(b.request("x.y", "short", source="/", timeout=1))
    long = asyncio.ensure_future(b.request("x.y", "long", source="/", timeout=20))
    await asyncio.wait([short])
    a.wake()
    assert [reply.data for reply in await long] == ["1"]
    assert calls == ["long"]
    assert short.exception() is not None


async def test_nobody_beats_alone(rig: Any, recorder: Any) -> None:
    """One bus has no timer; the last of two has none again."""
    a = await rig.open("a")
    await rig.on(a, recorder())
    loop = asyncio.get_running_loop()

    def timers() -> int:
        return sum(not timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]

    alone = timers()
    b = await rig.open("b")
    assert timers() == alone + 2
    await b.close()
    assert timers() == alone


@pytest.mark.parametrize("first", ["a", "b"])
async def test_who_slept_himself_judges_nobody(rig: Any, recorder: Any, first: str) -> None:
    """Two that were suspended wake one after the other: neither takes from the other what it has."""
    rig.make_broker(partitions=4)
    a, b = await rig.open("a"), await rig.open("b")
    tail = a.tail("bus.**")
    await rig.on(a, recorder())
    await rig.on(b, recorder())
    await rig.publish(a, 1)
    await a.quiet()
    a.suspend()
    b.suspend()
    await asyncio.sleep(10 * LEASE)
    early, late = (a, b) if first == "a" else (b, a)
    early.wake()
    await asyncio.sleep(LEASE / 2)
    late.wake()
    await asyncio.sleep(10 * LEASE)
    assert lost(tail) == []


async def test_a_broadcast_subscription_survives_the_silence(rig: Any, recorder: Any) -> None:
    """It has nobody to give anything to: it goes on where it was."""
    a, b = await rig.open("a"), await rig.open("b")
    tail = b.tail("bus.**")
    handler = recorder()
    await rig.on(a, handler, broadcast=True, start="new")
    a.suspend()
    await rig.publish(b, 1, 2)
    await asyncio.sleep(3 * LEASE)
    assert (handler.seen, [one["partitions"] for one in lost(tail)]) == ([], [0])
    a.wake()
    await b.quiet()
    assert handler.numbers == [1, 2]


async def test_a_suspended_bus_can_be_killed_and_closed(rig: Any, recorder: Any) -> None:
    """Killed, it is gone at once; closed, it wakes first."""
    a, b, c = [await rig.open(name) for name in "abc"]
    first, second = recorder(), recorder()
    await rig.on(a, first)
    await rig.on(b, second)
    a.suspend()
    b.suspend()
    await rig.publish(c, 1)
    a.kill()
    await b.close()
    heir = recorder()
    await rig.on(c, heir)
    await c.quiet()
    assert first.seen == []
    assert second.numbers + heir.numbers == [1]


@pytest.mark.parametrize("what", ["bus", "subscription"])
async def test_what_ends_while_it_is_lost_does_not_join_again(rig: Any, recorder: Any, what: str) -> None:
    """Its handler has its grace; nothing is given to it meanwhile."""
    a, b = await rig.open("a"), await rig.open("b")
    handler, heir = recorder(lambda n, attempt: asyncio.sleep(1_000)), recorder()
    subscription = await rig.on(a, handler, timeout=5_000)
    await rig.publish(a, 1)
    await asyncio.sleep(1)
    a.suspend()
    await asyncio.sleep(2 * LEASE)
    closing = asyncio.ensure_future(a.close(grace=50) if what == "bus" else subscription.drain(50))
    await asyncio.sleep(1)
    a.wake()
    await asyncio.sleep(1)
    await rig.publish(b, 2)
    assert (await rig.info()).owners == {}
    await closing
    await rig.on(b, heir)
    await b.quiet()
    assert (handler.numbers, heir.numbers) == ([1], [1, 2])


async def test_a_group_that_was_dropped_meanwhile_is_not_taken_up_again(rig: Any, recorder: Any) -> None:
    """The subscription of the lost replica has ended with it."""
    a, b = await rig.open("a"), await rig.open("b")
    handler = recorder()
    subscription = await rig.on(a, handler)
    a.suspend()
    await asyncio.sleep(2 * LEASE)
    await b.drop_group("shop.handle")
    a.wake()
    await asyncio.sleep(1)
    await rig.publish(b, 1)
    await rig.on(b, recorder(), retry=RetryPolicy(attempts=1))
    await b.quiet()
    assert handler.seen == []
    await subscription.remove()


async def test_what_a_handler_returned_while_it_stood_still_is_not_published_if_it_was_lost(
    rig: Any, recorder: Any
) -> None:
    """It waits for its bus to be woken; the new owner has decided meanwhile."""

    class Answer(Event, type="answers.stale"):
        n: int

    a, b = await rig.open("a"), await rig.open("b")
    tail, gate = b.tail("answers.*"), asyncio.Event()

    async def answer(event: PluginEvent) -> EventResult:
        await gate.wait()
        return EventResult.ok(Answer(n=1), Answer(n=2))

    await rig.on(a, answer)
    await rig.publish(a, 1)
    await asyncio.sleep(1)
    handler = recorder()
    await rig.on(b, handler)
    a.suspend()
    gate.set()
    await asyncio.sleep(60)
    assert handler.numbers == [1]
    a.wake()
    await asyncio.sleep(60)
    assert tail.read_nowait() == []
    assert (await rig.info()).stale == 1
