"""Who is alone looks for himself, and what he has published he finds without the bell.

The bell listens so late here that what only it could bring does not come in time.
"""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from fault_tools.faults import Delay
from fault_tools.network import begun, calls, entries_asked_for, happened, one_by_one, reads, until_done
from fault_tools.proxy import Exchange, FaultProxy
from fault_tools.servers import Server
from fault_tools.storage_systems import Store

from bus.conformance.backend import needs
from bus.conformance.probe import Probe
from bus.conformance.rig import Rig
from bus.redis_streams import bell

pytestmark = pytest.mark.usefixtures("late_bell")


@needs(lease=2.0)
async def test_a_forgotten_script_delays_nobody(rig: Rig, server: Server) -> None:
    """It is sent a second time, behind the fetch that was to bring what it publishes."""
    bus = await rig.open()
    probe = await begun(rig, bus)
    for n in range(1, 5):
        server.command("SCRIPT", "FLUSH")
        await rig.publish(bus, n)
        await until_done(rig, probe, n)
    rig.judge()


@needs(lease=2.0)
async def test_what_comes_while_something_unreadable_is_read_again(
    rig: Rig, store: Store, proxy: FaultProxy
) -> None:
    bus = await rig.open()
    probe = await begun(rig, bus)
    store.server.command("XADD", store.stream("orders"), "*", "what", "ever")
    again = proxy.on(None, Delay(), where=calls("range"))
    await rig.publish(bus, 1)
    await happened(rig, again)
    more = asyncio.create_task(rig.publish(bus, 2))
    await rig.until(lambda: store.length("orders") == 4)
    again.release()
    await more
    await until_done(rig, probe, 1)
    await until_done(rig, probe, 2)


@pytest.mark.usefixtures("fetches_apart")
@needs(lease=2.0)
async def test_a_fetch_grows_only_where_it_was_full(rig: Rig, proxy: FaultProxy) -> None:
    """Not where another follows because it may have come too early."""
    bus = await rig.open()
    probe = await begun(rig, bus)
    wanted = list[int]()

    def note(exchange: Exchange) -> bool:
        if count := entries_asked_for(exchange):
            wanted.append(count)
        return False

    proxy.on(None, Delay(), where=note)
    for n in range(1, 6, 2):
        early = proxy.on(None, Delay(), where=reads)
        await rig.publish(bus, n)
        await happened(rig, early)
        more = asyncio.create_task(rig.publish(bus, n + 1))
        await rig.pause()  # it is sent behind the fetch, whose answer has not come
        early.release()
        await more
        await until_done(rig, probe, n + 1)
    assert len(wanted) >= 6
    assert set(wanted) == {32}
    rig.judge()


@needs(lease=2.0)
async def test_nothing_is_left_of_who_has_gone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its stream was listened to already, or would have been later."""
    bus, gone = await rig.open(), list[weakref.ref[Probe]]()
    staying = await rig.on(bus, None, "bills.**", group="mail.stays")
    for n, later in enumerate((3_600.0, 0.0)):
        monkeypatch.setattr(bell, "_LATER", later)
        probe = await rig.on(bus)
        await rig.publish(bus, n)
        await until_done(rig, probe, n)
        await rig.quiet(bus)
        await rig.pause()
        await probe.subscription.remove()
        gone.append(weakref.ref(probe))
        del probe
    monkeypatch.setattr(bell, "_LATER", 3_600.0)
    for n in range(2, 150):  # a lost ownership is watched for some turns
        await rig.publish(bus, n, type="bills.item")
        await until_done(rig, staying, n)
    gc.collect()
    assert [one() for one in gone] == [None, None]


@needs(lease=2.0)
async def test_another_replica_is_heard_when_it_comes(rig: Rig) -> None:
    """What it publishes needs the bell, which begins to listen at once."""
    bus = await rig.open()
    probe = await begun(rig, bus)
    await one_by_one(rig, await rig.open("other"), probe, 1)


@needs(lease=2.0)
async def test_what_was_kept_back_is_found_when_it_is_due(rig: Rig) -> None:
    """Redis puts it into the stream, without a publish of this bus."""
    bus = await rig.open()
    probe = await begun(rig, bus)
    await rig.publish(bus, 1, delay=rig.tick)
    await until_done(rig, probe, 1)
