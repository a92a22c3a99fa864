"""What the network does to the bus: replies lost, late or twice; connections cut and half-open."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator
from typing import cast

import psutil
import pytest
from fault_tools.faults import CutAfter, CutBefore, CutWaiting, CutWithin, Delay, Fault, Hold, Refuse, Stall
from fault_tools.form import long
from fault_tools.network import (
    DIRECT,
    ProxiedNaiveBackend,
    When,
    appends,
    arrived,
    clients,
    entries_asked_for,
    fails_on_naive,
    handled,
    happened,
    keep_publishing,
    pending,
    publish_all,
    publish_until,
    reads,
    settles,
    stored,
    until_done,
)
from fault_tools.proxy import Exchange, FaultProxy
from fault_tools.servers import Server
from naive_redis import NaiveRedisBus

from bus.conformance.backend import needs
from bus.conformance.probe import Gate
from bus.conformance.rig import Item, Rig, now
from bus.redis_streams import link
from contracts.bus import EventBus, SubscriptionSpec
from contracts.errors import BusClosed, PublishUnknown
from contracts.event import Event, EventData, EventResult
from contracts.message import PluginEvent

SOON = 1.0
"""Seconds after a reconnection within which what was interrupted goes on."""
SOURCE = "/faults"


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


@pytest.mark.parametrize("end", ["its deadline", "the bus is closed"])
@pytest.mark.parametrize("refusal", ["BUSY Redis is busy running a script.", "NOPERM this user may not"])
@needs(lease=1.0)
async def test_a_lost_publish_reply_and_then_a_refusal(
    rig: Rig, server: Server, proxy: FaultProxy, refusal: str, end: str
) -> None:
    """The refusal says nothing of the first sending: nobody is told that the event is not there."""
    bus = await rig.open()
    await rig.publish(bus, 0, key="k")
    lost = proxy.on(None, CutAfter(), where=appends)
    refused = proxy.on(None, Refuse(refusal), where=appends, times=None)
    publishing = asyncio.create_task(
        rig.publish(bus, 1, key="k", timeout=1.0 if end == "its deadline" else 60)
    )
    await rig.until(lambda: lost.fired.is_so and refused.fired.is_so)
    if end == "the bus is closed":
        await rig.close(bus, grace=0)
    with pytest.raises(PublishUnknown):
        await publishing
    assert stored(server) == 2


@needs(lease=1.0)
async def test_who_publishes_on_while_a_bus_is_closed_that_was_refused(rig: Rig, proxy: FaultProxy) -> None:
    """It was about to try again a little later: he is told at once."""
    bus, told = await rig.open(), list[type[Exception]]()
    await rig.publish(bus, 0)
    refused = proxy.on(None, Refuse("BUSY Redis is busy running a script."), where=appends, times=None)

    async def publish_on() -> None:
        while len(told) < 100:
            try:
                await bus.publish(Item(n=1), source=SOURCE, timeout=60)
            except (BusClosed, PublishUnknown) as error:
                told.append(type(error))

    publishing = [asyncio.create_task(publish_on()) for _ in range(10)]
    await rig.until(lambda: refused.fired.is_so)
    async with asyncio.timeout(10):
        await rig.close(bus, grace=0)
        await asyncio.gather(*publishing)


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


@needs(lease=2.0, partitions=2)
async def test_a_partition_that_answers_late(rig: Rig, proxy: FaultProxy) -> None:
    """What went out together is confirmed one by one: nobody waits for the answer of another partition."""
    bus = await rig.open()
    keys = dict[str, str]()
    for key in map(str, range(9)):
        [receipt] = await rig.publish(bus, 0, key=key)
        keys.setdefault(receipt.position.partition(":")[0], key)
    soon, late = keys.values()
    before = proxy.on(None, Delay(), where=appends)
    first = asyncio.create_task(rig.publish(bus, 1, key=soon))
    await before.fired  # what follows gathers behind it, and goes out together
    both = [asyncio.create_task(rig.publish(bus, n, key=key)) for n, key in ((2, soon), (3, late))]
    rule = proxy.on(None, Delay(), where=appends, nth=2)
    await rig.pause()
    before.release()
    await asyncio.gather(first, both[0])
    await rule.fired
    assert not both[1].done()
    rule.release()
    await both[1]


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
    rig.judge()


@pytest.mark.parametrize(
    ("id", "former"), [(None, "ended"), ("one", "ended"), ("one", "left")], indirect=["former"],
    ids=["without an id", "with an id", "with an id, executed"],
)  # fmt: skip
@needs(lease=1.0)
async def test_a_first_copy_that_comes_after_the_repetition(
    rig: Rig, server: Server, proxy: FaultProxy, id: str | None, former: str
) -> None:
    """A publish that the network delivers after its own repetition is one event. [B1, F1]"""
    bus = await rig.open()
    probe = await rig.on(bus)
    rule = proxy.on(None, Hold(cut=True), where=appends)
    receipt = await bus.publish(Item(n=1), source=SOURCE, id=id)
    assert rule.fired.is_so
    await arrived(rig, former, rule)
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
        await until_done(rig, probe, *range(n, n + 5))
        assert now() - began < SOON
    await rig.until(lambda: pending(server) == 0)
    rig.judge()


@needs(lease=2.0)
async def test_a_lost_fetch_reply_with_events_that_nobody_wants(
    rig: Rig, server: Server, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """They are not missed when it is looked what there was."""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus, None, "orders.item")
    await rig.publish(publisher, 0)
    await until_done(rig, probe, 0)
    lost = proxy.on(None, CutAfter(), where=reads)
    wanted = rig.publish(publisher, 1)
    await asyncio.gather(*(rig.publish(publisher, n, type="orders.other") for n in (7, 8)), wanted)
    await happened(rig, lost)
    await rig.publish(publisher, 9, type="orders.other")
    await rig.publish(publisher, 2)
    await until_done(rig, probe, 1, 2)
    await rig.until(lambda: pending(server) == 0)
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


@pytest.mark.parametrize("dedupe", [False, True], ids=["plain", "with policies"])
@needs(lease=1.0)
async def test_writing_a_start_down_takes_none_of_its_time(rig: Rig, proxy: FaultProxy, dedupe: bool) -> None:
    """What its owner has left is started when that is written, however late: then the handler has its whole
    timeout, and no more."""
    gone, publisher, left = await rig.open(DIRECT), await rig.open(f"{DIRECT}2"), list[tuple[int, float]]()
    gate, is_cancelled = Gate(), False
    await rig.on(gone, gate, timeout=30.0, dedupe=dedupe, concurrency=3)
    await rig.publish(publisher, 0, 1, 2)
    await rig.until(lambda: gate.waiting == 3)
    await rig.crash(gone)
    proxy.on(None, Delay(1.2), where=settles, times=None)

    async def handle(event: PluginEvent) -> None:
        nonlocal is_cancelled
        assert event.deadline is not None
        number = cast("dict[str, int]", event.data)["n"]
        left.append((number, event.deadline - now()))
        if number == 0 and not is_cancelled:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                is_cancelled = True
                raise

    await rig.subscribe(await rig.open(), handle, timeout=1.0, dedupe=dedupe)
    await rig.until(lambda: is_cancelled and {1, 2} <= {number for number, _ in left})
    assert sorted(number for number, _ in left if number) == [1, 2]
    assert min(seconds for _, seconds in left) > 0.8


@needs(lease=2.0, partitions=8)
async def test_a_backlog_in_many_partitions(rig: Rig, proxy: FaultProxy) -> None:
    """What a turn asks for is bounded over all partitions, and each gets its turn."""
    publisher = await rig.open(DIRECT)
    await (await rig.on(publisher)).subscription.remove()
    await asyncio.gather(*(rig.publish(publisher, n) for n in range(8_000)))
    turns = [0]

    def note(exchange: Exchange) -> bool:
        if exchange.name == "MULTI":
            turns.append(0)
        turns[-1] += entries_asked_for(exchange)
        return False

    proxy.on(None, Delay(), where=note)
    await publisher.close()
    probe = await rig.on(await rig.open())
    await rig.until(lambda: len(probe.done) == 8_000)
    assert 1_000 <= max(turns) < 1_500
    rig.judge()


@needs(lease=2.0)
async def test_a_bell_that_nobody_else_rings(rig: Rig, proxy: FaultProxy) -> None:
    """Who is alone is not woken by what he has published himself; of another he hears as soon as he comes."""
    bus, count = await rig.open(), itertools.count()
    probe = await rig.on(bus)
    await rig.publish(bus, 0)
    await rig.until(lambda: 0 in probe.done)
    proxy.on("XREAD", Delay(), where=lambda exchange: next(count) < 0)
    for n in range(1, 51):
        await rig.publish(bus, n)
        await until_done(rig, probe, n)
    assert next(count) < 25
    other = await rig.open(DIRECT)
    await rig.publish(other, 51)
    await until_done(rig, probe, 51)
    rig.judge()


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
    await rig.until(lambda: pending(server) == 0 and len(handled(rig)) == next(numbers))
    assert now() - began < SOON
    rig.judge()


async def _publish_each(rig: Rig, bus: EventBus, events: list[tuple[int, str]]) -> None:
    for n, key in events:
        await rig.publish(bus, n, key=key)


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
        await until_done(rig, probe, *range(n, n + 5))
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
    await rig.until(lambda: len(handled(rig)) >= 24 - started)
    gate.open()
    proxy.release()
    for n in range(24, 44):
        await rig.publish(other, n, key=f"k{n % 4}")
    await rig.until(lambda: len(handled(rig)) == 44)
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
            await publish_until(rig, publisher, numbers, rule)
            began, n = now(), next(numbers)
            await rig.publish(publisher, n, key="k")
            await until_done(rig, probe, *range(n + 1))
            assert now() - began < SOON
    rig.judge()


def _waits(exchange: Exchange) -> bool:
    """A read that blocks: it has nothing, and waits for news."""
    return exchange.name in {"XREAD", "XREADGROUP"} and b"BLOCK" in (word.upper() for word in exchange.args)


def confirmed(rig: Rig) -> int:
    return sum(record.kind == "confirmed" for record in rig.history)


@needs(lease=2.0, partitions=2)
async def test_a_storm_of_killed_connections(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """`CLIENT KILL` of everybody again and again: nothing lost, connections and files as before. [B36]

    In the long form each second for a minute, in the short one ten times as often; longer where the machine
    is so busy that little has been published by then.
    """
    bus, other = await rig.open("a"), await rig.open("b")
    await rig.on(bus, concurrency=4)
    await rig.on(other, concurrency=4)
    await rig.publish(bus, 0)
    await rig.until(lambda: handled(rig))
    files, before = psutil.Process().num_fds(), len(clients(server))
    numbers = itertools.count(1)
    sending = [asyncio.create_task(keep_publishing(rig, one, numbers)) for one in (bus, other)]
    kills = 0
    while kills < long(20, 60) or confirmed(rig) <= long(50, 500):
        await asyncio.sleep(long(1, 10) / 10)
        server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        kills += 1
        assert kills < long(200, 600)
    for task in sending:
        task.cancel()
    await asyncio.gather(*sending, return_exceptions=True)
    await rig.quiet(bus)
    assert pending(server) == 0
    for one in (bus, other):  # each is opened when it is needed
        await publish_all(rig, one, range(20))
    await rig.quiet(bus)
    assert len(clients(server)) == before == 6
    assert psutil.Process().num_fds() <= files
    rig.judge()


@fails_on_naive
@needs(lease=2.0, partitions=2)
async def test_connections_are_bounded(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """Two hundred publishes at once, connections cut and refused: never more than three of them. [F28]"""
    bus = await rig.open()
    await rig.on(bus, concurrency=4)
    most = 0
    for turn in range(4):
        sending = asyncio.create_task(publish_all(rig, bus, range(turn * 200, turn * 200 + 200)))
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
    rig.judge()


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


# --- the control: how the naive bus fails -------------------------------------------------------------------


PATIENCE = 5.0


@pytest.fixture
async def naive(proxy: FaultProxy) -> AsyncIterator[NaiveRedisBus]:
    bus = NaiveRedisBus(proxy.url, namespace="control", block=100)
    await bus.open()
    yield bus
    await bus.close()


async def test_the_naive_bus_publishes_twice_when_a_reply_is_lost(
    server: Server, proxy: FaultProxy, naive: NaiveRedisBus
) -> None:
    """And says nothing: what a fault test of publishing must find on it."""
    rule = proxy.on("XADD", CutAfter())
    await naive.publish(EventData(type="orders.item", version=1, data="{}"), source="/test", id="once")
    await rule.fired
    assert server.command("XLEN", naive.stream("orders")) == 2


async def test_the_naive_bus_leaves_lying_what_was_read_in_vain(
    server: Server, proxy: FaultProxy, naive: NaiveRedisBus
) -> None:
    """The reply to a read is lost: the next event is handled, the first stays with who has never seen it."""
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def handle(event: PluginEvent) -> None:
        await seen.put(event.id)

    rule = proxy.on("XREADGROUP", CutAfter(), where=lambda exchange: b"orders" in exchange.raw)
    acked = proxy.seen("XACK")
    spec = SubscriptionSpec(group="shop.handle", plugin_id="shop", handler="handle", patterns=("orders.*",))
    event = EventData(type="orders.item", version=1, data="{}")
    await naive.publish(event, source="/test", id="first")
    await naive.subscribe(spec, handle)
    await rule.fired
    await naive.publish(event, source="/test", id="second")
    async with asyncio.timeout(PATIENCE):
        assert await seen.get() == "second"
        await acked
    assert server.command("XPENDING", naive.stream("orders"), "shop.handle")["pending"] == 1
