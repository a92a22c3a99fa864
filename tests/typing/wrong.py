"""Wrong use of the public names: both type checkers must refuse each marked line, and no other.

Only read by them, never run. The mark stands on the line where the checkers report.
"""

from pydantic import BaseModel

from plugbus import BasePlugin, Event, IWebPlugin, PluginEvent, Query, RetryPolicy, on, provides


class Placed(Event, type="orders.placed"):
    order_id: str


class Price(BaseModel):
    amount: int


class Quote(Query[Price], capability="pricing.quote"):
    sku: str


async def later(event: Placed) -> bool:
    return True


class Wrong(BasePlugin, plugin_id="wrong", version="1.0.0"):
    @on  # expect-error: not an event
    async def wrong_event(self, event: str) -> None: ...

    @on("orders.**")  # expect-error: not an event
    async def wrong_event_of_a_pattern(self, event: dict[str, str]) -> None: ...

    @on  # expect-error: not async
    def not_async(self, event: Placed) -> None: ...

    @on("orders.**", timeout=1)  # expect-error: not async
    def not_async_with_options(self, event: PluginEvent) -> None: ...

    @on  # expect-error: neither an event nor a result
    async def wrong_answer(self, event: Placed) -> str:
        return event.order_id

    @on()  # expect-error: neither an event nor a result
    async def wrong_answer_in_a_list(self, event: Placed) -> list[Placed]:
        return [event]

    @on  # expect-error: no event
    async def no_parameter(self) -> None: ...

    @on  # expect-error: the second parameter is the PluginEvent
    async def wrong_second_parameter(self, event: Placed, attempt: int) -> None: ...

    @on(concurency=3)  # expect-error: no such option
    async def misspelled_option(self, event: Placed) -> None: ...

    @on(order="strict")  # expect-error: no such order
    async def wrong_option(self, event: Placed) -> None: ...

    @on(retry=3)  # expect-error: a number is no policy
    async def wrong_retry(self, event: Placed) -> None: ...

    @on(retry=RetryPolicy(tries=3))  # expect-error: no such field
    async def wrong_policy(self, event: Placed) -> None: ...

    @on(where=later)  # expect-error: a predicate is not async
    async def async_predicate(self, event: Placed) -> None: ...

    @on(where="total > 100")  # expect-error: a predicate is a function
    async def predicate_as_text(self, event: Placed) -> None: ...

    @on(overflow="drop")  # expect-error: no such overflow policy
    async def wrong_overflow(self, event: Placed) -> None: ...

    @on(rate=5)  # expect-error: a number is no rate
    async def wrong_rate(self, event: Placed) -> None: ...

    @provides  # expect-error: not async
    def sync_provider(self, query: Quote) -> Price:
        return Price(amount=1)

    @provides(rank="high")  # expect-error: a text is no rank
    async def wrong_rank(self, query: Quote) -> Price:
        return Price(amount=1)

    @provides  # expect-error: not a query
    async def provider_of_an_event(self, query: Placed) -> Price:
        return Price(amount=1)

    async def start(self) -> None:
        Placed(order=1)  # expect-error: no such field
        await self.context.publish("orders.placed")  # expect-error: not an event
        await self.context.request(Placed(order_id="a"))  # expect-error: not a query
        answer: str = await self.context.request(Quote(sku="a"))  # expect-error: answered with a Price
        print(answer)

    async def stop(self) -> str:  # expect-error: a step answers True, False or None
        return "stopped"


class WrongManifest(BasePlugin, plugin_id="wrong", verson="1.0.0"): ...  # expect-error: no such key


class WrongRouter(BasePlugin, IWebPlugin):
    async def get_api_router(self) -> str:  # expect-error: not an application
        return "/"
