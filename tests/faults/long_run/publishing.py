"""A publisher that insists: every event with the same id until it is confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .plan import ITEM, SOURCE, Item, Plan
from .witness import Witness

DEADLINE = 100.0
"""Seconds after which a publisher stops insisting: ids are remembered for 120."""
AHEAD = 16
"""Items that may wait for one lane."""
_PAUSE, _LONGEST = 0.05, 1.0
"""Seconds between two tries, the first and the longest."""


class Unknown(Exception):
    """It may have been taken, or not."""


class Refused(Exception):
    """It was certainly not taken."""


class GaveUp(Exception):
    """An event was not confirmed within `DEADLINE`."""


Publish = Callable[[Item], Awaitable[object]]
"""Returns when the event is confirmed, or raises `Unknown` or `Refused`."""


async def publish_all(plan: Plan, publisher: int, witness: Witness, publish: Publish) -> None:
    """All that is this publisher's. A lane publishes one after the other, so that each key has an order."""
    lanes: list[asyncio.Queue[Item | None]] = [asyncio.Queue(AHEAD) for _ in range(plan.lanes)]
    async with asyncio.TaskGroup() as tasks:
        for lane in lanes:
            tasks.create_task(_work(lane, witness, publish))
        for number, item in plan.items(publisher):
            await lanes[number].put(item)
        for lane in lanes:
            await lane.put(None)


async def _work(lane: asyncio.Queue[Item | None], witness: Witness, publish: Publish) -> None:
    while (item := await lane.get()) is not None:
        await _insist(item, witness, publish)


async def _insist(item: Item, witness: Witness, publish: Publish) -> None:
    witness.invoked(SOURCE, item.id, ITEM, item.key, item.data)
    clock = asyncio.get_running_loop().time
    deadline, pause = clock() + DEADLINE, _PAUSE
    while True:
        try:
            await publish(item)
        except Unknown as error:
            witness.published("unknown", SOURCE, item.id, str(error))
        except Refused as error:
            witness.published("refused", SOURCE, item.id, str(error))
        else:
            return witness.published("confirmed", SOURCE, item.id)
        if clock() > deadline:
            raise GaveUp(f"event {item.id} was not confirmed in {DEADLINE:.0f} s")
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST)
