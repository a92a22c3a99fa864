"""`kernel.config.*`: what the configuration of plugins is, changing it, and what was changed."""

from __future__ import annotations

from contracts.bus import Call
from contracts.messages import (
    CheckConfiguration,
    ConfigurationChange,
    ConfigurationCheck,
    ConfigurationOutcome,
    ListConfigurationChanges,
    PluginConfiguration,
    SetConfiguration,
    ShowConfiguration,
)

from .desk import CommandDesk

_CHANGED = ("applied", "restart_required", "stored")


class ConfigurationCommands:
    def __init__(self, desk: CommandDesk) -> None:
        self._desk = desk
        self._configuration = desk.kernel.configuration

    async def open(self) -> None:
        await self._desk.provide(ShowConfiguration, self._show)
        await self._desk.provide(SetConfiguration, self._set)
        await self._desk.provide(CheckConfiguration, self._check)
        await self._desk.provide(ListConfigurationChanges, self._history)

    async def _show(self, query: ShowConfiguration, call: Call) -> tuple[PluginConfiguration, ...]:
        return await self._configuration.show(query.plugin_id)

    async def _check(self, query: CheckConfiguration, call: Call) -> tuple[ConfigurationCheck, ...]:
        return await self._configuration.check(query.plugin_id)

    async def _history(self, query: ListConfigurationChanges, call: Call) -> tuple[ConfigurationChange, ...]:
        return self._configuration.history(query.plugin_id, query.limit)

    async def _set(self, query: SetConfiguration, call: Call) -> ConfigurationOutcome:
        by = f"{query.on_behalf_of} via {call.source}" if query.on_behalf_of else call.source
        result = await self._configuration.change(query, by)
        if result.outcome in _CHANGED:
            self._desk.audit(
                call, "config.set", query.plugin_id, by=by, outcome=result.outcome,
                version=result.configuration.version, keys=", ".join(each.key for each in result.keys),
            )  # fmt: skip
        return result
