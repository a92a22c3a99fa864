"""One process of Plugbus: a replica that handles, or a publisher."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

from bus.redis_streams import open_bus
from contracts.bus import BusLimits, EventBus, SubscriptionSpec
from contracts.errors import BusError, PublishUnknown
from contracts.event import Event, EventData, EventResult, dump_event
from contracts.message import PluginEvent
from contracts.subscription import RetryPolicy, SubscriptionOptions

from .plan import EFFECT, GROUPS, ITEM, LEDGER, MADE, ORDER, SOURCE, Item, Plan, work
from .publishing import Refused, Unknown, publish_all
from .side import Words, told_to_stop
from .witness import Witness

T = TypeVar("T")

NAMESPACE = "long"
PLUGIN = "/plugins/long"
PATIENCE = 60.0
"""Seconds in which a replica that was started while the server is down finds it."""


class Made(Event, type=MADE):
    """One for each item."""

    n: int


def limits_of(plan: Plan) -> BusLimits:
    return BusLimits(
        partitions=plan.partitions, lease=plan.lease, retain=plan.retain, limit=plan.limit, young_seconds=1.0
    )


def spec_of(plan: Plan, group: str) -> SubscriptionSpec:
    options = SubscriptionOptions(
        concurrency=plan.concurrency,
        dedupe=group == EFFECT,
        retry=RetryPolicy(first_delay=0.05, factor=2.0, max_delay=1.0),
    )
    plugin, _, handler = group.partition(".")
    return SubscriptionSpec(
        group=group, plugin_id=plugin, handler=handler, patterns=GROUPS[group], options=options, source=PLUGIN
    )


@contextlib.asynccontextmanager
async def opened(url: str, plan: Plan, name: str | None = None) -> AsyncIterator[EventBus]:
    """A handle, waited for while the server is down."""

    async def opening() -> EventBus:
        bus = open_bus(url, namespace=NAMESPACE, replica=name, limits=limits_of(plan))
        try:
            await bus.open()
        except BusError:
            await bus.close(0)
            raise
        return bus

    bus = await insisting(opening)
    try:
        yield bus
    finally:
        await bus.close()


async def insisting(call: Callable[[], Awaitable[T]]) -> T:
    """Again and again while the server is down."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + PATIENCE
    while True:
        try:
            return await call()
        except BusError as error:
            if error.is_final or clock() > deadline:
                raise
        await asyncio.sleep(0.1)


# --- handling ----------------------------------------------------------------------------------------


class Handlers:
    """They write down each start before they do anything, and each end after they have done it."""

    def __init__(self, plan: Plan, witness: Witness) -> None:
        self._plan = plan
        self._witness = witness

    async def subscribe(self, bus: EventBus) -> None:
        for group, handler in ((ORDER, self.order), (EFFECT, self.effect), (LEDGER, self.ledger)):
            await insisting(partial(bus.subscribe, spec_of(self._plan, group), handler))

    async def order(self, event: PluginEvent) -> None:
        n = _number(event)
        with self._attempt(ORDER, event):
            await work(n)
            if self._plan.fails(n, event.attempt):
                raise ValueError("not yet")

    async def effect(self, event: PluginEvent) -> EventResult:
        made = Made(n=_number(event))
        with self._attempt(EFFECT, event):
            id, key = event.derived_id(0), event.message.key or ""
            self._witness.invoked(PLUGIN, id, MADE, key, dump_event(made))
            await work(made.n)
        return EventResult.ok(made)

    async def ledger(self, event: PluginEvent) -> None:
        with self._attempt(LEDGER, event):
            await work(_number(event))

    def _attempt(self, group: str, event: PluginEvent) -> AbstractContextManager[None]:
        of = event.message
        return self._witness.attempt(group, of.source, of.id, of.type, of.key or "", of.data, event.attempt)


def _number(event: PluginEvent) -> int:
    data = event.data
    return int(str(data["n"])) if isinstance(data, dict) else -1


async def replica(words: Words) -> None:
    witness = Witness(words.journal, words.name)
    async with opened(words.url, words.plan, words.name) as bus:
        await Handlers(words.plan, witness).subscribe(bus)
        await told_to_stop()


# --- publishing --------------------------------------------------------------------------------------


async def publisher(words: Words) -> None:
    async with opened(words.url, words.plan, f"publisher{words.name}") as bus:

        async def publish(item: Item) -> None:
            event = EventData(type=ITEM, data=item.data)
            try:
                await bus.publish(event, source=SOURCE, key=item.key, id=item.id)
            except PublishUnknown as error:
                raise Unknown(error.code) from error
            except BusError as error:
                if error.is_final:
                    raise
                raise Refused(error.code) from error

        await publish_all(words.plan, int(words.name), Witness(words.journal), publish)


if __name__ == "__main__":
    _words = Words.read()
    asyncio.run({"replica": replica, "publisher": publisher}[_words.role](_words))
