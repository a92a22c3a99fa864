"""Two kernels on one bus, in memory and on Redis: the better provider goes, and nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from fault_tools.servers import Server

from contracts.messages import CapabilityWithdrawing
from kernel.manager import PluginManager
from kernel.settings import BusSettings, Settings
from plugbus import BasePlugin, Query, provides


class Price(Query[str], capability="pricing.quote"):
    """What does it cost?"""


class Best(BasePlugin, plugin_id="best", version="1", security_level="trusted"):
    @provides(rank=5)
    async def quote(self, query: Price) -> str:
        await asyncio.sleep(0)
        return "best"


class Second(BasePlugin, plugin_id="second", version="1", security_level="trusted"):
    @provides
    async def quote(self, query: Price) -> str:
        return "second"


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with Server() as made:
        yield made


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest, redis: Server, tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}" if request.param == "memory" else redis.url


@pytest.fixture
async def kernels(url: str, tmp_path: Path) -> AsyncIterator[list[PluginManager]]:
    """Two of them: the first has the better provider, the second the other one."""
    async with AsyncExitStack() as stack:
        made = []
        for name, plugin in (("one", Best), ("two", Second)):
            settings = Settings(
                bus=BusSettings(url=url, namespace=f"t{tmp_path.name.replace('-', '')}".lower()),
                replica=name, state_dir=tmp_path / name, plugin_paths=(),
            )  # fmt: skip
            manager = await stack.enter_async_context(PluginManager(settings, profile="embedded"))
            await manager.register_plugin(plugin)
            await manager.start_plugin(plugin.__manifest__["plugin_id"])
            made.append(manager)
        yield made


async def ask(manager: PluginManager) -> str:
    [reply] = await manager.bus.request("pricing.quote", "{}", source="/test", timeout=10)
    return reply.data


async def until(manager: PluginManager, providers: list[str]) -> None:
    async with asyncio.timeout(10):
        while [one.plugin_id for one in manager.bus.providers("pricing.quote")] != providers:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_the_next_in_rank_takes_over_under_traffic(kernels: list[PluginManager]) -> None:
    """The better one is stopped and started five times under traffic from both kernels: not one request
    fails, each time the other one takes over, and it was said before."""
    one, two = kernels
    for manager in kernels:
        await until(manager, ["best", "second"])
    answers: list[str] = []
    done = asyncio.Event()

    async def traffic(manager: PluginManager) -> None:
        while not done.is_set():
            answers.append(await ask(manager))

    async with asyncio.TaskGroup() as group:
        for manager in (one, two, one, two):
            group.create_task(traffic(manager))
        for _ in range(5):
            await one.stop_plugin("best")
            for manager in kernels:
                await until(manager, ["second"])
                assert await ask(manager) == '"second"'
            await one.start_plugin("best")
            for manager in kernels:
                await until(manager, ["best", "second"])
                assert await ask(manager) == '"best"'
        done.set()
    assert set(answers) == {'"best"', '"second"'}
    tail = two.bus.tail("plugin.capability_withdrawing", "plugin.stopped", position="oldest")
    order = []
    while len(order) < 10:
        item = await asyncio.wait_for(anext(tail), 10)
        order.append(item.envelope.type)
    tail.close()
    assert order == ["plugin.capability_withdrawing", "plugin.stopped"] * 5
    assert CapabilityWithdrawing.__event_type__ == order[0]
