"""The line between kernel and plugin: what crosses it, and what a plugin's code may say."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from contracts.errors import HandlerDefinitionError, PluginStepFailed
from contracts.event import AnyEvent
from contracts.web import WebMount
from kernel.hosts import Host, HostPort
from kernel.hosts.declarations import compile_plugin
from kernel.hosts.in_process import InProcess
from kernel.hosts.loopback import LoopbackHost, LoopbackPort
from kernel.testing import Harness
from plugbus import BasePlugin, Event, EventResult, PluginEvent, Query, on, provides

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


class Placed(Event, type="shop.placed"):
    order: str


class Paid(Event, type="shop.paid"):
    order: str


class ShopEvent(Event):
    """A common base without a type."""

    order: str


class Price(Query[float], capability="shop.price"):
    sku: str


def wire_types(protocol: type) -> list[tuple[str, Any]]:
    """Every argument and result of a protocol's methods, by name."""
    found = []
    for name, method in vars(protocol).items():
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        hints = typing.get_type_hints(method)
        found += [(f"{protocol.__name__}.{name}({part})", hint) for part, hint in hints.items()]
    return found


LOCAL = {WebMount | None, HostPort}
"""The two that are proxies in another process: the ASGI application, and the port itself."""


@pytest.mark.parametrize(("where", "kind"), [*wire_types(Host), *wire_types(HostPort)])
def test_everything_that_crosses_the_line_can_be_serialised(where: str, kind: Any) -> None:
    """pydantic has a JSON form for each argument and result of a host and of its port."""
    if kind in LOCAL:
        return
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    assert adapter.json_schema(mode="serialization") is not None or kind is AnyEvent, where


def test_the_loopback_covers_the_whole_line() -> None:
    """No method of a host or port is left out: a new one must be given its trip through JSON."""
    for protocol, loopback in ((Host, LoopbackHost), (HostPort, LoopbackPort), (Host, InProcess)):
        wanted = {
            name for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"
        }
        assert wanted <= set(vars(loopback)), loopback


def bad(handler: Callable[..., Any], *, mark: Any = on) -> BasePlugin:
    """A plugin whose one handler is `handler`."""
    cls = type("Bad", (BasePlugin,), {"handle": mark(handler)}, plugin_id="bad", version="1")
    instance: BasePlugin = cls()
    return instance


async def no_type(self: Any, event) -> None: ...  # type: ignore[no-untyped-def]
async def wrong_type(self: Any, event: int) -> None: ...
async def not_an_event(self: Any, event: WebMount) -> None: ...
async def untyped_base(self: Any, event: ShopEvent) -> None: ...
async def three(self: Any, event: Placed, meta: PluginEvent, more: int) -> None: ...
async def second_wrong(self: Any, event: Placed, meta: int) -> None: ...
async def meta_only(self: Any, event: PluginEvent) -> None: ...
def not_async(self: Any, event: Placed) -> None: ...
async def no_query(self: Any, query: Placed) -> float:
    return 1.0


class Model(BaseModel):
    x: int


async def plain_model(self: Any, event: Model) -> None: ...


@pytest.mark.parametrize(
    ("handler", "mark", "what"),
    [
        (no_type, on, "has no event type"),
        (wrong_type, on, "takes int, which is not an event"),
        (not_an_event, on, "which is not an event"),
        (plain_model, on, "Model derives from BaseModel"),
        (untyped_base, on, "a base without a type"),
        (three, on, "takes 3 parameters"),
        (second_wrong, on, "second parameter that is not PluginEvent"),
        (meta_only, on, "names no pattern"),
        (not_async, on, "is not async"),
        (meta_only, on("other.**"), None),
        (untyped_base, on("shop.**"), None),
    ],
)
def test_a_handler_that_cannot_work_is_refused_with_its_place(
    handler: Callable[..., Awaitable[None]], mark: Any, what: str | None
) -> None:
    """What is wrong, the file and line, and one way to write it."""
    plugin = bad(handler, mark=mark)
    if what is None:
        assert len(compile_plugin(plugin, [__name__]).declaration.handlers) == 1
        return
    with pytest.raises(HandlerDefinitionError, match=what) as caught:
        compile_plugin(plugin, [__name__])
    assert "test_hosts.py:" in caught.value.where
    assert caught.value.fix


def test_patterns_that_do_not_select_the_annotated_event_are_refused() -> None:
    """A handler that would never get the event it is annotated with is a mistake."""

    async def handle(self: Any, event: Placed) -> None: ...

    with pytest.raises(HandlerDefinitionError, match="which its patterns do not select"):
        compile_plugin(bad(handle, mark=on("other.**")), [__name__])


def test_a_provider_without_a_query_is_refused() -> None:
    """A provider's parameter names the query that it answers."""
    with pytest.raises(HandlerDefinitionError, match="does not take one query"):
        compile_plugin(bad(no_query, mark=provides), [__name__])


async def wrong_answer(self: Any, query: Price) -> str:
    return "dear"


def test_a_provider_that_says_another_answer_is_refused() -> None:
    """The type checkers cannot see it; the load does."""
    with pytest.raises(
        HandlerDefinitionError, match="says that it answers str, and Price is answered with float"
    ):
        compile_plugin(bad(wrong_answer, mark=provides), [__name__])


async def test_a_handler_takes_each_form_that_the_guide_shows(harness: Harness) -> None:
    """One event, one of two events, a common base, the plugin event, and a second parameter."""
    seen: list[object] = []

    class Forms(BasePlugin, plugin_id="forms", version="1", security_level="trusted"):
        @on
        async def one(self, event: Placed) -> None:
            seen.append(("one", event))

        @on
        async def either(self, event: Placed | Paid, meta: PluginEvent) -> None:
            seen.append(("either", type(event).__name__, meta.attempt, meta.envelope.type))

        @on("shop.*")
        async def base(self, event: ShopEvent) -> None:
            seen.append(("base", event.order))

        @on("shop.**", name="raw")
        async def anything(self, event: PluginEvent) -> EventResult:
            seen.append(("raw", event.data))
            return EventResult.ok()

    await harness.load(Forms)
    await harness.publish(Placed(order="o1"))
    await harness.publish(Paid(order="o1"))
    await harness.quiet()
    assert sorted(map(repr, seen)) == sorted(
        map(
            repr,
            [
                ("one", Placed(order="o1")),
                ("either", "Placed", 1, "shop.placed"),
                ("either", "Paid", 1, "shop.paid"),
                ("base", "o1"),
                ("base", "o1"),
                ("raw", {"order": "o1"}),
                ("raw", {"order": "o1"}),
            ],
        )
    )


async def test_a_wrong_return_value_is_named(harness: Harness) -> None:
    """What a handler returns is an event, an EventResult or nothing; else the attempt fails and says so."""

    class Returns(BasePlugin, plugin_id="returns", version="1", security_level="trusted"):
        @on
        async def handle(self, event: Placed) -> None:
            return 42  # type: ignore[return-value]  # the mistake

    await harness.load(Returns)
    await harness.publish(Placed(order="x"))
    await harness.quiet()
    [dead] = await harness.dead_letters()
    assert dead.error is not None
    assert "returned int" in dead.error.message
    assert "test_hosts.py" in dead.error.place


async def test_an_event_that_does_not_fit_is_a_dead_letter_at_once(harness: Harness) -> None:
    """The consumer's own model decides; the reason names each field, and there are no more attempts."""

    class Narrow(Event, type="shop.placed"):
        order: int

    class Reader(BasePlugin, plugin_id="reader", version="1", security_level="trusted"):
        @on
        async def read(self, event: Narrow) -> None: ...

    await harness.load(Reader)
    await harness.publish(Placed(order="not a number"))
    await harness.quiet()
    [dead] = await harness.dead_letters()
    assert (dead.reason, dead.attempts) == ("schema", 1)
    assert dead.error is not None
    assert "order" in dead.error.message


async def test_an_answer_of_the_wrong_type_is_refused(harness: Harness) -> None:
    """The provider's answer must fit what its query says; the asker is told which field does not."""
    from plugbus import ProviderFailed

    class Pricing(BasePlugin, plugin_id="pricing", version="1", security_level="trusted"):
        @provides
        async def price(self, query: Price) -> float:
            return "dear"  # type: ignore[return-value]  # the mistake

    await harness.load(Pricing)
    with pytest.raises(ProviderFailed, match="does not fit"):
        await harness.request(Price(sku="a"))


async def test_a_class_that_is_no_plugin_is_refused(harness: Harness) -> None:
    """A constructor that wants more than metadata is an author's mistake, told with its place."""

    class Needy(BasePlugin, plugin_id="needy", version="1", security_level="trusted"):
        def __init__(self, one: int, two: int) -> None: ...

    with pytest.raises(PluginStepFailed, match="could not be made"):
        await harness.load(Needy)


async def test_a_static_folder_outside_the_plugin_is_refused(harness: Harness, tmp_path: Path) -> None:
    """Only files of the plugin's own folder are served, symlinks resolved."""
    (tmp_path / "secret").mkdir()
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "leak").symlink_to(tmp_path / "secret")
    (folder / "plugin.toml").write_text(
        'plugin_id = "pages"\nversion = "1"\nentry_point = "pages:Pages"\nsecurity_level = "trusted"\n'
    )
    (folder / "pages.py").write_text(
        "from fastapi import APIRouter\nfrom plugbus import BasePlugin, StaticMount\n"
        "class Pages(BasePlugin):\n"
        "    async def get_api_router(self):\n        return APIRouter()\n"
        "    async def get_static_mounts(self):\n"
        "        return [StaticMount(path='/s', directory='leak')]\n"
    )
    with pytest.raises(PluginStepFailed, match="inside the plugin's own"):
        await harness.load(folder)


@pytest.mark.parametrize("plugin_id", ["webhooks", "host_monitor", "alerts", "audit"])
async def test_every_example_plugin_runs_behind_the_loopback(harness: Harness, plugin_id: str) -> None:
    """Each starts and stops with everything that it says going through JSON, and leaves nothing."""
    from contracts.messages import PluginLeaked

    await harness.load(plugin_id)
    await harness.unload(plugin_id)
    await harness.manager.kernel.settle()
    assert harness.published(PluginLeaked) == []
