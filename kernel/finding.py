"""From what is on the disk to records: where plugins are looked for, and which of them are enabled."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from contracts.errors import PlugbusError
from contracts.messages import PluginReason
from contracts.metadata import PluginMetadata
from contracts.plugin import PluginStatus
from contracts.tracing import is_export_wanted

from .discovery import Discovered, Discovery, PluginDiscovery, Refusal, Source
from .enabling import Decisions, disabled
from .manifest_index import ManifestIndex
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
SAFE_MODE = "--safe-mode"
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
    """Registers what `settings` and `consent` (paths named on the command line) lead to.

    `index` saves it from reading again what has not changed.
    """

    def __init__(
        self,
        settings: Settings,
        profile: Profile,
        consent: Sequence[Path],
        log: logging.Logger,
        *,
        index: ManifestIndex | None = None,
        decisions: Decisions | None = None,
        safe_mode: bool = False,
    ) -> None:
        """`decisions` lie over the settings; in `safe_mode` only built-ins are on."""
        self._settings = settings
        self._profile = profile
        self._consent = tuple(consent)
        self._log = log
        self._decisions = decisions
        self._safe_mode = safe_mode
        self._index = index

    def find(self, registry: PluginRegistry) -> None:
        """Every plugin gets a record, refused ones with their reason; what is registered already wins."""
        found = PluginDiscovery(self._index).discover_all(self.sources())
        if self._index is not None:
            self._index.save()
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

    def enabled(self, metadata: PluginMetadata) -> tuple[bool, str]:
        """Whether it is on, and who or what says so."""
        plugin_id = metadata.plugin_id
        decision = self._decisions.get(plugin_id) if self._decisions else None
        policy = self._settings.plugins.get(plugin_id) or PluginSettings()
        if decision is not None:
            return decision.enabled, decision.told
        if policy.enabled is not None:
            return policy.enabled, self._settings.source_of(f"plugins.{plugin_id}.enabled")
        if metadata.source == BUILT_IN:
            return is_on_by_default(plugin_id, self._profile), f"its default in plugbus {self._profile}"
        if metadata.source.startswith("entry point"):
            return False, "plugins of installed packages are off by default"
        return True, "the default"

    def _is_held_back(self, metadata: PluginMetadata) -> bool:
        return self._safe_mode and metadata.source != BUILT_IN

    def _register(self, discovered: Discovered, found: Discovery, registry: PluginRegistry) -> None:
        metadata = discovered.metadata
        if metadata.plugin_id in registry:  # registered by the application
            registry.record(metadata.plugin_id).shadowed += (metadata.file_path,)
            return
        enabled, by = self.enabled(metadata)
        held_back = enabled and self._is_held_back(metadata)
        record = PluginRecord(
            metadata,
            found=discovered,
            consent="named on the command line" if metadata.source == COMMAND_LINE else "",
            shadowed=tuple(found.shadowed.get(metadata.plugin_id, ())),
            enabled=enabled and not held_back,
            enabled_by=SAFE_MODE if held_back else by,
        )
        if not record.enabled:
            record.reason = _held_back(record.plugin_id) if held_back else disabled(record.plugin_id)
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
        registry.register_plugin(_refused_record(metadata, refusal.error))


def _held_back(plugin_id: str) -> PluginReason:
    return make_reason(
        "safe_mode",
        "not loaded: in safe mode only built-in plugins are",
        next_step=f"run without --safe-mode, or for now: plugbus plugin start {plugin_id}",
    )


def _refused_record(metadata: PluginMetadata, error: PlugbusError) -> PluginRecord:
    """A record for a plugin whose manifest was refused, so that it is seen with its reason."""
    return PluginRecord(
        metadata=metadata,
        status=PluginStatus.ERROR,
        reason=make_reason(error.code, error.message, place=error.where, next_step=error.fix),
    )
