"""What goes wrong, and what operators do, in the order that the seed chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from contracts.bus import DeadLetterSelection

from . import history as h

if TYPE_CHECKING:
    from .world import Replica, World

GRACES = (0.0, 1.0, 60.0)
"""Seconds."""
TIMES = (0.0, 0.1, 1.0, 3.0, 10.0)
"""Seconds between two disturbances."""


async def disturb(world: World) -> None:
    """One thing after the other, until the plan's number is reached."""
    for _ in range(world.plan.weather.disturbances):
        await asyncio.sleep(world.random.choice(TIMES))
        await world.random.choice(DEEDS)(world)


def _some(world: World) -> Replica | None:
    up = [replica for replica in world.replicas if replica.is_up and not replica.is_suspended]
    return world.random.choice(up) if up else None


async def kill(world: World) -> None:
    if replica := _some(world):
        world.kill(replica)


async def close(world: World) -> None:
    if replica := _some(world):
        await world.close(replica, world.random.choice(GRACES))


async def join(world: World) -> None:
    await world.join()


async def hand_over(world: World) -> None:
    """A new generation on the same bus: drain the old subscription, subscribe the new one."""
    replica = _some(world)
    if replica is None or not replica.subscriptions:
        return
    group = world.random.choice(sorted(replica.subscriptions))
    host, subscription = replica.subscriptions.pop(group)
    world.note(h.Draining(host))
    await subscription.drain(world.random.choice(GRACES))
    world.note(h.Drained(host))
    if replica.is_up and world.random.random() < 0.8:
        await world.subscribe(replica, group)


async def drop(world: World) -> None:
    group = world.random.choice(sorted(world.specs))
    if (replica := _some(world)) and group in world.broker.groups:
        world.forget(group)
        await replica.bus.drop_group(group)


async def redrive(world: World) -> None:
    if replica := _some(world):
        letters = await replica.bus.dead_letters(limit=world.random.choice((1, 100)))
        for letter in letters:
            world.note(h.Redriven(letter.group, world.name_of(letter)))
        ids = tuple(letter.id for letter in letters)
        rate = world.random.choice((None, None, 0.5))
        count = await replica.bus.redrive(DeadLetterSelection(ids=ids), rate=rate)
        if count != len(ids):
            world.note(h.Wrong(f"redrove {count} of {len(ids)} dead letters"))


async def discard(world: World) -> None:
    if replica := _some(world):
        letters = await replica.bus.dead_letters(limit=2)
        for letter in letters:
            world.note(h.DeadLetterDiscarded(letter.group, world.name_of(letter)))
        await replica.bus.discard(DeadLetterSelection(ids=tuple(letter.id for letter in letters)))


async def pause(world: World) -> None:
    group = world.random.choice(sorted(world.specs))
    if (replica := _some(world)) and group in world.broker.groups:
        world.note(h.Paused(group))
        await replica.bus.pause_group(group, reason="to see")


async def resume(world: World) -> None:
    group = world.random.choice(sorted(world.specs))
    if (replica := _some(world)) and group in world.broker.groups:
        world.note(h.Resumed(group))
        await replica.bus.resume_group(group)


async def replay(world: World) -> None:
    """Once in the life of a group."""
    group = world.random.choice(sorted(world.specs))
    if (replica := _some(world)) and group in world.broker.groups and group not in world.replayed:
        world.replayed.add(group)
        count = await replica.bus.replay(group)
        world.note(h.Replayed(group, count))


async def suspend(world: World) -> None:
    if replica := _some(world):
        world.suspend(replica)


async def wake(world: World) -> None:
    asleep = [replica for replica in world.replicas if replica.is_suspended]
    if asleep:
        world.wake(world.random.choice(asleep))


async def suspend_for_long(world: World) -> None:
    """Longer than a lease, and back."""
    await suspend(world)
    await asyncio.sleep(world.random.choice((0.5, 2.0, 40.0)))
    await wake(world)


async def cancel_publisher(world: World) -> None:
    world.random.choice(world.publishers).cancel()


async def jump(world: World) -> None:
    """The wall clock alone."""
    world.clock.jump += world.random.choice((-60.0, -0.5, 0.5, 60.0, 90_000.0))


Deed = Callable[["World"], Awaitable[None]]
DEEDS: tuple[Deed, ...] = (
    kill, kill, close, join, join, hand_over, hand_over, suspend, wake, suspend_for_long, suspend_for_long,
    drop, redrive, redrive, discard, pause, resume, replay, cancel_publisher, jump,
)  # fmt: skip
