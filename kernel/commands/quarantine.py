"""`kernel.plugin.quarantine.*`: which plugins are not started any more, and changing that."""

from __future__ import annotations

from functools import partial

from contracts.bus import Call
from contracts.inspection import check_tag
from contracts.messages import (
    AddToQuarantine,
    ListQuarantine,
    QuarantineChange,
    QuarantineEntry,
    ReleaseFromQuarantine,
)

from ..port import source_of
from .desk import CommandDesk
from .plugins import plugin_info


class QuarantineCommands:
    def __init__(self, desk: CommandDesk) -> None:
        self._desk = desk
        self._kernel = desk.kernel
        self._control = desk.kernel.control

    async def open(self) -> None:
        await self._desk.provide(ListQuarantine, self._list)
        await self._desk.provide(AddToQuarantine, self._add)
        await self._desk.provide(ReleaseFromQuarantine, self._release)

    async def _list(self, query: ListQuarantine, call: Call) -> tuple[QuarantineEntry, ...]:
        return self._kernel.services.quarantine.entries()

    async def _add(self, query: AddToQuarantine, call: Call) -> QuarantineChange:
        plugin_id = query.plugin_id
        self._kernel.registry.record(plugin_id)
        self._check_seen(query)
        entry = self._kernel.services.quarantine.entry(plugin_id)
        if entry is not None:
            return QuarantineChange(outcome="unchanged", plugin_id=plugin_id, entry=entry)
        self._control.require_not_edge(plugin_id)
        self._desk.audit(call, "plugin.quarantine", plugin_id, reason=query.reason)
        if call.source == source_of(plugin_id):  # it could not wait for its own end
            put = partial(self._control.quarantine, plugin_id, query.reason, call.source)
            self._desk.soon("quarantine", plugin_id, put)
            return QuarantineChange(outcome="accepted", plugin_id=plugin_id)
        entry = await self._control.quarantine(plugin_id, query.reason, call.source)
        return QuarantineChange(outcome="done", plugin_id=plugin_id, entry=entry)

    async def _release(self, query: ReleaseFromQuarantine, call: Call) -> QuarantineChange:
        self._check_seen(query)
        entry = await self._control.release(query.plugin_id, call.source)
        outcome = "unchanged" if entry is None else "done"
        return QuarantineChange(outcome=outcome, plugin_id=query.plugin_id, entry=entry)

    def _check_seen(self, query: AddToQuarantine | ReleaseFromQuarantine) -> None:
        """Raises `StateChanged` unless the plugin is as the asker has seen it; one that is gone is not."""
        plugin_id, registry = query.plugin_id, self._kernel.registry
        tag = plugin_info(registry.record(plugin_id)).tag if plugin_id in registry else ""
        check_tag(f"plugin {plugin_id!r}", tag, query.if_tags)
