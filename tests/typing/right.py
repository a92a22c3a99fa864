"""Correct use of the public names: both type checkers must find nothing. Only read by them, never run."""

from collections.abc import Sequence
from typing import assert_type

from fastapi import APIRouter
from pydantic import BaseModel

from plugbus import (
    BasePlugin,
    CircuitBreaker,
    Event,
    EventResult,
    IEventPlugin,
    IWebPlugin,
    PluginEvent,
    PluginMetadata,
    Query,
    RateLimit,
    RetryPolicy,
    RetryRule,
    StaticMount,
    SubscriptionOptions,
    on,
    provides,
)


class Moved(Event):
    """A common base of events."""

    order_id: str


class Placed(Moved, type="orders.placed", version=2):
    lines: tuple[str, ...] = ()


class Shipped(Moved, type="orders.shipped"):
    """Sent."""


class Price(BaseModel, frozen=True):
    amount: int


class Quote(Query[Price], capability="pricing.quote"):
    sku: str


class Orders(
    BasePlugin, plugin_id="orders", version="1.0.0", security_level="trusted", publishes=["orders.*"]
):
    @on
    async def nothing(self, event: Placed) -> None: ...

    @on
    async def an_event(self, event: Placed) -> Shipped:
        return Shipped(order_id=event.order_id)

    @on
    async def perhaps_an_event(self, event: Placed) -> Shipped | None:
        return Shipped(order_id=event.order_id) if event.lines else None

    @on
    async def a_result(self, event: Placed, delivery: PluginEvent) -> EventResult:
        return EventResult.ok(event) if delivery.attempt == 1 else EventResult.retry("later", after=1.5)

    @on()
    async def two_types(self, event: Placed | Shipped) -> None:
        assert_type(event.order_id, str)

    @on("orders.**")
    async def a_common_base(self, event: Moved, delivery: PluginEvent) -> None: ...

    @on("orders.**", "users.*", name="all", concurrency=8, timeout=5, order="none", start="new")
    async def patterns(self, event: PluginEvent) -> EventResult | None:
        assert_type(event.as_(Placed), Placed)
        return None

    @on(retry=RetryPolicy(attempts=2))
    async def options(self, event: Placed) -> None:
        receipt = await self.context.publish(Shipped(order_id="a"), key="a", delay=1)
        assert_type(receipt.duplicate, bool)

    @on(where=lambda event: len(event.lines) > 3)
    async def only_some(self, event: Placed) -> None: ...

    @on("orders.**", rate=RateLimit(limit=5), breaker=CircuitBreaker(), dedupe=True, exclusive=True)
    async def held_back(self, event: PluginEvent) -> None: ...

    @on(overflow="drop_oldest", max_waiting=100, broadcast=True, durable=False, keep=60)
    async def live(self, event: Placed) -> None: ...

    @on(retry=RetryPolicy(rules=(RetryRule(errors=("ConnectionError",), action="retry", delay=0.1),)))
    async def rules(self, event: Placed) -> None: ...

    @provides
    async def quote(self, query: Quote) -> Price:
        return Price(amount=len(query.sku))

    @provides(rank=10)
    async def better_quote(self, query: Quote) -> Price:
        return Price(amount=len(query.sku))

    async def start(self) -> None:
        price = await self.context.request(Quote(sku="a"), timeout=1)
        assert_type(price, Price)
        await self.context.subscribe(self.patterns, "orders.**", options=SubscriptionOptions(concurrency=2))
        await self.context.subscribe(
            self.patterns, "users.*", where=lambda event: event.type == "users.joined"
        )
        self.context.every(5, self.stop_looking)

    async def stop_looking(self) -> None: ...


class Classic(BasePlugin, IEventPlugin, IWebPlugin):
    def __init__(self, metadata: PluginMetadata | None = None) -> None:
        super().__init__(metadata or PluginMetadata(plugin_id="classic", version="1.0.0"))

    async def initialize(self) -> bool:
        return True

    async def handle_event(self, event: PluginEvent) -> EventResult:
        return EventResult.ok()

    def get_subscribed_events(self) -> Sequence[str | type[Event]]:
        return ["orders.*", Placed]

    async def get_api_router(self) -> APIRouter:
        return APIRouter()

    async def get_static_mounts(self) -> Sequence[StaticMount]:
        return ()


async def a_handler_can_be_called_by_hand(plugin: Orders) -> None:
    assert_type(await plugin.an_event(Placed(order_id="a")), Shipped)
    assert_type(await plugin.quote(Quote(sku="a")), Price)
