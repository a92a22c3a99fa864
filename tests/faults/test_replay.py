"""A replay beside live traffic."""

from __future__ import annotations

import asyncio
from statistics import quantiles
from typing import Any

from fault_tools.form import IS_LONG
from fault_tools.own_servers import own_backend, own_rig, server_of_its_own  # noqa: F401 - fixtures
from fault_tools.storage_systems import GROUP

from bus.conformance.backend import needs
from bus.conformance.rig import Rig, now
from contracts.event import EventData


@needs(retain=200_000)
async def test_a_replay_goes_through_exactly_its_range_beside_live_traffic(rig: Rig) -> None:
    """From an id on, each once and in order; live events are not slowed down, no other group notices.

    [B41]
    """
    count = 100_000 if IS_LONG else 3_000
    bus = await rig.open()
    side = await rig.on(bus, None, group="shop.side", concurrency=8)
    ended: dict[str, float] = {}
    replayed: list[int] = []

    async def handle(event: Any) -> None:
        n = int(event.data["n"])
        if event.replayed:
            replayed.append(n)
        else:
            ended[event.id] = now()

    await rig.subscribe(bus, handle, concurrency=8)
    receipts = []
    for begin in range(0, count, 500):
        receipts += await bus.publish_many(
            [EventData(type="orders.item", data=f'{{"n": {n}}}') for n in range(begin, begin + 500)],
            source="/past", key="k", timeout=60,
        )  # fmt: skip
    await rig.until(lambda: len(ended) == count and len(side.done) == count)

    async def live(number: int) -> list[float]:
        begun: dict[str, float] = {}
        for n in range(number):
            id = f"live-{len(ended)}-{n}"
            begun[id] = now()
            await bus.publish(EventData(type="orders.item", data='{"n": -1}'), source="/live", key="l", id=id)
            await asyncio.sleep(0.002)
        await rig.until(lambda: begun.keys() <= ended.keys())
        return [ended[id] - begun[id] for id in begun]

    before = await live(300)
    first = count // 3
    total = await bus.replay(GROUP, start=receipts[first].position)
    beside = await live(300)
    await rig.until(lambda: len(replayed) >= count - first)
    await rig.quiet(bus)
    past = [n for n in replayed if n >= 0]
    assert past == list(range(first, count))
    assert total >= count - first
    assert len(side.done) == count + 600
    assert _p99(beside) < 2 * _p99(before) + 0.02
    info = await rig.info(bus, "shop.side")
    assert (info.handled, info.replaying) == (count + 600, 0)


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98]
