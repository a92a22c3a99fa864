"""Redis itself is killed or stands still: who owned a partition owns it afterwards."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest
from fault_tools.form import IS_LONG
from fault_tools.servers import Server, binaries, binary
from fault_tools.workers import Bench, in_flight, owners

from bus.conformance.backend import needs
from bus.conformance.rig import now
from contracts.errors import BusError

LEASE = 1.0
SHORT = 0.5
"""A lease, where only one replica could lose anything by it."""
GROUP = "shop.handle"


@pytest.fixture(params=[label for label, _ in binaries()])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Instead of the shared one, also below `work`: it may be killed, and keeps what it confirms."""
    with Server(binary(request.param), {"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


@needs(lease=LEASE, partitions=4)
async def test_redis_is_killed_again_and_again(work: Bench, server: Server) -> None:
    """Nothing is lost or handled twice; a publish is confirmed or fails, not later than its deadline [B6]."""
    timeout = 2.0 if IS_LONG else 0.2  # shorter than each outage: some fail for certain
    bus = await work.rig.open("publisher")
    for name in ("first", "second"):
        await work.up(name, concurrency=2)
    work.rig.groups[GROUP] = ("orders.**",)
    is_over, late = False, list[float]()

    async def publish(key: str) -> None:
        for n in itertools.count():
            if is_over:
                return
            id = f"{key}-{n}"
            for _ in range(100):
                began = now()
                try:
                    await work.publish(bus, n, "sleep 0.002", key=key, id=id, timeout=timeout)
                    break
                except BusError:
                    late.append(now() - began)

    publishers = [asyncio.ensure_future(publish(key)) for key in "abcd"]
    for _ in range(10 if IS_LONG else 2):
        await asyncio.sleep(0.2)
        server.kill()
        await asyncio.sleep(5.0 if IS_LONG else 0.3)
        await server.start_async()
    await asyncio.sleep(0.2)
    is_over = True
    await asyncio.gather(*publishers)
    await work.rig.quiet(bus)
    work.collect()
    work.judge()
    assert late
    assert all(one < timeout + 0.5 for one in late), late
    assert in_flight(work) == 0


@needs(lease=SHORT)
async def test_an_outage_of_redis_costs_nobody_what_he_owns(work: Bench, server: Server) -> None:
    """Longer than the lease: whoever lives is back before others that have just come may judge him [B6]."""
    bus = await work.rig.open("owner")
    first = await work.host(bus)
    await work.publish(bus, 0, f"sleep {5 * SHORT}", key="k")
    await work.rig.until(lambda: first.running)
    server.kill()
    await asyncio.sleep(1.7 * SHORT)
    await server.start_async()
    other = await work.rig.open("other")
    second = await work.host(other)
    await work.rig.quiet(other)
    assert (first.starts, second.starts) == ([(0, 1)], [])
    work.judge()


@needs(limit=10, retain=0, young_seconds=0.0)
async def test_a_publish_that_waits_for_room_ends_at_its_deadline(work: Bench, server: Server) -> None:
    """The topic is full, and while a publish waits Redis is killed: it fails, not later than else; what was
    confirmed before is handled [B6]."""
    rig, timeout = work.rig, 0.8
    bus = await rig.open()
    await bus.declare_group(rig.spec())
    await rig.publish(bus, *range(10))
    began = now()
    waiting = asyncio.ensure_future(rig.publish(bus, 10, timeout=timeout))
    await rig.pause()
    server.kill()
    with pytest.raises(BusError):
        await asyncio.wait_for(waiting, 5 * timeout)
    took = now() - began
    await server.start_async()
    assert took < timeout + 0.5
    await rig.on(bus)
    await rig.quiet(bus)
    rig.judge()


@needs(lease=LEASE, partitions=4)
async def test_redis_stands_still_for_longer_than_the_lease(work: Bench, server: Server) -> None:
    """SIGSTOP of Redis: afterwards everybody owns what he owned, and each effect has come once [B7]."""
    bus = await work.rig.open("witness")
    effects = await work.rig.on(bus, None, "effects.*", group="audit.effects")
    for name in ("first", "second"):
        await work.up(name, concurrency=2)
    work.rig.groups[GROUP] = ("orders.**",)
    await work.publish(bus, 0)

    async def are_shared() -> bool:
        return await owners(work, bus) == {"first": 2, "second": 2}

    await work.rig.until(are_shared)
    for n in range(1, 40):
        await work.publish(bus, n, "sleep 0.05", "make", key=f"k{n % 10}")
    server.pause()
    waiting = [
        asyncio.ensure_future(work.publish(bus, n, "make", key=f"k{n % 10}", timeout=60))
        for n in range(40, 50)
    ]
    await asyncio.sleep(45.0 if IS_LONG else 1.5 * LEASE)
    server.resume()
    await asyncio.gather(*waiting)
    await work.rig.quiet(bus)
    assert await are_shared()
    assert (await work.rig.info(bus)).stale == 0
    assert sorted(effects.numbers) == list(range(1, 50))
    work.collect()
    # What ran could not publish what it returned before its deadline: such an attempt has failed.
    work.judge(repeats=4 if IS_LONG else 0)
