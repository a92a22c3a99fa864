"""Requests and replies: at most once, one provider, the time that is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from contracts.bus import Call, CallReply, ProviderSpec
from contracts.errors import BusClosed, CallTimeout, InvalidPattern, NoProvider, ProviderFailed, ProviderLost
from contracts.query import Query

Provider = Callable[[Call], Awaitable[CallReply]]


class Price(Query[int], capability="pricing.quote"):
    sku: str


def spec(capability: str = "pricing.quote", **options: Any) -> ProviderSpec:
    return ProviderSpec(capability=capability, plugin_id="shop", provider="quote", **options)


def answering(text: str, seen: list[Call] | None = None) -> Provider:
    async def provide(call: Call) -> CallReply:
        if seen is not None:
            seen.append(call)
        return CallReply(data=text)

    return provide


async def stuck(call: Call) -> CallReply:
    await asyncio.Event().wait()
    raise AssertionError


async def ask(bus: Any, **options: Any) -> list[str]:
    replies = await bus.request("pricing.quote", Price(sku="a"), source="/test", **options)
    return [reply.data for reply in replies]


async def test_a_request_reaches_its_provider_with_query_source_and_time(bus: Any) -> None:
    """Query and answer cross as JSON text; the reply says which replica answered."""
    seen: list[Call] = []
    await bus.provide(spec(), answering("1", seen))
    [reply] = await bus.request("pricing.quote", Price(sku="a"), source="/test", timeout=3)
    assert (reply.data, reply.replica) == ("1", "a")
    [call] = seen
    assert (call.data, call.source, call.provider, call.timeout) == ('{"sku":"a"}', "/test", "quote", 3)
    await bus.request("pricing.quote", '{"sku":"b"}', source="/test")
    assert seen[1].data == '{"sku":"b"}'


async def test_no_provider_is_known_at_once(rig: Any, bus: Any) -> None:
    """Never a timeout; after the provider was removed as well, and on another replica."""
    start = asyncio.get_running_loop().time()
    with pytest.raises(NoProvider, match=r"pricing\.quote"):
        await ask(bus)
    subscription = await bus.provide(spec(), answering("1"))
    with pytest.raises(NoProvider, match="'b'"):
        await ask(bus, target="b")
    await subscription.remove()
    await subscription.remove()
    with pytest.raises(NoProvider) as caught:
        await ask(bus)
    assert caught.value.capability == "pricing.quote"
    assert asyncio.get_running_loop().time() == start


async def test_a_name_that_is_none_cannot_be_provided(bus: Any) -> None:
    """Capabilities are named like types."""
    with pytest.raises(InvalidPattern):
        await bus.provide(spec("Pricing"), answering("1"))


async def test_an_answer_that_does_not_come_is_a_timeout_and_is_dropped_later(bus: Any) -> None:
    """The provider is not stopped half-way; its late answer is dropped and counted."""
    done = []

    async def slow(call: Call) -> CallReply:
        await asyncio.sleep(10)
        done.append(call.id)
        return CallReply(data="1")

    await bus.provide(spec(), slow)
    start = asyncio.get_running_loop().time()
    with pytest.raises(CallTimeout):
        await ask(bus, timeout=3)
    assert asyncio.get_running_loop().time() - start == pytest.approx(3)
    await asyncio.sleep(10)
    assert len(done) == 1
    assert bus.dropped_answers == 1


async def test_a_call_whose_deadline_has_passed_is_never_executed(bus: Any) -> None:
    """With no time left the provider is not started."""
    seen: list[Call] = []
    await bus.provide(spec(), answering("1", seen))
    with pytest.raises(CallTimeout):
        await ask(bus, timeout=0)
    await asyncio.sleep(1)
    assert seen == []


async def test_a_provider_that_raises_has_failed_and_its_error_is_described(bus: Any) -> None:
    """The error crosses as data: name, message, traceback."""

    async def broken(call: Call) -> CallReply:
        raise LookupError("no such sku")

    await bus.provide(spec(), broken)
    with pytest.raises(ProviderFailed) as caught:
        await ask(bus)
    assert caught.value.info.type == "LookupError"
    assert caught.value.info.message == "no such sku"
    assert "in broken" in caught.value.info.traceback


async def test_a_provider_has_its_own_upper_bound(bus: Any) -> None:
    """`ProviderSpec.timeout` holds whatever the caller allows; its own `TimeoutError` is its own."""
    await bus.provide(spec(timeout=2), stuck)
    start = asyncio.get_running_loop().time()
    with pytest.raises(ProviderFailed) as caught:
        await ask(bus, timeout=60)
    assert caught.value.info.matches("HandlerTimeout")
    assert asyncio.get_running_loop().time() - start == pytest.approx(2)


async def test_a_provider_that_is_removed_during_a_call_is_lost(bus: Any) -> None:
    """The requester knows at once."""
    subscription = await bus.provide(spec(), stuck)
    request = asyncio.create_task(ask(bus, timeout=60))
    await asyncio.sleep(1)
    await subscription.remove()
    with pytest.raises(ProviderLost):
        await request
    assert asyncio.get_running_loop().time() < 1_002


async def test_a_provider_that_is_killed_during_a_call_is_lost(rig: Any, bus: Any) -> None:
    """So is one whose bus crashed, and one that cancels itself."""
    other = await rig.open("b")
    await other.provide(spec(), stuck)
    request = asyncio.create_task(ask(bus, timeout=60))
    await asyncio.sleep(1)
    other.kill()
    with pytest.raises(ProviderLost):
        await request

    async def cancelling(call: Call) -> CallReply:
        raise asyncio.CancelledError

    await bus.provide(spec(), cancelling)
    with pytest.raises(ProviderLost):
        await ask(bus)


async def test_a_provider_may_remove_itself(bus: Any) -> None:
    """It is not waited for, and its answer still counts."""

    async def last(call: Call) -> CallReply:
        await subscription.remove()
        return CallReply(data="bye")

    subscription = await bus.provide(spec(), last)
    assert await ask(bus) == ["bye"]
    with pytest.raises(NoProvider):
        await ask(bus)


async def test_a_cancelled_requester_does_not_stop_the_provider(bus: Any) -> None:
    """The call is executed to its end, once; its answer is dropped."""
    done = []

    async def slow(call: Call) -> CallReply:
        await asyncio.sleep(5)
        done.append(1)
        return CallReply(data="1")

    await bus.provide(spec(), slow)
    request = asyncio.create_task(ask(bus))
    await asyncio.sleep(1)
    request.cancel()
    await asyncio.sleep(10)
    assert request.cancelled()
    assert (done, bus.dropped_answers) == ([1], 1)


async def test_replicas_take_turns_and_the_own_one_comes_first(rig: Any, bus: Any) -> None:
    """`any` prefers this replica, and of two there the one that came first; foreign replicas alternate."""
    b, c = await rig.open("b"), await rig.open("c")
    await b.provide(spec(), answering("b"))
    await c.provide(spec(), answering("c"))
    assert sorted([*await ask(bus), *await ask(bus)]) == ["b", "c"]
    await bus.provide(spec(), answering("a1"))
    await bus.provide(spec(), answering("a2"))
    assert [*await ask(bus), *await ask(bus)] == ["a1", "a1"]
    assert await ask(bus, target="c") == ["c"]


async def test_all_asks_every_replica_once(rig: Any, bus: Any) -> None:
    """The answers that came by the deadline; failures count only if nobody answered."""
    b, c, d = await rig.open("b"), await rig.open("c"), await rig.open("d")
    await bus.provide(spec(), answering("a"))
    await b.provide(spec(), answering("b"))
    await b.provide(spec(), answering("b"))
    lost = await c.provide(spec(), stuck)

    async def broken(call: Call) -> CallReply:
        raise ValueError

    await d.provide(spec(), broken)
    replies = await bus.request("pricing.quote", "{}", source="/test", target="all", timeout=3)
    assert sorted(reply.replica for reply in replies) == ["a", "b"]
    await lost.remove()


async def test_a_local_provider_is_known_on_its_replica_only(rig: Any, bus: Any) -> None:
    """`reach="local"`; the list of providers says the same."""
    other = await rig.open("b")
    await bus.provide(spec("kernel.ready", reach="local"), answering("a"))
    await other.provide(spec("kernel.ready", reach="local"), answering("b"))
    [reply] = await other.request("kernel.ready", "{}", source="/test")
    assert reply.data == "b"
    with pytest.raises(NoProvider):
        await bus.request("kernel.ready", "{}", source="/test", target="b")
    assert [(info.capability, info.replica, info.reach) for info in bus.providers()] == [
        ("kernel.ready", "a", "local")
    ]


async def test_closing_a_bus_lets_calls_finish_within_the_grace(rig: Any, bus: Any) -> None:
    """Calls under way at the provider finish; those that do not are lost; open requests end."""
    other = await rig.open("b")

    async def slow(call: Call) -> CallReply:
        await asyncio.sleep(5)
        return CallReply(data="done")

    await other.provide(spec(), slow)
    await other.provide(spec("a.stuck"), stuck)
    quick = asyncio.create_task(ask(bus, timeout=60))
    never = asyncio.create_task(bus.request("a.stuck", "{}", source="/test", timeout=60))
    await asyncio.sleep(1)
    await other.close(grace=10)
    assert await quick == ["done"]
    with pytest.raises(ProviderLost):
        await never


async def test_a_request_of_a_bus_that_closes_ends(rig: Any, bus: Any) -> None:
    """The requester is told that its own bus was closed."""
    other = await rig.open("b")
    await other.provide(spec(), stuck)
    request = asyncio.create_task(ask(bus, timeout=60))
    await asyncio.sleep(1)
    await bus.close()
    with pytest.raises(BusClosed):
        await request
