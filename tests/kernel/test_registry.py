"""Records, the transition table, and the queries of the registry."""

from __future__ import annotations

from itertools import product

import pytest

from contracts.errors import PluginAlreadyRegisteredError, PluginNotFound, PluginStateError
from contracts.metadata import PluginMetadata
from kernel.registry import TRANSITIONS, PluginRecord, PluginRegistry, make_reason
from kernel.testing import Harness, MockPlugin
from plugbus import PluginStatus


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
    with pytest.raises(PluginStateError, match="is started"):
        registry.unregister_plugin("one")
