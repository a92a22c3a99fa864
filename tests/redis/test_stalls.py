"""Whatever was interrupted goes on by itself: nobody waits for what nobody is going to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fault_tools.backend import RedisBackend
from fault_tools.faults import Answer, CutAfter, CutBefore, Delay, Hold
from fault_tools.network import calls, load_scripts, reads
from fault_tools.proxy import Exchange, FaultProxy
from fault_tools.servers import Server, binaries, binary

from bus.conformance import limits_for
from bus.conformance.backend import needs
from bus.conformance.probe import Gate, fail_if
from bus.conformance.rig import Rig
from bus.redis_streams import RedisBus
from bus.redis_streams.background import keep_on
from bus.redis_streams.layout import Keys
from bus.redis_streams.transaction import Transactions
from bus.redis_streams.trimming import Trimmer
from contracts.bus import EventBus, RetryPolicy

DIRECT = "direct"
"""Replicas whose names begin with it speak to the server itself, not through the proxy."""


class ProxiedBackend(RedisBackend):
    """The way of its buses to the server leads through `proxy`, but for replicas named `DIRECT…`."""

    proxy: FaultProxy

    async def open(self, replica: str) -> EventBus:
        url = self.server.url if replica.startswith(DIRECT) else self.proxy.url
        bus = RedisBus(url, namespace=self.namespace, replica=replica, limits=self._limits())
        await bus.open()
        self._buses[replica] = bus
        return bus


@pytest.fixture(params=[label for label, _ in binaries()])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(binary(request.param), {"appendonly": "yes", "appendfsync": "always"}) as server:
        load_scripts(server)
        yield server


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server) as proxy:
        yield proxy


@pytest.fixture
async def rig(request: pytest.FixtureRequest, server: Server, proxy: FaultProxy) -> AsyncIterator[Rig]:
    backend = ProxiedBackend(limits_for(request), server)
    backend.proxy = proxy
    rig = Rig(backend)
    yield rig
    proxy.clear()
    proxy.release()
    await rig.end(alone=False)
    await backend.close()


async def publish_keyed(rig: Rig, bus: EventBus, *numbers: int) -> None:
    """To all partitions."""
    for n in numbers:
        await rig.publish(bus, n, key=f"k{n}")


def asks_for_replays(exchange: Exchange) -> bool:
    """The last that is asked before a partition is taken for good."""
    return exchange.name == "HGET" and b":replay:" in exchange.args[1]


# --- ownership ----------------------------------------------------------------------------------------


@needs(partitions=4, lease=1.0)
async def test_a_partition_whose_release_was_lost_is_released_all_the_same(
    rig: Rig, proxy: FaultProxy
) -> None:
    """Its owner had let go of it and Redis did not hear that: the next gets it, though the first lives on."""
    a, b = await rig.open("a"), await rig.open(f"{DIRECT}-b")
    first = await rig.on(a)
    await publish_keyed(rig, b, *range(8))
    await rig.quiet(b)
    lost = proxy.on(None, CutBefore(), times=2, where=calls("release"))
    second = await rig.on(b)
    await lost.fired
    await publish_keyed(rig, b, *range(8, 40))
    await rig.quiet(b)
    assert sorted(first.numbers + second.numbers) == list(range(40))
    rig.judge()


@needs(partitions=4, lease=1.0)
async def test_a_partition_that_was_taken_without_our_knowing_goes_to_whom_it_belongs(
    rig: Rig, proxy: FaultProxy
) -> None:
    """The answer was lost, and when it is asked for again it is another's turn: it is not kept from him."""
    a, b = await rig.open("a"), await rig.open(f"{DIRECT}-b")
    await publish_keyed(rig, b, *range(8))
    lost = proxy.on(None, CutAfter(), times=None, where=calls("take"))
    first = await rig.on(a)
    await rig.until(lambda: lost.count > 4)
    second = await rig.on(b)
    known = lost.count
    await rig.until(lambda: lost.count > known + 4)
    lost.remove()
    await rig.quiet(b)
    assert sorted(first.numbers + second.numbers) == list(range(8))
    rig.judge()


@needs(partitions=4, lease=1.0)
async def test_a_subscription_that_ends_while_redis_is_away_leaves_nothing_behind(
    rig: Rig, proxy: FaultProxy
) -> None:
    """Its replica lives on, and yet others take over what it had."""
    a, b = await rig.open("a"), await rig.open(f"{DIRECT}-b")
    first = await rig.on(a)
    second = await rig.on(b)
    await publish_keyed(rig, b, *range(16))
    await rig.quiet(b)
    lost = proxy.on(None, CutBefore(), times=None, where=calls("release"))
    assert first.subscription is not None
    await first.subscription.remove()
    await lost.fired
    proxy.clear()
    await publish_keyed(rig, b, *range(16, 32))
    await rig.quiet(b)
    assert sorted(first.numbers + second.numbers) == list(range(32))
    rig.judge()


@needs(lease=1.0)
async def test_nothing_starts_before_a_partition_is_taken_for_good(rig: Rig, proxy: FaultProxy) -> None:
    """While what a dead owner left is being read nothing of it starts: should that fail, it starts twice."""
    a, b, gate = await rig.open(f"{DIRECT}-a"), await rig.open("b"), Gate()
    await rig.on(a, gate)
    await rig.publish(a, *range(6))
    await rig.until(lambda: gate.waiting)
    heir = await rig.on(b)
    last = proxy.on(None, Delay(), where=asks_for_replays)
    await rig.crash(a)
    await rig.until(lambda: last.fired.is_so)
    await rig.pause()
    assert not heir.starts
    proxy.cut()
    last.release()
    await rig.quiet(b)
    assert heir.numbers == list(range(6))
    rig.judge(repeats=1)


# --- looking up ---------------------------------------------------------------------------------------


@needs(lease=5.0)
async def test_nothing_is_fetched_while_what_was_fetched_is_looked_up(rig: Rig, proxy: FaultProxy) -> None:
    """A fetch that crosses the look at what is pending would bring the same events twice."""
    bus = await rig.open()
    await bus.declare_group(rig.spec())
    await rig.publish(bus, *range(200))
    lost = proxy.on(None, CutAfter(), nth=2, where=reads)
    crossing = proxy.on(None, Delay(0.3), nth=2, where=reads)
    look = proxy.on(None, Hold(), nth=2, where=calls("recover"))
    probe = await rig.on(bus, lambda n, attempt: asyncio.sleep(0.002))
    await lost.fired
    await look.fired
    known = crossing.matched
    await rig.pause()
    assert crossing.matched == known
    assert not crossing.fired.is_so
    look.release()
    await rig.quiet(bus)
    assert crossing.fired.is_so
    assert sorted(probe.numbers) == list(range(200))
    rig.judge()


@needs(lease=5.0)
async def test_in_the_steady_state_nothing_is_fetched_or_settled_by_a_script(
    rig: Rig, proxy: FaultProxy
) -> None:
    """Scripts cost several times as much: they are for what is not plain, or not sure."""
    bus = await rig.open()
    await rig.on(bus)
    await rig.publish(bus, 0)
    await rig.quiet(bus)
    scripts = [proxy.on(None, Delay(0), times=None, where=calls(name)) for name in ("fetch", "settle")]
    before = proxy.sent["EXEC"]
    for n in range(1, 20):
        await rig.publish(bus, n)
        await rig.quiet(bus)
    assert [rule.count for rule in scripts] == [0, 0]
    assert proxy.sent["EXEC"] >= before + 19
    rig.judge()


@needs(lease=5.0)
async def test_a_transaction_that_is_dropped_is_done_again(
    rig: Rig, server: Server, proxy: FaultProxy
) -> None:
    """Another group of that partition has changed hands meanwhile: nothing was done, nothing is lost."""
    bus = await rig.open()
    probe = await rig.on(bus)
    await rig.publish(bus, 0)
    await rig.quiet(bus)
    held = proxy.on("EXEC", Hold())
    sending = asyncio.ensure_future(rig.publish(bus, 1))
    await held.fired
    server.command("HSET", Keys(rig.backend.namespace).own(0), "shop.other", "1 somebody")  # type: ignore[attr-defined]
    before = proxy.sent["EXEC"]
    held.release()
    await sending
    await rig.quiet(bus)
    assert probe.numbers == [0, 1]
    assert proxy.sent["EXEC"] > before
    rig.judge()


@pytest.mark.parametrize("refused", ["WATCH", "MULTI"])
@needs(lease=5.0)
async def test_a_server_that_takes_no_transactions_gets_scripts(
    rig: Rig, server: Server, proxy: FaultProxy, refused: str
) -> None:
    """What stood in one that was refused was carried out command by command: it is looked up."""
    proxy.on(
        refused, Answer(f"-NOPERM this user has no permissions to run '{refused.lower()}'\r\n"), times=None
    )
    bus = await rig.open()
    probe = await rig.on(bus)
    for n in range(5):
        await rig.publish(bus, n)
        await rig.quiet(bus)
    assert probe.numbers == [0, 1, 2, 3, 4]
    assert proxy.sent["EXEC"] == (refused == "MULTI")
    rig.judge()


# --- lanes --------------------------------------------------------------------------------------------


@needs(lease=5.0)
async def test_a_lane_outlives_a_note_that_takes_longer_than_its_handler_may(
    rig: Rig, proxy: FaultProxy
) -> None:
    """The time that an attempt may take does not run while its start is written down."""
    bus, gate = await rig.open(), Gate()

    async def act(n: int, attempt: int) -> None:
        if n == 1:
            await gate(n)
        fail_if(n == 0 and attempt == 1)

    retry = RetryPolicy(first_delay=0.05, max_delay=0.05)
    probe = await rig.on(bus, act, timeout=0.4, retry=retry)
    await rig.publish(bus, 0)
    await rig.publish(bus, 1)
    await rig.until(lambda: gate.waiting)
    await rig.pause(2)  # the first is due, and is noted as soon as the second has ended
    note = proxy.on(None, Hold(1.0), where=calls("settle"))
    gate.open()
    await rig.quiet(bus)
    assert note.fired.is_so
    await rig.publish(bus, 2)
    await rig.quiet(bus)
    assert probe.numbers == [0, 1, 0, 2]
    rig.judge()


# --- mistakes of ours -----------------------------------------------------------------------------------


async def test_a_loop_that_breaks_says_so_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """The same mistake again and again is one traceback in the log; what comes after it is done."""
    turns, done = 0, asyncio.Event()

    async def turn() -> None:
        nonlocal turns
        turns += 1
        if turns <= 2:
            raise ValueError("ours")
        done.set()
        await asyncio.sleep(60)

    task = asyncio.ensure_future(keep_on("turning", turn))
    await asyncio.wait_for(done.wait(), 5)
    task.cancel()
    await asyncio.wait((task,))
    assert [record.message for record in caplog.records] == ["turning broke; it goes on"]


@needs(lease=1.0)
async def test_a_beat_that_breaks_costs_no_partition(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake in what is done beside the beat is said, and the replica is not taken for gone."""

    async def breaks(trimmer: Trimmer) -> None:
        raise RuntimeError("ours")

    a, b = await rig.open("a"), await rig.open("b")
    probe = await rig.on(a)
    monkeypatch.setattr(Trimmer, "look_at_dormant", breaks)
    await rig.until(lambda: "the beat broke; it goes on" in caplog.text)
    await rig.pause(30)
    await rig.publish(b, 1)
    await rig.quiet(b)
    assert probe.numbers == [1]
    assert not [record for record in caplog.records if "gone" in record.message]
    assert all(record.levelno <= logging.ERROR for record in caplog.records)
    rig.judge()


@needs(lease=2.0)
async def test_a_turn_that_breaks_is_looked_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake in what is sent is said, and costs a connection: nothing waits for an answer for ever."""
    bus, broken, send = await rig.open(), [True], Transactions.send

    def breaks(self: Transactions, *arguments: Any) -> None:
        if broken:
            broken.pop()
            raise RuntimeError("ours")
        send(self, *arguments)

    probe = await rig.on(bus)
    await rig.publish(bus, 0)
    await rig.quiet(bus)
    monkeypatch.setattr(Transactions, "send", breaks)
    await rig.publish(bus, 1, 2)
    await rig.quiet(bus)
    assert not broken
    assert probe.numbers == [0, 1, 2]
    assert "reading: a mistake" in caplog.text
    rig.judge()
