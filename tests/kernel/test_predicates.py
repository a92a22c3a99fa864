"""`where`: a handler's predicate, given what the handler is given, asked where the plugin's code runs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import Field

from contracts.bus import SubscriptionOptions
from contracts.errors import ErrorInfo, HandlerDefinitionError, InvalidEvent, PlugbusError
from contracts.messages import ShowPlugin
from kernel.hosts.declarations import Compiled, compile_plugin
from kernel.hosts.handlers import compile_subscription
from kernel.testing import Harness
from plugbus import BasePlugin, Event, PluginEvent, on


class Placed(Event, type="shop.placed"):
    total: int
    lines: list[str] = Field(default_factory=list)


class Paid(Event, type="shop.paid"):
    amount: int


def compiled(where: Any, *, second: bool = False) -> Compiled:
    """A plugin with one typed handler and that predicate."""

    async def handle(self: Any, event: Placed) -> None: ...
    async def handle_with_meta(self: Any, event: Placed, meta: PluginEvent) -> None: ...

    marked = on(name="handle", where=where)(handle_with_meta if second else handle)
    cls = type("Filtered", (BasePlugin,), {"handle": marked}, plugin_id="filtered", version="1")
    return compile_plugin(cls(), [__name__])


def delivered(event: Event, handler: str = "handle") -> PluginEvent:
    made = PluginEvent.of(event)
    made.handler = handler
    return made


@pytest.mark.parametrize("second", [False, True])
def test_a_predicate_is_given_what_the_handler_is_given_first(second: bool) -> None:
    """The instance of its model, whether or not the handler asks for the envelope as well."""
    seen: list[Placed] = []

    def large(event: Placed) -> bool:
        seen.append(event)
        return event.total > 100

    plugin = compiled(large, second=second)
    assert plugin.declaration.handlers[0].filtered
    wants = plugin.predicates["handle"]
    assert [wants(delivered(Placed(total=total))) for total in (100, 101)] == [False, True]
    assert seen == [Placed(total=100), Placed(total=101)]


def test_one_of_several_events_is_an_instance_of_its_own_model() -> None:
    """As the handler of `Placed | Paid` gets it."""

    class Cash(BasePlugin, plugin_id="cash", version="1"):
        @on(where=lambda event: isinstance(event, Paid) and event.amount > 0)
        async def count(self, event: Placed | Paid) -> None: ...

    wants = compile_plugin(Cash(), [__name__]).predicates["count"]
    answers = [wants(delivered(event)) for event in (Placed(total=1), Paid(amount=1), Paid(amount=0))]
    assert answers == [False, True, False]


def test_a_handler_of_patterns_has_a_predicate_on_the_envelope() -> None:
    """By `@on` and by `context.subscribe`."""

    async def watch(event: PluginEvent) -> None: ...

    handler = compile_subscription(
        watch, ("shop.**",), None, SubscriptionOptions(), where=lambda event: event.type == "shop.paid"
    )
    assert handler.wants is not None
    assert [handler.wants(delivered(event)) for event in (Placed(total=1), Paid(amount=1))] == [False, True]
    assert handler.declaration.filtered


def test_without_a_predicate_nothing_is_asked() -> None:
    """A handler that takes all costs nothing more."""
    plugin = compiled(None)
    assert (plugin.predicates, plugin.declaration.handlers[0].filtered) == ({}, False)


async def _awaits(event: Placed) -> bool:
    return True


class _CallableAwaits:
    async def __call__(self, event: Placed) -> bool:
        return True


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (_awaits, "has a predicate that is async"),
        (functools.partial(_awaits), "has a predicate that is async"),
        (_CallableAwaits(), "has a predicate that is async"),
        ("total > 100", "has a predicate that cannot be called"),
        (lambda: True, "has a predicate that does not take one value"),
        (lambda event, meta: True, "has a predicate that does not take one value"),
    ],
)
def test_what_cannot_be_a_predicate_is_refused_at_load(where: Any, what: str) -> None:
    """With the handler's place and a way to write it."""
    with pytest.raises(HandlerDefinitionError, match=what) as caught:
        compiled(where)
    assert "test_predicates.py:" in caught.value.where
    assert "where=lambda event: " in caught.value.fix


async def _coroutine() -> bool:
    return True


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        (lambda event: event.missing, AttributeError),
        (lambda event: None, HandlerDefinitionError),
        (lambda event: 1, HandlerDefinitionError),
        (lambda event: _coroutine(), HandlerDefinitionError),
        (lambda event: sys.exit(), PlugbusError),
    ],
)
def test_a_predicate_that_fails_raises_an_ordinary_error(where: Callable[[Any], Any], kind: type) -> None:
    """Whatever it does, and where it does not answer with True or False: the bus counts a failed attempt."""
    with pytest.raises(kind):
        compiled(where).predicates["handle"](delivered(Placed(total=1)))


def test_data_that_do_not_fit_are_told_as_such() -> None:
    """As by the handler itself, so that they are dead at once."""

    class Other(Event, type="shop.placed"):
        total: str

    with pytest.raises(InvalidEvent):
        compiled(lambda event: True).predicates["handle"](delivered(Other(total="many")))


async def test_only_wanted_events_start_the_handler(harness: Harness) -> None:
    """The others are acknowledged and counted; by `@on` as by `subscribe`; `plugin show` tells."""
    placed: list[int] = []
    paid: list[str] = []

    class Choosy(
        BasePlugin, plugin_id="choosy", version="1.2.0", security_level="trusted", subscribes=["shop.**"]
    ):
        async def start(self) -> None:
            await self.context.subscribe(self.watch, "shop.**", where=lambda event: event.type == "shop.paid")

        @on(where=lambda event: event.total > 100)
        async def large(self, event: Placed) -> None:
            placed.append(event.total)

        async def watch(self, event: PluginEvent) -> None:
            paid.append(event.type)

    await harness.load(Choosy)
    for event in (Placed(total=100), Placed(total=101), Paid(amount=1)):
        await harness.publish(event)
    await harness.quiet()
    assert (placed, paid) == ([101], ["shop.paid"])
    groups = {group.group: group for group in await harness.bus.groups()}
    assert (groups["choosy.large"].filtered, groups["choosy.watch"].filtered) == (1, 2)
    handlers = (await harness.request(ShowPlugin(plugin_id="choosy"))).handlers
    assert {handler.name: handler.filtered for handler in handlers} == {"large": True, "watch": True}


async def test_a_predicate_that_raises_is_a_failed_attempt(harness: Harness) -> None:
    """Tried again, and then a dead letter with the predicate's own error; the next event is handled."""
    asked: list[int] = []
    handled: list[int] = []

    def touchy(event: Placed) -> bool:
        asked.append(event.total)
        if event.total < 0:
            raise ValueError("a negative total")
        return True

    class Touchy(BasePlugin, plugin_id="touchy", version="1", security_level="trusted"):
        @on(where=touchy)
        async def take(self, event: Placed) -> None:
            handled.append(event.total)

    await harness.load(Touchy)
    for total in (-1, 1):
        await harness.publish(Placed(total=total))
    await harness.quiet()
    assert handled == [1]
    assert asked.count(-1) == 5
    [dead] = await harness.dead_letters()
    assert isinstance(dead.error, ErrorInfo)
    assert (dead.reason, dead.error.type, dead.attempts) == ("attempts", "ValueError", 5)
