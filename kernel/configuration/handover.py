"""Handing a plugin its configuration: when it is loaded, and another one while it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pydantic import JsonValue

from contracts.errors import ErrorInfo, PlugbusError, SettingsError
from contracts.plugin import ConfigurationResult

from ..hosts import Host
from ..registry import Generation, PluginRecord
from ..tracing import step_of
from .layers import ConfigurationLayers
from .migration import migrated
from .schema import problems_of, told


class ConfigurationHandover:
    """The first one is taken or the plugin is not loaded; of a later one the former stays in its place."""

    def __init__(self, layers: ConfigurationLayers, deadline: float, log: logging.Logger) -> None:
        """`deadline`: seconds for `configure` of a running plugin."""
        self._layers = layers
        self._deadline = deadline
        self._log = log

    # --- when it is loaded ------------------------------------------------------------------------------

    async def configure(self, record: PluginRecord, host: Host) -> dict[str, JsonValue]:
        """Hand the configuration over; what had to be lifted for it is kept once the plugin has taken it.

        Raises `SettingsError` where it does not fit, `PlugbusError` where the plugin refuses it.
        """
        layers = self._layers
        live = layers.store.read(record.plugin_id)
        lifted = await migrated(live, record.metadata, host)
        config = layers.with_live(record, lifted)
        await _configure(record, host, config)
        if lifted is not live:
            layers.store.write(record.plugin_id, lifted)
        return config

    # --- while it runs ----------------------------------------------------------------------------------

    async def reconfigure(
        self,
        record: PluginRecord,
        config: dict[str, JsonValue],
        keep: Callable[[ConfigurationResult], None],
    ) -> ConfigurationResult:
        """Hand a running plugin another configuration, then `keep` it.

        Where the plugin refuses it, raises or takes too long, or where it cannot be kept, the former stays in
        force: it is handed over again unless the plugin said by itself that it has taken nothing.
        """
        generation = record.require_current()
        try:
            with step_of(record.plugin_id, "configure"):
                result = await self._hand_over(generation, config)
        except Exception as error:  # noqa: BLE001 - whatever it raises, the former configuration is put back
            text = str(ErrorInfo.of(error))
            if isinstance(error, TimeoutError):
                text = f"configure took longer than {self._deadline:g} s"
            return ConfigurationResult(ok=False, errors=(text, *await self._put_back(record, generation)))
        if not result.ok:
            return result
        try:
            keep(result)
        except OSError as error:
            back = await self._put_back(record, generation)
            why = "; ".join((f"it cannot be kept: {error.strerror or error}", *back))
            return ConfigurationResult(ok=False, errors=(why,))
        if not result.restart_required:
            generation.config = config
        return result

    async def _hand_over(self, generation: Generation, config: dict[str, JsonValue]) -> ConfigurationResult:
        async with asyncio.timeout(self._deadline):
            return await generation.host.configure(config)

    async def _put_back(self, record: PluginRecord, generation: Generation) -> tuple[str, ...]:
        """Hand the former configuration over again; what is to be said where that fails."""
        try:
            result = await self._hand_over(generation, generation.config)
            why = "" if result.ok else "; ".join(result.errors) or "refused"
        except Exception as error:  # noqa: BLE001 - told to whoever asked for the change
            why = str(ErrorInfo.of(error))
        if not why:
            return ()
        self._log.error("%s: the former configuration could not be handed back", record.plugin_id)
        id = record.plugin_id
        return (
            f"and the former could not be handed back ({why}): plugbus plugin stop {id}, then start {id}",
        )


async def _configure(record: PluginRecord, host: Host, config: dict[str, JsonValue]) -> None:
    where, schema = f"[plugins.{record.plugin_id}.config]", record.metadata.configuration_schema
    problems = problems_of(schema, config) if schema is not None else ()
    if not problems:
        problems = await host.check_configuration(config)
    if problems:
        raise SettingsError(
            f"the configuration of {record.plugin_id!r} does not fit: {'; '.join(map(told, problems))}",
            where=where,
            fix=problems[0].fix or "give the values that the plugin expects",
        )
    result = await host.configure(config)
    if not result.ok:
        raise PlugbusError(
            f"the configuration of {record.plugin_id!r} was refused: {'; '.join(result.errors)}",
            where=where,
            fix=f"give the values that the plugin expects: plugbus config explain {record.plugin_id}",
        )
