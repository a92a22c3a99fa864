"""Calls: requests and answers, each at most once, and every way in which they can fail."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from contracts.bus import Call, CallReply, EventBus, Provider, ProviderSpec, Subscription
from contracts.errors import CallTimeout, InvalidPattern, NoProvider, ProviderFailed, ProviderLost

from .backend import needs
from .probe import Gate
from .rig import SOURCE, Rig, now
from .suite import Suite

CAPABILITY = "pricing.quote"


class Ask(BaseModel):
    sku: str = "a"


class Calls(Suite):
    """A request is executed at most once, within the time that is left, and always answered or named."""

    async def test_a_request_reaches_a_provider_on_another_replica(self, rig: Rig) -> None:
        """Query and answer cross as JSON; the call names who asks and how much time is left."""
        a, b = await rig.open("a"), await rig.open("b")
        seen: list[Call] = []
        await a.provide(_spec(), _answering("1", seen))
        [reply] = await b.request(CAPABILITY, Ask(), source=SOURCE, timeout=20 * rig.tick)
        [text] = await b.request(CAPABILITY, '{"sku":"b"}', source=SOURCE)
        assert (reply.data, reply.replica, text.data) == ("1", "a", "1")
        [call, other] = seen
        assert (call.capability, call.provider, call.source, call.data) == (
            CAPABILITY,
            "quote",
            SOURCE,
            '{"sku":"a"}',
        )
        assert 0 < call.timeout <= 20 * rig.tick
        assert other.data == '{"sku":"b"}'

    async def test_no_provider_is_known_at_once(self, rig: Rig) -> None:
        """Before one came, after it went, and on a replica that has none: never a timeout."""
        a, b = await rig.open("a"), await rig.open("b")
        began = now()
        with pytest.raises(NoProvider) as caught:
            await a.request(CAPABILITY, Ask(), source=SOURCE)
        assert caught.value.capability == CAPABILITY
        offer = await a.provide(_spec(), _answering("1"))
        await _known(rig, b)
        with pytest.raises(NoProvider):
            await b.request(CAPABILITY, Ask(), source=SOURCE, target="b")
        await offer.remove()
        await offer.remove()
        await rig.until(lambda: not b.providers())
        for target in ("any", "all", "a"):
            with pytest.raises(NoProvider):
                await b.request(CAPABILITY, Ask(), source=SOURCE, target=target)
        assert now() - began < 5

    async def test_a_capability_is_named_like_a_type(self, rig: Rig) -> None:
        """Another name is refused where it is offered."""
        bus = await rig.open()
        with pytest.raises(InvalidPattern):
            await bus.provide(_spec("Pricing"), _answering("1"))

    async def test_an_answer_that_comes_late_is_dropped(self, rig: Rig) -> None:
        """The caller's timeout is in time, the provider runs to its end, the next call is not confused."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
        ended: list[str] = []

        async def slow(call: Call) -> CallReply:
            if not ended:
                await gate()
            ended.append(call.id)
            return CallReply(data=f'"{len(ended)}"')

        await a.provide(_spec(), slow)
        await _known(rig, b)
        began = now()
        with pytest.raises(CallTimeout):
            await b.request(CAPABILITY, Ask(), source=SOURCE, timeout=4 * rig.tick)
        assert 4 * rig.tick - 0.01 <= now() - began <= 8 * rig.tick
        gate.open()
        await rig.until(lambda: ended)
        [reply] = await b.request(CAPABILITY, Ask(), source=SOURCE)
        assert reply.data == '"2"'

    async def test_a_provider_that_raises_has_failed(self, rig: Rig) -> None:
        """The error crosses as data."""

        async def broken(call: Call) -> CallReply:
            raise LookupError("no such sku")

        a, b = await rig.open("a"), await rig.open("b")
        await a.provide(_spec(), broken)
        await _known(rig, b)
        with pytest.raises(ProviderFailed) as caught:
            await b.request(CAPABILITY, Ask(), source=SOURCE)
        info = caught.value.info
        assert (info.type, info.message) == ("LookupError", "no such sku")
        assert "broken" in info.traceback

    async def test_a_provider_has_an_upper_bound_of_its_own(self, rig: Rig) -> None:
        """`ProviderSpec.timeout` holds, whatever the caller allows."""
        bus, gate = await rig.open(), Gate()
        await bus.provide(_spec(timeout=4 * rig.tick), _holding(gate))
        with pytest.raises(ProviderFailed) as caught:
            await bus.request(CAPABILITY, Ask(), source=SOURCE, timeout=rig.backend.patience)
        assert caught.value.info.matches("HandlerTimeout")
        assert gate.waiting == 0

    @needs(lease=1.0)
    @pytest.mark.parametrize("end", ["removed", "closed", "crashed"])
    async def test_a_provider_that_goes_away_is_lost(self, rig: Rig, end: str) -> None:
        """Removed, closed or killed at work: the caller is told, and does not wait for its timeout."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
        offer = await a.provide(_spec(timeout=1_000), _holding(gate))
        await _known(rig, b)
        request = asyncio.ensure_future(b.request(CAPABILITY, Ask(), source=SOURCE, timeout=1_000))
        await rig.until(lambda: gate.waiting)
        await _end(rig, a, offer, gate, end)
        with pytest.raises(ProviderLost):
            await asyncio.wait_for(request, 10)
        await rig.until(lambda: not b.providers())

    async def test_a_provider_that_drains_takes_no_more_and_loses_none(self, rig: Rig) -> None:
        """What runs is answered, a new request is not taken; what does not end within the grace is lost."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
        offer = await a.provide(_spec(timeout=1_000), _holding(gate))
        await _known(rig, b)
        request = asyncio.ensure_future(b.request(CAPABILITY, Ask(), source=SOURCE, timeout=1_000))
        await rig.until(lambda: gate.waiting)
        draining = asyncio.ensure_future(offer.drain(1_000))
        await rig.until(lambda: not a.providers())
        with pytest.raises(NoProvider):
            await a.request(CAPABILITY, Ask(), source=SOURCE)
        gate.open()
        assert await draining
        assert len(await asyncio.wait_for(request, 10)) == 1
        held = await a.provide(_spec(timeout=1_000), _holding(Gate()))
        last = asyncio.ensure_future(a.request(CAPABILITY, Ask(), source=SOURCE, timeout=1_000))
        await asyncio.sleep(0)
        assert not await held.drain(0)
        with pytest.raises(ProviderLost):
            await asyncio.wait_for(last, 10)
        await held.remove()

    async def test_all_are_asked_and_each_answers_once(self, rig: Rig) -> None:
        """`target="all"`: one reply from each replica; a replica's name picks that one."""
        buses = {name: await rig.open(name) for name in "abc"}
        for name in "ab":
            await buses[name].provide(_spec(), _answering(f'"{name}"'))
        await rig.until(lambda: len(buses["c"].providers()) == 2)
        replies = await buses["c"].request(CAPABILITY, Ask(), source=SOURCE, target="all")
        assert sorted((reply.replica, reply.data) for reply in replies) == [("a", '"a"'), ("b", '"b"')]
        [reply] = await buses["c"].request(CAPABILITY, Ask(), source=SOURCE, target="b")
        assert reply.replica == "b"
        shown = sorted((info.capability, info.plugin_id, info.replica) for info in buses["c"].providers())
        assert shown == [(CAPABILITY, "shop", "a"), (CAPABILITY, "shop", "b")]

    async def test_the_best_provider_is_asked(self, rig: Rig) -> None:
        """The highest rank, wherever it is; then the own replica; then who came first."""
        a, b = await rig.open("a"), await rig.open("b")
        await a.provide(_spec(), _answering('"a"'))
        await a.provide(_spec(), _answering('"later"'))
        await b.provide(_spec(), _answering('"b"'))
        await rig.until(lambda: len(a.providers(CAPABILITY)) == len(b.providers(CAPABILITY)) == 3)
        assert (await _asked(a), await _asked(b)) == ('"a"', '"b"')
        best = await b.provide(_spec(rank=1), _answering('"best"'))
        await rig.until(lambda: len(a.providers(CAPABILITY)) == 4)
        assert (await _asked(a), await _asked(b)) == ('"best"', '"best"')
        assert (await _asked(a, "a"), await _asked(b, "b")) == ('"a"', '"best"')
        replies = await a.request(CAPABILITY, Ask(), source=SOURCE, target="all")
        assert sorted(reply.data for reply in replies) == ['"a"', '"best"']
        shown = [(info.replica, info.rank) for info in a.providers(CAPABILITY)]
        assert shown == [("b", 1), ("a", 0), ("a", 0), ("b", 0)]
        assert a.providers("pricing.other") == []
        await best.remove()
        assert (await _asked(b), await _asked(a)) == ('"b"', '"a"')

    async def test_other_replicas_take_turns(self, rig: Rig) -> None:
        """Of equal rank, and none here: one after the other."""
        a, b, c = await rig.open("a"), await rig.open("b"), await rig.open("c")
        for bus in (a, b):
            await bus.provide(_spec(), _answering(f'"{bus.replica}"'))
        await rig.until(lambda: len(c.providers()) == 2)
        assert sorted([await _asked(c) for _ in range(4)]) == ['"a"', '"a"', '"b"', '"b"']

    async def test_the_next_in_rank_takes_over_without_a_failure(self, rig: Rig) -> None:
        """Under traffic from three replicas the best is drained: what it has begun it finishes, the rest goes
        to the next, and no call fails or is executed twice."""
        a, b, c, gate = await rig.open("a"), await rig.open("b"), await rig.open("c"), Gate()
        best, second = list[Call](), list[Call]()

        async def slow(call: Call) -> CallReply:
            best.append(call)
            await gate()
            return CallReply(data=call.data)

        offer = await a.provide(_spec(rank=5, timeout=1_000), slow)
        await b.provide(_spec(), _echoing(second))
        await rig.until(lambda: all(len(bus.providers(CAPABILITY)) == 2 for bus in (a, b, c)))
        asked = _many(range(10), a, b, c)
        await rig.until(lambda: len(best) == 30)
        draining = asyncio.ensure_future(offer.drain(rig.backend.patience))
        asked += _many(range(10, 40), a, b, c)
        await rig.until(lambda: second)
        gate.open()
        assert await draining
        asked += _many(range(40, 50), a, b, c)
        expected = [f'"{n}"' for n in range(50) for _ in "abc"]
        assert await asyncio.gather(*asked) == expected
        assert sorted(call.data for call in [*best, *second]) == sorted(expected)
        assert len({call.id for call in [*best, *second]}) == 150
        await rig.until(lambda: [info.replica for info in c.providers()] == ["b"])

    async def test_a_provider_that_drains_has_its_grace(self, rig: Rig) -> None:
        """What runs then is lost to its caller; where there is no other, the next call is told at once."""
        bus, gate = await rig.open("a"), Gate()
        offer = await bus.provide(_spec(timeout=1_000), _holding(gate))
        request = asyncio.ensure_future(_asked(bus))
        await rig.until(lambda: gate.waiting)
        draining = asyncio.ensure_future(offer.drain(2 * rig.tick))
        await rig.until(lambda: not bus.providers())
        with pytest.raises(NoProvider):
            await _asked(bus)
        assert not await draining
        with pytest.raises(ProviderLost):
            await request
        assert await offer.drain(0)
        await offer.remove()

    @needs(lease=1.0)
    @pytest.mark.parametrize("end", ["failed", "removed", "closed", "crashed"])
    async def test_who_goes_wrong_among_all_is_left_out(self, rig: Rig, end: str) -> None:
        """`target="all"`, and at work one fails or goes away: the others' replies, without waiting longer."""
        a, b, c, gate = await rig.open("a"), await rig.open("b"), await rig.open("c"), Gate()
        seen: list[Call] = []
        for bus in (a, c):
            await bus.provide(_spec(timeout=1_000), _answering(f'"{bus.replica}"', seen))
        offer = await b.provide(_spec(timeout=1_000), _failing(gate))
        await rig.until(lambda: len(c.providers()) == 3)
        request = asyncio.ensure_future(
            c.request(CAPABILITY, Ask(), source=SOURCE, timeout=1_000, target="all")
        )
        await rig.until(lambda: gate.waiting and len(seen) == 2)
        await _end(rig, b, offer, gate, end)
        replies = await asyncio.wait_for(request, 10)
        assert sorted((reply.replica, reply.data) for reply in replies) == [("a", '"a"'), ("c", '"c"')]
        assert len(seen) == 2

    @needs(lease=1.0)
    @pytest.mark.parametrize("end", ["failed", "removed", "closed", "crashed"])
    async def test_where_none_of_all_answers_the_caller_is_told(self, rig: Rig, end: str) -> None:
        """`target="all"`, and each has failed or gone away: one of their errors, without waiting longer."""
        a, b, c, gate = await rig.open("a"), await rig.open("b"), await rig.open("c"), Gate()
        offers = [(bus, await bus.provide(_spec(timeout=1_000), _failing(gate))) for bus in (a, b)]
        await rig.until(lambda: len(c.providers()) == 2)
        request = asyncio.ensure_future(
            c.request(CAPABILITY, Ask(), source=SOURCE, timeout=1_000, target="all")
        )
        await rig.until(lambda: gate.waiting == 2)
        for bus, offer in offers:
            await _end(rig, bus, offer, gate, end)
        with pytest.raises(ProviderFailed if end == "failed" else ProviderLost) as caught:
            await asyncio.wait_for(request, 10)
        assert caught.value.capability == CAPABILITY

    async def test_a_local_provider_is_reached_from_its_replica_alone(self, rig: Rig) -> None:
        """`reach="local"` does not show anywhere else."""
        a, b = await rig.open("a"), await rig.open("b")
        await a.provide(_spec(reach="local"), _answering("1"))
        await rig.pause()
        [reply] = await a.request(CAPABILITY, Ask(), source=SOURCE)
        assert reply.replica == "a"
        with pytest.raises(NoProvider):
            await b.request(CAPABILITY, Ask(), source=SOURCE)
        assert b.providers() == []

    async def test_answers_find_their_callers(self, rig: Rig) -> None:
        """Two hundred calls side by side from two replicas: each gets the answer to its own question."""
        a, b = await rig.open("a"), await rig.open("b")

        async def echo(call: Call) -> CallReply:
            await asyncio.sleep(hash(call.id) % 5 * rig.tick / 10)
            return CallReply(data=call.data)

        await a.provide(_spec(), echo)
        await _known(rig, b)

        async def ask(bus: EventBus, text: str) -> None:
            [reply] = await bus.request(CAPABILITY, text, source=SOURCE, timeout=rig.backend.patience)
            assert reply.data == text

        await asyncio.gather(*(ask(bus, f'"{bus.replica}{n}"') for n in range(100) for bus in (a, b)))

    async def test_with_no_time_left_nothing_is_executed(self, rig: Rig) -> None:
        """A call whose deadline has passed never reaches its provider."""
        a, seen = await rig.open("a"), list[Call]()
        await a.provide(_spec(), _answering("1", seen))
        with pytest.raises(CallTimeout):
            await a.request(CAPABILITY, Ask(), source=SOURCE, timeout=0)
        await rig.pause()
        assert seen == []


def _spec(capability: str = CAPABILITY, **options: Any) -> ProviderSpec:
    return ProviderSpec(capability=capability, plugin_id="shop", provider="quote", **options)


def _answering(data: str, seen: list[Call] | None = None) -> Provider:
    async def provide(call: Call) -> CallReply:
        if seen is not None:
            seen.append(call)
        return CallReply(data=data)

    return provide


async def _asked(bus: EventBus, target: str = "any", data: str = "{}") -> str:
    [reply] = await bus.request(CAPABILITY, data, source=SOURCE, target=target, timeout=1_000)
    return reply.data


def _many(numbers: range, *buses: EventBus) -> list[asyncio.Future[str]]:
    return [asyncio.ensure_future(_asked(bus, data=f'"{n}"')) for n in numbers for bus in buses]


def _echoing(seen: list[Call]) -> Provider:
    async def provide(call: Call) -> CallReply:
        seen.append(call)
        return CallReply(data=call.data)

    return provide


def _holding(gate: Gate) -> Provider:
    async def provide(call: Call) -> CallReply:
        await gate()
        return CallReply(data="1")

    return provide


def _failing(gate: Gate) -> Provider:
    async def provide(call: Call) -> CallReply:
        await gate()
        raise LookupError("no such sku")

    return provide


async def _end(rig: Rig, bus: EventBus, offer: Subscription, gate: Gate, end: str) -> None:
    """Of a provider that waits at the gate: it fails, is removed, or its replica goes."""
    if end == "failed":
        gate.open()
    elif end == "removed":
        await offer.remove()
    elif end == "closed":
        await rig.close(bus, grace=0)
    else:
        await rig.crash(bus)


async def _known(rig: Rig, bus: EventBus) -> None:
    await rig.until(bus.providers, "a provider to be known")
