"""Which plugins a query means: by tag, status, level, event type and capability. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contracts.messages import ListPlugins
from contracts.patterns import covered
from contracts.plugin import PluginStatus

if TYPE_CHECKING:
    from .registry import PluginRecord


def is_selected(record: PluginRecord, query: ListPlugins) -> bool:
    """Whether all that the query says is true of the plugin."""
    return (
        set(query.tags) <= set(record.metadata.tags)
        and query.status in (None, record.status)
        and query.level in (None, record.level)
        and (query.handles is None or would_handle(record, query.handles))
        and (query.provides is None or would_provide(record, query.provides))
    )


def would_handle(record: PluginRecord, event_type: str) -> bool:
    """Whether it has a handler for that type; before it is loaded, as the table in its manifest says."""
    if record.current is None:
        table = record.metadata.subscribes  # a list gives grants, and names no handler
        return isinstance(table, dict) and any(covered(patterns, event_type) for patterns in table.values())
    current = record.current
    live = (pattern for spec in current.port.subscriptions for pattern in spec.patterns)
    return covered((*current.declaration.patterns, *live), event_type)


def would_provide(record: PluginRecord, capability: str) -> bool:
    """Whether it provides that capability when it is started; before it is loaded, as its manifest says."""
    if record.current is None:
        return covered(record.metadata.provided or (), capability)
    return capability in record.current.declaration.capabilities or rank_of(record, capability) is not None


def rank_of(record: PluginRecord, capability: str) -> int | None:
    """The rank with which it provides the capability now; None: it does not."""
    if record.status is not PluginStatus.STARTED or record.current is None:
        return None
    ranks = [spec.rank for spec in record.current.port.offers.specs if spec.capability == capability]
    return max(ranks, default=None)
