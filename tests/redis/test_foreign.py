"""What somebody else has written into the keys of the bus is never taken for more than it is."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest
from fault_tools.backend import RedisBackend
from fault_tools.servers import Server
from fault_tools.storage_systems import Store, check_log, said

from bus.conformance import Backend, limits_for
from bus.conformance.backend import needs
from bus.conformance.probe import Gate
from bus.conformance.rig import Rig

UNSELECTED = [b"t", b"bills.item@1", b"x", b"y"]
"""Begins as an entry of ours does, of a kind that nobody selects; and is none."""


@pytest.fixture
def backend(request: pytest.FixtureRequest, server: Server) -> Backend:
    return RedisBackend(limits_for(request), server)


@pytest.fixture
async def rig(backend: Backend) -> AsyncIterator[Rig]:
    rig = Rig(backend)
    yield rig
    await rig.end()
    await backend.close()


@pytest.fixture
def store(backend: Backend, server: Server) -> Store:
    return Store(backend, server)


@needs(partitions=1, lease=0.5)
async def test_an_entry_with_a_kind_of_its_own_holds_nobody_up(rig: Rig, store: Store) -> None:
    """Neither when it is fetched, nor when it is found in what a dead owner has left."""
    a, gate = await rig.open("a"), Gate()
    await rig.on(a, gate)
    await rig.publish(a, 1)
    await rig.until(lambda: gate.waiting)
    store.server.command("XADD", store.stream("orders"), "*", *UNSELECTED)
    await rig.publish(a, 2)
    await rig.until(lambda: store.pending("shop.handle", "orders") == 3)
    await rig.crash(a)
    b = await rig.open("b")
    probe = await rig.on(b)
    await rig.until(lambda: sorted(probe.done) == [1, 2])
    store.server.command("XADD", store.stream("orders"), "*", *UNSELECTED)
    await rig.publish(b, 3)
    await rig.until(lambda: 3 in probe.done)
    await rig.quiet(b)
    assert store.pending("shop.handle", "orders") == 0
    rig.judge(repeats=2)


@needs(partitions=1)
async def test_a_tail_shows_a_whole_event_of_a_stranger(rig: Rig, store: Store) -> None:
    """Copied with the name that Redis gives it: it is as readable as any other."""
    bus = await rig.open()
    tail = bus.tail("orders.**")
    await rig.publish(bus, 1)
    [(_, fields)] = store.server.command("XRANGE", store.stream("orders"), "-", "+")
    copied = [part for pair in fields.items() for part in pair]
    store.server.command("XADD", store.stream("orders"), "*", *copied)
    await rig.publish(bus, 2)
    seen: list[str] = []

    def has_come() -> bool:
        seen.extend(item.data for item in tail.read_nowait())
        return '{"n": 2}' in seen or '{"n":2}' in seen

    await rig.until(has_come)
    assert len(seen) == 3


@pytest.mark.parametrize("table", ["groups", "replicas"])
async def test_a_record_that_cannot_be_read_hides_no_other(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    """Said once; whoever comes, publishes and handles does so."""
    bus = await rig.open()
    probe = await rig.on(bus)
    store.server.command("HSET", getattr(store.keys, table), "of-somebody", "else {")
    other = await rig.open("b")
    more = await rig.on(other, group="bills.handle")
    await rig.publish(bus, 1)
    await rig.until(lambda: probe.done == more.done == [1])
    await rig.quiet(bus)
    assert {"shop.handle"} <= {group.group for group in await other.groups()}
    lines = said(caplog.records, logging.WARNING, "of-somebody")
    assert 1 <= len(lines) <= 2, "once for each replica"
    check_log(caplog.records, speakers=2)
    assert store.server.command("HGET", getattr(store.keys, table), "of-somebody") == b"else {"
