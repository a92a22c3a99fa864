"""The kernel's commands: queries that it provides. Requesting one needs a grant.

The admin API requests them; the command line speaks to the admin API. Unknown plugins and groups are
answered with the errors of `contracts.errors`, through `ProviderFailed`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..bus import CatalogEntry, DeadLetter, DeadLetterSelection, GroupInfo, RetryPolicy
from ..health import HealthCheck
from ..metadata import PluginMetadata
from ..plugin import PluginStatus
from ..query import Query
from ..security import SecurityContext


class PluginReason(BaseModel):
    """Why a plugin stands where it stands, and what to do."""

    model_config = ConfigDict(frozen=True)

    code: str
    text: str
    since: datetime
    place: str = ""
    next_step: str = ""


class PluginInfo(BaseModel):
    """One row of `plugin list`."""

    model_config = ConfigDict(frozen=True)

    plugin_id: str
    name: str
    version: str
    status: PluginStatus
    activity: str
    reason: PluginReason | None = None
    level_requested: str
    level_effective: str
    generation: int = 0
    source: str = ""
    subscriptions: int = 0
    capabilities: tuple[str, ...] = ()
    has_routes: bool = False


class HandlerInfo(BaseModel):
    """One active handler."""

    model_config = ConfigDict(frozen=True)

    name: str
    group: str
    patterns: tuple[str, ...]
    concurrency: int
    timeout: float
    retry: RetryPolicy


class PluginDetails(PluginInfo):
    """What `plugin show` tells."""

    metadata: PluginMetadata
    security: SecurityContext | None = None
    handlers: tuple[HandlerInfo, ...] = ()
    needed_by: tuple[str, ...] = ()
    shadowed: tuple[str, ...] = ()
    """Places where the same id was found as well, and passed over."""
    limits_enforced: tuple[str, ...] = ()
    """Which resource limits are enforced where the plugin runs now."""
    health: HealthCheck | None = None


class CommandResult(BaseModel):
    """The answer to a command: done, or accepted where the plugin commands itself."""

    model_config = ConfigDict(frozen=True)

    outcome: Literal["done", "accepted", "unchanged"]
    plugin: PluginInfo


class ListPlugins(Query[tuple[PluginInfo, ...]], capability="kernel.plugin.list"):
    """All plugins that were found, refused ones included, in start order."""


class ShowPlugin(Query[PluginDetails], capability="kernel.plugin.show"):
    """Everything about one plugin."""

    plugin_id: str


class StartPlugin(Query[CommandResult], capability="kernel.plugin.start"):
    """Start a plugin that is stopped, unloaded or failed."""

    plugin_id: str


class StopPlugin(Query[CommandResult], capability="kernel.plugin.stop"):
    """Stop a plugin; its groups keep their place."""

    plugin_id: str


class ListDeadLetters(Query[tuple[DeadLetter, ...]], capability="kernel.dlq.list"):
    """Dead letters, the newest first."""

    group: str | None = None
    limit: int = Field(default=100, ge=1, le=1_000)


class ShowDeadLetter(Query[DeadLetter], capability="kernel.dlq.show"):
    """One dead letter."""

    id: str


class RedriveDeadLetters(Query[int], capability="kernel.dlq.redrive"):
    """Put dead letters back to the group that failed; how many."""

    selection: DeadLetterSelection


class DiscardDeadLetters(Query[int], capability="kernel.dlq.discard"):
    """Give dead letters up for good; how many."""

    selection: DeadLetterSelection


class ListGroups(Query[tuple[GroupInfo, ...]], capability="kernel.group.list"):
    """All groups with what waits, runs, is parked and dead."""


class ListEventTypes(Query[tuple[CatalogEntry, ...]], capability="kernel.event.types"):
    """The catalogue of event types."""


class Readiness(BaseModel):
    """Whether the kernel can take work; `reasons` name what is missing or degraded."""

    model_config = ConfigDict(frozen=True)

    status: Literal["ready", "degraded", "not_ready"]
    reasons: tuple[str, ...] = ()


class GetReadiness(Query[Readiness], capability="kernel.ready"):
    """Ready, degraded (an optional plugin failed), or not ready."""
