"""Configuration of plugins: what it is made of, changing it while they run, and what was changed.

Secrets are never part of an answer: `••••` stands for them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from ..query import Query

LayerName = Literal["default", "file", "environment", "flag", "application", "live"]
"""From the lowest to the highest: what a higher one says counts."""


class ConfigurationProblem(BaseModel):
    """What is wrong with one key."""

    model_config = ConfigDict(frozen=True)

    key: str
    """Words joined by dots; empty for the configuration as a whole."""
    expected: str
    found: str = ""
    fix: str = ""


class LayerValue(BaseModel):
    """What one layer says about a key."""

    model_config = ConfigDict(frozen=True)

    layer: LayerName
    value: JsonValue
    source: str
    """File and line, a variable, `command line`, or who set it while the plugin ran."""


class ConfigurationValue(LayerValue):
    """The value of one key, and where it came from."""

    key: str
    is_secret: bool = False
    set_by: str | None = None
    set_at: datetime | None = None
    hides: tuple[LayerValue, ...] = ()
    """What lower layers say, the highest first."""


class PluginConfiguration(BaseModel):
    """The configuration of one plugin, as its next start would take it."""

    model_config = ConfigDict(frozen=True)

    plugin_id: str
    version: int = 0
    """Counts the changes of what is set live; 0: nothing ever was."""
    values: tuple[ConfigurationValue, ...] = ()
    json_schema: dict[str, JsonValue] | None = None
    restart_required: bool = False
    """Whether the running plugin still works with another configuration than this."""
    restart_with: str = ""
    """The command that makes it take this one, where it takes a restart."""
    problems: tuple[ConfigurationProblem, ...] = ()


class ChangedKey(BaseModel):
    """One key of a change; None: it was, or is no longer, set live."""

    model_config = ConfigDict(frozen=True)

    key: str
    before: JsonValue = None
    after: JsonValue = None


class ConfigurationChange(BaseModel):
    """One change of what is set live."""

    model_config = ConfigDict(frozen=True)

    plugin_id: str
    version: int
    at: datetime
    by: str
    outcome: str
    keys: tuple[ChangedKey, ...]


class ConfigurationOutcome(BaseModel):
    """What came of a change. Only after `applied`, `restart_required` and `stored` has anything changed.

    `applied`: the running plugin has taken it. `restart_required`: it takes it at its next start. `stored`:
    it does not run, and takes it when it starts. `unchanged`: all of it was set already. `valid`: a dry run,
    and nothing is wrong. `refused`: the `problems` say why. `conflict`: somebody else was faster.
    """

    model_config = ConfigDict(frozen=True)

    outcome: Literal["applied", "restart_required", "stored", "unchanged", "valid", "refused", "conflict"]
    configuration: PluginConfiguration
    """As it is now; for a dry run, as it would be."""
    keys: tuple[ChangedKey, ...] = ()
    problems: tuple[ConfigurationProblem, ...] = ()
    fix: str = ""


class ConfigurationCheck(BaseModel):
    """What is wrong with the configuration of one plugin."""

    model_config = ConfigDict(frozen=True)

    plugin_id: str
    has_schema: bool
    """False: nothing is known of what it should be."""
    problems: tuple[ConfigurationProblem, ...] = ()


class ShowConfiguration(Query[tuple[PluginConfiguration, ...]], capability="kernel.config.show"):
    """The configuration of one plugin, or of all."""

    plugin_id: str | None = None


class SetConfiguration(Query[ConfigurationOutcome], capability="kernel.config.set"):
    """Change what is set live: merged into what is there, or in its place."""

    plugin_id: str
    values: dict[str, JsonValue] = Field(default_factory=dict)
    """Nested tables; None takes back what was set live (RFC 7396)."""
    replace: bool = False
    """Exactly `values` are set live; whatever else was is taken back."""
    if_versions: tuple[int, ...] | None = None
    """Only if the version is one of these."""
    dry_run: bool = False
    on_behalf_of: str = ""
    """Whom the asker acts for. Recorded as the asker's word, beside the asker."""


class CheckConfiguration(Query[tuple[ConfigurationCheck, ...]], capability="kernel.config.check"):
    """Hold the configuration of one plugin, or of all, against their schemas."""

    plugin_id: str | None = None


class ListConfigurationChanges(Query[tuple[ConfigurationChange, ...]], capability="kernel.config.history"):
    """The last changes of one plugin, or of all; the newest first."""

    plugin_id: str | None = None
    limit: int = Field(default=50, ge=1, le=1_000)
