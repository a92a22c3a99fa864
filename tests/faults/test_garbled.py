"""Replies that are not what was said: twice, missing, malformed, or with a byte that is another."""

from __future__ import annotations

import itertools

import pytest
from fault_tools.faults import Corrupt, Drop, Duplicate, Fault, FlipByte, WrongLength
from fault_tools.network import (
    DIRECT,
    Choice,
    When,
    appends,
    calls,
    fails_on_naive,
    handled,
    happened,
    pending,
    publish_until,
    reads,
    renamed,
    settles,
    stored,
)
from fault_tools.proxy import Connection, Exchange, FaultProxy
from fault_tools.servers import Server

from bus.conformance.backend import needs
from bus.conformance.rig import Rig

SHIFTS = (Duplicate(), Drop(), Corrupt(), WrongLength(1), WrongLength(-1))
"""Ways in which a reply is not the one to its command, or none at all."""


@pytest.mark.usefixtures("fast_links", "fetches_apart")
@pytest.mark.parametrize("where", [appends, reads, settles], ids=["publish", "fetch", "settle"])
@fails_on_naive
@needs(lease=5.0)
async def test_shifted_replies(rig: Rig, server: Server, proxy: FaultProxy, where: Choice) -> None:
    """Replies twice, missing or malformed end their connection; no wrong value reaches anybody. [B19, F31]"""
    bus = await rig.open()
    probe, numbers = await rig.on(bus, concurrency=2), itertools.count()
    for fault in SHIFTS:
        broken: list[Connection] = []
        rule = proxy.on(None, fault, where=_noting(where, broken))
        await publish_until(rig, bus, numbers, rule)
        for _ in range(3):
            await rig.publish(bus, next(numbers), key="k")
        await _until_over(rig, broken[-1])
    count = next(numbers)
    await rig.until(lambda: len(handled(rig)) == count)
    await rig.until(lambda: pending(server) == 0)
    assert stored(server) == count
    assert probe.numbers == list(range(count))
    rig.judge()


async def _until_over(rig: Rig, connection: Connection) -> None:
    await rig.until(lambda: connection.is_over or connection.ended.is_so, "the connection to end")


def _noting(where: Choice, found: list[Connection]) -> Choice:
    """`where`, which notes the connection."""

    def choose(exchange: Exchange) -> bool:
        if where(exchange):
            found.append(exchange.connection)
            return True
        return False

    return choose


@pytest.mark.parametrize("within", ['"n": 7', "orders.item", "partitionkey", "conformance"])
@needs(lease=5.0)
async def test_a_byte_flipped_on_the_wire(rig: Rig, server: Server, proxy: FaultProxy, within: str) -> None:
    """An event that was changed on its way is read again, and handled as it was published. [B18]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus, None, "orders.item")
    rule = proxy.on(None, When(FlipByte(within), '"n": 7'), where=reads, times=None)
    await rig.publish(publisher, *range(10), key="k")
    await happened(rig, rule)
    await rig.quiet(bus)
    assert probe.numbers == list(range(10))
    assert await bus.count_dead_letters() == 0
    assert pending(server) == 0
    rig.judge()


@needs(lease=5.0)
async def test_a_byte_flipped_in_the_name_of_an_entry(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """An entry whose name was changed on its way is acknowledged under its own, and handled once. [B18]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    await rig.publish(publisher, 0, key="k")
    await rig.quiet(bus)
    rule = proxy.on(None, _FlipName(), where=reads, times=None)
    await rig.publish(publisher, *range(1, 6), key="k")
    await happened(rig, rule)
    await rig.quiet(bus)
    assert probe.numbers == list(range(6))
    assert pending(server) == 0
    rig.judge()


class _FlipName(Fault):
    """The last byte of the name of the first entry in the first reply that has one is another."""

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        rule = exchange.rule
        garbled = renamed(raw)
        if rule is None or not rule.is_active or garbled == raw:
            await exchange.deliver(raw)
            return
        rule.remove()
        await exchange.deliver(garbled)
        exchange.fire()


@needs(lease=5.0)
async def test_bytes_that_stay_flipped(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """What is changed again when it is read again is a dead letter, `checksum`; the next is handled. [B18]"""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    proxy.on("XREAD", When(FlipByte('"n": 7'), '"n": 7'), times=None)  # or the bell may bring it as it was
    first = proxy.on(None, When(FlipByte('"n": 7'), '"n": 7'), where=reads, times=None)
    second = proxy.on(None, FlipByte('"n": 7'), where=calls("range"))
    receipts = await rig.publish(publisher, *range(10), key="k")
    await happened(rig, first)
    await rig.quiet(bus)
    assert second.fired.is_so
    assert probe.numbers == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    [letter] = await bus.dead_letters()
    assert (letter.reason, letter.group) == ("checksum", "shop.handle")
    assert pending(server) == 0
    rig.judge(exempt={receipts[7].id})


@needs(lease=5.0)
async def test_a_byte_flipped_while_it_is_published(rig: Rig, server: Server, proxy: FaultProxy) -> None:
    """What reached Redis changed is a dead letter, `checksum`, with its bytes; the next is handled. [B18]"""
    bus = await rig.open()
    probe = await rig.on(bus)
    proxy.on(None, FlipByte('"n": 7', in_request=True), where=appends, containing='"n": 7')
    receipts = await rig.publish(bus, *range(10), key="k")
    await rig.quiet(bus)
    assert probe.numbers == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    [letter] = await bus.dead_letters()
    assert letter.reason == "checksum"
    assert '"n": 6' in str(letter.data)
    assert pending(server) == 0
    rig.judge(exempt={receipts[7].id})
