"""What the network does to the bus: replies lost, late, twice or changed; connections cut and half-open."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

import psutil
import pytest
from fault_tools.faults import (
    Corrupt,
    CutAfter,
    CutBefore,
    CutWaiting,
    CutWithin,
    Delay,
    Drop,
    Duplicate,
    Fault,
    FlipByte,
    Hold,
    Stall,
    WrongLength,
)
from fault_tools.network import (
    DIRECT,
    Choice,
    ProxiedNaiveBackend,
    When,
    appends,
    backend_for,
    calls,
    clients,
    fails_on_naive,
    happened,
    load_scripts,
    long,
    pending,
    reads,
    settles,
    stored,
    streams,
)
from fault_tools.proxy import Connection, Exchange, FaultProxy, Rule
from fault_tools.servers import Server

from bus.conformance import limits_for
from bus.conformance.backend import needs
from bus.conformance.probe import Gate, Probe, fail_if
from bus.conformance.rig import Item, Rig, now, together
from bus.redis_streams import bell, link
from contracts.bus import Call, CallReply, EventBus, ProviderSpec, RetryPolicy
from contracts.errors import PublishUnknown
from contracts.event import Event, EventResult

SOON = 1.0
"""Seconds after a reconnection within which what was interrupted goes on."""
SOURCE = "/faults"


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[FaultProxy]:
    load_scripts(server)
    async with FaultProxy(server) as proxy:
        yield proxy


@pytest.fixture
def system(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "plugbus"))


@pytest.fixture
async def rig(
    request: pytest.FixtureRequest, system: str, server: Server, proxy: FaultProxy
) -> AsyncIterator[Rig]:
    rig = Rig(backend_for(system, limits_for(request), server, proxy))
    yield rig
    proxy.clear()
    proxy.release()
    await proxy.accept()
    await rig.end(alone=False)  # the proxy is at work; that no task is left is checked behind it
    await rig.backend.close()


@pytest.fixture
def fast_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stalled connection is noticed sooner, so that a test need not wait for it as long as a user would."""
    monkeypatch.setattr(link, "STALL", 0.5)
    monkeypatch.setattr(link, "BLOCK", 1.0)
    monkeypatch.setattr(bell, "BLOCK", 1.0)


# --- publishing ---------------------------------------------------------------------------------------------


LOSSES = (CutAfter(), CutAfter(reset=True), CutWithin(), CutWithin(1))
"""Ways in which a reply is lost: with FIN, with RST, and in its midst."""


@fails_on_naive
@needs(lease=1.0)
async def test_a_lost_publish_reply(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """A publish whose reply is lost confirms once, and is one event, with an id or without. [B1, F1]"""
    bus = await rig.open()
    probe = await rig.on(bus)
    for n, fault in enumerate(LOSSES):
        rule = proxy.on(None, fault, where=appends)
        await rig.publish(bus, n, key="k")
        assert rule.fired.is_so
    rule = proxy.on(None, CutAfter(), where=appends)
    await bus.publish(Item(n=4), source=SOURCE, key="k")
    assert rule.fired.is_so
    await rig.until(lambda: 4 in probe.numbers)
    await rig.quiet(bus)
    assert stored(server) == 5
    assert probe.numbers == [0, 1, 2, 3, 4]


@needs(lease=1.0)
async def test_a_repetition_of_what_was_confirmed(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """What was confirmed after a lost reply and is published again with its id is the same event. [B1]"""
    bus = await rig.open()
    rule = proxy.on(None, CutAfter(), where=appends)
    [first] = await rig.publish(bus, 1, id="one")
    assert rule.fired.is_so
    [second] = await rig.publish(bus, 1, id="one")
    assert (second.duplicate, second.position) == (True, first.position)
    assert stored(server) == 1


@needs(lease=1.0)
async def test_a_connection_cut_before_the_publish(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """A publish whose connection is cut before it reaches Redis is repeated, and is one event. [B2]"""
    bus = await rig.open()
    for reset in (False, True):
        rule = proxy.on(None, CutBefore(reset=reset), where=appends)
        await bus.publish(Item(n=1), source=SOURCE)
        assert rule.fired.is_so
    assert stored(server) == 2


@pytest.mark.parametrize("fault", [CutBefore(), CutAfter()], ids=["not sent", "reply lost"])
@needs(lease=1.0)
async def test_publishing_while_redis_stays_away(
    rig: Rig, server: Server, proxy: FaultProxy, fault: Fault
) -> None:
    """While Redis is away a publish ends in `PublishUnknown` at its deadline; it can be repeated. [B2]"""
    bus = await rig.open()
    probe = await rig.on(bus)
    rule = proxy.on(None, fault, where=appends)
    began = now()
    publishing = asyncio.create_task(rig.publish(bus, 1, id="one", timeout=0.5))
    async with asyncio.timeout(0.5):
        await rule.fired  # and at once, before it is repeated
    await proxy.refuse()
    proxy.cut()
    with pytest.raises(PublishUnknown) as caught:
        await publishing
    assert 0.5 <= now() - began < 0.5 + 0.2
    assert caught.value.event_id == "one"
    await proxy.accept()
    await rig.publish(bus, 1, id="one")
    await rig.until(lambda: probe.numbers)
    await rig.quiet(bus)
    assert stored(server) == 1
    assert probe.numbers == [1]


@pytest.mark.parametrize("id", [None, "one"], ids=["without an id", "with an id"])
@needs(lease=1.0)
async def test_a_first_copy_that_comes_after_the_repetition(
    rig: Rig, server: Server, proxy: FaultProxy, id: str | None
) -> None:
    """A publish that the network delivers after its own repetition is one event. [B1, F1, BUS 4]"""
    bus = await rig.open()
    probe = await rig.on(bus)
    rule = proxy.on(None, Hold(cut=True), where=appends)
    receipt = await bus.publish(Item(n=1), source=SOURCE, id=id)
    assert rule.fired.is_so
    rule.release()
    await rig.pause()
    again = await bus.publish(Item(n=1), source=SOURCE, id=receipt.id)
    assert again.duplicate
    await rig.until(lambda: probe.numbers)
    await rig.quiet(bus)
    assert stored(server) == 1
    assert probe.numbers == [1]


# --- reading ------------------------------------------------------------------------------------------------


@fails_on_naive
@needs(lease=2.0)
async def test_a_lost_fetch_reply(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """What a fetch has taken whose reply is lost is handled within a second, once and in order. [B3, F2]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    await rig.publish(publisher, 0, key="k")
    await rig.until(lambda: 0 in probe.done)
    for n, fault in zip((10, 20, 30, 40), LOSSES, strict=True):
        rule = proxy.on(None, When(fault, f'"n": {n // 10}'), where=reads, times=None)
        await rig.publish(publisher, *range(n, n + 5), key="k")
        await happened(rig, rule)
        began = now()
        await _until_done(rig, probe, range(n, n + 5))
        assert now() - began < SOON
    await rig.until(lambda: pending(server) == 0)
    rig.judge()


async def _until_done(rig: Rig, probe: Probe, numbers: Iterable[int]) -> None:
    wanted = set(numbers)
    await rig.until(lambda: wanted <= set(probe.done), "all of them to be handled")


@fails_on_naive
@needs(lease=2.0)
async def test_a_reader_that_goes_while_deliveries_come(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """A subscription that is removed while deliveries are on their way loses and keeps none. [B4, F3]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    await rig.publish(publisher, 0, key="k")
    await rig.until(lambda: 0 in probe.done)
    rule = proxy.on(None, When(Delay(), '"n": '), where=reads, times=None)
    await rig.publish(publisher, *range(1, 6), key="k")
    await happened(rig, rule)
    removing = asyncio.create_task(probe.subscription.remove())
    await rig.pause()
    rule.release()
    await removing
    again = await rig.on(bus)
    began = now()
    await rig.until(lambda: len(set(probe.done + again.done)) == 6)
    assert now() - began < SOON
    await rig.until(lambda: pending(server) == 0)
    assert now() - began < SOON
    rig.judge()


@needs(lease=2.0, partitions=2)
async def test_readers_that_come_and_go_under_load(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """Subscriptions that come and go, and bells that are cut, under load: nothing is lost or left. [B4, F3]

    There is no blocked read that owns anything: what can be cancelled in its place is the subscription.
    """
    chance = random.Random(4)  # noqa: S311 - a plan, not a secret
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe, numbers = await rig.on(bus, concurrency=4), itertools.count()
    for turn in range(long(150, 1_000)):
        events = [(n, f"k{n % 5}") for n in itertools.islice(numbers, 4)]
        sending = asyncio.create_task(_publish_each(rig, publisher, events))
        await asyncio.sleep(chance.random() * 0.004)
        if turn % 4 == 0:
            proxy.cut(reset=turn % 8 == 0, where=lambda one: one.is_blocking_reader)
        await probe.subscription.remove()
        probe = await rig.on(bus, concurrency=4)
        await sending
    began = now()
    await rig.until(lambda: pending(server) == 0 and len(_handled(rig)) == next(numbers))
    assert now() - began < SOON
    rig.judge()


async def _publish_each(rig: Rig, bus: EventBus, events: list[tuple[int, str]]) -> None:
    for n, key in events:
        await rig.publish(bus, n, key=key)


def _handled(rig: Rig) -> set[str]:
    return {record.id for record in rig.history if record.kind == "ended" and record.how == "returned"}


# --- connections that are half-open -------------------------------------------------------------------------


@pytest.mark.usefixtures("fast_links")
@fails_on_naive
@needs(lease=5.0)
async def test_half_open_connections(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """Half-open connections are replaced at most two seconds after what they wait for at most. [B5, F5]

    What waits longest is the bell, for `BLOCK` seconds. The naive bus blocks for less, and has the same time.
    """
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    await rig.publish(publisher, 0, key="k")
    await rig.until(lambda: 0 in probe.done)
    for connection in list(proxy.connections):
        connection.stall()
    began = now()
    await rig.publish(publisher, *range(1, 6), key="k")
    await rig.until(lambda: 5 in probe.done)
    assert now() - began < link.BLOCK + 2.0 + 0.2
    rig.judge()


@pytest.mark.usefixtures("fast_links")
@needs(lease=5.0)
async def test_a_fetch_whose_reply_never_comes(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """What was taken over a connection that then went half-open is handled, once and in order. [B5, B3]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    for n in (10, 20):
        executed = Stall(executed=n == 10)
        rule = proxy.on(None, executed, where=reads)
        await rig.publish(publisher, *range(n, n + 5), key="k")
        await happened(rig, rule)
        began = now()
        await _until_done(rig, probe, range(n, n + 5))
        assert now() - began < link.STALL + 2.0
        rule.release()
    await rig.until(lambda: pending(server) == 0)
    rig.judge()


@pytest.mark.usefixtures("fast_links")
@needs(lease=1.0, partitions=2)
async def test_a_network_that_stands_still_and_goes_on(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """A network that stands still for longer than the lease, and then goes on, loses nothing. [B5]

    Meanwhile another replica takes over: what had been read may start once more, nothing else.
    """
    bus, other = await rig.open(), await rig.open(f"{DIRECT}-other")
    gate = Gate()
    held = await rig.on(bus, lambda n, attempt: gate() if n < 4 else None, concurrency=4)
    probe = await rig.on(other, concurrency=4)
    await rig.publish(other, 0, 1, 2, 3)
    for n in range(4, 24):
        await rig.publish(other, n, key=f"k{n % 4}")
    await rig.until(lambda: held.running)
    started = len(held.starts)
    proxy.stall()
    await rig.until(lambda: len(_handled(rig)) >= 24 - started)
    gate.open()
    proxy.release()
    for n in range(24, 44):
        await rig.publish(other, n, key=f"k{n % 4}")
    await rig.until(lambda: len(_handled(rig)) == 44)
    await rig.quiet(other)
    assert pending(server) == 0
    assert probe.numbers
    rig.judge(repeats=started)


@pytest.mark.usefixtures("fast_links")
@fails_on_naive
@needs(lease=5.0)
async def test_a_wait_that_outlasts_timeouts(rig: Rig, proxy: FaultProxy) -> None:
    """Waiting on an idle stream breaks no connection, however long; then events come at once. [F4]

    In the short form the timeouts are shorter, and the naive client's is told in its URL.
    """
    if isinstance(rig.backend, ProxiedNaiveBackend):
        rig.backend.block, rig.backend.query = 4_000, "?socket_timeout=1"
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    await rig.publish(publisher, 0)
    await rig.until(lambda: 0 in probe.done)
    accepted = proxy.accepted
    await asyncio.sleep(long(3, 60) * link.BLOCK)
    reconnected = proxy.accepted - accepted
    began = now()
    await rig.publish(publisher, 1)
    await rig.until(lambda: 1 in probe.done)
    assert now() - began < rig.tick * 4
    assert reconnected == 0


# --- connections that are cut -------------------------------------------------------------------------------


@fails_on_naive
@needs(lease=4.0)
async def test_consuming_goes_on_after_every_cut(rig: Rig, proxy: FaultProxy) -> None:
    """Whichever connection is cut at whichever of its commands, events are handled within a second. [F6]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe, numbers = await rig.on(bus), itertools.count()
    for where in (reads, settles, _waits):
        for fault in (CutBefore(), CutWaiting() if where is _waits else CutAfter(), CutBefore(reset=True)):
            rule = proxy.on(None, fault, where=where)
            await _publish_until(rig, publisher, numbers, rule)
            began, n = now(), next(numbers)
            await rig.publish(publisher, n, key="k")
            await _until_done(rig, probe, range(n + 1))
            assert now() - began < SOON
    rig.judge()


async def _publish_until(rig: Rig, bus: EventBus, numbers: Iterator[int], rule: Rule) -> None:
    """One event after the other until a fault has happened."""

    async def is_so() -> bool:
        await rig.publish(bus, next(numbers), key="k")
        return rule.fired.is_so

    await rig.until(is_so, "the fault to happen")


def _waits(exchange: Exchange) -> bool:
    """A read that blocks: it has nothing, and waits for news."""
    return exchange.name in {"XREAD", "XREADGROUP"} and b"BLOCK" in (word.upper() for word in exchange.args)


@needs(lease=2.0, partitions=2)
async def test_a_storm_of_killed_connections(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """`CLIENT KILL` of everybody again and again: nothing lost, connections and files as before. [B36]

    In the long form each second for a minute, in the short one ten times as often.
    """
    bus, other = await rig.open("a"), await rig.open("b")
    await rig.on(bus, concurrency=4)
    await rig.on(other, concurrency=4)
    await rig.publish(bus, 0)
    await rig.until(lambda: _handled(rig))
    files, before = psutil.Process().num_fds(), len(clients(server))
    numbers = itertools.count(1)
    sending = [asyncio.create_task(_keep_publishing(rig, one, numbers)) for one in (bus, other)]
    for _ in range(long(20, 60)):
        await asyncio.sleep(long(1, 10) / 10)
        server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    for task in sending:
        task.cancel()
    await asyncio.gather(*sending, return_exceptions=True)
    sent = sum(record.kind == "confirmed" for record in rig.history)
    assert sent > long(50, 500)
    await rig.quiet(bus)
    assert pending(server) == 0
    for one in (bus, other):  # each is opened when it is needed
        await _publish_all(rig, one, range(20))
    await rig.quiet(bus)
    assert len(clients(server)) == before == 6
    assert psutil.Process().num_fds() <= files
    rig.judge()


async def _keep_publishing(rig: Rig, bus: EventBus, numbers: Iterator[int]) -> None:
    while True:
        n = next(numbers)
        await rig.publish(bus, n, key=f"k{n % 7}")
        await asyncio.sleep(0.005)


@fails_on_naive
@needs(lease=2.0, partitions=2)
async def test_connections_are_bounded(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """Two hundred publishes at once, connections cut and refused: never more than three of them. [F28]"""
    bus = await rig.open()
    await rig.on(bus, concurrency=4)
    most = 0
    for turn in range(4):
        sending = asyncio.create_task(_publish_all(rig, bus, range(turn * 200, turn * 200 + 200)))
        await asyncio.sleep(0)
        if turn % 2:
            proxy.cut(reset=turn == 1)
        if turn == 2:
            await proxy.refuse()
            proxy.cut()
            await rig.pause(2)
            await proxy.accept()
        while not sending.done():
            most = max(most, sum(not one.is_over for one in proxy.connections))
            await asyncio.sleep(0.001)
        await sending
    await rig.quiet(bus)
    assert most <= 3
    await rig.until(lambda: len(clients(server)) == 3)
    rig.judge()


@needs(lease=2.0)
async def test_a_lost_acknowledgement(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """A settlement that is lost, or whose reply is, is repeated, and counted once: one start. [F17]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    for n, fault in enumerate((*LOSSES, CutBefore(), CutBefore(reset=True))):
        rule = proxy.on(None, fault, where=settles)
        await rig.publish(publisher, n, key="k")
        await happened(rig, rule)
        await rig.quiet(bus)
    info = await rig.info(bus)
    assert (info.handled, info.waiting, info.in_flight) == (6, 0, 0)
    assert probe.starts == [(n, 1) for n in range(6)]


@fails_on_naive
@needs(lease=1.0)
async def test_an_acknowledgement_lost_with_its_owner(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """What was handled by an owner who died before he said so starts once more, with one effect. [F17]"""
    bus, other = await rig.open(), await rig.open(f"{DIRECT}-other")
    returned = EventResult.ok(Done(n=1))
    probe = await rig.on(bus, lambda n, attempt: returned)
    effects = await rig.on(other, None, "done.**", group="shop.effects")
    proxy.on(None, CutBefore(), where=settles, times=None)
    await rig.publish(other, 1, key="k")
    await rig.until(lambda: probe.done)
    await rig.until(lambda: effects.done)
    again = await rig.on(other, lambda n, attempt: returned)
    await rig.crash(bus)
    await rig.until(lambda: again.done)
    await rig.until(lambda: pending(server) == 0)
    await rig.pause()
    assert (len(probe.starts), len(again.starts), len(effects.starts)) == (1, 1, 1)


class Done(Event, type="done.item"):
    """What a handler returns: its effect."""

    n: int


CAPABILITY = "pricing.quote"


@fails_on_naive
@needs(lease=3.0)
async def test_an_answer_that_comes_while_the_caller_is_cut_off(rig: Rig, proxy: FaultProxy) -> None:
    """An answer given while the caller is cut off reaches it when it is back, before its deadline. [F35]"""
    caller, provider, gate = await rig.open(), await rig.open(DIRECT), Gate()
    await provider.provide(_quotes(), _answering(gate))
    await rig.until(caller.providers)
    asking = asyncio.create_task(caller.request(CAPABILITY, "{}", source=SOURCE, timeout=2.5))
    await rig.until(lambda: gate.waiting)
    await proxy.refuse()
    proxy.cut()
    gate.open()
    await rig.pause()
    await proxy.accept()
    [reply] = await asking
    assert reply.data == "1"


@pytest.mark.parametrize("fault", [CutBefore(), CutAfter()], ids=["before", "after"])
@needs(lease=3.0)
async def test_an_answer_whose_sending_is_cut(rig: Rig, proxy: FaultProxy, fault: Fault) -> None:
    """A provider whose connection is cut when it answers answers again over the next. [F35]"""
    caller, provider, gate = await rig.open(DIRECT), await rig.open(), Gate()
    await provider.provide(_quotes(), _answering(gate))
    await rig.until(caller.providers)
    asking = asyncio.create_task(caller.request(CAPABILITY, "{}", source=SOURCE, timeout=2.5))
    await rig.until(lambda: gate.waiting)
    rule = proxy.on("XADD", fault, containing=f":in:{DIRECT}")
    gate.open()
    [reply] = await asking
    await happened(rig, rule)
    assert reply.data == "1"


@needs(lease=3.0)
async def test_calls_are_executed_once_whatever_is_read_twice(rig: Rig, proxy: FaultProxy) -> None:
    """A letter that comes by two ways at once, and overtakes itself, is one execution. [F35]"""
    caller, provider = await rig.open(DIRECT), await rig.open()
    seen: list[str] = []

    async def answer(call: Call) -> CallReply:
        seen.append(call.id)
        return CallReply(data="1")

    await provider.provide(_quotes(), answer)
    await rig.until(caller.providers)
    proxy.on("XREAD", When(Delay(0.1), '"call"'), nth=2, times=None)
    for _ in range(long(3, 30)):
        await together([caller.request(CAPABILITY, "{}", source=SOURCE, timeout=2.5) for _ in range(20)])
    await rig.pause()
    assert len(seen) == len(set(seen)) == long(3, 30) * 20


def _quotes() -> ProviderSpec:
    return ProviderSpec(capability=CAPABILITY, plugin_id="shop", provider="quote")


def _answering(gate: Gate) -> Callable[[Call], Awaitable[CallReply]]:
    async def provide(call: Call) -> CallReply:
        await gate()
        return CallReply(data="1")

    return provide


# --- what is not what was said ------------------------------------------------------------------------------


SHIFTS = (Duplicate(), Drop(), Corrupt(), WrongLength(1), WrongLength(-1))
"""Ways in which a reply is not the one to its command, or none at all."""


@pytest.mark.usefixtures("fast_links")
@pytest.mark.parametrize("where", [appends, reads, settles], ids=["publish", "fetch", "settle"])
@fails_on_naive
@needs(lease=5.0)
async def test_shifted_replies(rig: Rig, server: Server, proxy: FaultProxy, where: Choice) -> None:
    """Replies twice, missing or malformed end their connection; no wrong value reaches anybody. [B19, F31]"""
    bus = await rig.open()
    probe, numbers = await rig.on(bus, concurrency=2), itertools.count()
    for fault in SHIFTS:
        broken: list[Connection] = []
        rule = proxy.on(None, fault, where=_noting(where, broken))
        await _publish_until(rig, bus, numbers, rule)
        for _ in range(3):
            await rig.publish(bus, next(numbers), key="k")
        await _until_over(rig, broken[-1])
    count = next(numbers)
    await rig.until(lambda: len(_handled(rig)) == count)
    await rig.until(lambda: pending(server) == 0)
    assert stored(server) == count
    assert probe.numbers == list(range(count))
    rig.judge()


async def _until_over(rig: Rig, connection: Connection) -> None:
    await rig.until(lambda: connection.is_over or connection.ended.is_so, "the connection to end")


def _noting(where: Choice, found: list[Connection]) -> Choice:
    """`where`, which notes the connection."""

    def choose(exchange: Exchange) -> bool:
        if where(exchange):
            found.append(exchange.connection)
            return True
        return False

    return choose


@pytest.mark.parametrize("within", ['"n": 7', "orders.item", "partitionkey", "conformance"])
@needs(lease=5.0)
async def test_a_byte_flipped_on_the_wire(rig: Rig, server: Server, proxy: FaultProxy, within: str) -> None:
    """An event that was changed on its way is read again, and handled as it was published. [B18]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus, None, "orders.item")
    rule = proxy.on(None, When(FlipByte(within), '"n": 7'), where=reads, times=None)
    await rig.publish(publisher, *range(10), key="k")
    await happened(rig, rule)
    await rig.quiet(bus)
    assert probe.numbers == list(range(10))
    assert await bus.count_dead_letters() == 0
    assert pending(server) == 0
    rig.judge()


@needs(lease=5.0)
async def test_a_byte_flipped_in_the_name_of_an_entry(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """An entry whose name was changed on its way is acknowledged under its own, and handled once. [B18]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    await rig.publish(publisher, 0, key="k")
    await rig.quiet(bus)
    rule = proxy.on(None, _FlipName(), where=reads, times=None)
    await rig.publish(publisher, *range(1, 6), key="k")
    await happened(rig, rule)
    await rig.quiet(bus)
    assert probe.numbers == list(range(6))
    assert pending(server) == 0
    rig.judge()


class _FlipName(Fault):
    """The last byte of the name of the first entry in the first reply that has one is another."""

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        rule = exchange.rule
        found = re.search(rb"\d{13}-\d+", raw)
        if rule is None or not rule.is_active or found is None:
            await exchange.deliver(raw)
            return
        rule.remove()
        await exchange.deliver(
            raw[: found.end() - 1] + bytes([raw[found.end() - 1] ^ 1]) + raw[found.end() :]
        )
        exchange.fire()


@needs(lease=5.0)
async def test_bytes_that_stay_flipped(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """What is changed again when it is read again is a dead letter, `checksum`; the next is handled. [B18]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    first = proxy.on(None, When(FlipByte('"n": 7'), '"n": 7'), where=reads, times=None)
    second = proxy.on(None, FlipByte('"n": 7'), where=calls("range"))
    await rig.publish(publisher, *range(10), key="k")
    await happened(rig, first)
    await rig.quiet(bus)
    assert second.fired.is_so
    assert probe.numbers == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    [letter] = await bus.dead_letters()
    assert (letter.reason, letter.group) == ("checksum", "shop.handle")
    assert pending(server) == 0


@needs(lease=5.0)
async def test_a_byte_flipped_while_it_is_published(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """What reached Redis changed is a dead letter, `checksum`, with its bytes; the next is handled. [B18]"""
    bus = await rig.open()
    probe = await rig.on(bus)
    proxy.on(None, FlipByte('"n": 7', in_request=True), where=appends, containing='"n": 7')
    await rig.publish(bus, *range(10), key="k")
    await rig.quiet(bus)
    assert probe.numbers == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    [letter] = await bus.dead_letters()
    assert letter.reason == "checksum"
    assert '"n": 6' in str(letter.data)
    assert pending(server) == 0


# --- scripts that the server has forgotten ------------------------------------------------------------------


@needs(lease=2.0, partitions=2)
async def test_scripts_flushed_all_the_time(
    rig: Rig, server: Server, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """SCRIPT FLUSH again and again: nothing lost, doubled or out of order, no word in the log. [NOSCRIPT]

    In the long form each second for a minute.
    """
    bus, publisher = await rig.open(), await rig.open("b")
    failing = RetryPolicy(attempts=3, first_delay=0.01)
    await rig.on(bus, lambda n, attempt: fail_if(n % 5 == 0 and attempt == 1), concurrency=4, retry=failing)
    caplog.clear()
    numbers = itertools.count()
    sending = asyncio.create_task(_keep_publishing(rig, publisher, numbers))
    for _ in range(long(20, 60)):
        await asyncio.sleep(long(1, 20) / 20)
        server.command("SCRIPT", "FLUSH")
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await rig.quiet(bus)
    said = [one for one in caplog.records if one.levelno >= logging.WARNING and "attempt" not in one.msg]
    assert said == []
    assert pending(server) == 0
    rig.judge()


@pytest.mark.parametrize("then", [None, CutBefore(), CutAfter()], ids=["alone", "cut before", "cut after"])
@needs(lease=2.0, partitions=4)
async def test_scripts_flushed_within_a_pipeline(
    rig: Rig, server: Server, proxy: FaultProxy, then: Fault | None
) -> None:
    """Scripts forgotten between two calls of one write, and the repetition cut: no matter. [NOSCRIPT]

    What fails is settled by a script, and the first fetches of a connection are scripts.
    """
    bus = await rig.open()
    failing = RetryPolicy(first_delay=0.05, max_delay=0.05)
    probe = await rig.on(
        bus, lambda n, attempt: fail_if(n % 2 == 0 and attempt == 1), concurrency=4, retry=failing
    )
    await rig.publish(bus, *range(8))
    await rig.quiet(bus)
    for name in ("publish", "fetch", "settle"):
        again = None if then is None else proxy.on("EVAL", then, where=calls(name))
        rule = proxy.on(None, Hold(), where=calls(name), nth=1 if name == "fetch" else 2)
        if name == "fetch":
            proxy.cut()
        sending = asyncio.create_task(_publish_all(rig, bus, range(40)))
        await happened(rig, rule)
        server.command("SCRIPT", "FLUSH")
        rule.release()
        await sending
        await rig.quiet(bus)
        assert again is None or again.fired.is_so
        load_scripts(server)
    assert stored(server) == 8 + 3 * 40
    assert pending(server) == 0
    assert len(probe.done) == 8 + 3 * 40
    rig.judge()


async def _publish_all(rig: Rig, bus: EventBus, numbers: Iterable[int]) -> None:
    """At once, so in one write, to all partitions."""
    async with asyncio.TaskGroup() as group:
        for n in numbers:
            group.create_task(rig.publish(bus, n, key=f"k{n % 9}"))


# --- errors that stay ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["wrong type", "not permitted"])
@fails_on_naive
@needs(lease=3.0)
async def test_no_hot_loop_on_an_error_that_stays(
    rig: Rig, server: Server, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """While Redis refuses to be read it is asked at a measured pace, and that is said once a second. [F9]"""
    await _stay_calm(rig, server, proxy, caplog, trouble)


@pytest.mark.parametrize("trouble", ["no password", "always cut"])
@needs(lease=3.0)
async def test_no_hot_loop_while_connections_end(
    rig: Rig, server: Server, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """While no connection holds, they are made at a measured pace, and that is said once a second. [F9]"""
    await _stay_calm(rig, server, proxy, caplog, trouble)


async def _stay_calm(
    rig: Rig, server: Server, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """How much is sent and said while there is trouble, and that work goes on behind it."""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    await rig.publish(publisher, 0, key="k")
    await rig.until(lambda: 0 in probe.done)
    await rig.until(lambda: pending(server) == 0)
    with _Trouble(trouble, server, proxy):
        await rig.pause()
        caplog.clear()
        sent, accepted = sum(proxy.sent.values()), proxy.accepted
        await asyncio.sleep(PACE_TIME)
        sent, accepted = sum(proxy.sent.values()) - sent, proxy.accepted - accepted
        said = Counter(one.msg for one in caplog.records if one.levelno >= logging.WARNING)
    assert sent / PACE_TIME <= PACE
    assert accepted / PACE_TIME <= PACE / 4
    assert all(count <= PACE_TIME + 1 for count in said.values()), said
    began = now()
    if trouble == "wrong type":
        await rig.pause()  # until it has been made anew
    await rig.publish(publisher, 1, key="k")
    await rig.until(lambda: 1 in probe.done)
    assert now() - began < 3.0


PACE = 60
"""Commands a second that one bus may send while it is refused: a hot loop sends thousands."""
PACE_TIME = 1.0


class _Trouble:
    """An error that stays until it is taken away."""

    def __init__(self, kind: str, server: Server, proxy: FaultProxy) -> None:
        self._begin, self._end = {
            "wrong type": (self._spoil, self._unspoil),
            "not permitted": (self._forbid, self._permit),
            "no password": (self._lock, self._unlock),
            "always cut": (self._cut, self._leave),
        }[kind]
        self._server, self._proxy = server, proxy

    def __enter__(self) -> None:
        self._begin()

    def __exit__(self, *exc: object) -> None:
        self._end()

    def _spoil(self) -> None:
        [self._key] = [key for key in streams(self._server) if b"orders" in key]
        self._server.command("DEL", self._key)
        self._server.command("SET", self._key, "something else")

    def _unspoil(self) -> None:
        self._server.command("DEL", self._key)

    def _forbid(self) -> None:
        self._server.command("ACL", "SETUSER", "default", "-xreadgroup")
        self._key = streams(self._server)[0]
        self._wake()

    def _permit(self) -> None:
        self._server.command("ACL", "SETUSER", "default", "+@all")

    def _wake(self) -> None:
        """Have it want to read."""
        self._server.command("XADD", self._key, "*", "t", "others.item@1", "h", "{}", "d", "{}", "b", "")

    def _lock(self) -> None:
        self._server.command("CONFIG", "SET", "requirepass", "secret")
        with self._server.client(password="secret") as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def _unlock(self) -> None:
        with self._server.client(password="secret") as client:
            client.execute_command("CONFIG", "SET", "requirepass", "")

    def _cut(self) -> None:
        self._rule = self._proxy.on(
            None, CutBefore(), where=lambda exchange: settles(exchange) or reads(exchange), times=None
        )
        self._key = streams(self._server)[0]
        self._wake()

    def _leave(self) -> None:
        self._rule.remove()
