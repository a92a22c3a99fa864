"""What the network does to the bus: replies that are lost, late, twice or changed; connections that are cut."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest
from fault_tools.faults import (
    Answer,
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
    Trickle,
    WrongLength,
)
from fault_tools.network import (
    DIRECT,
    ProxiedNaiveBackend,
    When,
    appends,
    backend_for,
    calls,
    clients,
    commands,
    fails_on_naive,
    load_scripts,
    long,
    pending,
    reads,
    settles,
    stored,
)
from fault_tools.proxy import Connection, Exchange, FaultProxy
from fault_tools.servers import Server

from bus.conformance import limits_for
from bus.conformance.backend import needs
from bus.conformance.probe import Gate, Probe, fail_if
from bus.conformance.rig import Item, Rig, now, together
from bus.redis_streams import link
from contracts.bus import Call, CallReply, EventBus, ProviderSpec, RetryPolicy
from contracts.errors import PublishUnknown
from contracts.event import EventData, EventResult
from contracts.message import PluginEvent

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


# --- publishing -----------------------------------------------------------------------------------------------


LOSSES = (CutAfter(), CutAfter(reset=True), CutWithin(), CutWithin(1))
"""Ways in which a reply is lost: with FIN, with RST, and in its midst."""


@fails_on_naive
@needs(lease=1.0)
async def test_a_lost_publish_reply(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """A publish whose reply is lost confirms once, and is one event, whether it was given an id or not. [B1, F1]"""
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
    """While Redis stays away a publish ends in `PublishUnknown` at its deadline, and is safe to repeat. [B2]"""
    bus = await rig.open()
    probe = await rig.on(bus)
    rule = proxy.on(None, fault, where=appends)
    began = now()
    publishing = asyncio.create_task(rig.publish(bus, 1, id="one", timeout=0.5))
    await rule.fired
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
    """A publish that the network holds back, and delivers after its repetition, is one event. [B1, F1, BUS 4]"""
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


# --- reading ----------------------------------------------------------------------------------------------------


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
        await rule.fired
        began = now()
        await rig.until(lambda n=n: set(range(n, n + 5)) <= set(probe.done))
        assert now() - began < SOON
    await rig.until(lambda: pending(server) == 0)
    rig.judge()


@fails_on_naive
@needs(lease=2.0)
async def test_a_reader_that_goes_while_deliveries_come(
    rig: Rig, server: Server, proxy: FaultProxy
) -> None:
    """A subscription removed while its deliveries are on their way loses none, and leaves none behind. [B4, F3]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    await rig.publish(publisher, 0, key="k")
    await rig.until(lambda: 0 in probe.done)
    rule = proxy.on(None, When(Delay(), '"n": '), where=reads, times=None)
    await rig.publish(publisher, *range(1, 6), key="k")
    await rule.fired
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
    """Subscriptions removed and made anew, and bells cut, while events arrive: nothing lost or left over. [B4, F3]

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
    """Connections that neither deliver nor end are replaced: at most two seconds after what they wait for. [B5, F5]

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
        await rule.fired
        began = now()
        await rig.until(lambda n=n: n + 4 in probe.done)
        assert now() - began < link.STALL + 2.0
        rule.release()
    await rig.until(lambda: pending(server) == 0)
    rig.judge()


@pytest.mark.usefixtures("fast_links")
@needs(lease=1.0, partitions=2)
async def test_a_network_that_stands_still_and_goes_on(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """A network that keeps everything back for longer than the lease, and then delivers it, loses nothing. [B5]

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
    """Waiting on an idle stream never breaks a connection, however long; then events come at once. [F4]

    In the short form the timeouts are shorter, and the naive client's is told in its URL.
    """
    if isinstance(rig.backend, ProxiedNaiveBackend):
        rig.backend.block, rig.backend.query = 4_000, "?socket_timeout=1"
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    await rig.publish(publisher, 0)
    await rig.until(lambda: 0 in probe.done)
    accepted, reconnected = proxy.accepted, 0
    await asyncio.sleep(long(3, 60) * link.BLOCK)
    reconnected = proxy.accepted - accepted
    began = now()
    await rig.publish(publisher, 1)
    await rig.until(lambda: 1 in probe.done)
    assert now() - began < rig.tick * 4
    assert reconnected == 0


# --- connections that are cut -----------------------------------------------------------------------------------


@fails_on_naive
@needs(lease=4.0)
async def test_consuming_goes_on_after_every_cut(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """Whichever connection is cut at whichever of its commands, events are handled within a second. [F6]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    await rig.publish(publisher, 0, key="k")
    await rig.until(lambda: 0 in probe.done)
    numbers = itertools.count(1)
    for where in (reads, settles, calls("beat"), _blocks):
        for fault in (CutBefore(), CutAfter(), CutAfter(reset=True)):
            rule = proxy.on(None, fault, where=where)
            n = next(numbers)
            sent = await _publish_until(rig, publisher, numbers, rule.fired.is_so.__bool__, rule)
            began = now()
            await rig.until(lambda n=n, sent=sent: set(range(n, n + sent)) <= set(probe.done))
            assert now() - began < SOON
    rig.judge()
