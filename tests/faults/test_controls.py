"""What many people would write does wrong, where a test of ours cannot be run on it: said in so many words.

F15, F30: the naive bus has no owners and counts no refusals, so that tests which look at them fail on it
whatever it does. NOSCRIPT: it calls no scripts; the control is a client that calls them as redis-py does.
"""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio
from fault_tools.faults import Hold
from fault_tools.proxy import FaultProxy
from fault_tools.servers import Server
from fault_tools.storage_systems import GROUP, Store, backend_on, naive_bus
from fault_tools.worker_clocks import JUMPS, clocked_server
from redis.exceptions import NoScriptError

from bus.conformance.probe import Gate
from bus.conformance.rig import Rig, now
from contracts.bus import BusLimits

LEASE = 1.5
"""The naive bus claims three times in one."""


async def test_the_naive_bus_acknowledges_what_others_have() -> None:
    """Its owner stands still, another takes it over, the first wakes and acknowledges: it is pending no more
    while the other still works on it, and is lost if that one dies. [F15]"""
    with Server() as server:
        async with naive_bus():
            backend, late, taken = backend_on(server, BusLimits(lease=0.5)), Gate(), Gate()
            rig, store = Rig(backend), Store(backend, server)
            a, b = await rig.open("a"), await rig.open("b")
            first = await rig.on(a, late)
            await rig.publish(a, 0)
            await rig.until(lambda: late.waiting)
            rig.suspend(a)
            second = await rig.on(b, taken)
            await rig.until(lambda: taken.waiting)
            assert store.pending(GROUP, "orders") == 1
            rig.wake(a)
            late.open()
            await rig.until(lambda: store.pending(GROUP, "orders") == 0)
            assert (first.done, second.done, second.running) == ([0], [], 1)


@pytest.mark.parametrize("jump", JUMPS, ids="{:+.0f}".format)
async def test_the_naive_bus_goes_by_a_clock_that_jumps(jump: float) -> None:
    """Its claims go by idle time, which goes by the wall clock. An hour on: what runs is started once
    more within its lease. An hour back: what its owner has died with is not. Without a jump neither is so.

    [F30]
    """
    with clocked_server() as server:
        async with naive_bus():
            rig, gate = Rig(backend_on(server, BusLimits(lease=LEASE))), Gate()
            a, b = await rig.open("a"), await rig.open("b")
            first = await rig.on(a, gate, concurrency=2)
            await rig.publish(a, 0)
            await rig.until(lambda: gate.waiting)
            began, second = now(), await rig.on(b)
            server.shift(jump)
            if jump > 0:
                await rig.until(lambda: len(first.starts) + len(second.starts) == 2)
                assert now() - began < LEASE
            else:
                await rig.crash(a)
                await asyncio.sleep(2 * LEASE)
                assert second.numbers == ([] if jump else [0])


async def test_a_client_that_loads_scripts_beforehand_loses_calls(server: Server) -> None:
    """It loads what is missing, then sends its calls in one write. What is forgotten in between is refused,
    and so is everything behind it: of three only the first has happened. [NOSCRIPT]"""
    async with FaultProxy(server) as proxy, redis.asyncio.Redis.from_url(proxy.url) as client:
        append = client.register_script("return redis.call('RPUSH', KEYS[1], ARGV[1])")
        rule = proxy.on("EVALSHA", Hold(), nth=2)
        async with client.pipeline(transaction=False) as calls:
            for n in range(3):
                await append(keys=["calls"], args=[n], client=calls)
            sending = asyncio.ensure_future(calls.execute())
            await rule.fired
            server.command("SCRIPT", "FLUSH")
            rule.release()
            with pytest.raises(NoScriptError):
                await sending
        assert server.command("LRANGE", "calls", 0, -1) == [b"0"]
        server.command("DEL", "calls")
