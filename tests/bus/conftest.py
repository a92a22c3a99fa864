"""The rig of the bus tests: time that passes only when nothing else can happen, and nothing left behind.

The tests run on an event loop whose clock jumps to the next timer as soon as nobody has anything to do:
an hour of backoff takes no time, and a test that waits for what never comes fails at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from bus.clock import Ids
from bus.conformance.virtual import JumpingClock, JumpingLoop
from bus.memory import MemoryBroker, MemoryBus
from contracts.bus import (
    BusLimits,
    BusSubscription,
    GroupInfo,
    Predicate,
    RetryPolicy,
    SubscriptionOptions,
    SubscriptionSpec,
)
from contracts.event import Event, EventResult, Receipt
from contracts.message import PluginEvent

SOURCE = "/test"
SOON = RetryPolicy(first_delay=1, factor=1, jitter=0, attempts=1_000)
"""Again after a second, and again."""


class Item(Event, type="orders.item"):
    """What the tests publish."""

    n: int


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Any]:
    return {"jumping": JumpingLoop}


Act = Callable[[int, int], Any]


class Recorder:
    """A handler that writes down (n, attempt) of what it sees and then does what `act` says."""

    def __init__(self, act: Act | None = None) -> None:
        self.act = act
        self.seen: list[tuple[int, int]] = []
        self.events: list[PluginEvent] = []
        self.done: list[int] = []

    async def __call__(self, event: PluginEvent) -> EventResult | None:
        n = event.as_(Item).n if event.type == Item.__event_type__ else -1
        self.seen.append((n, event.attempt))
        self.events.append(event)
        result = None if self.act is None else self.act(n, event.attempt)
        if isinstance(result, Awaitable):
            await result
        self.done.append(n)
        return result if isinstance(result, EventResult) else None

    @property
    def numbers(self) -> list[int]:
        return [n for n, _ in self.seen]


def number(event: PluginEvent) -> int:
    return int(event.data["n"])  # type: ignore[call-overload,index,arg-type]


class Timed:
    """Writes down when it was started, of which event; `act` may fail or wait."""

    def __init__(self, act: Callable[[int, int], Any] | None = None) -> None:
        self.act = act
        self.starts: list[tuple[float, int]] = []
        self.begin = asyncio.get_running_loop().time()
        self.running = self.most = 0

    async def __call__(self, event: PluginEvent) -> EventResult | None:
        now = asyncio.get_running_loop().time() - self.begin
        self.starts.append((round(now, 6), number(event)))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            result = None if self.act is None else self.act(number(event), event.attempt)
            if asyncio.iscoroutine(result):
                await result
            return result if isinstance(result, EventResult) else None
        finally:
            self.running -= 1

    @property
    def times(self) -> list[float]:
        return [start for start, _ in self.starts]

    @property
    def numbers(self) -> list[int]:
        return [n for _, n in self.starts]


async def on(rig: Any, bus: Any, handler: Any, where: Predicate | None = None, **options: Any) -> Any:
    return await bus.subscribe(rig.spec(**options), handler, where=where)


def wall(rig: Any, seconds: float) -> datetime:
    return datetime.fromtimestamp(rig.clock.time_ns() / 1e9 + seconds, UTC)


class Rig:
    """One broker, as many buses as a test asks for, all closed at the end."""

    def __init__(self) -> None:
        self.clock = JumpingClock()
        self.broker = self.make_broker()
        self.buses: list[MemoryBus] = []

    def make_broker(self, **options: Any) -> MemoryBroker:
        self.broker = MemoryBroker(clock=self.clock, random=Random(7), ids=Ids("t"), **options)  # noqa: S311 - to be repeatable
        return self.broker

    def limit(self, **limits: Any) -> None:
        self.make_broker(limits=BusLimits(**limits))

    async def open(self, replica: str = "a") -> MemoryBus:
        bus = MemoryBus(self.broker, replica=replica)
        await bus.open()
        self.buses.append(bus)
        return bus

    async def on(
        self,
        bus: MemoryBus,
        handler: Any,
        *patterns: str,
        group: str = "shop.handle",
        start: str = "oldest",
        **options: Any,
    ) -> BusSubscription:
        spec = self.spec(*patterns, group=group, start=start, **options)
        return await bus.subscribe(spec, handler)

    def spec(self, *patterns: str, group: str = "shop.handle", **options: Any) -> SubscriptionSpec:
        plugin_id, _, name = group.partition(".")
        return SubscriptionSpec(
            group=group, plugin_id=plugin_id, handler=name, patterns=patterns or ("orders.**",),
            options=SubscriptionOptions(**options), source=f"/plugins/{plugin_id}", generation=3,
        )  # fmt: skip

    async def publish(
        self, bus: MemoryBus, *numbers: int, key: str | None = None, **options: Any
    ) -> list[Receipt]:
        return [await bus.publish(Item(n=n), source=SOURCE, key=key, **options) for n in numbers]

    async def info(self, group: str = "shop.handle") -> GroupInfo:
        found = {info.group: info for info in await self.buses[-1].groups()}
        return found[group]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    for bus in rig.buses:
        await bus.close(grace=0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture
async def bus(rig: Rig) -> MemoryBus:
    return await rig.open()


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def item() -> type[Item]:
    return Item


@pytest.fixture(scope="session")
def make_loop() -> type[JumpingLoop]:
    return JumpingLoop


@pytest.fixture(scope="session")
def make_clock() -> type[JumpingClock]:
    return JumpingClock
