"""Changing the configuration of plugins while they run."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from pydantic import JsonValue

from contracts.errors import PluginStateError
from contracts.messages import (
    ChangedKey,
    ConfigurationChange,
    ConfigurationOutcome,
    ConfigurationProblem,
    SetConfiguration,
)
from contracts.plugin import ConfigurationResult, PluginStatus

from ..operations import Operations
from ..registry import Activity, PluginRecord, PluginRegistry
from .differences import changed_keys
from .handover import ConfigurationHandover
from .layers import ConfigurationLayers
from .live import LiveConfiguration
from .secrets import scrubbed
from .showing import ConfigurationView

Outcome = Literal["applied", "restart_required", "stored"]


class ConfigurationChanges(ConfigurationView):
    """One change at a time for each plugin: validated, taken by the plugin and kept, or none of it."""

    def __init__(
        self,
        layers: ConfigurationLayers,
        registry: PluginRegistry,
        operations: Operations,
        handover: ConfigurationHandover,
    ) -> None:
        super().__init__(layers, registry)
        self._operations = operations
        self._handover = handover
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def change(self, asked: SetConfiguration, by: str) -> ConfigurationOutcome:
        """Validate, hand over, keep. Raises `PluginNotFound`, `PluginBusy`, `PluginStateError`."""
        record = self._registry.record(asked.plugin_id)
        if record.found is None:
            raise PluginStateError(
                f"plugin {record.plugin_id!r} cannot be configured: its manifest was refused",
                plugin_id=record.plugin_id,
                fix=f"plugbus plugin show {record.plugin_id}",
            )
        async with self._turns[record.plugin_id]:
            return await self._changed(record, asked, by)

    async def _changed(self, record: PluginRecord, asked: SetConfiguration, by: str) -> ConfigurationOutcome:
        live = self._layers.store.read(record.plugin_id)
        if asked.if_versions is not None and live.version not in asked.if_versions:
            return ConfigurationOutcome(
                outcome="conflict",
                configuration=await self._view(record, live),
                fix="look at what it is now, and change that",
            )
        if not asked.replace:
            _require_same_version(record, live)
        proposed = live.changed(asked.values, replace=asked.replace, by=by, at=datetime.now(UTC))
        schema = await self._schema(record)
        keys = changed_keys(live, proposed, schema)
        if not keys:
            return ConfigurationOutcome(outcome="unchanged", configuration=await self._view(record, live))
        config = self._layers.with_live(record, proposed)
        if problems := await self._problems(record, config):
            return await self._refused(record, live, keys, problems)
        if asked.dry_run:
            shown = await self._view(record, proposed)
            return ConfigurationOutcome(outcome="valid", configuration=shown, keys=keys)
        return await self._applied(record, live, proposed, by, keys)

    async def _applied(
        self,
        record: PluginRecord,
        live: LiveConfiguration,
        proposed: LiveConfiguration,
        by: str,
        keys: tuple[ChangedKey, ...],
    ) -> ConfigurationOutcome:
        """Taken by the plugin where it runs and can; then kept. An operation of the plugin, as a stop is."""
        self._operations.require_idle(record)
        id = record.plugin_id
        change = ConfigurationChange(
            plugin_id=id, version=live.version + 1, at=datetime.now(UTC), by=by, outcome="stored", keys=keys
        )

        def keep(outcome: Outcome) -> None:
            told = change.model_copy(update={"outcome": outcome})
            self._layers.store.write(id, proposed.recorded(told, record.metadata.configuration_version))

        config = self._layers.with_live(record, proposed)
        if record.current is None or record.status is not PluginStatus.STARTED:
            result, outcome = _tried(lambda: keep("stored")), "stored"
        elif record.current.config == config:  # it works with that already
            result, outcome = _tried(lambda: keep("applied")), "applied"
        elif not record.current.declaration.is_configurable:
            result, outcome = _tried(lambda: keep("restart_required")), "restart_required"
        else:
            result = await self._taken(record, config, keep)
            outcome = _outcome(result)
        if not result.ok:
            return await self._refused(record, live, keys, await self._told(record, config, result))
        return ConfigurationOutcome(
            outcome=outcome,
            configuration=await self._view(record, self._layers.store.read(id)),
            keys=keys,
            fix=self._layers.restart_with(id) if outcome == "restart_required" else "",
        )

    async def _taken(
        self, record: PluginRecord, config: dict[str, JsonValue], keep: Callable[[Outcome], None]
    ) -> ConfigurationResult:
        results: list[ConfigurationResult] = []

        async def operation() -> None:
            results.append(
                await self._handover.reconfigure(record, config, lambda taken: keep(_outcome(taken)))
            )

        await self._operations.run(record, Activity.CONFIGURING, operation())
        return results[0]

    async def _told(
        self, record: PluginRecord, config: dict[str, JsonValue], result: ConfigurationResult
    ) -> tuple[ConfigurationProblem, ...]:
        """The plugin's own words, without the secrets of either configuration."""
        schema = await self._schema(record)
        former = record.current.config if record.current is not None else {}
        texts = (scrubbed(scrubbed(text, config, schema), former, schema) for text in result.errors)
        problems = tuple(
            ConfigurationProblem(key="", expected=text, fix="give values that the plugin takes")
            for text in texts
        )
        return problems or (ConfigurationProblem(key="", expected="values that the plugin takes"),)

    async def _refused(
        self,
        record: PluginRecord,
        live: LiveConfiguration,
        keys: tuple[ChangedKey, ...],
        problems: tuple[ConfigurationProblem, ...],
    ) -> ConfigurationOutcome:
        shown = await self._view(record, live)
        return ConfigurationOutcome(
            outcome="refused", configuration=shown, keys=keys, problems=problems, fix=problems[0].fix
        )


def _outcome(result: ConfigurationResult) -> Outcome:
    return "restart_required" if result.restart_required else "applied"


def _tried(keep: Callable[[], None]) -> ConfigurationResult:
    try:
        keep()
    except OSError as error:
        return ConfigurationResult(ok=False, errors=(f"it cannot be kept: {error.strerror or error}",))
    return ConfigurationResult()


def _require_same_version(record: PluginRecord, live: LiveConfiguration) -> None:
    """New values beside old ones that nobody has lifted yet would be neither of the two versions."""
    wanted = record.metadata.configuration_version
    if live.values and live.configuration_version != wanted:
        id = record.plugin_id
        raise PluginStateError(
            f"what is set live for {id!r} is of version {live.configuration_version} of its configuration, "
            f"and {id} {record.metadata.version} has version {wanted}",
            plugin_id=id,
            fix=f"start it, which lifts what is set: plugbus plugin start {id}; or set with --replace",
        )
