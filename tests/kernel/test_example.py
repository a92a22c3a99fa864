"""The plugin of fifteen lines, and the classic style that guides to plugin architectures teach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastapi import APIRouter

from kernel.testing import Harness
from plugbus import (
    ASGIApp,
    BasePlugin,
    Event,
    EventResult,
    HealthCheck,
    PerformanceMetrics,
    PluginEvent,
    PluginMetadata,
    PluginStatus,
    SecurityLevel,
    StaticMount,
    on,
)


class UserJoined(Event, type="users.joined"):
    """Somebody got an account."""

    name: str


class Welcomed(Event, type="greeter.welcomed"):
    """The greeting that was sent."""

    text: str


class Greeter(BasePlugin, plugin_id="greeter", version="1.0.0", security_level="trusted"):
    @on
    async def welcome(self, event: UserJoined) -> Welcomed:
        return Welcomed(text=f"Hello {event.name}")


async def test_somebody_who_joins_is_welcomed(harness: Harness) -> None:
    """The example of the guide runs as it stands."""
    await harness.load(Greeter)
    await harness.publish(UserJoined(name="Ada"))
    await harness.quiet()
    assert harness.published(Welcomed) == [Welcomed(text="Hello Ada")]


class ClassicPlugin(BasePlugin):
    """Metadata through the constructor, explicit subscriptions, steps with a context, a router."""

    def __init__(self, metadata: PluginMetadata) -> None:
        super().__init__(metadata)
        self.greeted: list[str] = []

    async def initialize(self) -> bool:
        self.router = APIRouter()
        self.router.add_api_route("/greeted", self.list_greeted)
        return True

    async def list_greeted(self) -> list[str]:
        return self.greeted

    def get_subscribed_events(self) -> Sequence[str]:
        return ["users.joined"]

    async def handle_event(self, event: PluginEvent) -> EventResult:
        joined = event.as_(UserJoined)
        self.greeted.append(joined.name)
        return EventResult.ok(Welcomed(text=f"Good day {joined.name}"))

    async def get_api_router(self) -> ASGIApp:
        return self.router

    async def get_static_mounts(self) -> Sequence[StaticMount]:
        return []

    async def health_check(self) -> HealthCheck:
        return HealthCheck(message=f"{len(self.greeted)} greeted")

    def get_metrics(self) -> PerformanceMetrics:
        return PerformanceMetrics(handled=len(self.greeted))


async def test_a_plugin_in_the_classic_style_works(harness: Harness) -> None:
    """Constructor with metadata, get_subscribed_events, handle_event, get_api_router, health_check."""
    handle = await harness.load(
        ClassicPlugin,
        plugin_id="classic",
        version="2.1.0",
        name="Classic",
        security_level=SecurityLevel.TRUSTED,
    )
    await harness.publish(UserJoined(name="Grace"))
    await harness.quiet()
    assert harness.published(Welcomed) == [Welcomed(text="Good day Grace")]
    assert [one.handler for one in harness.handled("classic.handle_event")] == ["handle_event"]
    assert (await harness.http.get("/plugins/classic/greeted")).json() == ["Grace"]
    assert (handle.name, handle.version, handle.status) == ("Classic", "2.1.0", PluginStatus.STARTED)
    assert (await handle.health()).message == "1 greeted"


async def test_a_one_file_plugin_is_loaded_from_its_path(harness: Harness, tmp_path: Path) -> None:
    """A file with class keywords is a whole plugin."""
    file = tmp_path / "hello.py"
    file.write_text(
        "from plugbus import BasePlugin, Event, on\n"
        "class Asked(Event, type='hello.asked'):\n    name: str\n"
        "class Said(Event, type='hello.said'):\n    text: str\n"
        "class Hello(BasePlugin, plugin_id='hello', version='1.0'):\n"
        "    @on\n    async def say(self, event: Asked) -> Said:\n"
        "        return Said(text='Hi ' + event.name)\n"
    )
    await harness.load(file)

    class Asked(Event, type="hello.asked"):
        name: str
        shouted: bool = False

    class Said(Event, type="hello.said"):
        text: str

    await harness.publish(Asked(name="Lin", shouted=True))
    await harness.quiet()
    assert harness.published(Said) == [Said(text="Hi Lin")]
