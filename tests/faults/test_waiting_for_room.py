"""Who waits for room: in which order, how long at most, and what he is told at the end."""

from __future__ import annotations

import asyncio

import pytest
from fault_tools.faults import Delay, Fault, Hold
from fault_tools.network import appends, calls
from fault_tools.proxy import FaultProxy
from fault_tools.storage_systems import Store

from bus.conformance.backend import needs
from bus.conformance.rig import Rig, now
from contracts.bus import EventBus
from contracts.errors import BusClosed, BusFull, PublishUnknown
from contracts.event import Receipt


async def one_waits(
    rig: Rig, proxy: FaultProxy, *, timeout: float
) -> tuple[EventBus, asyncio.Task[list[Receipt]]]:
    """A topic with a limit of two, held by a group; and who publishes a third event, 2, and was refused."""
    bus = await rig.open()
    await bus.declare_group(rig.spec())
    await rig.publish(bus, 0, 1)
    full = proxy.on(None, Fault(), where=appends)
    waiting = asyncio.create_task(rig.publish(bus, 2, timeout=timeout))
    await rig.until(lambda: full.fired.is_so)
    await rig.pause()
    return bus, waiting


@needs(limit=4, retain=1, retain_seconds=0.1, young_seconds=0, lease=2.0)
async def test_who_was_next_when_it_was_full_is_not_overtaken(rig: Rig, proxy: FaultProxy) -> None:
    """He stands behind those whom Redis has refused, and before who comes later."""
    bus = await rig.open()
    await bus.declare_group(rig.spec())
    await rig.publish(bus, 0, 1, 2, 3, key="k")
    refused = proxy.on(None, Delay(), where=appends)
    sent = [asyncio.create_task(rig.publish(bus, 4, key="k"))]
    await rig.until(lambda: refused.fired.is_so)
    sent.append(asyncio.create_task(rig.publish(bus, 5, key="k")))  # it gathers for the next flush
    await rig.pause()
    following = proxy.on(None, Delay(), where=appends)
    refused.release()
    await rig.pause()
    sent.append(asyncio.create_task(rig.publish(bus, 6, key="k")))
    await rig.pause()
    following.release()
    probe = await rig.on(bus)
    await asyncio.gather(*sent)
    await rig.until(lambda: len(probe.done) == 7)
    assert probe.done == list(range(7))
    rig.judge()


@needs(limit=2, retain=1, retain_seconds=0.1, young_seconds=0, lease=2.0)
async def test_a_handler_does_not_wait_past_its_deadline_for_room(rig: Rig, proxy: FaultProxy) -> None:
    """Nor where nobody answers whether there is any."""
    bus, errors = await rig.open(), list[Exception]()
    await bus.declare_group(rig.spec(group="shop.lagging"))
    rule = proxy.on(None, Hold(), where=calls("trim"), times=None)

    async def act(n: int, _: int) -> None:
        try:
            await rig.publish(bus, *range(1, 5) if n == 0 else (), timeout=0.3)
        except BusFull as error:
            errors.append(error)

    await rig.on(bus, act)
    began = now()
    await rig.publish(bus, 0)
    await rig.until(lambda: errors)
    assert now() - began < 2.0
    assert rule.taken


@needs(limit=2, retain=1, retain_seconds=0.1, young_seconds=0, lease=2.0)
async def test_who_found_room_in_the_end_and_was_not_told(rig: Rig, store: Store, proxy: FaultProxy) -> None:
    """His event may be there: he is not told that the topic is full."""
    bus, waiting = await one_waits(rig, proxy, timeout=1.0)
    again = proxy.on(None, Delay(), where=appends)
    await bus.drop_group("shop.handle")
    with pytest.raises(PublishUnknown):
        await waiting
    assert again.fired.is_so
    assert store.server.command("HGET", store.keys.numbers("orders", 0), "n") == b"3"
    rig.groups.clear()


@needs(limit=2, retain=1, retain_seconds=0.1, young_seconds=0, lease=2.0)
async def test_who_waits_for_room_is_told_that_the_bus_is_closed(rig: Rig) -> None:
    bus = await rig.open()
    await bus.declare_group(rig.spec())
    await rig.publish(bus, 0, 1)
    waiting = asyncio.create_task(rig.publish(bus, 2, timeout=60))
    await rig.pause()
    await rig.close(bus, grace=0)
    with pytest.raises(BusClosed):
        await waiting


@needs(limit=2, retain=1, retain_seconds=0.1, young_seconds=0, lease=2.0)
async def test_who_may_have_found_room_when_the_bus_is_closed(rig: Rig, proxy: FaultProxy) -> None:
    """His event may be there; that of who comes behind him is not."""
    bus, first = await one_waits(rig, proxy, timeout=60)
    again = proxy.on(None, Hold(), where=lambda exchange: any(arg.endswith(b"-2") for arg in exchange.args))
    await bus.drop_group("shop.handle")
    await rig.until(lambda: again.fired.is_so)
    behind = asyncio.create_task(rig.publish(bus, 3, timeout=60))
    await rig.pause()
    await rig.close(bus, grace=0)
    with pytest.raises(PublishUnknown):
        await first
    with pytest.raises(BusClosed):
        await behind
    again.release()
    rig.groups.clear()
