"""Who has read a partition to its end is given what he publishes there in the call that publishes it."""

from __future__ import annotations

import pytest
from fault_tools.faults import CutAfter, CutBefore, Fault, Refuse
from fault_tools.network import (
    appends,
    begun,
    goes_on,
    one_by_one,
    pending,
    reads,
    settled,
    streams,
    until_done,
)  # fmt: skip
from fault_tools.proxy import Exchange, FaultProxy
from fault_tools.servers import Server
from fault_tools.storage_systems import Store

from bus.conformance.backend import needs
from bus.conformance.rig import Rig
from bus.redis_streams import publisher
from contracts.bus import EventBus

pytestmark = pytest.mark.usefixtures("late_bell")


def _gives(exchange: Exchange) -> bool:
    """A publish with a group that reads along."""
    return appends(exchange) and exchange.args[2] == b"7"


@needs(lease=2.0)
async def test_there_is_no_fetch_of_its_own(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    bus = await rig.open()
    probe = await begun(rig, bus)
    fetch, given = proxy.on(None, Fault(), where=reads), proxy.on(None, Fault(), where=_gives, times=None)
    await one_by_one(rig, bus, probe, *range(1, 5))
    await goes_on(rig, server, bus, probe, 5)
    assert given.count == 5
    assert not fetch.fired.is_so


@needs(lease=2.0)
@pytest.mark.parametrize("fault", [CutBefore, CutAfter])
async def test_a_connection_that_is_cut_loses_and_repeats_nothing(
    rig: Rig, server: Server, proxy: FaultProxy, fault: type[Fault]
) -> None:
    bus = await rig.open()
    probe = await begun(rig, bus)
    for n in range(1, 4):
        cut = proxy.on(None, fault(), where=_gives)
        await goes_on(rig, server, bus, probe, n)
        assert cut.fired.is_so


@needs(lease=2.0)
@pytest.mark.parametrize("text", ["OOM command not allowed when used memory > 'maxmemory'.", "LOADING wait"])
async def test_what_is_refused_is_published_and_read_when_it_passes(
    rig: Rig, server: Server, proxy: FaultProxy, text: str
) -> None:
    bus = await rig.open()
    probe = await begun(rig, bus)
    refused = proxy.on(None, Refuse(text), where=_gives)
    await one_by_one(rig, bus, probe, 1)
    assert refused.fired.is_so
    await goes_on(rig, server, bus, probe, 2)


@needs(lease=2.0)
async def test_several_groups_each_fetch(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    bus = await rig.open()
    probes = [await begun(rig, bus, group=f"shop.{name}") for name in ("one", "two")]
    given = proxy.on(None, Fault(), where=_gives)
    for n in range(1, 4):
        await rig.publish(bus, n)
        for probe in probes:
            await until_done(rig, probe, n)
    await settled(rig, server, bus)
    assert not given.fired.is_so


@needs(lease=2.0)
async def test_what_is_large_is_fetched(
    rig: Rig, server: Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script would have to hash it once more."""
    bus = await rig.open()
    probe = await begun(rig, bus)
    monkeypatch.setattr(publisher, "_LITTLE", 8)
    given = proxy.on(None, Fault(), where=_gives)
    await rig.publish(bus, 1)
    assert given.fired.is_so
    large = proxy.on(None, Fault(), where=_gives)
    await rig.publish(bus, 10)
    await until_done(rig, probe, 1, 10)
    await settled(rig, server, bus)
    assert not large.fired.is_so


@needs(lease=2.0)
async def test_a_group_that_somebody_deletes_is_made_anew(
    rig: Rig, server: Server, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    bus = await rig.open()
    probe = await begun(rig, bus)
    for key in streams(server):
        server.command("XGROUP", "DESTROY", key, "shop.handle")
    given = proxy.on(None, Fault(), where=_gives)
    await one_by_one(rig, bus, probe, 1)
    assert given.fired.is_so
    await goes_on(rig, server, bus, probe, 2)
    assert "was deleted by somebody else; it is made anew" in caplog.text


@needs(lease=2.0)
async def test_who_does_not_own_it_is_given_nothing(
    rig: Rig, store: Store, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has taken the partition: what he publishes is that one's to handle."""
    bus = await rig.open()
    probe = await begun(rig, bus)
    [fence] = server.command("HMGET", store.keys.own(0), "shop.handle")
    server.command("HSET", store.keys.own(0), "shop.handle", "99 other")
    await rig.publish(bus, 1)
    await rig.until(lambda: "partition 0 belongs to other now" in caplog.text)
    assert (probe.numbers, pending(server)) == ([0], 0)
    server.command("HSET", store.keys.own(0), "shop.handle", fence)  # he is gone again
    await until_done(rig, probe, 1)
    await settled(rig, server, bus)


@needs(lease=2.0)
async def test_whatever_is_wrong_with_the_reading_the_event_is_confirmed(
    rig: Rig, store: Store, server: Server, proxy: FaultProxy
) -> None:
    bus = await rig.open()
    await begun(rig, bus)
    given = proxy.on(None, Fault(), where=_gives)
    server.command("DEL", store.keys.own(0))
    server.command("SET", store.keys.own(0), "of another type")
    [receipt] = await rig.publish(bus, 1)
    assert given.fired.is_so
    assert receipt.position
    server.command("DEL", store.keys.own(0))


@needs(lease=2.0)
async def test_an_answer_without_anything_counts_as_lost(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """As if it had been cut: the event is sent again, and is one."""
    bus = await rig.open()
    probe = await begun(rig, bus)
    emptied = proxy.on(None, _Emptied(), where=_gives)
    await one_by_one(rig, bus, probe, 1)
    assert emptied.fired.is_so
    await goes_on(rig, server, bus, probe, 2)


class _Emptied(Fault):
    """Of the reply there is nothing but the nonce."""

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        _, size, nonce, *_ = raw.split(b"\r\n")
        await exchange.deliver(b"\r\n".join((b"*1", size, nonce, b"")))
        exchange.fire()


@needs(lease=1.0)
async def test_what_he_publishes_who_was_away_too_long_is_handled_once(rig: Rig, server: Server) -> None:
    """His partition was another's meanwhile, and may be again his."""
    bus, other = await rig.open(), await rig.open("other")
    probe = await begun(rig, bus)
    next = await rig.on(other)
    rig.suspend(bus)
    await rig.until(lambda: _is_owner(rig, other))
    rig.wake(bus)
    await rig.publish(bus, 1)
    await rig.until(lambda: 1 in probe.done + next.done)
    await settled(rig, server, other)


async def _is_owner(rig: Rig, bus: EventBus) -> bool:
    return bus.replica in (await rig.info(bus)).owners
