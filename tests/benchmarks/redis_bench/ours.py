"""The bus: typed events, one durable group, every promise in force."""

from __future__ import annotations

from contracts.bus import BusLimits, EventBus
from contracts.event import Event
from contracts.message import PluginEvent
from contracts.subscription import SubscriptionSpec

from .load import GROUP, PRICE, QUANTITY, STREAM, USER, Handled, Lost, Side, eventually, stamp

SOURCE = "/bench"


class Trade(Event, type=f"{STREAM}.trade"):
    """Five fields, and what makes it as large as is wanted."""

    id: str
    user: str
    quantity: int
    price: float
    stamp: int
    pad: str


SPEC = SubscriptionSpec(group=GROUP, plugin_id="bench", handler="handle", patterns=(f"{STREAM}.trade",))


def make(pad: str) -> Trade:
    return Trade(id="a1", user=USER, quantity=QUANTITY, price=PRICE, stamp=stamp(), pad=pad)


def pad_for(size: int) -> str:
    return "x" * (size - len(make("").model_dump_json()))


def new_bus(url: str, limits: BusLimits) -> EventBus:
    if url.startswith("memory:"):  # to try the benchmark itself
        from bus.memory import open_bus as open_memory_bus

        return open_memory_bus(url, namespace="bench", limits=limits)
    from bus.redis_streams import open_bus

    return open_bus(url, namespace="bench", limits=limits)


class Ours(Side):
    publishers = 100

    def __init__(self, url: str, size: int, limits: BusLimits) -> None:
        self.bus = new_bus(url, limits)
        self._pad = pad_for(size)

    async def open(self) -> None:
        await self.bus.open()

    async def declare(self) -> None:
        await self.bus.declare_group(SPEC)

    async def consume(self, handled: Handled) -> None:
        async def handle(event: PluginEvent) -> None:
            handled.add(event.as_(Trade).stamp)

        await self.bus.subscribe(SPEC, handle)

    async def publish(self) -> None:
        await self.bus.publish(make(self._pad), source=SOURCE)

    async def check(self, published: int, handled: int | None) -> None:
        await check_bus(self.bus, published, handled)

    async def close(self) -> None:
        await self.bus.close()


async def check_bus(bus: EventBus, published: int, handled: int | None) -> None:
    """All taken, all handled once, nothing left open anywhere."""
    if handled not in (None, published):
        raise Lost(f"published {published}, handled {handled}")

    async def look() -> str | None:
        taken = sum(topic.published for topic in await bus.topics() if topic.topic == STREAM)
        if taken != published:
            return f"published {published}, taken {taken}"
        return None if handled is None else await _unsettled(bus, published)

    await eventually(look)


async def _unsettled(bus: EventBus, published: int) -> str | None:
    group = next(group for group in await bus.groups() if group.group == GROUP)
    left = group.waiting + group.in_flight + group.parked + group.dead + group.failed
    if left or group.handled != published:
        return f"published {published}, but the group tells of {group!r}"
    return None
