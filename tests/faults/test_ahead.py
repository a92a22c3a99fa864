"""What comes with the news that it is there is handled while it is fetched.

Whatever becomes of that fetch: it is started once, and in the end nothing of it is pending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from fault_tools.faults import CutAfter, CutBefore, Delay, Fault, Hold, Refuse
from fault_tools.network import (
    DIRECT,
    begun,
    goes_on,
    happened,
    one_by_one,
    pending,
    reads,
    renamed,
    settled,
    settles,
    streams,
    until_done,
)  # fmt: skip
from fault_tools.proxy import Exchange, FaultProxy
from fault_tools.servers import Server
from fault_tools.storage_systems import Store

from bus.conformance.backend import needs
from bus.conformance.probe import Gate
from bus.conformance.rig import Rig
from contracts.bus import EventBus
from contracts.event import EventResult

CUTS = pytest.mark.parametrize("fault", [CutBefore, CutAfter])


@pytest.fixture
async def pair(rig: Rig, proxy: FaultProxy) -> tuple[EventBus, EventBus]:
    """Who handles, behind the proxy, and hears of what is new by the bell; who publishes."""
    return await rig.open(), await rig.open(DIRECT)


@needs(lease=2.0)
async def test_the_handler_does_not_wait_for_the_fetch(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server, proxy: FaultProxy
) -> None:
    probe = await begun(rig, *pair)
    for n in range(1, 4):
        held = proxy.on(None, Hold(), where=reads)
        await rig.publish(pair[1], n)
        await until_done(rig, probe, n)
        assert held.fired.is_so  # it was sent before the handler has begun
        assert pending(server) == 0
        held.release()
        await settled(rig, server, pair[1])
    assert probe.numbers == [0, 1, 2, 3]


@needs(lease=2.0)
@CUTS
@pytest.mark.parametrize("of", [reads, settles], ids=["fetch", "settlement"])
async def test_a_connection_that_is_cut_starts_nothing_twice(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server, proxy: FaultProxy, fault: type[Fault],
    of: Callable[..., bool],
) -> None:  # fmt: skip
    """Though it may be settled before it was pending, and that settles nothing."""
    probe = await begun(rig, *pair)
    cut = proxy.on(None, fault(), where=of)
    await rig.publish(pair[1], 1)
    await happened(rig, cut)
    await until_done(rig, probe, 1)
    await goes_on(rig, server, pair[1], probe, 2)


@needs(lease=2.0)
@pytest.mark.parametrize("first", [CutBefore(), Refuse("ERR not now")], ids=["cut", "refused"])
async def test_one_fault_after_the_other_starts_nothing_twice(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server, proxy: FaultProxy, first: Fault
) -> None:
    """It is settled before it was pending; then a fetch makes it so, and its answer is lost as well."""
    probe = await begun(rig, *pair)
    faults = [proxy.on(None, fault, where=reads) for fault in (first, CutAfter())]
    await rig.publish(pair[1], 1)
    for fault in faults:
        await happened(rig, fault)
    await goes_on(rig, server, pair[1], probe, 2)


@needs(lease=2.0)
@CUTS
async def test_a_handler_that_is_at_work_when_it_is_cut_goes_on(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server, proxy: FaultProxy, fault: type[Fault]
) -> None:
    gate = Gate()
    probe = await begun(rig, *pair, lambda n, attempt: gate() if n == 1 else None)
    cut = proxy.on(None, fault(), where=reads)
    await rig.publish(pair[1], 1)
    await happened(rig, cut)
    await rig.until(lambda: gate.waiting)
    await rig.publish(pair[1], 2)
    await rig.until(lambda: pending(server) == 2)
    gate.open()
    await until_done(rig, probe, 1, 2)
    await settled(rig, server, pair[1])
    assert probe.numbers == [0, 1, 2]


@needs(lease=2.0)
@CUTS
async def test_what_waits_or_is_dead_does_so_once(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server, proxy: FaultProxy, fault: type[Fault]
) -> None:
    """Its settlement says more than that it was handled, and comes before it is pending all the same."""

    def act(n: int, attempt: int) -> EventResult | None:
        if n == 1:
            return EventResult.dead_letter("no good")
        return EventResult.retry("not yet", after=rig.tick * 5) if n == 2 and attempt == 1 else None

    probe = await begun(rig, *pair, act)
    for n in (1, 2):
        cut = proxy.on(None, fault(), where=reads)
        await rig.publish(pair[1], n)
        await happened(rig, cut)
        await rig.until(lambda n=n: n in probe.numbers)
        await rig.quiet(pair[1])
    await settled(rig, server, pair[1])
    assert probe.starts == [(0, 1), (1, 1), (2, 1), (2, 2)]
    assert [letter.envelope.id for letter in await pair[1].dead_letters()] == [probe.events[1].id]


class _Renamed(Fault):
    """The name of the first entry is changed on its way; and it comes late."""

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        exchange.fire()
        await exchange.released(None)
        await exchange.deliver(renamed(raw))


@needs(lease=2.0)
@pytest.mark.parametrize("has_ended", [True, False])
async def test_its_fetch_brings_it_under_another_name(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server, proxy: FaultProxy, has_ended: bool
) -> None:
    """Though it is the name of the next: it is the same, and is not started again."""
    gate = Gate()
    probe = await begun(rig, *pair, lambda n, attempt: None if has_ended or n == 0 else gate())
    renamed = proxy.on(None, _Renamed(), where=reads)  # the second event is said to be the third
    await rig.publish(pair[1], 1)
    await rig.until(lambda: renamed.fired.is_so and 1 in (probe.done if has_ended else probe.numbers))
    renamed.release()
    await rig.pause()
    gate.open()
    await rig.publish(pair[1], 2)
    await until_done(rig, probe, 1, 2)
    await settled(rig, server, pair[1])
    assert probe.numbers == [0, 1, 2]


@needs(lease=2.0)
async def test_nothing_is_started_before_its_fetch_is_sent(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server, proxy: FaultProxy
) -> None:
    """An answer is awaited first: who dies meanwhile has started nothing that is not pending."""
    probe = await begun(rig, *pair)
    held = proxy.on(None, Hold(), where=settles)
    await rig.publish(pair[1], 1)
    await happened(rig, held)
    await rig.publish(pair[1], 2)
    await rig.pause()
    assert probe.numbers == [0, 1]
    held.release()
    await until_done(rig, probe, 2)
    await settled(rig, server, pair[1])


@needs(lease=2.0)
@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("has_ended", [True, False])
async def test_who_leaves_hands_on_only_what_was_not_handled(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server, proxy: FaultProxy,
    is_cut: bool, has_ended: bool,
) -> None:  # fmt: skip
    """Though the fetch has not come yet, or is lost: it is pending first, and then settled."""
    gate = Gate()
    probe = await begun(rig, *pair, lambda n, attempt: None if has_ended or n == 0 else gate())
    held = proxy.on(None, Hold(), where=reads)
    await rig.publish(pair[1], 1)
    await rig.until(lambda: 1 in probe.numbers)
    leaving = asyncio.create_task(probe.subscription.drain(rig.tick))
    await rig.pause()
    if is_cut:
        for exchange in held.taken:
            exchange.cut()
    held.release()
    assert await leaving is has_ended
    next = await rig.on(await rig.open(f"{DIRECT}2"))
    await rig.publish(pair[1], 2)
    await until_done(rig, next, 2)
    await settled(rig, server, pair[1], repeats=not has_ended)
    assert (probe.numbers, next.numbers) == ([0, 1], [2] if has_ended else [1, 2])


@needs(lease=2.0)
@pytest.mark.parametrize("second", [CutBefore(), CutAfter(), Refuse("LOADING wait")], ids=type)
async def test_who_leaves_while_one_fault_follows_the_other(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server, proxy: FaultProxy, second: Fault
) -> None:
    probe = await begun(rig, *pair)
    held = proxy.on(None, Hold(), where=reads)
    await rig.publish(pair[1], 1)
    await until_done(rig, probe, 1)
    again = proxy.on(None, second, where=reads)
    leaving = asyncio.create_task(probe.subscription.drain(rig.tick))
    await rig.pause()
    for exchange in held.taken:
        exchange.cut()
    held.release()
    assert await leaving
    assert again.fired.is_so
    next = await rig.on(await rig.open(f"{DIRECT}2"))
    await rig.publish(pair[1], 2)
    await until_done(rig, next, 2)
    await settled(rig, server, pair[1])
    assert (probe.numbers, next.numbers) == ([0, 1], [2])


@needs(lease=1.0)
async def test_what_is_handled_by_who_dies_before_the_fetch_is_handled_by_the_next(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server, proxy: FaultProxy
) -> None:
    gate = Gate()
    probe = await begun(rig, *pair, lambda n, attempt: gate() if n == 1 else None)
    held = proxy.on(None, Hold(), where=reads, times=None)
    await rig.publish(pair[1], 1)
    await rig.until(lambda: gate.waiting)
    await rig.crash(pair[0])
    for exchange in held.taken:
        exchange.cut()
    next = await rig.on(pair[1])
    await until_done(rig, next, 1)
    await rig.quiet(pair[1])
    assert (probe.numbers, next.numbers) == ([0, 1], [1])
    assert pending(server) == 0
    rig.judge(repeats=1)


@needs(lease=1.0)
async def test_who_was_away_too_long_starts_nothing_that_the_news_have_brought(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server
) -> None:
    """The bell was answered, and read when its partitions were others' already."""
    bus, other = pair
    probe = await begun(rig, *pair)
    next = await rig.on(other)
    await rig.publish(other, 1)
    await until_done(rig, probe, 1)
    rig.suspend(bus)
    await rig.publish(other, 2)
    await until_done(rig, next, 2)
    rig.wake(bus)
    await rig.publish(other, 3)
    await rig.until(lambda: 3 in probe.done + next.done)
    await settled(rig, server, other)
    assert 2 not in probe.numbers


@needs(lease=2.0)
async def test_strangers_between_hold_nothing_up(
    rig: Rig, pair: tuple[EventBus, EventBus], store: Store, server: Server
) -> None:
    probe = await begun(rig, *pair)
    for n in range(1, 6):
        server.command("XADD", store.stream("orders"), "*", "what", "ever")
        await rig.publish(pair[1], n)
    await until_done(rig, probe, *range(1, 6))

    async def are_dead() -> bool:
        return len(await pair[1].dead_letters()) == 5

    await rig.until(are_dead)
    await settled(rig, server, pair[1])
    assert probe.numbers == list(range(6))


@needs(lease=2.0)
@pytest.mark.parametrize("harm", ["deleted", "trimmed", "group", "stream"])
async def test_what_is_gone_before_the_fetch_holds_nothing_up(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server, proxy: FaultProxy, harm: str
) -> None:
    probe = await begun(rig, *pair)
    held = proxy.on(None, Hold(), where=reads)
    await rig.publish(pair[1], 1)
    await until_done(rig, probe, 1)
    with server.client() as client:
        for key in streams(server):
            if harm == "deleted":
                client.xdel(key, *(name for name, _ in client.xrange(key)))
            elif harm == "trimmed":
                client.xtrim(key, maxlen=0, approximate=False)
            elif harm == "group":
                client.xgroup_destroy(key, "shop.handle")
            else:
                client.delete(key)
    if harm in ("deleted", "trimmed"):
        await rig.publish(pair[1], 2)  # so that the fetch brings that
        held.release()
    else:
        held.release()
        await rig.publish(pair[1], 2)
    await until_done(rig, probe, 2)
    await rig.quiet(pair[1])
    await rig.until(lambda: pending(server) == 0)
    assert probe.numbers == [0, 1, 2]


@needs(lease=2.0)
async def test_what_the_server_will_not_hand_over_is_settled_when_it_does(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server, proxy: FaultProxy
) -> None:
    probe = await begun(rig, *pair)
    refused = proxy.on(None, Refuse("ERR not now"), where=reads, times=3)
    await rig.publish(pair[1], 1)
    await until_done(rig, probe, 1)
    await rig.until(lambda: refused.count == 3)
    await rig.publish(pair[1], 2)
    await until_done(rig, probe, 2)
    await settled(rig, server, pair[1])
    assert probe.numbers == [0, 1, 2]


@needs(lease=2.0)
async def test_a_broadcast_comes_once(rig: Rig, pair: tuple[EventBus, EventBus], proxy: FaultProxy) -> None:
    """Nothing of it is pending, but it is read behind the news all the same."""
    probe = await begun(rig, *pair, broadcast=True)
    await one_by_one(rig, pair[1], probe, *range(1, 20))
    await rig.pause()
    assert probe.numbers == list(range(20))


@needs(lease=2.0)
async def test_the_order_of_a_key_holds(
    rig: Rig, pair: tuple[EventBus, EventBus], server: Server, proxy: FaultProxy
) -> None:
    """What is fetched meanwhile comes behind what was handed on."""
    probe = await begun(rig, *pair, concurrency=4)
    for n in range(1, 60, 6):
        late = proxy.on(None, Delay(), where=reads)
        for each in range(n, n + 6):
            await rig.publish(pair[1], each, key=f"k{each % 2}")
        late.release()
        await until_done(rig, probe, n + 5)
    await until_done(rig, probe, *range(1, 60))
    await settled(rig, server, pair[1])
    assert sorted(probe.numbers) == list(range(61))
