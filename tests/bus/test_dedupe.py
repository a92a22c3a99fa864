"""Dedupe: what a group has settled is not handled again, unless somebody asks for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bus.policy.dedupe import Settled
from contracts.bus import BusLimits, DeadLetterSelection, RetryPolicy
from contracts.event import EventData, EventResult

from .conftest import SOON, Timed, wall


def test_settled_ids_are_remembered_by_time_and_count() -> None:
    """At least as long as promised, at most twice as many."""
    settled = Settled(seconds=100, count=3)
    settled.add("s", "a", 50.0)
    assert settled.contains("s", "a", 149.0)
    assert not settled.contains("s", "b", 149.0)
    assert not settled.contains("t", "a", 149.0)
    assert not settled.contains("s", "a", 260.0)
    settled.add("s", "last", 400.0)
    assert not settled.contains("s", "last", 601.0)
    for n in range(50):
        settled.add("s", str(n), 700.0)
        assert all(settled.contains("s", str(kept), 700.0) for kept in range(max(0, n - 2), n + 1))
        assert len(settled) <= 6


def forget_ids(rig: Any) -> None:
    """So short a memory of published ids that a second copy gets through to the groups."""
    rig.make_broker(limits=BusLimits(window=1, window_seconds=0))


async def twice(rig: Any, bus: Any, n: int = 1, **options: Any) -> None:
    """One event, published again after the idempotency window."""
    await rig.publish(bus, n, id=f"id{n}", **options)
    await asyncio.sleep(60)
    receipt = await rig.publish(bus, n, id=f"id{n}", **options)
    assert not receipt[0].duplicate
    await bus.quiet()


async def test_a_second_delivery_of_a_settled_event_is_suppressed(rig: Any) -> None:
    """It is acknowledged and counted; other sources and other ids are not concerned."""
    forget_ids(rig)
    bus, handler, plain = await rig.open(), Timed(), Timed()
    await rig.on(bus, handler, dedupe=True)
    await rig.on(bus, plain, group="shop.plain")
    await twice(rig, bus)
    await bus.publish(item(2), source="/other", id="id1")
    await bus.quiet()
    info = await rig.info()
    assert handler.numbers == [1, 2]
    assert plain.numbers == [1, 1, 2]
    assert (info.repeated, info.handled) == (1, 3)


def item(n: int) -> EventData:
    return EventData(type="orders.item", data=f'{{"n": {n}}}')


@pytest.mark.parametrize("end", ["dead_letter", "discard", "raise"])
async def test_every_final_outcome_settles(rig: Any, end: str) -> None:
    """Dead and discarded events are not handled again either."""

    def act(n: int, attempt: int) -> EventResult:
        if end == "raise":
            raise ValueError("no")
        return EventResult.discard("no") if end == "discard" else EventResult.dead_letter("no")

    forget_ids(rig)
    bus, handler = await rig.open(), Timed(act)
    await rig.on(bus, handler, dedupe=True, retry=RetryPolicy(attempts=1))
    await twice(rig, bus)
    assert handler.numbers == [1]
    assert (await rig.info()).repeated == 1


async def test_an_expired_event_is_settled(rig: Any) -> None:
    """Its second copy is suppressed, although that would not have expired."""
    forget_ids(rig)
    bus, handler = await rig.open(), Timed()
    await rig.publish(bus, 1, id="id1", expires=wall(rig, 1))
    await asyncio.sleep(60)
    await rig.publish(bus, 1, id="id1")
    await rig.on(bus, handler, dedupe=True)
    await bus.quiet()
    info = await rig.info()
    assert (handler.numbers, info.expired, info.repeated) == ([], 1, 1)


async def test_a_failed_attempt_is_not_settled(rig: Any, bus: Any) -> None:
    """It is tried again, and the copy after the success is suppressed."""

    def act(n: int, attempt: int) -> None:
        if attempt == 1:
            raise ValueError("no")

    handler = Timed(act)
    await rig.on(bus, handler, dedupe=True, retry=SOON)
    await rig.publish(bus, 1)
    await bus.quiet()
    assert handler.numbers == [1, 1]
    assert (await rig.info()).repeated == 0


async def test_dedupe_is_the_groups_not_the_replicas(rig: Any) -> None:
    """What one replica has settled another one does not handle again."""
    forget_ids(rig)
    bus, other, handler = await rig.open("a"), await rig.open("b"), Timed()
    await rig.on(bus, handler, dedupe=True)
    await rig.publish(bus, 1, id="id1")
    await bus.quiet()
    await bus.close()
    await rig.on(other, handler, dedupe=True)
    await asyncio.sleep(60)
    await rig.publish(other, 1, id="id1")
    await other.quiet()
    assert handler.numbers == [1]


async def test_redrive_and_replay_are_not_suppressed(rig: Any, bus: Any) -> None:
    """Somebody has asked for them."""

    def act(n: int, attempt: int) -> None:
        if len(handler.starts) == 1:
            raise ValueError("no")

    handler = Timed(act)
    await rig.on(bus, handler, dedupe=True, retry=RetryPolicy(attempts=1))
    await rig.publish(bus, 1)
    await bus.quiet()
    assert await bus.redrive(DeadLetterSelection(group="shop.handle")) == 1
    await bus.quiet()
    assert handler.numbers == [1, 1]
    assert await bus.replay("shop.handle") == 1
    await bus.quiet()
    assert handler.numbers == [1, 1, 1]
    assert (await rig.info()).repeated == 0


async def test_an_expired_event_is_not_replayed(rig: Any, bus: Any) -> None:
    """A replay starts nothing whose time is over."""
    handler = Timed()
    await rig.publish(bus, 1, expires=wall(rig, 5))
    await rig.on(bus, handler, start="new")
    await asyncio.sleep(10)
    await bus.replay("shop.handle")
    await bus.quiet()
    assert (handler.numbers, (await rig.info()).expired) == ([], 1)
