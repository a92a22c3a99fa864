"""Another server behind the same address: what it has got, and what it has never heard of."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fault_tools.controls import Control, fails_on_naive
from fault_tools.own_servers import DURABLE, Behind, server_of_its_own  # noqa: F401 - fixtures
from fault_tools.proxy import FaultProxy
from fault_tools.servers import Server
from fault_tools.storage_systems import backend_on, check_log

from bus.conformance import limits_for
from bus.conformance.backend import needs
from bus.conformance.probe import Gate
from bus.conformance.rig import Rig, now

CONTROLS: list[Control] = []


@needs(lease=1.0)
async def test_a_server_that_is_made_a_replica_is_left_for_its_master(
    request: pytest.FixtureRequest, own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Under load, behind one address: what was replicated is there, publishers wait and succeed. [F27, B35]

    The weaker promise of a failover: what the new master has not got is lost, and acknowledgements that it
    has not got come back as a second delivery. Here it has everything, so nothing is lost or repeated.
    """
    async with FaultProxy(own_server) as proxy:
        with Server(own_server.binary, DURABLE) as second:
            backend: Any = backend_on(own_server, limits_for(request))
            backend.server = Behind(proxy)
            rig = Rig(backend)
            bus = await rig.open()
            probe = await rig.on(bus)
            second.command("REPLICAOF", "127.0.0.1", own_server.port)
            await rig.until(lambda: _is_in_step(second))
            ended = asyncio.Event()

            async def load() -> None:
                n = 0
                while not ended.is_set():
                    await rig.publish(bus, n, key=f"k{n % 5}", timeout=10)
                    n += 1

            task = asyncio.ensure_future(load())
            await rig.until(lambda: len(probe.done) > 100 or task.done())
            await _fail_over(own_server, second)
            proxy.server = second
            before, began = len(probe.done), now()
            await rig.until(lambda: len(probe.done) > before + 100 or task.done())
            assert now() - began < 5
            ended.set()
            await task
            await rig.quiet(bus)
            check_log(caplog.records)
            rig.judge(repeats=50)
            await rig.end(alone=False)
            await backend.close()


async def _fail_over(first: Server, second: Server) -> None:
    """As an operator does it: no writes until the other has everything, then they change places."""
    first.command("CLIENT", "PAUSE", 1_000, "WRITE")
    while _offset(second) < _offset(first):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    second.command("REPLICAOF", "NO", "ONE")
    first.command("REPLICAOF", "127.0.0.1", second.port)


def _is_in_step(server: Server) -> bool:
    with server.client() as client:
        return str(client.info("replication").get("master_link_status")) == "up"


def _offset(server: Server) -> int:
    """How much of the stream of changes it has, or has made."""
    with server.client() as client:
        found = client.info("replication")
    return int(found.get("slave_repl_offset", found["master_repl_offset"]))


@fails_on_naive(
    CONTROLS, at="assert probe.numbers[before:] ==",
    because="what was read comes back a lease later, behind what was not: out of order",
)  # fmt: skip
@needs(lease=1.0)
async def test_what_a_failover_brings_back_is_delivered_again_and_in_order(
    request: pytest.FixtureRequest, own_server: Server
) -> None:
    """Acknowledgements and reads that the new master never got: delivered once more, none skipped. [F27]

    It has all of the first fifty, and that the first of them was read; that all of them were handled, and
    what came then, it has never heard of. Where the group dedupes, what its new master remembers is
    suppressed; the rest is at least once.
    """
    async with FaultProxy(own_server) as proxy:
        with Server(own_server.binary, DURABLE) as second:
            backend: Any = backend_on(own_server, limits_for(request))
            backend.server = Behind(proxy)
            rig = Rig(backend)
            bus = await rig.open()
            gate = Gate()
            probe = await rig.on(bus, gate)
            second.command("REPLICAOF", "127.0.0.1", own_server.port)
            await rig.until(lambda: _is_in_step(second))
            await rig.publish(bus, *range(50), key="k")
            await rig.until(lambda: gate.waiting)
            await rig.until(lambda: _offset(second) >= _offset(own_server))
            second.command("REPLICAOF", "NO", "ONE")  # from here on it gets nothing any more
            gate.open()
            await rig.publish(bus, *range(50, 80), key="k")
            await rig.until(lambda: set(range(80)) <= set(probe.done))
            await rig.quiet(bus)
            before = len(probe.numbers)
            own_server.kill()
            proxy.server = second
            proxy.cut()
            await rig.publish(bus, *range(100, 120), key="k", timeout=10)
            await rig.until(lambda: set(range(100, 120)) <= set(probe.done))
            await rig.quiet(bus)
            assert probe.numbers[before:] == [*range(50), *range(100, 120)]
            assert before == 80
            assert [n for n in probe.done if n >= 100] == list(range(100, 120))
            assert (await bus.topics())[0].published >= 70
            await rig.end(alone=False)
            await backend.close()


# --- the control --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", CONTROLS, ids=str)
async def test_the_naive_bus_fails(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    """Each of these, for its reason: what passes there judges nothing."""
    await control.check(caplog)
