"""Plugins that an application hands over, and what they take the place of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from contracts.plugin import PluginStatus

from .discovery import PluginDiscovery, metadata_of
from .registry import Activity, PluginRecord, PluginRegistry

BY_APPLICATION = "registered by the application"
"""The consent of a plugin that an application hands over."""


def record_of(
    plugin: type | Path | str, config: Mapping[str, JsonValue] | None, metadata: Mapping[str, Any]
) -> PluginRecord:
    """A record for a plugin class, or a file or folder with one. Raises `ManifestError`."""
    if isinstance(plugin, type):
        record = PluginRecord(metadata_of(plugin, **metadata), found=plugin, consent=BY_APPLICATION)
    else:
        discovered = PluginDiscovery().discover_path(Path(plugin))
        record = PluginRecord(discovered.metadata, found=discovered, consent=BY_APPLICATION)
    record.config = dict(config or {})
    return record


def make_way(registry: PluginRegistry, record: PluginRecord, *, replace: bool) -> bool:
    """What was only found gives way to what the application registers; it is reported as shadowed."""
    if record.plugin_id not in registry:
        return False
    other = registry.record(record.plugin_id)
    if not other.is_idle or (other.consent and not replace):
        return False  # registering says so
    registry.unregister_plugin(record.plugin_id)
    record.loads = other.loads  # counted on: a number may still be held by an import that hangs
    if not other.consent:
        record.shadowed = (other.metadata.file_path, *other.shadowed)
    return True


def keep_registered(registry: PluginRegistry) -> None:
    """Before a kernel starts once more: what was found is looked for anew, and nothing has failed yet."""
    for record in registry:
        record.activity = Activity.NONE  # it may have waited for another try
        if record.consent != BY_APPLICATION:
            registry.unregister_plugin(record.plugin_id)
        elif record.status is PluginStatus.ERROR:
            record.transition(PluginStatus.UNLOADED)
