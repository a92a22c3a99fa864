"""Whatever the network does to a call of a script, or to its answer, a bus lives on as if it had not.

Every script has every fault. The normal run does so on a diagonal: each script has some of the faults, each
fault some of the scripts. With PLUGBUS_FAULTS=long all have all, at several calls.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
from fault_tools.faults import (
    Corrupt,
    CutAfter,
    CutBefore,
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
from fault_tools.form import IS_LONG, long
from fault_tools.network import (
    DIRECT,
    ProxiedBackend,
    When,
    arrived,
    calls,
    happened,
    pending,
    streams,
)
from fault_tools.proxy import Exchange, FaultProxy
from fault_tools.resp import elements
from fault_tools.servers import Server

from bus.conformance.probe import Gate, Probe, fail_if
from bus.conformance.rig import SOURCE, Rig, now
from bus.redis_streams import bell, link
from bus.redis_streams.layout import Keys
from bus.redis_streams.scripts import names
from contracts.bus import BusLimits, DeadLetterSelection, EventBus, RetryPolicy, TailItem

FAULTS: dict[str, Fault] = {
    "cut before": CutBefore(),
    "cut after": CutAfter(),
    "reset after": CutAfter(reset=True),
    "cut within": CutWithin(),
    "stalled before": Stall(),
    "stalled after": Stall(executed=True),
    "late": Delay(0.2),
    "held back": Hold(0.2, cut=True),
    "corrupt": Corrupt(),
    "too long": WrongLength(1),
    "too short": WrongLength(-1),
    "flipped": FlipByte(),
    "twice": Duplicate(),
    "never": Drop(),
}
LIMITS = BusLimits(lease=1.0, partitions=2, retain=0, young_seconds=0)


@pytest.fixture
async def rig(server: Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """Stalled connections are noticed sooner than a user would, so that tests need not wait so long."""
    monkeypatch.setattr(link, "STALL", 0.3)
    monkeypatch.setattr(link, "BLOCK", 1.0)
    monkeypatch.setattr(bell, "BLOCK", 1.0)
    rig = Rig(ProxiedBackend(LIMITS, server, proxy))
    rig.backend.patience = 8.0
    yield rig
    proxy.clear()
    await rig.end(alone=False)  # the proxy is at work; that no task is left is checked behind it
    await rig.backend.close()


class Life:
    """Everything for which the bus has a script, through one connection to the server."""

    def __init__(self, rig: Rig, bus: EventBus) -> None:
        self.rig, self.bus = rig, bus
        self.is_cured = False
        self.probes: list[Probe] = []

    async def live(self) -> None:
        rig, bus = self.rig, self.bus
        for group, pattern in (("shop.later", "orders.**"), ("shop.never", "orders.never")):
            await bus.declare_group(rig.spec(pattern, group=group))
        tail = bus.tail("orders.**", position="oldest")
        await self._subscribe()
        for n in range(12):
            await rig.publish(bus, n, key=f"k{n % 3}")
        await rig.publish(bus, 12, delay=0.05)
        await rig.until(lambda: self.done == set(range(13)) - {7})
        seen: list[int] = []

        def has_read() -> bool:
            seen.extend(_numbers(tail.read_nowait()))
            return len(seen) >= 13

        await rig.until(has_read)
        assert sorted(seen) == list(range(13))
        tail.close()
        await self._cure()
        await self._come_back()
        await self._look()
        await self.probes[0].subscription.remove()
        for n in range(13, 18):
            await rig.publish(bus, n, key=f"k{n % 3}")
        await self._subscribe()
        for n in range(18, 23):
            await rig.publish(bus, n, key=f"k{n % 3}")
        await rig.until(lambda: self.done == set(range(23)))
        await rig.quiet(bus)

    @property
    def done(self) -> set[int]:
        return {n for probe in self.probes for n in probe.done}

    def _act(self, n: int, attempt: int) -> None:
        """One that fails once, and waits in the lot; one that fails until it is cured, and is dead."""
        fail_if((n == 5 and attempt == 1) or (n == 7 and not self.is_cured))

    async def _subscribe(self) -> None:
        retry = RetryPolicy(attempts=2, first_delay=0.01)
        self.probes.append(await self.rig.on(self.bus, self._act, concurrency=2, retry=retry))

    async def _cure(self) -> None:
        """The dead letter leaves the bus, comes back, and is handled after all."""
        rig, bus = self.rig, self.bus

        async def is_there() -> bool:
            return await bus.count_dead_letters() == 1

        await rig.until(is_there)
        letters = await bus.dead_letters()
        await bus.discard(DeadLetterSelection())
        await bus.import_dead_letters(letters)
        assert await bus.count_dead_letters() == 1
        self.is_cured = True
        rig.history.add("again", now(), source=SOURCE, id=letters[0].envelope.id, group="shop.handle")
        await bus.redrive(DeadLetterSelection())
        await rig.until(lambda: 7 in self.done)

    async def _come_back(self) -> None:
        """Taken for gone though it lives: it is there again with its next beat, and says so where it owns."""
        backend: Any = self.rig.backend
        keys, server = Keys(backend.namespace), backend.server
        server.command("HDEL", keys.replicas, self.bus.replica)
        for p in range(2):
            tally = keys.tally("shop.handle", p)
            await self.rig.until(lambda tally=tally: server.command("HGET", tally, "own:renewed"))

    async def _look(self) -> None:
        """Groups that nobody handles are looked at; what they need not keep is trimmed."""
        rig, bus = self.rig, self.bus

        async def is_counted() -> bool:
            return (await rig.info(bus, "shop.later")).waiting == 13

        await rig.until(is_counted)
        await bus.pause_group("shop.later")
        await bus.drop_group("shop.later")
        rig.groups.pop("shop.later", None)

        async def is_trimmed() -> bool:
            [topic] = [topic for topic in await bus.topics() if topic.topic == "orders"]
            return topic.events == 0

        await rig.until(is_trimmed)


def _numbers(items: Iterable[TailItem]) -> list[int]:
    return [json.loads(item.data)["n"] for item in items]


FEW = {"bury", "census", "fill", "redrive", "release", "renew", "skip", "swap", "take", "undelay"}
"""Scripts that are called once or twice in a life."""


def plans() -> Iterator[tuple[str, str, int]]:
    """Script, fault, at which call. In a life nobody deletes a group: see `test_a_group_made_anew`."""
    for row, name in enumerate(name for name in names() if name != "remake"):
        for column, fault in enumerate(FAULTS):
            for nth in range(1, 2 if name in FEW else long(2, 5)):
                if IS_LONG or (row + column) % 4 == 0:
                    yield name, fault, nth


@pytest.mark.parametrize(("name", "fault", "nth"), list(plans()))
async def test_a_life(rig: Rig, server: Server, proxy: FaultProxy, name: str, fault: str, nth: int) -> None:
    """Nothing is lost, out of order, or repeated: the owner lives. [B1, B3, F1, F2, F17, F31]"""
    bus = await rig.open()
    rule = proxy.on(None, FAULTS[fault], where=calls(name), nth=nth)
    await Life(rig, bus).live()
    assert rule.fired.is_so
    assert pending(server) == 0
    assert await bus.count_dead_letters() == 0
    info = await rig.info(bus)
    assert (info.handled, info.failed, info.parked, info.waiting, info.in_flight) == (23, 3, 0, 0, 0)
    rig.judge()


@pytest.mark.parametrize("fault", list(FAULTS)[:: long(3, 1)])
async def test_a_group_made_anew(rig: Rig, server: Server, proxy: FaultProxy, fault: str) -> None:
    """One runs and others wait when somebody deletes the group: all are handled once, none stays pending.
    [B22, F8]"""
    rig.backend.limits = BusLimits(lease=1.0)  # what no group holds is not trimmed at once
    bus, gate = await rig.open(), Gate()
    probe = await rig.on(bus, lambda n, _: gate() if n == 3 else None)
    await rig.publish(bus, *range(8))
    await rig.until(lambda: gate.waiting)
    rule = proxy.on(None, FAULTS[fault], where=calls("remake"))
    delete_group(server)
    await rig.publish(bus, 8)
    await happened(rig, rule)
    gate.open()
    await rig.until(lambda: set(probe.done) == set(range(9)))
    await rig.quiet(bus)
    await rig.until(lambda: pending(server) == 0)
    rig.judge()


async def test_what_is_settled_before_its_group_is_made_anew(
    rig: Rig, server: Server, proxy: FaultProxy
) -> None:
    """It was in hand when that was sent, and is settled when it comes: it does not stay pending. [B22, F8]"""
    rig.backend.limits = BusLimits(lease=1.0)
    bus, gate = await rig.open(), Gate()
    retry = RetryPolicy(attempts=2, first_delay=0.01)

    async def act(n: int, attempt: int) -> None:
        await (gate() if n == 3 else asyncio.sleep(0))
        fail_if(n == 5 and attempt == 1)

    probe = await rig.on(bus, act, retry=retry)
    await rig.publish(bus, *range(8))
    await rig.until(lambda: gate.waiting and pending(server) == 5)
    held = proxy.on(None, Hold(), where=calls("remake"))
    delete_group(server)
    await rig.publish(bus, 8)
    await happened(rig, held)
    gate.open()
    await rig.until(lambda: set(probe.done) == set(range(8)))
    tally = Keys(str(rig.backend.namespace)).tally("shop.handle", 0)  # type: ignore[attr-defined]
    await rig.until(lambda: server.command("HGET", tally, "handled") == b"8")
    held.release()
    await rig.until(lambda: 8 in probe.done)
    await rig.quiet(bus)
    await rig.until(lambda: pending(server) == 0)
    rig.judge()


def delete_group(server: Server) -> None:
    """As somebody would by hand."""
    for stream in streams(server):
        server.command("XGROUP", "DESTROY", stream, "shop.handle")


HANDING_OVER = ("removed", "rebalanced")


@pytest.mark.parametrize("fault", list(FAULTS)[:: long(3, 1)])
@pytest.mark.parametrize("how", HANDING_OVER)
async def test_a_release(rig: Rig, proxy: FaultProxy, how: str, fault: str) -> None:
    """Partitions whose release is cut are not kept: the other replica handles what comes. [F6]"""
    bus, other = await rig.open("a"), await rig.open(f"{DIRECT}-b")
    probe = await rig.on(bus, concurrency=2)
    for n in range(8):
        await rig.publish(other, n, key=f"k{n}")
    await rig.until(lambda: len(probe.done) == 8)
    rule = proxy.on(None, FAULTS[fault], where=calls("release"))
    if how == "removed":
        await probe.subscription.remove()
    second = await rig.on(other, concurrency=2)
    if how == "rebalanced":
        await rig.until(lambda: rule.fired.is_so)
    assert rule.fired.is_so
    began = now()
    for n in range(8, 24):
        await rig.publish(other, n, key=f"k{n % 8}")
    await rig.until(lambda: len(probe.done) + len(second.done) == 24)
    assert now() - began < 2 * LIMITS.lease
    await rig.quiet(other)
    rig.judge()


@pytest.mark.parametrize("former", ["ended", "left"], indirect=True)
async def test_a_fetch_that_comes_late(rig: Rig, proxy: FaultProxy, former: str) -> None:
    """A fetch that the network delivers when its sender has gone keeps nothing from anybody. [B3, F2]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    held = proxy.on(None, Hold(cut=True), where=calls("fetch"))
    await rig.publish(publisher, 0, key="k")
    await happened(rig, held)
    await rig.until(lambda: 0 in probe.done)
    await rig.quiet(bus)
    ring = proxy.on("XREAD", When(Delay(), ":s:orders"), times=None)
    await rig.until(lambda: ring.matched)
    await rig.publish(publisher, 1, key="k")
    await happened(rig, ring)
    await arrived(rig, former, held)
    ring.release()
    began = now()
    await rig.publish(publisher, 2, key="k")
    await rig.until(lambda: {1, 2} <= set(probe.done))
    assert now() - began < 1.0
    await rig.quiet(bus)
    rig.judge()


async def test_a_settlement_that_comes_late(rig: Rig, proxy: FaultProxy, former: str) -> None:
    """A settlement that comes after its own repetition, and others, changes nothing. [F17, F18]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    retry = RetryPolicy(attempts=2, first_delay=0.05)
    probe = await rig.on(bus, lambda n, attempt: fail_if(n == 1 or (n == 2 and attempt == 1)), retry=retry)
    await rig.publish(publisher, 0, key="k")
    await rig.quiet(bus)
    buried = proxy.on(None, Hold(cut=True), where=calls("settle"), containing="bury")
    await rig.publish(publisher, 1, key="k")
    await happened(rig, buried)
    await rig.quiet(bus)
    kept = proxy.on(None, Hold(cut=True), where=calls("settle"), containing="keep")
    await rig.publish(publisher, 2, key="k")
    await happened(rig, kept)
    await rig.publish(publisher, 3, 4, key="k")
    await rig.quiet(bus)
    before = await rig.info(bus)
    await arrived(rig, former, buried, kept)
    info = await rig.info(bus)
    assert (info.dead, info.parked, info.waiting, info.in_flight) == (1, 0, 0, 0)
    assert (info.handled, info.failed) == (before.handled, before.failed) == (4, 3)
    assert probe.done == [0, 2, 3, 4]
    await rig.given_up(bus)
    rig.judge()


async def test_taking_that_comes_late(rig: Rig, proxy: FaultProxy, former: str) -> None:
    """A partition taken by a call that was held back is not kept from those who handle it. [F6]"""
    bus, other = await rig.open("a"), await rig.open(f"{DIRECT}-b")
    await rig.publish(other, 0, key="k")
    held = proxy.on(None, Hold(cut=True), where=calls("take"), times=2)
    probe = await rig.on(bus)
    await happened(rig, held)
    await rig.until(lambda: 0 in probe.done)
    await probe.subscription.remove()
    await arrived(rig, former, held)
    second = await rig.on(other)
    began = now()
    for n in range(1, 9):
        await rig.publish(other, n, key=f"k{n}")
    await rig.until(lambda: len(second.done) == 8)
    assert now() - began < 2 * LIMITS.lease
    rig.judge()


SHARES = long(3, 48)


class FlipAt(Fault):
    """One bit of the payload is another: at that share of the first answer that is long enough."""

    def __init__(self, share: float) -> None:
        self.share = share

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        rule, (_, *said) = exchange.rule, [element for element in elements(raw) if element.kind == "$"]
        places = [at for element in said for at in range(element.body, element.end - 2)]
        if rule is None or not rule.is_active or len(places) < MUCH:
            await exchange.deliver(raw)
            return
        rule.remove()
        at = places[round((len(places) - 1) * self.share)]
        await exchange.deliver(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        exchange.fire()


MUCH = 4
"""Bytes, so that there is something to change."""


TOLD = ("beat", "census", "fetch", "publish", "range", "recover", "survey", "take")
"""Scripts that answer with more than numbers."""


@pytest.mark.parametrize("share", [number / (SHARES - 1) for number in range(SHARES)])
@pytest.mark.parametrize("name", TOLD)
async def test_a_flip_anywhere(rig: Rig, server: Server, proxy: FaultProxy, name: str, share: float) -> None:
    """Whichever byte of an answer is changed, nothing is lost and nobody stands still. [B18, F31]"""
    bus = await rig.open()
    rule = proxy.on(None, FlipAt(share), where=calls(name), times=None)
    await Life(rig, bus).live()
    assert rule.fired.is_so
    assert pending(server) == 0
    rig.judge()
