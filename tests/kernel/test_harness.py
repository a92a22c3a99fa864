"""The test kit used wrongly, and what it promises about the loopback: the same errors with and without."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bus.memory import MemoryBroker, MemoryBus
from bus.memory.tail import MemoryTail
from contracts.bus import BusLimits
from contracts.errors import (
    BusError,
    ErrorInfo,
    NoProvider,
    PermissionDeniedError,
    PluginAlreadyRegisteredError,
    PluginNotFound,
    PluginStepFailed,
    ProviderFailed,
)
from kernel.manager import PluginManager
from kernel.settings import BusSettings, Settings
from kernel.testing import Harness, MockPlugin
from plugbus import (
    BasePlugin,
    Event,
    PayloadTooLarge,
    PluginEvent,
    PluginNotReady,
    PluginStatus,
    Query,
    on,
    provides,
)


class Note(Event, type="kit.note"):
    text: str = ""


class Secret(Event, type="kit.secret"):
    pass


class Fails(Query[int], capability="kit.fails"):
    pass


class Nobody(Query[int], capability="kit.nobody"):
    pass


class Forbidden(Query[int], capability="other.forbidden"):
    pass


async def test_nothing_loaded_is_quiet(harness: Harness) -> None:
    """An empty kernel is quiet, has published nothing of anybody's, and knows no plugin."""
    await harness.quiet()
    await harness.publish(Note())
    await harness.quiet()
    assert harness.published(Note) == [Note()]
    assert harness.handled() == []


async def test_unknown_plugins_are_named(harness: Harness) -> None:
    """Asking for, or unloading, a plugin that is not there says which ones come near."""
    await harness.load(MockPlugin.make("billing"))
    for asking in (lambda: harness.plugin("biling"), lambda: harness.manager.get_plugin("biling")):
        with pytest.raises(PluginNotFound, match="no plugin 'biling'") as caught:
            asking()
        assert "billing" in caught.value.fix
    with pytest.raises(PluginNotFound):
        await harness.unload("biling")


async def test_loading_twice_is_refused_and_loading_again_is_not(harness: Harness) -> None:
    """While it is loaded, it is there already; after unload the new code and configuration are taken."""
    first, second = MockPlugin.make("mock"), MockPlugin.make("mock", handles=["kit.note"])
    await harness.load(first)
    with pytest.raises(PluginAlreadyRegisteredError):
        await harness.load(first)
    await harness.unload("mock")
    await harness.unload("mock")
    await harness.load(second, config={"x": 1})
    await harness.publish(Note())
    await harness.quiet()
    assert (len(first.events), len(second.events)) == (0, 1)
    assert harness.plugin("mock").generation == 2
    with pytest.raises(PluginAlreadyRegisteredError):
        await harness.load(second)
    await harness.load("host_monitor")
    with pytest.raises(PluginAlreadyRegisteredError, match="loaded already") as caught:
        await harness.load("host_monitor")
    assert "unload" in caught.value.fix


async def test_a_plugin_that_subscribes_to_nothing_has_no_group(harness: Harness) -> None:
    """No empty group is left on the bus."""
    await harness.load(MockPlugin.make("idle"))
    assert await harness.bus.groups() == []


async def test_everything_that_was_published_is_seen(harness: Harness) -> None:
    """However much it is."""
    for n in range(2_500):
        await harness.publish(Note(text=str(n)), key="k")
    await harness.quiet()
    assert [note.text for note in harness.published(Note)] == [str(n) for n in range(2_500)]


@pytest.fixture(params=["plain", "loopback"])
async def manager(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[PluginManager]:
    """A running manager: what a plugin in this process really meets, and the loopback."""
    if request.param == "loopback":
        async with Harness(tmp_path) as harness:
            yield harness.manager
        return
    settings = Settings(state_dir=tmp_path, plugin_paths=())
    async with PluginManager(settings, profile="embedded", backoff=0.0) as plain:
        yield plain


def _told(error: Exception) -> dict[str, Any]:
    info = ErrorInfo.of(error)
    return {"type": info.type, "message": info.message, "fix": info.fix, "bases": info.bases}


async def test_errors_are_the_same_on_both_sides_of_the_line(manager: PluginManager) -> None:
    """Class, sentence, fix and data of what the context raises do not depend on the host."""
    met: dict[str, Exception] = {}

    class Asker(
        BasePlugin, plugin_id="asker", version="1", security_level="trusted",
        publishes=("kit.note",), requests=("kit.*",),
    ):  # fmt: skip
        async def start(self) -> None:
            context = self.context
            attempts: dict[str, Callable[[], Any]] = {
                "publish": lambda: context.publish(Secret()),
                "large": lambda: context.publish(Note(text="x" * (1 << 21))),
                "nobody": lambda: context.request(Nobody()),
                "forbidden": lambda: context.request(Forbidden()),
                "failed": lambda: context.request(Fails()),
            }
            for name, attempt in attempts.items():
                try:
                    await attempt()
                except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
                    met[name] = error

    class Failing(BasePlugin, plugin_id="failing", version="1", security_level="trusted"):
        @provides
        async def fail(self, query: Fails) -> int:
            raise KeyError("the price")

    for plugin in (Failing, Asker):
        await manager.register_plugin(plugin)
        await manager.start_plugin(plugin.__manifest__["plugin_id"])
    assert {name: type(error) for name, error in met.items()} == {
        "publish": PermissionDeniedError,
        "large": PayloadTooLarge,
        "nobody": NoProvider,
        "forbidden": PermissionDeniedError,
        "failed": ProviderFailed,
    }
    refused, failed, nobody = met["publish"], met["failed"], met["nobody"]
    assert isinstance(refused, PermissionDeniedError)
    assert (refused.plugin_id, refused.action) == ("asker", "publish")
    assert _told(refused)["fix"] == 'publishes = ["kit.secret"] in its manifest'
    assert isinstance(nobody, NoProvider)
    assert nobody.capability == "kit.nobody"
    assert isinstance(failed, ProviderFailed)
    assert failed.info.matches("KeyError")
    assert "test_harness.py" in failed.info.place


async def test_not_ready_is_told_with_its_pause(manager: PluginManager) -> None:
    """The kernel knows on both sides that the plugin wants to be asked again, and when."""

    class Later(BasePlugin, plugin_id="later", version="1", security_level="trusted"):
        async def initialize(self) -> None:
            raise PluginNotReady("come back", retry_after=3600.0)

    await manager.register_plugin(Later)
    with pytest.raises(PluginStepFailed, match="come back") as caught:
        await manager.start_plugin("later")
    assert caught.value.info is not None
    assert caught.value.info.retry_after == 3600.0
    assert [info.activity for info in manager.plugins() if info.plugin_id == "later"] == ["waiting to retry"]


GARBAGE: list[tuple[str, Any, str]] = [
    ("configure", True, "configure returned bool"),
    ("get_api_router", 42, "get_api_router returned int"),
    ("get_static_mounts", None, "get_static_mounts returned NoneType"),
    ("get_static_mounts", ["static"], "get_static_mounts returned str"),
]


@pytest.mark.parametrize(("method", "answer", "text"), GARBAGE)
async def test_what_an_interface_answers_is_checked(
    manager: PluginManager, method: str, answer: object, text: str
) -> None:
    """A wrong answer of a plugin's method is named with the method and what to return."""

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    class Web(BasePlugin, plugin_id="web", version="1", security_level="trusted"):
        async def get_api_router(self) -> Any:
            return app

        async def get_static_mounts(self) -> Any:
            return []

    async def answers(self: object, *_: object) -> object:
        return answer

    setattr(Web, method, answers)
    await manager.register_plugin(Web)
    with pytest.raises(PluginStepFailed, match=text):
        await manager.start_plugin("web")


@pytest.mark.parametrize(
    ("listed", "text"),
    [
        ("kit.note", "returned 'kit.note'"),
        (None, "returned None"),
        ([42], "lists 42"),
        (["kit..note"], "kit..note"),
    ],
)
async def test_what_an_event_plugin_lists_is_checked(
    manager: PluginManager, listed: object, text: str
) -> None:
    """A string is not a list of strings, and a number is no event."""

    class Lists(BasePlugin, plugin_id="lists", version="1", security_level="trusted"):
        def get_subscribed_events(self) -> Any:
            return listed

        async def handle_event(self, event: object) -> None: ...

    await manager.register_plugin(Lists)
    with pytest.raises(PluginStepFailed) as caught:
        await manager.start_plugin("lists")
    assert text in str(caught.value)
    assert caught.value.fix


async def test_a_class_whose_code_raises_while_it_is_read_is_refused(manager: PluginManager) -> None:
    """In its constructor or in what it lists: told, whatever was raised."""

    class Exits(BasePlugin, plugin_id="exits", version="1", security_level="trusted"):
        def __init__(self) -> None:
            raise SystemExit("bye")

    class Raises(BasePlugin, plugin_id="raises", version="1", security_level="trusted"):
        def get_subscribed_events(self) -> list[str]:
            raise KeyError("events")

        async def handle_event(self, event: object) -> None: ...

    for plugin, text in (
        (Exits, "could not be made raised SystemExit"),
        (Raises, "could not be read: KeyError"),
    ):
        await manager.register_plugin(plugin)
        with pytest.raises(PluginStepFailed, match=text):
            await manager.start_plugin(plugin.__manifest__["plugin_id"])


async def test_a_handler_cannot_end_the_loop(manager: PluginManager) -> None:
    """SystemExit, and an error without words, are failed attempts like others."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    class Handler(BasePlugin, plugin_id="handler", version="1", security_level="trusted"):
        @on
        async def note(self, event: Note) -> None:
            raise SystemExit(1) if event.text == "exit" else Mute

        @provides
        async def fail(self, query: Fails) -> int:
            raise SystemExit(2)

    await manager.register_plugin(Handler)
    await manager.start_plugin("handler")
    for text in ("exit", "mute"):
        await manager.bus.publish(Note(text=text), source="/test")
    await manager.bus.quiet()
    dead = await manager.bus.dead_letters()
    assert sorted(letter.error.message for letter in dead if letter.error) == [
        "note raised SystemExit", "note raised a Mute without words",
    ]  # fmt: skip
    with pytest.raises(ProviderFailed, match="fail raised SystemExit"):
        await manager.bus.request("kit.fails", "{}", source="/test")


async def test_a_handler_may_not_have_the_name_of_another(harness: Harness) -> None:
    """The one that is there stays; the error says how to name the new one."""

    class Twice(BasePlugin, plugin_id="twice", version="1", security_level="trusted"):
        @on
        async def note(self, event: Note) -> None: ...

        async def start(self) -> None:
            await self.context.subscribe(self.other, "kit.note", name="note")

        async def other(self, event: PluginEvent) -> None: ...

    with pytest.raises(PluginStepFailed, match="has a handler 'note' already") as caught:
        await harness.load(Twice)
    assert 'name="…"' in caught.value.fix


async def test_subscribing_in_initialize_is_refused(harness: Harness) -> None:
    """Handlers run only while the plugin is started; the fix says where to do it."""

    class Early(
        BasePlugin, plugin_id="early", version="1", security_level="trusted", subscribes=("kit.note",)
    ):
        async def initialize(self) -> None:
            await self.context.subscribe(self.other, "kit.note")

        async def other(self, event: PluginEvent) -> None: ...

    with pytest.raises(PluginStepFailed, match="handlers run only while it is started") as caught:
        await harness.load(Early)
    assert "start()" in caught.value.fix


async def test_a_subscription_may_be_removed_twice_and_while_it_stops(harness: Harness) -> None:
    """Any order, any number of times; afterwards its name is free again."""

    class Removes(
        BasePlugin, plugin_id="removes", version="1", security_level="trusted", subscribes=("kit.note",)
    ):
        async def start(self) -> None:
            for _ in range(2):
                self.held = await self.context.subscribe(self.other, "kit.note")
                await self.held.remove()
                await self.held.remove()
            self.held = await self.context.subscribe(self.other, "kit.note")
            self.context.on_close(self.held.remove)

        async def stop(self) -> None:
            await self.held.remove()

        async def other(self, event: PluginEvent) -> None: ...

    await harness.load(Removes)
    await harness.unload("removes")
    assert harness.plugin("removes").status is PluginStatus.UNLOADED


# --- on which bus ---------------------------------------------------------------------------------------


class ServerBus(MemoryBus):
    """A bus with a server: what is published comes back a while later, and a namespace can be removed."""

    made: ClassVar[list[ServerBus]] = []
    erased: ClassVar[list[str]] = []
    """Namespaces, in the order in which they were removed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.made.append(self)

    async def erase(self) -> None:
        assert not any([(await bus.info()).connected for bus in self.made]), "somebody is still on it"
        self.erased.append((await self.info()).namespace)

    def tail(self, *patterns: str, position: str | datetime | None = None) -> MemoryTail:
        tail = super().tail(*patterns, position=position)
        tail.read_nowait = list  # type: ignore[method-assign]  # nothing has come back yet
        return tail


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type[ServerBus]:
    """Buses for `server://`; `made` and `erased` tell what became of them."""

    def make(url: str, *, namespace: str, replica: str, limits: BusLimits | None) -> ServerBus:
        broker = MemoryBroker(limits=limits)
        return ServerBus(broker=broker, replica=replica, address=url, namespace=namespace)

    monkeypatch.setattr(ServerBus, "made", [])
    monkeypatch.setattr(ServerBus, "erased", [])
    point = EntryPoint("server", "somewhere:make", "plugbus.buses")
    monkeypatch.setattr("kernel.buses.entry_points", lambda group: [point])
    monkeypatch.setattr(EntryPoint, "load", lambda self: make)
    return ServerBus


async def test_a_bus_by_url_has_a_namespace_of_its_own_and_leaves_none(
    server: type[ServerBus], tmp_path: Path
) -> None:
    """Removed once the kernel is stopped; the other settings of the bus hold."""
    settings = Settings(bus=BusSettings.model_validate({"limits": {"retain": 7}}))
    used = []
    for n in range(2):
        async with Harness(tmp_path / str(n), settings=settings, bus="server://h") as harness:
            assert isinstance(harness.bus, ServerBus)
            assert harness.bus.broker.limits.retain == 7
            used.append((await harness.bus.info()).namespace)
    assert len(set(used)) == 2
    assert all(name.startswith("test-") for name in used)
    assert server.erased == used


async def test_the_bus_of_the_environment_is_that_of_tests_that_choose_none(
    server: type[ServerBus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the settings say, or a bus that is given, comes first; neither is ever removed."""
    shared = Settings(bus=BusSettings(url="server://shared", namespace="shop"))
    async with Harness(tmp_path / "a", settings=shared) as harness:
        assert (await harness.bus.info()).namespace == "shop"
    async with ServerBus(replica="mine") as mine, Harness(tmp_path / "b", bus=mine) as harness:
        assert harness.bus is mine
    assert server.erased == []
    monkeypatch.setenv("PLUGBUS_TEST_BUS", "server://h")
    async with Harness(tmp_path / "c") as harness:
        info = await harness.bus.info()
        assert info.address == "server://h"
    assert server.erased == [info.namespace]


@pytest.mark.parametrize("harness_bus", ["memory://", "memory://shared"])
async def test_one_test_runs_on_several_buses(harness: Harness, harness_bus: str) -> None:
    """The fixture `harness` runs on whatever `harness_bus` says."""
    assert (await harness.bus.info()).address == harness_bus


async def test_what_was_published_is_complete_once_it_is_quiet(
    server: type[ServerBus], tmp_path: Path
) -> None:
    """On a bus where events come back later than they are settled too, and where some are gone already."""
    async with ServerBus(broker=MemoryBroker(limits=BusLimits(retain=0, young_seconds=0))) as bus:
        for n in range(20):
            await bus.publish(Note(text=f"before {n}"), source="/test")
        async with Harness(tmp_path, bus=bus) as harness:
            await harness.load(MockPlugin.make("mock", handles=["kit.note"]))
            await harness.publish(Note(text="now"))
            await harness.quiet()
            assert harness.published(Note)[-1] == Note(text="now")
            [topic] = [topic for topic in await bus.topics() if topic.topic == "kit"]
            assert topic.events < topic.published


async def test_a_harness_that_cannot_begin_leaves_nothing_behind(
    server: type[ServerBus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is stopped, and its namespace removed."""

    async def topics(self: ServerBus) -> list[Any]:
        raise BusError("gone")

    monkeypatch.setattr(ServerBus, "topics", topics)
    with pytest.raises(BusError, match="gone"):
        async with Harness(tmp_path, bus="server://h"):
            raise AssertionError("it began")
    assert [name[:5] for name in server.erased] == ["test-"]
