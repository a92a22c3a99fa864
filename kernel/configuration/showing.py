"""What the configuration of plugins is, and what is wrong with it; with or without a running kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pydantic import JsonValue

from contracts.errors import SettingsError
from contracts.messages import (
    ConfigurationChange,
    ConfigurationCheck,
    ConfigurationProblem,
    PluginConfiguration,
)

from ..registry import PluginRecord, PluginRegistry
from .layers import ConfigurationLayers
from .live import LiveConfiguration
from .schema import problems_of
from .secrets import scrubbed

SCHEMA_DEADLINE = 5.0
"""Seconds in which a plugin must say what its configuration is, or whether another one fits."""


class ConfigurationView:
    """Tells, and changes nothing. Of a plugin that does not run only the manifest's schema is known."""

    def __init__(self, layers: ConfigurationLayers, registry: PluginRegistry) -> None:
        self._layers = layers
        self._registry = registry

    async def show(self, plugin_id: str | None) -> tuple[PluginConfiguration, ...]:
        """Of one plugin, or of all. Raises `PluginNotFound`."""
        return tuple([await self._shown(record) for record in self._chosen(plugin_id)])

    async def check(self, plugin_id: str | None) -> tuple[ConfigurationCheck, ...]:
        """What is wrong with that of one plugin, or of all. Raises `PluginNotFound`."""
        shown = await self.show(plugin_id)
        return tuple(
            ConfigurationCheck(
                plugin_id=each.plugin_id, has_schema=each.json_schema is not None, problems=each.problems
            )
            for each in shown
        )

    def history(self, plugin_id: str | None, limit: int) -> tuple[ConfigurationChange, ...]:
        """The newest first. Raises `PluginNotFound`, and `SettingsError` where the file is damaged."""
        found = [
            change
            for record in self._chosen(plugin_id)
            for change in self._layers.store.read(record.plugin_id).history
        ]
        return tuple(sorted(found, key=lambda change: change.at, reverse=True)[:limit])

    def _chosen(self, plugin_id: str | None) -> Iterable[PluginRecord]:
        return list(self._registry) if plugin_id is None else [self._registry.record(plugin_id)]

    async def _shown(self, record: PluginRecord) -> PluginConfiguration:
        try:
            return await self._view(record, self._layers.store.read(record.plugin_id))
        except (
            SettingsError
        ) as error:  # a file that is named but not there: the others are shown all the same
            problem = ConfigurationProblem(key="", expected=error.message, fix=error.fix)
            return PluginConfiguration(plugin_id=record.plugin_id, problems=(problem,))

    async def _view(self, record: PluginRecord, live: LiveConfiguration) -> PluginConfiguration:
        config = self._layers.with_live(record, live)
        schema = await self._schema(record)
        current = record.current
        behind = current is not None and current.config != config
        return PluginConfiguration(
            plugin_id=record.plugin_id,
            version=live.version,
            values=self._layers.values(record, live, schema),
            json_schema=schema,
            restart_required=behind,
            restart_with=self._layers.restart_with(record.plugin_id) if behind else "",
            problems=await self._problems(record, config),
        )

    async def _schema(self, record: PluginRecord) -> dict[str, JsonValue] | None:
        if record.metadata.configuration_schema is not None or record.current is None:
            return record.metadata.configuration_schema
        try:
            async with asyncio.timeout(SCHEMA_DEADLINE):
                return await record.current.host.configuration_schema()
        except Exception:  # noqa: BLE001 - the plugin's own code: its values are told all the same
            return None

    async def _problems(
        self, record: PluginRecord, config: dict[str, JsonValue]
    ) -> tuple[ConfigurationProblem, ...]:
        """By the manifest's schema, and by what the code says beyond that."""
        schema = record.metadata.configuration_schema
        found = problems_of(schema, config) if schema is not None else ()
        if record.current is None:
            return found
        try:
            async with asyncio.timeout(SCHEMA_DEADLINE):
                more = await record.current.host.check_configuration(config)
        except Exception as error:  # noqa: BLE001 - the plugin's own code
            text = str(error) or type(error).__name__
            told = scrubbed(text, config, schema)
            return (*found, ConfigurationProblem(key="", expected="a plugin that can check it", found=told))
        named = {problem.key for problem in found}
        return (*found, *(problem for problem in more if problem.key not in named))
