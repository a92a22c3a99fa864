"""Why a plugin stands where it stands, asked of a running kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from contracts.bus import CatalogEntry
from contracts.errors import BusError, ProviderFailed
from contracts.messages import ExplainPlugin, PluginExplanation
from kernel.settings import PluginSettings, Settings
from kernel.testing import Harness, MockPlugin
from plugbus import BasePlugin, Event, Query, on, provides


class Paid(Event, type="till.paid"):
    sum: int


class Price(Query[int], capability="prices.ask"):
    sku: str


class Till(BasePlugin, plugin_id="till", version="1.0.0", security_level="trusted"):
    async def start(self) -> None:
        await self.context.publish(Paid(sum=1))

    @provides
    async def price(self, query: Price) -> int:
        return 1


class Books(
    BasePlugin, plugin_id="books", version="1.0.0", security_level="trusted", dependencies=["till"],
    requests=["prices.ask"],
):  # fmt: skip
    @on
    async def enter(self, event: Paid) -> None:
        await self.context.request(Price(sku="a"))


def plugin(plugin_id: str, **metadata: Any) -> type[MockPlugin]:
    return MockPlugin.make(plugin_id, **metadata)


async def explained(harness: Harness, plugin_id: str) -> PluginExplanation:
    return await harness.request(ExplainPlugin(plugin_id=plugin_id))


async def kernel_with(tmp_path: Path, *plugins: type, settings: Settings | None = None) -> Harness:
    """A kernel that will start with `plugins`."""
    harness = Harness(tmp_path, settings=settings)
    for one in plugins:
        await harness.manager.register_plugin(one)
    return harness


async def test_the_place_in_the_start_order_is_explained(tmp_path: Path) -> None:
    """Observers first; then waves: all three kinds of ties are told, and which of them decide."""
    plugins = (
        plugin("watcher", subscribes=["plugin.**"]),
        plugin("a"),
        plugin("b", dependencies=["a"]),
        plugin("c", dependencies=["a>=1"], optional_dependencies=["b", "none"], order_after=["b", "a"]),
        plugin("d", order_after=["b"]),
    )
    async with await kernel_with(tmp_path, *plugins) as harness:
        watcher, a, c, d = [(await explained(harness, id)).start for id in ("watcher", "a", "c", "d")]
    assert (watcher.wave, watcher.waves, a.wave, c.wave, d.wave) == (1, 4, 2, 4, 4)
    assert "only what the kernel and the bus say" in watcher.why
    assert a.why == "it waits for nobody"
    assert (c.beside, c.why) == (("d",), "it starts after b")
    assert [(one.plugin_id, one.tie, one.version_spec, one.wave, one.decides) for one in c.after] == [
        ("a", "dependency", ">=1", 2, False),
        ("b", "optional", "", 3, True),
        ("none", "optional", "", None, False),
    ]
    assert c.after[2].status is None
    assert [(one.plugin_id, one.tie, one.decides) for one in d.after] == [("b", "order", True)]


async def test_who_needs_it_is_told_direct_and_by_others(tmp_path: Path) -> None:
    """With a shortest way; those that only wish for it are told apart, and lead to nobody."""
    plugins = (
        plugin("base"),
        plugin("near", dependencies=["base"]),
        plugin("far", dependencies=["near"]),
        plugin("farther", dependencies=["far", "near"]),
        plugin("wishing", optional_dependencies=["base"]),
        plugin("behind", dependencies=["wishing"]),
    )
    async with await kernel_with(tmp_path, *plugins) as harness:
        told = (await explained(harness, "base")).needed_by
        assert (await explained(harness, "behind")).needed_by == ()
    assert [(one.plugin_id, one.tie, one.chain) for one in told] == [
        ("near", "dependency", ("near", "base")),
        ("far", "dependency", ("far", "near", "base")),
        ("farther", "dependency", ("farther", "near", "base")),
        ("wishing", "optional", ("wishing", "base")),
    ]


async def test_the_other_side_of_events_and_capabilities_is_told(harness: Harness) -> None:
    """Who handles what it publishes, who requests what it provides; and the same seen from there."""
    await harness.load(Till)
    await harness.load(Books)
    till, books = await explained(harness, "till"), await explained(harness, "books")
    [paid], [price] = till.publishes, till.provides
    assert (paid.pattern, paid.others, paid.is_only) == ("till.paid", ("books.enter",), True)
    assert (price.capability, price.others, price.is_only) == ("prices.ask", ("books",), True)
    [handled], [asked] = books.handles, books.requests
    assert (handled.pattern, handled.group, handled.others) == ("till.paid", "books.enter", ("till",))
    assert (asked.capability, asked.others) == ("prices.ask", ("till",))
    assert books.publishes == ()  # what it only handles it does not publish
    assert [one.plugin_id for one in till.needed_by] == ["books"]
    assert "after the kernel had started" in till.start.why


async def test_a_second_one_means_that_nothing_breaks(harness: Harness) -> None:
    """Who publishes or provides what another one does too is not the only one."""
    await harness.load(Till)
    twin = type("Twin", (Till,), {}, plugin_id="twin", version="1", security_level="trusted")
    await harness.load(twin)
    told = await explained(harness, "till")
    assert [one.is_only for one in (*told.publishes, *told.provides)] == [False, False]


async def test_a_publisher_of_another_replica_is_known_by_the_catalogue(harness: Harness) -> None:
    """It has no record here."""
    await harness.load(plugin("sink", handles=["till.paid"]))
    entry = CatalogEntry(type="till.paid", version=1, plugin_id="till")
    remove = harness.bus.add_types([entry, entry.model_copy(update={"plugin_id": "x", "published": False})])
    [handled] = (await explained(harness, "sink")).handles
    remove()
    assert handled.others == ("till",)


async def test_a_plugin_is_explained_without_its_bus(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the bus does not answer, with what this kernel knows by itself."""

    async def silent() -> list[Any]:
        raise BusError("it does not answer")

    await harness.load(Till)
    await harness.load(Books)
    monkeypatch.setattr(harness.bus, "groups", silent)
    [handled] = (await explained(harness, "books")).handles
    assert (handled.group, handled.others) == ("books.enter", ("till",))


async def test_what_is_not_loaded_is_explained_from_its_manifest(tmp_path: Path) -> None:
    """Disabled: with the reason and the next step, and what it would say and hear."""
    folder = tmp_path / "idle.py"
    folder.write_text(
        "from plugbus import BasePlugin\n"
        'class Idle(BasePlugin, plugin_id="idle", version="1", security_level="trusted",\n'
        '           publishes=["idle.done"], subscribes={"watch": ["till.paid"]}, requests=["prices.ask"]):\n'
        "    pass\n",
        encoding="utf-8",
    )
    settings = Settings(plugins={"idle": PluginSettings(enabled=False)})
    harness = await kernel_with(tmp_path, Till, settings=settings)
    harness.manager.settings = harness.manager.settings.model_copy(update={"plugin_paths": (folder,)})
    async with harness:
        told = await explained(harness, "idle")
    assert (told.status.value, told.enabled, told.known_from) == ("unloaded", False, "manifest")
    assert told.reason is not None
    assert (told.reason.code, "plugbus plugin start idle" in told.reason.next_step) == ("disabled", True)
    assert told.path == str(folder)
    assert told.start.wave is None
    assert "not enabled" in told.start.why
    assert [one.pattern for one in told.publishes] == ["idle.done"]
    assert [(one.group, one.others) for one in told.handles] == [("idle.watch", ("till",))]
    assert [one.others for one in told.requests] == [("till",)]


async def test_a_refused_plugin_says_why_and_that_it_has_no_place(tmp_path: Path) -> None:
    """The reason is the resolver's."""
    async with await kernel_with(tmp_path, plugin("lost", dependencies=["nowhere"])) as harness:
        told = await explained(harness, "lost")
    assert told.reason is not None
    assert "'nowhere', which is not installed" in told.reason.text
    assert told.reason.next_step
    assert "it was refused" in told.start.why
    assert [one.status for one in told.start.after] == [None]


async def test_an_unknown_plugin_is_told_with_the_one_that_was_meant(harness: Harness) -> None:
    """As everywhere."""
    await harness.load(Till)
    with pytest.raises(ProviderFailed) as caught:
        await explained(harness, "tilt")
    assert "did you mean 'till'?" in caught.value.info.fix
