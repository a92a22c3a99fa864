"""From what is on the disk to records: where plugins are looked for, and which of them are enabled."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from contracts.messages import PluginReason
from contracts.metadata import PluginMetadata
from contracts.tracing import is_export_wanted

from .discovery import Discovered, Discovery, PluginDiscovery, Refusal, Source
from .kernel import refused_record
from .registry import PluginRecord, PluginRegistry, make_reason
from .settings import DEFAULT, PluginSettings, Settings

Profile = Literal["run", "demo", "dev", "embedded"]

BUILT_IN_DEFAULTS: dict[str, frozenset[Profile]] = {
    "gateway": frozenset({"run", "demo", "dev"}),
    "audit": frozenset({"run", "demo", "dev"}),
    "telemetry": frozenset({"demo", "dev"}),
    "webhooks": frozenset({"demo"}),
    "host_monitor": frozenset({"demo"}),
    "alerts": frozenset({"demo"}),
}
"""In which profiles a built-in plugin is on where the settings do not say."""

BUILT_IN = "builtin"
COMMAND_LINE = "command line"
BUILT_IN_FOLDER = Path(__file__).resolve().parent.parent / "plugins"


def is_on_by_default(plugin_id: str, profile: Profile) -> bool:
    """Whether a built-in plugin is on; `telemetry` also where OpenTelemetry's variables ask for an export."""
    if (
        plugin_id == "telemetry"
        and profile != "embedded"
        and any(is_export_wanted(os.environ, signal) for signal in ("TRACES", "METRICS"))
    ):
        return True
    return profile in BUILT_IN_DEFAULTS.get(plugin_id, frozenset())


class PluginFinder:
    """Registers what `settings` and `consent` (paths named on the command line) lead to."""

    def __init__(
        self, settings: Settings, profile: Profile, consent: Sequence[Path], log: logging.Logger
    ) -> None:
        self._settings = settings
        self._profile = profile
        self._consent = tuple(consent)
        self._log = log

    def find(self, registry: PluginRegistry) -> None:
        """Every plugin gets a record, refused ones with their reason; what is registered already wins."""
        found = PluginDiscovery().discover_all(self.sources())
        for discovered in found.found:
            self._register(discovered, found, registry)
        for refusal in found.refused:
            self._register_refused(refusal, registry)

    def sources(self) -> list[Source]:
        """Where plugins are looked for; the first that has an id wins."""
        by_default = self._settings.source_of("plugin_paths") == DEFAULT
        paths = [path for path in self._settings.plugin_paths if path not in self._consent]
        return [
            *(Source.named(path, COMMAND_LINE) for path in self._consent),
            # A folder that was asked for must be there; the default one may be missing.
            *(Source.folder(path) for path in paths if path.exists() or not by_default),
            Source.folder(BUILT_IN_FOLDER, BUILT_IN),
            Source.entry_points(),
        ]

    def is_enabled(self, metadata: PluginMetadata) -> bool:
        policy = self._settings.plugins.get(metadata.plugin_id) or PluginSettings()
        if policy.enabled is not None:
            return policy.enabled
        if metadata.source == BUILT_IN:
            return is_on_by_default(metadata.plugin_id, self._profile)
        return not metadata.source.startswith("entry point")

    def _register(self, discovered: Discovered, found: Discovery, registry: PluginRegistry) -> None:
        metadata = discovered.metadata
        if metadata.plugin_id in registry:  # registered by the application
            registry.record(metadata.plugin_id).shadowed += (metadata.file_path,)
            return
        record = PluginRecord(
            metadata,
            found=discovered,
            consent="named on the command line" if metadata.source == COMMAND_LINE else "",
            shadowed=tuple(found.shadowed.get(metadata.plugin_id, ())),
            enabled=self.is_enabled(metadata),
        )
        if not record.enabled:
            record.reason = _disabled(record.plugin_id)
        registry.register_plugin(record)

    def _register_refused(self, refusal: Refusal, registry: PluginRegistry) -> None:
        what = "; ".join(line.strip() for line in refusal.error.message.splitlines())
        self._log.error("plugin %s is refused: %s (%s)", refusal.plugin_id, what, refusal.error.where)
        plugin_id = refusal.plugin_id
        if plugin_id in registry:
            plugin_id = f"{plugin_id} ({refusal.path})"
        metadata = PluginMetadata.model_construct(
            plugin_id=plugin_id, name=plugin_id, version="", file_path=str(refusal.path)
        )
        registry.register_plugin(refused_record(metadata, refusal.error))


def _disabled(plugin_id: str) -> PluginReason:
    return make_reason(
        "disabled",
        "not enabled",
        next_step=f"[plugins.{plugin_id}] enabled = true, or plugbus plugin start {plugin_id}",
    )
