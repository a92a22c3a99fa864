"""The clock of Redis jumps, or that of a replica is an hour off: leases are measured, not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fault_tools.backend import RedisBackend
from fault_tools.servers import Server
from fault_tools.worker_clocks import JUMPS, ClockedServer, ShiftedBackend, clocked_server
from fault_tools.workers import Bench, Nursery, owners, passes_on_naive, retries

from bus.conformance.backend import limits_for, needs
from bus.conformance.rig import Rig, now

SHORT = 0.5
"""A lease, where only one replica could lose anything by it."""


@pytest.fixture(params=JUMPS, ids="{:+.0f}".format)
async def clocked(
    request: pytest.FixtureRequest, nursery: Nursery, tmp_path: Path
) -> AsyncIterator[tuple[Bench, float]]:
    """A server whose clock can be told; and by how much it is to jump."""
    with clocked_server() as server:
        rig = Rig(RedisBackend(limits_for(request), server))
        async with Bench(rig, nursery, tmp_path, server) as work:
            yield work, request.param


@needs(lease=SHORT)
async def test_the_clock_of_redis_jumps(
    clocked: tuple[Bench, float], caplog: pytest.LogCaptureFixture
) -> None:
    """By an hour, with one running: nobody loses it; then its owner is killed, and others have it after the
    lease; each effect once; the jump is said [B30 F30]."""
    await clock_jumps(*clocked)
    assert ("the clock of Redis has jumped" in caplog.text) == bool(clocked[1])


async def clock_jumps(work: Bench, jump: float) -> None:
    bus = await work.rig.open("heir")
    effects = await work.rig.on(bus, None, "effects.*", group="audit.effects")
    worker = await work.up("first", timeout=60)
    await work.publish(bus, 0, "hold", "make", key="k")
    await work.publish(bus, 1, "make", key="k")
    await work.rig.until(lambda: worker.running() == 1)
    heir = await work.host(bus)
    assert isinstance(work.server, ClockedServer)
    work.server.shift(jump)
    await asyncio.sleep(1.5 * SHORT)
    assert heir.numbers == []
    assert await owners(work, bus) == {"first": 1}
    worker.kill()
    killed_at = now()
    await work.publish(bus, 2, "make", key="k")
    await work.rig.quiet(bus)
    assert heir.starts == [(0, 1), (1, 1), (2, 1)]
    assert heir.times[0] - killed_at < 2 * SHORT + 1
    assert effects.numbers == [0, 1, 2]
    work.collect()
    work.judge(repeats=1)


@pytest.fixture(params=[3_600.0, -3_600.0], ids="{:+.0f}".format)
async def shifted(
    request: pytest.FixtureRequest, server: Server, nursery: Nursery, tmp_path: Path
) -> AsyncIterator[Bench]:
    """The replica named `shifted` has a wall clock that is an hour off."""
    rig = Rig(ShiftedBackend(limits_for(request), server, request.param))
    async with Bench(rig, nursery, tmp_path, server) as work:
        yield work


@needs(lease=SHORT)
async def test_the_clock_of_a_replica_is_an_hour_off(shifted: Bench) -> None:
    """It owns, waits, retries and hands over like any other [B31]."""
    work = shifted
    a, b = await work.rig.open("shifted"), await work.rig.open("other")
    first = await work.host(a, retry=retries(0.3))
    await work.publish(b, 0, "fail 1", key="k")
    await work.publish(b, 1, key="k")
    await work.rig.until(lambda: len(first.starts) == 3)
    assert first.starts == [(0, 1), (0, 2), (1, 1)]
    assert 0.3 <= first.times[1] - first.times[0] < 0.6
    second = await work.host(b, retry=retries(0.3))
    await asyncio.sleep(2 * SHORT)
    assert sum((await owners(work, a)).values()) == 1
    await work.publish(a, 2, "fail 1", key="k")
    await work.publish(a, 3, key="k")
    await work.rig.until(lambda: (2, 1) in first.starts + second.starts)
    await work.rig.crash(a)
    await work.rig.quiet(b)
    starts = sorted(first.starts[3:] + second.starts)
    assert starts in ([(2, 1), (2, 2), (3, 1)], [(2, 1), (2, 1), (2, 2), (3, 1)])
    work.judge(repeats=1)


# --- the control --------------------------------------------------------------------------------------------


@needs(lease=SHORT)
async def the_clock_jumps(work: Bench) -> None:
    await clock_jumps(work, JUMPS[-1])


async def test_the_naive_bus_fails_when_the_clock_jumps(nursery: Nursery, tmp_path: Path) -> None:
    """The same body as on ours, on a server of its own [F30]."""
    with clocked_server() as server:
        assert await passes_on_naive([the_clock_jumps], server, nursery, tmp_path) == []
