"""Whoever ends what he runs in, and ends that are broken off."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.bus import Call, CallReply, ProviderSpec
from contracts.errors import BusClosed, ProviderLost
from contracts.message import PluginEvent


def now() -> float:
    return asyncio.get_running_loop().time()


def tasks() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


async def test_a_handler_that_closes_its_bus_is_not_waited_for(rig: Any, bus: Any) -> None:
    """Close returns to it at once, and it goes on to its end."""
    took: list[float] = []

    async def handle(event: PluginEvent) -> None:
        began = now()
        await bus.close(grace=5)
        took.append(now() - began)

    await rig.on(bus, handle)
    await rig.publish(bus, 1)
    await asyncio.sleep(50)
    assert took == [0]
    assert (await rig.info()).handled == 1


async def test_a_provider_that_closes_its_bus_is_not_waited_for(rig: Any, bus: Any) -> None:
    """Nor cancelled; who asked on that bus is told that it is closed."""
    took: list[float] = []

    async def provide(call: Call) -> CallReply:
        began = now()
        await bus.close(grace=5)
        took.append(now() - began)
        return CallReply(data="{}")

    await bus.provide(ProviderSpec(capability="pricing.quote", plugin_id="p", provider="quote"), provide)
    with pytest.raises((BusClosed, ProviderLost)):
        await bus.request("pricing.quote", "{}", source="/test")
    await asyncio.sleep(0)
    assert took == [0]


async def test_a_handler_that_removes_itself_keeps_its_timeout(rig: Any, bus: Any) -> None:
    """Nobody waits for it, but it may take no longer than before."""
    ended: list[float] = []
    subscriptions: list[Any] = []

    async def handle(event: PluginEvent) -> None:
        await subscriptions[0].remove()
        try:
            await asyncio.sleep(3_600)
        finally:
            ended.append(now())

    subscriptions.append(await rig.on(bus, handle, timeout=30))
    began = now()
    await rig.publish(bus, 1)
    await asyncio.sleep(100)
    assert ended == [pytest.approx(began + 30, abs=1)]
    assert not tasks()


@pytest.mark.parametrize("drops", [True, False])
async def test_close_ends_a_handler_that_ended_itself(rig: Any, bus: Any, drops: bool) -> None:
    """It has removed its subscription, or dropped its group, and runs on: close leaves no task behind."""
    subscriptions: list[Any] = []

    async def handle(event: PluginEvent) -> None:
        await (bus.drop_group("shop.handle") if drops else subscriptions[0].remove())
        await asyncio.sleep(3_600)

    subscriptions.append(await rig.on(bus, handle))
    await rig.publish(bus, 1)
    await asyncio.sleep(1)
    assert tasks()
    await bus.close(grace=0)
    assert not tasks()


async def test_a_close_that_is_cancelled_ends_the_bus(rig: Any, bus: Any) -> None:
    """Who gives up waiting finds it closed: what ran is cancelled, and another close does not hang."""

    async def handle(event: PluginEvent) -> None:
        await asyncio.sleep(20)

    await rig.on(bus, handle)
    await rig.publish(bus, 1)
    await asyncio.sleep(1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bus.close(), 1)
    await asyncio.wait_for(bus.close(), 1)
    assert not tasks()
    with pytest.raises(BusClosed):
        await rig.publish(bus, 2)
    assert (await rig.info()).waiting == 1


async def test_the_name_of_a_bus_that_is_killed_while_it_closes_is_free(rig: Any, bus: Any) -> None:
    """A new bus takes it, and the end of the old close does not put it out."""

    async def handle(event: PluginEvent) -> None:
        await asyncio.sleep(20)

    await rig.on(bus, handle)
    await rig.publish(bus, 1, 2, delay=100)
    await rig.publish(bus, 3)
    await asyncio.sleep(1)
    closing = asyncio.create_task(bus.close())
    await asyncio.sleep(1)
    bus.kill()
    new = await rig.open(bus.replica)
    await closing
    tail = new.tail("orders.**")
    await asyncio.sleep(200)
    assert len(tail.read_nowait()) == 2
