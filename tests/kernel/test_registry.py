"""Records, the transition table, and the queries of the registry."""

from __future__ import annotations

from itertools import product

import pytest

from contracts.errors import (
    PluginAlreadyRegisteredError,
    PluginNotFound,
    PluginStateError,
    PluginStepFailed,
)
from contracts.messages import ListPlugins
from contracts.metadata import PluginMetadata
from contracts.plugin import IPluginRegistry
from kernel.registry import TRANSITIONS, PluginRecord, PluginRegistry, make_reason
from kernel.testing import Harness, MockPlugin
from plugbus import BasePlugin, PluginEvent, PluginStatus, Query, SecurityLevel, provides


def record(plugin_id: str = "a", **more: object) -> PluginRecord:
    return PluginRecord(PluginMetadata.model_validate({"plugin_id": plugin_id, "version": "1", **more}))


@pytest.mark.parametrize(("before", "after"), list(product(PluginStatus, PluginStatus)))
def test_every_transition_is_in_the_table_or_refused(before: PluginStatus, after: PluginStatus) -> None:
    """A state changes along the table only; a refusal changes nothing and tells what is possible."""
    one = record()
    one.status = before
    if after in TRANSITIONS[before]:
        one.transition(after, make_reason("x", "because"))
        assert one.status is after
        assert one.reason is not None
    else:
        with pytest.raises(PluginStateError, match=f"is {before.value} and cannot become {after.value}"):
            one.transition(after)
        assert one.status is before


def test_an_id_is_taken_once() -> None:
    """The second registration changes nothing."""
    registry = PluginRegistry()
    first = record()
    registry.register_plugin(first)
    with pytest.raises(PluginAlreadyRegisteredError, match="'a' is taken"):
        registry.register_plugin(record())
    assert registry.record("a") is first
    registry.unregister_plugin("a")
    with pytest.raises(PluginNotFound):
        registry.get_plugin("a")


async def test_plugins_are_found_by_what_they_are_and_do(harness: Harness) -> None:
    """By tag, status, and the events they handle; a loaded plugin cannot be unregistered."""
    await harness.load(MockPlugin.make("one", handles=["orders.**"], tags=("shop",)))
    await harness.load(MockPlugin.make("two", handles=["users.*"]))
    registry = harness.manager.registry
    assert [handle.id for handle in registry.get_plugins_by_tag("shop")] == ["one"]
    assert [handle.id for handle in registry.get_plugins_by_event_type("orders.placed")] == ["one"]
    started = [handle.id for handle in registry.get_plugins_by_status(PluginStatus.STARTED)]
    assert started == ["one", "two"]
    trusted = [handle.id for handle in registry.get_plugins_by_level(SecurityLevel.TRUSTED)]
    assert {"one", "two"} < set(trusted)
    assert registry.get_plugins_by_level(SecurityLevel.ISOLATED) == []
    with pytest.raises(PluginStateError, match="is started"):
        registry.unregister_plugin("one")


def test_the_registry_is_what_the_contract_says() -> None:
    """`IPluginRegistry` is kept: mypy checks this line."""
    registry: IPluginRegistry = PluginRegistry()
    assert registry.get_all_plugins() == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["desk", "lazy", "refused", "shop"]),
        ({"tags": ["eu"]}, ["lazy", "shop"]),
        ({"tags": ["eu", "new"]}, ["shop"]),
        ({"status": "error"}, ["refused"]),
        ({"level": "TRUSTED"}, ["desk", "lazy", "shop"]),
        ({"level": "sandboxed"}, ["refused"]),
        ({"handles": "orders.placed"}, ["lazy", "shop"]),
        ({"handles": "orders.placed", "status": "started"}, ["shop"]),
        ({"handles": "users.joined"}, []),
        ({"provides": "desk.open"}, ["desk"]),
        ({"provides": "lazy.done"}, ["lazy"]),
        ({"provides": "lazy.done", "status": "started"}, []),
        ({"tags": ["nowhere"]}, []),
    ],
)
async def test_plugins_are_selected_over_the_bus(
    shelf: Harness, query: dict[str, object], expected: list[str]
) -> None:
    """Each filter, and all of them together; what is not loaded is judged by its manifest."""
    listed = await shelf.request(ListPlugins.model_validate(query))
    ours = ("desk", "lazy", "refused", "shop")
    assert sorted(info.plugin_id for info in listed if info.plugin_id in ours) == expected


@pytest.fixture
async def shelf(harness: Harness) -> Harness:
    """Two plugins that run, one that was unloaded, one that was refused."""
    await harness.load(MockPlugin.make("shop", handles=["orders.**"], tags=("eu", "new")))
    await harness.load(Desk)
    await harness.load(Later)
    await harness.unload("lazy")
    refused = MockPlugin.make("refused", handles=["orders.**"], security_level="sandboxed")
    await harness.manager.register_plugin(refused)
    harness.manager.registry.record("refused").consent = ""  # as of a plugin that was only found
    with pytest.raises(PluginStepFailed):
        await harness.manager.start_plugin("refused")
    return harness


class Open(Query[bool], capability="desk.open"):
    """Is it?"""


class Desk(BasePlugin, plugin_id="desk", version="1", security_level="trusted"):
    @provides
    async def is_open(self, query: Open) -> bool:
        return True


class Later(
    BasePlugin, plugin_id="lazy", version="1", security_level="trusted", tags=["eu"],
    subscribes={"handle_event": ["orders.*"]}, provides=["lazy.*"],
):  # fmt: skip
    async def handle_event(self, event: PluginEvent) -> None: ...

    def get_subscribed_events(self) -> list[str]:
        return ["orders.*"]
