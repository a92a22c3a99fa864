"""Streams and groups that somebody else has deleted, cut or emptied; and everything gone."""

from __future__ import annotations

import asyncio
import logging

import pytest
from fault_tools.servers import Server
from fault_tools.storage_systems import GROUP, Store, backend_on, check_log, is_parked, said

from bus.conformance import limits_for
from bus.conformance.backend import needs
from bus.conformance.probe import Gate, fail_if
from bus.conformance.rig import Rig, now
from bus.redis_streams import trimming
from contracts.bus import RetryPolicy
from contracts.messages.delivery import GapFound

NOTICED = 2.0
"""Seconds within which it is noticed that a stream, or all data, are gone."""


@needs(lease=1.0)
async def test_a_stream_that_is_deleted_is_made_anew(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Under a reader that waits: the next event is handled within 2 s, the loss is said once. [B20, F7]"""
    a, b = await rig.open("a"), await rig.open("b")
    probe = await rig.on(a)
    await a.declare_group(rig.spec(group="shop.dormant"))
    await rig.publish(b, 1, 2)
    await rig.until(lambda: probe.done == [1, 2])
    store.server.command("DEL", store.stream("orders"))
    began = now()
    await rig.publish(b, 3)
    await rig.until(lambda: probe.done == [1, 2, 3])
    assert now() - began < NOTICED
    later = await rig.on(a, None, group="shop.dormant")
    await rig.until(lambda: later.done == [3])
    await rig.publish(b, 4)
    await rig.quiet(b)
    assert (probe.done, later.done) == ([1, 2, 3, 4], [3, 4])
    assert said(caplog.records, logging.CRITICAL, "shop.handle", "orders")
    check_log(caplog.records)
    rig.judge(exempt=["e1-1", "e2-2"])


async def test_what_a_deleted_stream_has_taken_along_is_said(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """As many as were waiting and not read. [B20]"""
    bus, gate = await rig.open(), Gate()
    probe = await rig.on(bus, gate)
    await rig.publish(bus, *range(1_500))  # more than is read ahead
    await rig.until(lambda: gate.waiting)
    store.server.command("DEL", store.stream("orders"))
    gate.open()
    await rig.publish(bus, 1_500)
    await rig.until(lambda: 1_500 in probe.done)
    lost = 1_501 - len(probe.done)
    assert lost > 0
    assert said(caplog.records, logging.CRITICAL, f"{lost} events")
    check_log(caplog.records)
    rig.judge(lossy=True)


async def test_a_group_that_is_deleted_goes_on_where_it_was(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Not from the beginning, and not from the end; what it has in hand is handled once. [B22, F8]"""
    bus, gate = await rig.open(), Gate()
    probe = await rig.on(bus, lambda n, _: gate() if n == 150 else None)
    for n in range(150):
        await rig.publish(bus, n)
    await rig.until(lambda: len(probe.done) == 150)
    await rig.publish(bus, 150)
    await rig.until(lambda: gate.waiting)
    store.server.command("XGROUP", "DESTROY", store.stream("orders"), GROUP)
    await rig.publish(bus, *range(151, 300))
    gate.open()
    await rig.until(lambda: len(probe.done) == 300)
    await rig.quiet(bus)
    assert said(caplog.records, logging.CRITICAL, GROUP, "deleted")
    check_log(caplog.records)
    rig.judge()


@needs(lease=1.0)
async def test_a_deleted_group_keeps_what_was_in_hand_when_its_owner_dies(rig: Rig, store: Store) -> None:
    """Its owner has noticed, and dies: what it had read and not settled is started again, in order; what it
    had settled is not. [B22, F8]"""
    a, gate = await rig.open("a"), Gate()
    first = await rig.on(a, lambda n, _: gate() if n == 3 else None)
    await rig.publish(a, *range(8), key="k")
    await rig.until(lambda: gate.waiting)
    await rig.until(lambda: store.pending(GROUP, "orders") == 5)
    store.server.command("XGROUP", "DESTROY", store.stream("orders"), GROUP)
    await rig.publish(a, 8, key="k")
    await rig.until(lambda: _has_group(store), "the group to be made anew")
    await rig.crash(a)
    b = await rig.open("b")
    second = await rig.on(b)
    await rig.until(lambda: 8 in second.done)
    await rig.quiet(b)
    assert (first.numbers, second.numbers) == ([0, 1, 2, 3], [3, 4, 5, 6, 7, 8])
    rig.judge(repeats=1)


@needs(lease=1.0)
async def test_a_group_that_is_deleted_when_its_owner_dies_goes_on_with_what_it_had(
    rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has noticed: what was not settled when the topic was last looked at is started again, in order;
    what waits in the lot since then is not delivered from the stream as well. [B22, F8]"""
    monkeypatch.setattr(trimming, "_OFTEN", 60.0)  # it is looked at when the test says
    gates, retry = {2: Gate(), 5: Gate()}, RetryPolicy(first_delay=2.0, jitter=0)

    async def act(n: int, attempt: int) -> None:
        fail_if(n == 4 and attempt == 1)
        if n in gates:
            await gates[n]()

    a = await rig.open("a")
    first = await rig.on(a, act, retry=retry)
    for n in range(9):
        key = "k" if n in (5, 7, 8) else "waits" if n in (4, 6) else None
        await rig.publish(a, n, key=key)
    await rig.until(lambda: gates[2].waiting and store.pending(GROUP, "orders") == 7)
    await a.topics()
    gates[2].open()
    await rig.until(lambda: gates[5].waiting and store.pending(GROUP, "orders") == 4)
    await rig.crash(a)
    store.server.command("XGROUP", "DESTROY", store.stream("orders"), GROUP)
    b = await rig.open("b")
    second = await rig.on(b, None, retry=retry)
    await rig.publish(b, 9, key="k")
    await rig.until(lambda: {4, 6, 9} <= set(second.done))
    await rig.quiet(b)
    assert first.starts == [(n, 1) for n in range(6)]
    assert sorted(second.starts) == [(2, 1), (3, 1), (4, 2), *((n, 1) for n in range(5, 10))]
    assert _left(store) == {}
    rig.judge(repeats=3)


@needs(lease=1.0)
async def test_what_is_settled_while_a_group_is_made_anew_stays_so(rig: Rig, store: Store) -> None:
    """Its owner goes on with what it has in hand, the group is deleted again and again: each is handled once,
    what fails waits in the lot once, and nothing is left pending. [B22, F8]"""
    bus = await rig.open()
    act = lambda n, attempt: fail_if(n % 7 == 0 and attempt == 1)  # noqa: E731
    probe = await rig.on(bus, act, concurrency=2, retry=RetryPolicy(first_delay=0.05))
    for n in range(300):
        await rig.publish(bus, n, key=f"k{n % 5}")
        if n % 50 == 49:
            store.server.command("XGROUP", "DESTROY", store.stream("orders"), GROUP)
    await rig.until(lambda: set(probe.done) == set(range(300)))
    await rig.quiet(bus)
    await rig.until(lambda: not _left(store))
    rig.judge()


@pytest.mark.parametrize("who", ["publishes", "declares"])
async def test_whoever_makes_a_deleted_group_anew_begins_where_it_was(
    rig: Rig, store: Store, who: str
) -> None:
    """A replica that comes to the topic, or a plugin with other options, finds it gone: it begins neither at
    the beginning nor at the end. [B22, F8]"""
    a, b = await rig.open("a"), await rig.open("b")
    first = await rig.on(a)
    await rig.publish(a, 0, 1, 2)
    await rig.quiet(a)
    await a.topics()
    if who == "declares":
        await first.subscription.drain(10)
    store.server.command("XGROUP", "DESTROY", store.stream("orders"), GROUP)
    await rig.publish(b if who == "publishes" else a, 3)
    second = await rig.on(b, concurrency=2) if who == "declares" else first
    await rig.until(lambda: 3 in second.done)
    await rig.publish(a, 4)
    await rig.quiet(a)
    assert sorted({*first.starts, *second.starts}) == [(n, 1) for n in range(5)]
    rig.judge()


def _left(store: Store) -> dict[str, int]:
    """Deliveries of the group that are pending, in the lot, or suspect."""
    keys, found = store.keys, {"pending": store.pending(GROUP, "orders")}
    for kind in (keys.lot, keys.slips, keys.suspects):
        key = kind(GROUP, "orders", 0)
        found[key] = store.server.command("HLEN", key)
    return {name: count for name, count in found.items() if count}


def _has_group(store: Store) -> bool:
    return GROUP in store.groups("orders")


@needs(lease=1.0, partitions=4)
async def test_a_group_that_many_make_at_once_is_one(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Ten replicas subscribe and publish the first events of a topic at once: each event is handled once.

    [B22]
    """
    buses = [await rig.open(f"r{n}") for n in range(10)]
    await asyncio.gather(*(rig.on(bus) for bus in buses), *(rig.publish(bus, 1) for bus in buses))
    await rig.quiet(buses[0])
    info = await rig.info(buses[0])
    assert info.handled == 10
    rig.judge()
    check_log(caplog.records, most=0)


async def test_what_an_outsider_trims_is_said_with_how_many_and_where(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Entries that were not read yet: a critical line and an announcement with exactly their number.

    [B23, F22]
    """
    bus, gate = await rig.open(), Gate()
    probe = await rig.on(bus, gate)
    news = rig.listen(bus)
    await rig.publish(bus, *range(1_500))  # more than is read ahead
    await rig.until(lambda: gate.waiting)
    store.server.command("XTRIM", store.stream("orders"), "MAXLEN", 10)
    left = store.numbers("orders")
    gate.open()
    await rig.until(lambda: 1_499 in probe.done)
    await rig.quiet(bus)
    lost = 1_500 - len(probe.done)
    assert lost > 100
    assert said(caplog.records, logging.CRITICAL, GROUP, f"{lost} events", "orders/0", f"{left[0] - 1}")
    await rig.until(lambda: news.of(GapFound))
    assert sum(gap.count for gap in news.of(GapFound)) == lost
    check_log(caplog.records, most=1)
    rig.judge(lossy=True)


@pytest.mark.parametrize("how", ["XDEL", "XTRIM"])
@needs(lease=1.0)
async def test_what_is_gone_while_it_was_in_hand_is_never_handled_empty(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """The next owner finds no fields: counted, said once, and not pending any more. [B24, F22]"""
    a, gate = await rig.open("a"), Gate()
    await rig.on(a, gate)
    await rig.publish(a, *range(5))
    await rig.until(lambda: gate.waiting)
    await rig.until(lambda: store.pending(GROUP, "orders") == 5)
    if how == "XDEL":
        store.server.command("XDEL", store.stream("orders"), *store.entries("orders")[1:4])
        gone = 3
    else:
        store.server.command("XTRIM", store.stream("orders"), "MAXLEN", 1)
        gone = 4
    await rig.crash(a)
    b = await rig.open("b")
    probe = await rig.on(b)
    await rig.publish(b, 5)
    await rig.until(lambda: 5 in probe.done)
    await rig.quiet(b)
    assert store.pending(GROUP, "orders") == 0
    assert sorted(probe.done) == ([0, 4, 5] if how == "XDEL" else [4, 5])
    assert said(caplog.records, logging.ERROR, GROUP, f"{gone} ", "orders/0"), "nobody was told"
    assert await b.count_dead_letters() == 0
    check_log([record for record in caplog.records if "is gone: no sign" not in record.getMessage()], most=2)
    rig.judge(repeats=2, lossy=True)


# --- everything is gone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["FLUSHALL", "restart"])
async def test_that_everything_is_gone_is_noticed_and_said(
    request: pytest.FixtureRequest, server: Server, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Under load, with the lease as it is by default: noticed within 2 s, said, and new events flow.

    [B21, F7]

    There is no outbox that could list what was confirmed and is gone: it is said that it may be.
    """
    with Server(server.binary) as own:  # it keeps nothing on disk
        backend = backend_on(own, limits_for(request))
        rig = Rig(backend)
        a, b = await rig.open("a"), await rig.open("b")
        probe = await rig.on(a)
        ended = asyncio.Event()
        confirmed = 0

        async def load() -> None:
            nonlocal confirmed
            while not ended.is_set():
                await rig.publish(b, confirmed, key=f"k{confirmed % 5}")
                confirmed += 1

        task = asyncio.ensure_future(load())
        await rig.until(lambda: len(probe.done) > 200)
        if how == "FLUSHALL":
            own.command("FLUSHALL")
        else:
            own.kill()
            await own.start_async()
        began, before = now(), confirmed
        await rig.until(lambda: said(caplog.records, logging.CRITICAL, "are gone", "lost"))
        noticed = now() - began
        await rig.until(lambda: confirmed > before + 100)
        ended.set()
        await task
        mark = confirmed
        await rig.publish(b, *range(mark, mark + 20))
        await rig.until(lambda: set(range(mark, mark + 20)) <= set(probe.done))
        await rig.quiet(a)
        assert noticed < NOTICED
        # two replicas say it, each once; the load may have lost its connection, and found it again
        assert len(said(caplog.records, logging.CRITICAL, "are gone")) <= 2
        check_log(caplog.records, speakers=2)
        rig.judge(lossy=True, unordered=[GROUP], repeats=2)
        assert {info.group for info in await a.groups()} >= {GROUP}
        await rig.end()
        await backend.close()


async def test_nothing_of_a_key_waits_for_ever_behind_what_is_gone(rig: Rig, store: Store) -> None:
    """The lot of a key is deleted by an outsider: the key goes on when its next event comes. [B21, F26]"""
    bus = await rig.open()
    policy = RetryPolicy(first_delay=0.2, jitter=0)
    probe = await rig.on(bus, lambda n, attempt: fail_if(n == 1 and attempt == 1), retry=policy)
    await rig.publish(bus, 1, key="k")
    await rig.until(lambda: is_parked(rig, bus))
    for name in (store.keys.lot(GROUP, "orders", 0), store.keys.slips(GROUP, "orders", 0)):
        store.server.command("DEL", name)
    await rig.publish(bus, 2, key="k")
    await rig.until(lambda: 2 in probe.done)
    await rig.quiet(bus)
    assert store.pending(GROUP, "orders") == 0
