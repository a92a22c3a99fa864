"""What was set live for an older `configuration_version` of a plugin, lifted by the plugin itself.

Only what was set live is lifted: `plugbus.toml` and the environment are the operator's own words, which
nobody rewrites; `plugbus config check` tells what of them does not fit any more.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from pydantic import JsonValue

from contracts.errors import SettingsError
from contracts.messages import ConfigurationChange
from contracts.metadata import PluginMetadata

from .differences import changed_keys
from .live import LiveConfiguration


class Migrates(Protocol):
    """The part of a host that is asked here."""

    async def migrate_configuration(
        self, configuration: dict[str, JsonValue], version: int
    ) -> dict[str, JsonValue]: ...


async def migrated(live: LiveConfiguration, metadata: PluginMetadata, host: Migrates) -> LiveConfiguration:
    """`live` as this version of the plugin wants it; the same object where it is so already.

    Nothing is kept by this. Raises `SettingsError` where it was set for a newer version than this plugin
    knows, and what the plugin raises.
    """
    wanted = metadata.configuration_version
    if live.configuration_version == wanted or not live.values:
        return live
    if live.configuration_version > wanted:
        raise _too_new(live, metadata)
    values = await host.migrate_configuration(live.tree, live.configuration_version)
    by, now = f"{metadata.plugin_id} {metadata.version}", datetime.now(UTC)
    lifted = live.changed(values, replace=True, by=by, at=now)
    change = ConfigurationChange(
        plugin_id=metadata.plugin_id,
        version=live.version + 1,
        at=now,
        by=by,
        outcome="migrated",
        keys=changed_keys(live, lifted, metadata.configuration_schema),
    )
    return lifted.recorded(change, wanted)


def _too_new(live: LiveConfiguration, metadata: PluginMetadata) -> SettingsError:
    id = metadata.plugin_id
    return SettingsError(
        f"what was set live for {id!r} is of version {live.configuration_version} of its configuration, "
        f"and {id} {metadata.version} knows version {metadata.configuration_version}",
        where=f"plugbus config history {id}",
        fix=f"install the newer {id} again, or plugbus config set {id} --replace KEY=VALUE",
    )
