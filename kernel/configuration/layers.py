"""The layers of a plugin's configuration joined into one, and for each value where it came from.

Defaults of the manifest, `plugbus.toml`, environment, flags, what the application gave with the plugin, and
what an operator has set live: what a higher one says counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from contracts.messages import ConfigurationValue, LayerName, LayerValue

from ..settings import Settings
from ..settings_problems import MASK
from ..settings_sources import COMMAND_LINE, ENV_PREFIX, KeyPath, line_of, overlaid
from .live import LiveConfiguration, LiveStore
from .places import Schema
from .secrets import is_secret, leaves, masked
from .variables import as_wanted, with_variables

if TYPE_CHECKING:
    from ..registry import PluginRecord

APPLICATION = "given by the application"


@dataclass(frozen=True)
class Said:
    """What one layer says about one key."""

    path: KeyPath
    value: JsonValue
    layer: LayerName
    source: str
    by: str | None = None
    at: datetime | None = None
    is_secret: bool = False
    """Whatever its name: it comes from a file of its own."""


class ConfigurationLayers:
    """Joins the layers; reads files where they are named, holds nothing."""

    def __init__(self, settings: Settings, store: LiveStore) -> None:
        self._settings = settings
        self._store = store

    @property
    def store(self) -> LiveStore:
        return self._store

    def restart_with(self, plugin_id: str) -> str:
        """The command by which a plugin takes what it cannot take while it runs."""
        if plugin_id in self._settings.edge_plugins:
            return "stop the kernel, and plugbus run"  # who asks the edge to stop could not ask it to start
        return f"plugbus plugin stop {plugin_id} && plugbus plugin start {plugin_id}"

    def effective(self, record: PluginRecord) -> dict[str, JsonValue]:
        """What the next start of the plugin takes. Raises `SettingsError` if a file cannot be read."""
        return self.with_live(record, self._store.read(record.plugin_id))

    def with_live(self, record: PluginRecord, live: LiveConfiguration) -> dict[str, JsonValue]:
        """The same if `live` were what is set live."""
        defaults = record.metadata.default_configuration
        said = self._settings.configuration(record.plugin_id, defaults)
        texts = self._settings.variable_texts(record.plugin_id)
        typed = with_variables(said, texts, record.metadata.configuration_schema)
        return overlaid({**typed, **record.config}, live.tree)

    def values(
        self, record: PluginRecord, live: LiveConfiguration, schema: Schema | None
    ) -> tuple[ConfigurationValue, ...]:
        """Every key with its value and where it came from; secrets are masked."""
        said: dict[KeyPath, list[Said]] = {}
        for each in self._said(record, live):
            said.setdefault(each.path, []).append(each)
        found = dict(leaves(self.with_live(record, live)))
        return tuple(_value(path, value, said.get(path, []), schema) for path, value in sorted(found.items()))

    def _said(self, record: PluginRecord, live: LiveConfiguration) -> Iterator[Said]:
        """The highest layer first."""
        for one in live.values:
            yield Said(one.path, one.value, "live", f"set by {one.by}", one.by, one.at)
        for path, value in leaves(record.config):
            yield Said(path, value, "application", APPLICATION)
        yield from self._settings_of(record)
        for path, value in leaves(record.metadata.default_configuration):
            yield Said(path, value, "default", _default_place(record.metadata.file_path, path))

    def _settings_of(self, record: PluginRecord) -> Iterator[Said]:
        plugin_id, defaults = record.plugin_id, record.metadata.default_configuration
        files = {
            entry.path[3:]: (path, entry)
            for path, entry in self._settings.value_files(plugin_id, defaults).items()
        }
        texts, schema = self._settings.variable_texts(plugin_id), record.metadata.configuration_schema
        known: set[KeyPath] = set()
        for entry in self._settings.plugin_entries(plugin_id):
            if entry.path in files and files[entry.path][1].source == entry.source:
                path = files[entry.path][0]
                known.add(entry.path)
                yield Said(path, MASK, "environment", f"{entry.source} ({entry.value})", is_secret=True)
                continue
            given = texts.get(entry.path) if entry.source.startswith(ENV_PREFIX) else None
            said = entry.value if given is None else as_wanted(given, schema, entry.path)
            for path, value in leaves(said, entry.path):
                known.add(path)
                yield Said(path, value, _layer_of(entry.source), entry.source)
        policy = self._settings.plugins.get(plugin_id)
        for path, value in leaves(policy.config if policy else {}):
            if path not in known:
                yield Said(path, value, "application", APPLICATION)


def _layer_of(source: str) -> LayerName:
    if source == COMMAND_LINE:
        return "flag"
    return "environment" if source.startswith(ENV_PREFIX) else "file"


def _default_place(manifest: str, path: KeyPath) -> str:
    """File and line where that can be told, else the file."""
    if not manifest.endswith(".toml"):
        return manifest or "the plugin's class"
    try:
        text = Path(manifest).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # gone since it was found
        return manifest
    return f"{manifest}:{line_of(text, ('default_configuration', *path))}"


def _value(path: KeyPath, value: JsonValue, said: list[Said], schema: Schema | None) -> ConfigurationValue:
    first = said[0] if said else Said(path, value, "application", APPLICATION)
    secret = first.is_secret or is_secret(path, schema)
    return ConfigurationValue(
        key=".".join(path),
        value=MASK if secret and value is not None else masked(path, value, schema),
        layer=first.layer,
        source=first.source,
        is_secret=secret,
        set_by=first.by,
        set_at=first.at,
        hides=tuple(_hidden(each, schema) for each in said[1:]),
    )


def _hidden(said: Said, schema: Schema | None) -> LayerValue:
    value = MASK if said.is_secret else masked(said.path, said.value, schema)
    return LayerValue(layer=said.layer, value=value, source=said.source)
