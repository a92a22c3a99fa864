"""Nobody can speak for somebody else: source and reserved topics, by every door that a plugin has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from contracts.errors import PermissionDeniedError
from contracts.event import EventData
from kernel.testing import Harness
from plugbus import BasePlugin, Event, EventResult, on

RESERVED = ("kernel.started", "plugin.stopped", "audit.recorded", "bus.dead_lettered")


class Asked(Event, type="spoof.asked"):
    door: str


class Said(Event, type="spoof.said"):
    """What the plugin may say; it claims to be somebody else in its data."""

    source: str = "/plugins/victim"


def forged(type_name: str) -> type[Event]:
    """An event class of a reserved topic, as nobody stops an author from writing it."""
    return type("Forged", (Event,), {"__module__": __name__}, type=type_name)


DOORS: dict[str, Callable[[BasePlugin, Event], Awaitable[Any]]] = {
    "publish": lambda plugin, event: plugin.context.publish(event),
    "publish_many": lambda plugin, event: plugin.context.publish_many([Said(), event]),
    "publish data": lambda plugin, event: plugin.context.publish(EventData.of(event)),  # type: ignore[arg-type]
}


class Spoofer(
    BasePlugin,
    plugin_id="spoofer",
    version="1.0.0",
    security_level="unrestricted",
    publishes=["**", "kernel.**", "plugin.**", "audit.**", "bus.**"],
):
    """Asks for every grant that there is, at the level that gets all it asks for."""

    returning: Event | EventResult | None = None

    @on
    async def answer(self, event: Asked) -> EventResult | None:
        returning = type(self).returning
        return EventResult.ok(returning) if isinstance(returning, Event) else returning

    @on(name="plain")
    async def returns_it(self, event: Asked) -> Event | None:
        returning = type(self).returning
        return returning if isinstance(returning, Event) else None


@pytest.fixture
async def spoofer(harness: Harness) -> BasePlugin:
    """The instance, so that a test can hold its context as an attacker would."""
    made: list[BasePlugin] = []

    class Held(
        Spoofer,
        plugin_id="spoofer",
        version="1.0.0",
        security_level="unrestricted",
        publishes=["**", "kernel.**", "plugin.**", "audit.**", "bus.**"],
    ):
        async def initialize(self) -> None:
            made.append(self)

    await harness.load(Held)
    return made[0]


def reserved_since(harness: Harness, before: int) -> list[str]:
    """Types of reserved topics whose source is not the kernel's or the bus's own."""
    return [
        item.envelope.type
        for item in harness.published()[before:]
        if item.envelope.type.partition(".")[0] in ("kernel", "plugin", "audit", "bus")
        and not item.envelope.source.startswith(("/kernel", "/bus"))
    ]


@pytest.mark.parametrize("type_name", RESERVED)
@pytest.mark.parametrize("door", DOORS)
async def test_a_reserved_topic_is_closed_to_every_plugin(
    harness: Harness, spoofer: BasePlugin, door: str, type_name: str
) -> None:
    """Whatever it was granted; refused before anything of the batch is sent, and recorded."""
    before = len(harness.published())
    with pytest.raises(PermissionDeniedError) as caught:
        await DOORS[door](spoofer, forged(type_name)())
    assert caught.value.plugin_id == "spoofer"
    await harness.quiet()
    assert reserved_since(harness, before) == []
    assert harness.published(Said) == []


@pytest.mark.parametrize("type_name", RESERVED)
async def test_what_a_handler_returns_passes_the_same_check(
    harness: Harness, spoofer: BasePlugin, type_name: str
) -> None:
    """Returned plainly or by `EventResult.ok`: a failed attempt, then a dead letter; nothing is published."""
    type(spoofer).returning = forged(type_name)()
    before = len(harness.published())
    await harness.publish(Asked(door="return"))
    await harness.quiet()
    dead = await harness.dead_letters()
    assert {letter.group for letter in dead} == {"spoofer.answer", "spoofer.plain"}
    assert {letter.error.type for letter in dead if letter.error} == {
        "contracts.errors.PermissionDeniedError"
    }
    assert reserved_since(harness, before) == []


@pytest.mark.parametrize("door", ["publish", "publish_many", "publish data", "return"])
async def test_the_source_is_stamped_and_cannot_be_chosen(
    harness: Harness, spoofer: BasePlugin, door: str
) -> None:
    """Whatever the data claim; no argument of any door names a source."""
    type(spoofer).returning = Said()
    if door in DOORS:
        await DOORS[door](spoofer, Said())
    else:
        await harness.publish(Asked(door=door))
    await harness.quiet()
    sources = {i.envelope.source for i in harness.published() if i.envelope.type == "spoof.said"}
    assert sources == {"/plugins/spoofer"}
    with pytest.raises(TypeError, match="source"):
        await spoofer.context.publish(Said(), source="/plugins/victim")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="source"):
        await spoofer.context.publish_many([Said()], source="/plugins/victim")  # type: ignore[call-arg]


async def test_a_request_carries_the_name_of_who_asks(harness: Harness, spoofer: BasePlugin) -> None:
    """The audit log names the plugin that commanded, whatever it pretends to be."""
    with pytest.raises(TypeError, match="source"):
        await spoofer.context.request(Asked(door="x"), source="/kernel")  # type: ignore[call-arg, arg-type]
