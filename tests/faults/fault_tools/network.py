"""What the tests of the network stand on: buses behind the proxy, what commands are for, what is stored.

A test of a failure mode runs on our bus, where it must pass, and on the naive one, where it must fail:
`fails_on_naive`. What it says of commands and keys is therefore said for both.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, ParamSpec

import pytest
from naive_redis import NaiveRedisBackend, NaiveRedisBus
from redis import RedisError

from bus.conformance import Backend
from bus.conformance.probe import Act, Probe
from bus.conformance.rig import Rig
from bus.redis_streams import RedisBus
from bus.redis_streams.scripts import names, script
from contracts.bus import BusLimits, EventBus
from contracts.errors import BusError

from .backend import RedisBackend
from .faults import Fault, as_bytes
from .proxy import Exchange, FaultProxy, Rule
from .servers import Server

DIRECT = "direct"
"""Replicas whose names begin with it speak to the server itself, not through the proxy."""
NAIVE_PATIENCE = 3.0
"""Seconds that the naive bus has for what must come."""
NAIVE_TIME = 4.0
"""Seconds after which a test on it has failed, whatever it waits for."""
NAIVE_ERRORS = (
    AssertionError, TimeoutError, BusError, RedisError, AttributeError, TypeError, LookupError, ValueError,
    ExceptionGroup,
)  # fmt: skip
"""How a test fails on it: what it promised is not so, or it raises what it does not promise to raise."""

P = ParamSpec("P")
Choice = Callable[[Exchange], bool]


# --- the buses ----------------------------------------------------------------------------------------------


class ProxiedBackend(RedisBackend):
    """Our bus. Its way to the server leads through the proxy, but for replicas named `DIRECT…`."""

    def __init__(self, limits: BusLimits, server: Server, proxy: FaultProxy) -> None:
        super().__init__(limits, server)
        self.proxy = proxy

    async def open(self, replica: str) -> EventBus:
        url = url_for(replica, self.server, self.proxy)
        bus = RedisBus(url, namespace=self.namespace, replica=replica, limits=self._limits())
        await bus.open()
        self._buses[replica] = bus
        return bus


class ProxiedNaiveBackend(NaiveRedisBackend):
    """The naive bus, the same way."""

    patience = NAIVE_PATIENCE
    block = 100
    """Milliseconds that a read waits."""
    query = ""
    """What is said to its client in the URL."""

    def __init__(self, limits: BusLimits, server: Server, proxy: FaultProxy) -> None:
        super().__init__(limits, server)
        self.proxy = proxy

    async def open(self, replica: str) -> EventBus:
        bus = NaiveRedisBus(
            url_for(replica, self.server, self.proxy) + self.query, namespace=self.namespace, replica=replica,
            limits=self.limits, block=self.block,
        )  # fmt: skip
        await bus.open()
        self.buses.append(bus)
        return bus

    async def close(self) -> None:
        self.server.command("FLUSHALL")


def url_for(replica: str, server: Server, proxy: FaultProxy) -> str:
    return server.url if replica.startswith(DIRECT) else proxy.url


def backend_for(system: str, limits: BusLimits, server: Server, proxy: FaultProxy) -> Backend:
    kind = ProxiedNaiveBackend if system == "naive" else ProxiedBackend
    return kind(limits, server, proxy)


def is_naive(rig: Rig) -> bool:
    return isinstance(rig.backend, ProxiedNaiveBackend)


def fails_on_naive(test: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """Run it on both systems: what passes on the naive bus judges nothing. It must take the fixture `rig`."""

    @functools.wraps(test)
    async def run(*args: P.args, **kwargs: P.kwargs) -> None:
        rig = kwargs["rig"]
        assert isinstance(rig, Rig)
        if not is_naive(rig):
            await test(*args, **kwargs)
            return
        try:
            async with asyncio.timeout(NAIVE_TIME):
                await test(*args, **kwargs)
        except NAIVE_ERRORS:
            return
        pytest.fail("it passes on the naive bus: it judges nothing")

    return pytest.mark.parametrize("system", ["plugbus", "naive"], indirect=True)(run)


# --- commands by what they are for --------------------------------------------------------------------------


def calls(name: str) -> Choice:
    """Calls of one of our scripts."""
    wanted = script(name)
    known = (wanted.sha, wanted.text)
    return lambda exchange: exchange.name in {"EVALSHA", "EVAL"} and exchange.args[1] in known


_publishes, _fetches, _settles = calls("publish"), calls("fetch"), calls("settle")


def appends(exchange: Exchange) -> bool:
    """It publishes events."""
    is_naive_append = exchange.name == "XADD" and b":stream:" in exchange.args[1]
    return is_naive_append or _publishes(exchange)


def reads(exchange: Exchange) -> bool:
    """It takes deliveries. What is only queued does not: its transaction does."""
    return _carries_out(exchange, "XREADGROUP") or _fetches(exchange)


def settles(exchange: Exchange) -> bool:
    """It tells that deliveries were handled."""
    return _carries_out(exchange, "XACK") or _settles(exchange)


def _carries_out(exchange: Exchange, name: str) -> bool:
    return (
        name in exchange.queued
        if exchange.name == "EXEC"
        else exchange.name == name and not exchange.is_queued
    )


def renamed(raw: bytes) -> bytes:
    """A reply with one bit flipped in the name of its first entry; one without entries as it is."""
    return re.sub(rb"\d{13}-\d+", lambda name: name[0][:-1] + bytes([name[0][-1] ^ 1]), raw, count=1)


class When(Fault):
    """Does `fault` to the first reply that contains `text`, and lets all others pass. With `times=None`."""

    def __init__(self, fault: Fault, text: str | bytes) -> None:
        self.fault, self.text = fault, as_bytes(text)

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        rule = exchange.rule
        assert rule is not None
        if not rule.is_active or self.text not in raw:
            await exchange.deliver(raw)
            return
        rule.remove()
        await self.fault.reply(exchange, raw)


async def happened(rig: Rig, rule: Rule) -> None:
    """Return when the fault has happened; fails after the rig's patience."""
    await rig.until(lambda: rule.fired.is_so, "the fault to happen")


async def arrived(rig: Rig, former: str, *rules: Rule) -> None:
    """Let go of what these hold back, and wait until the server has executed it, or has hung up on it.

    `former`: the fixture. Where the former connection was ended nothing that was held is executed any more,
    where it was left all is.
    """
    for rule in rules:
        rule.release()
    held = [exchange for rule in rules for exchange in rule.taken]
    await rig.until(lambda: all(one.is_answered or one.connection.ended.is_so for one in held), "the late")
    assert [one.is_answered for one in held] == [former == "left"] * len(held)
    assert held


# --- work that goes on meanwhile ----------------------------------------------------------------------------


async def keep_publishing(rig: Rig, bus: EventBus, numbers: Iterator[int]) -> None:
    """To all partitions, one after the other, until it is cancelled."""
    while True:
        n = next(numbers)
        await rig.publish(bus, n, key=f"k{n % 7}")
        await asyncio.sleep(0.005)


async def publish_all(rig: Rig, bus: EventBus, numbers: Iterable[int]) -> None:
    """At once, so in one write, to all partitions."""
    async with asyncio.TaskGroup() as group:
        for n in numbers:
            group.create_task(rig.publish(bus, n, key=f"k{n % 9}"))


async def publish_until(rig: Rig, bus: EventBus, numbers: Iterator[int], rule: Rule) -> None:
    """One event after the other until a fault has happened."""

    async def is_so() -> bool:
        await rig.publish(bus, next(numbers), key="k")
        return rule.fired.is_so

    await rig.until(is_so, "the fault to happen")


def handled(rig: Rig) -> set[str]:
    """Events that some handler has handled to its end."""
    return {record.id for record in rig.history if record.kind == "ended" and record.how == "returned"}


# --- the server's view --------------------------------------------------------------------------------------


def load_scripts(server: Server) -> None:
    """Have the server know all of ours: then a call is one command."""
    for name in names():
        server.command("SCRIPT", "LOAD", script(name).text)


def streams(server: Server) -> list[bytes]:
    """Keys of events of topics, of either system; those that the bus announces of itself left out."""
    found: list[bytes] = server.command("KEYS", "*")
    return [key for key in found if (b":s:" in key or b":stream:" in key) and not key.endswith(b":bus")]


def stored(server: Server) -> int:
    """Events in all streams."""
    return sum(server.command("XLEN", key) for key in streams(server))


def pending(server: Server) -> int:
    """Deliveries that were handed over and not settled, of all groups."""
    with server.client() as client:
        return sum(group["pending"] for key in streams(server) for group in client.xinfo_groups(key))


def commands(server: Server) -> int:
    """How many the server has been sent since it is up, those of scripts left out."""
    with server.client() as client:
        return int(client.info("stats")["total_commands_processed"])


def clients(server: Server) -> list[dict[str, str]]:
    """Who is connected, but for who asks."""
    with server.client() as client:
        me = client.client_id()
        return [one for one in client.client_list() if int(one["id"]) != me]


async def until_done(rig: Rig, probe: Probe, *numbers: int) -> None:
    """Return when all of them are handled; fails after the rig's patience."""
    wanted = set(numbers)
    await rig.until(lambda: wanted <= set(probe.done), f"{sorted(wanted)} to be handled")


async def begun(
    rig: Rig, bus: EventBus, publisher: EventBus | None = None, act: Act | None = None, **options: Any
) -> Probe:
    """A handler on `bus` that has read what there is, and so knows what comes next; it has handled 0.

    `publisher`: who has published that, where it is another.
    """
    probe, publisher = await rig.on(bus, act, **options), publisher or bus
    await rig.publish(publisher, 0)
    await until_done(rig, probe, 0)
    await rig.quiet(publisher)
    return probe


async def one_by_one(rig: Rig, publisher: EventBus, probe: Probe, *numbers: int) -> None:
    """Publish each when the one before is handled."""
    for n in numbers:
        await rig.publish(publisher, n)
        await until_done(rig, probe, n)


async def settled(rig: Rig, server: Server, bus: EventBus, **allowed: int) -> None:
    """Return when nothing is pending; fails unless all was as promised, but for what is `allowed`."""
    await rig.quiet(bus)
    await rig.until(lambda: pending(server) == 0, "nothing to be pending")
    rig.judge(**allowed)


async def goes_on(rig: Rig, server: Server, publisher: EventBus, probe: Probe, n: int) -> None:
    """It handles one more event, `n`; then it has handled all from 0 on, each once and in their order."""
    await one_by_one(rig, publisher, probe, n)
    await settled(rig, server, publisher)
    assert probe.numbers == list(range(n + 1))


def entries_asked_for(exchange: Exchange) -> int:
    """How many a fetch asks for at most; 0: it is no fetch."""
    args = exchange.args
    return int(args[args.index(b"COUNT") + 1]) if exchange.name == "XREADGROUP" else 0
