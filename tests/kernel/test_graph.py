"""The graph of a running kernel: who is tied to whom by dependencies, events and capabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from contracts.messages import PluginGraph, ShowGraph
from kernel.settings import PluginSettings, Settings
from kernel.testing import Harness, MockPlugin
from plugbus import BasePlugin, Query, provides

Part = Literal["plugins", "events", "capabilities", "all"]


class Clock(Query[int], capability="clock.now"):
    pass


class Watch(BasePlugin, plugin_id="watch", version="1", security_level="trusted", publishes=[], requests=[]):
    @provides
    async def now(self, query: Clock) -> int:
        return 1


def plugin(plugin_id: str, **metadata: Any) -> type[MockPlugin]:
    return MockPlugin.make(plugin_id, **{"publishes": [], "requests": [], **metadata})


async def shown(harness: Harness, what: Part = "all") -> PluginGraph:
    return await harness.request(ShowGraph(what=what))


def edges(graph: PluginGraph) -> set[tuple[str, str, str]]:
    return {(edge.source, edge.target, edge.kind) for edge in graph.edges}


def warned(graph: PluginGraph) -> dict[str, str]:
    return {warning.node: warning.code for warning in graph.warnings}


async def test_plugins_are_tied_by_what_they_start_after(tmp_path: Path) -> None:
    """All three kinds; who is needed and not there is a node with a warning, a wish for nobody is none."""
    harness = Harness(tmp_path)
    for one in (
        plugin("a"),
        plugin("b", dependencies=["a"], optional_dependencies=["none"]),
        plugin("c", optional_dependencies=["a"], order_after=["b"]),
        plugin("d", dependencies=["gone"]),
    ):
        await harness.manager.register_plugin(one)
    async with harness:
        graph = await shown(harness, "plugins")
    assert edges(graph) == {
        ("plugin:b", "plugin:a", "dependency"),
        ("plugin:c", "plugin:a", "optional"),
        ("plugin:c", "plugin:b", "order"),
        ("plugin:d", "plugin:gone", "dependency"),
    }
    statuses = {node.name: node.status for node in graph.nodes if node.status != "unloaded"}
    assert statuses == {
        "a": "started", "b": "started", "c": "started", "d": "error", "gone": "missing",
    }  # fmt: skip
    assert warned(graph) == {"plugin:gone": "missing"}


async def test_events_lead_from_publishers_to_groups(harness: Harness) -> None:
    """What nobody handles and what nobody publishes is marked, and told below with a fix."""
    await harness.load(plugin("shop", publishes=["shop.sold", "shop.lost"]))
    await harness.load(plugin("till", handles=["shop.sold", "post.sent"]))
    graph = await shown(harness, "events")
    assert edges(graph) == {
        ("plugin:shop", "event:shop.sold", "publishes"),
        ("plugin:shop", "event:shop.lost", "publishes"),
        ("event:shop.sold", "group:till.handle_event", "handled by"),
        ("event:post.sent", "group:till.handle_event", "handled by"),
    }
    marks = {node.name: node.marks for node in graph.nodes if node.kind == "event"}
    assert marks == {"shop.sold": (), "shop.lost": ("unheard",), "post.sent": ("unpublished",)}
    unheard, unpublished = graph.warnings
    assert (unheard.node, unheard.code) == ("event:shop.lost", "unheard")
    assert "shop.lost is published by shop" in unheard.text
    assert (unpublished.node, unpublished.code) == ("event:post.sent", "unpublished")
    assert "till.handle_event" in unpublished.text
    assert 'publishes = ["post.sent"]' in unpublished.fix


async def test_what_the_kernel_says_is_shown_as_it_is_handled(harness: Harness) -> None:
    """Not each of its types; a misspelled one is found."""
    await harness.load(plugin("audit2", handles=["plugin.**", "bus.dead_lettered", "kernel.startd"]))
    graph = await shown(harness, "events")
    assert {(e.source, e.target) for e in graph.edges if e.kind == "publishes"} == {
        ("kernel:kernel", "event:plugin.**"),
        ("kernel:bus", "event:bus.dead_lettered"),
    }
    assert warned(graph) == {"event:kernel.startd": "unpublished"}
    await harness.load(plugin("narrow", handles=["plugin.failed"]))
    handled = {(e.source, e.target) for e in (await shown(harness, "events")).edges if e.kind == "handled by"}
    assert ("event:plugin.failed", "group:audit2.handle_event") in handled
    assert ("event:plugin.**", "group:narrow.handle_event") not in handled


async def test_who_would_publish_is_named_where_it_is_not_started(harness: Harness) -> None:
    """By its manifest; starting it is the fix."""
    await harness.load(plugin("shop", publishes=["shop.sold"]))
    await harness.load(plugin("till", handles=["shop.sold"]))
    await harness.unload("shop")
    [warning] = (await shown(harness, "events")).warnings
    assert (warning.code, warning.fix) == ("unpublished", "plugbus plugin start shop")


@pytest.mark.parametrize(
    ("more", "shown_as"), [([], {"feed.**"}), (["feed.a"], {f"feed.{n}" for n in "abcd"})]
)
async def test_many_types_that_go_the_same_way_are_one_node(
    harness: Harness, tmp_path: Path, more: list[str], shown_as: set[str]
) -> None:
    """By the pattern of the manifest; once one of them goes elsewhere too, each is told."""
    code = "from plugbus import BasePlugin, Event\n"
    code += "".join(f'class E{n}(Event, type="feed.{n}"):\n    pass\n' for n in "abcd")
    code += (
        'class Feed(BasePlugin, plugin_id="feed", version="1", security_level="trusted",\n'
        '           publishes=["feed.**"]):\n    pass\n'
    )
    (tmp_path / "feed.py").write_text(code, encoding="utf-8")
    await harness.load(tmp_path / "feed.py")
    await harness.load(plugin("reader", handles=["feed.**"]))
    if more:
        await harness.load(plugin("other", handles=more))
    graph = await shown(harness, "events")
    assert {node.name for node in graph.nodes if node.kind == "event"} == shown_as
    assert graph.warnings == ()


async def test_capabilities_lead_from_providers_to_requesters(tmp_path: Path) -> None:
    """Of the kernel's own those that a plugin requests; what nobody provides is told, with who could."""
    settings = Settings(plugins={"idle": PluginSettings(enabled=False)})
    harness = Harness(tmp_path, settings=settings)
    file = tmp_path / "idle.py"
    file.write_text(
        'from plugbus import BasePlugin\nclass Idle(BasePlugin, plugin_id="idle", version="1",\n'
        '    security_level="trusted", provides=["paper.print"]):\n    pass\n',
        encoding="utf-8",
    )
    harness.manager.settings = harness.manager.settings.model_copy(update={"plugin_paths": (file,)})
    await harness.manager.register_plugin(Watch)
    asks = plugin("asks", requests=["clock.now", "kernel.ready", "paper.print", "ink.**"])
    await harness.manager.register_plugin(asks)
    async with harness:
        graph = await shown(harness, "capabilities")
    assert edges(graph) == {
        ("plugin:watch", "capability:clock.now", "provides"),
        ("capability:clock.now", "plugin:asks", "requested by"),
        ("kernel:kernel", "capability:kernel.ready", "provides"),
        ("capability:kernel.ready", "plugin:asks", "requested by"),
        ("capability:paper.print", "plugin:asks", "requested by"),
        ("capability:ink.**", "plugin:asks", "requested by"),
    }
    [warning] = graph.warnings
    assert (warning.node, warning.code) == ("capability:paper.print", "unprovided")
    assert warning.fix == "plugbus plugin start idle"


async def test_everything_together_is_joined_by_the_plugins_of_the_groups(harness: Harness) -> None:
    """And the same plugins give the same graph, in whatever order they came."""
    await harness.load(plugin("shop", publishes=["shop.sold"]))
    await harness.load(plugin("till", handles=["shop.sold"]))
    await harness.load(Watch)
    first = await shown(harness)
    assert ("group:till.handle_event", "plugin:till", "of") in edges(first)
    kinds = {node.kind for node in first.nodes}
    assert kinds == {"plugin", "event", "group", "capability"}
    await harness.unload("shop")
    await harness.load("shop")
    harness.manager.registry.reorder(("watch", "till", "shop"))
    assert await shown(harness) == first
