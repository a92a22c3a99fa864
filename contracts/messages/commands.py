"""The kernel's commands: queries that it provides. Requesting one needs a grant.

The admin API requests them; the command line speaks to the admin API. Unknown plugins and groups are
answered with the errors of `contracts.errors`, through `ProviderFailed`.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, Strict

from ..bus import BusInfo, DeadLetter, DeadLetterSelection, Features, GroupInfo, RetryPolicy, TopicInfo
from ..health import HealthReport, PerformanceMetrics, Stall
from ..inspection import state_tag
from ..metadata import PluginMetadata
from ..patterns import TypeName, TypePattern
from ..plugin import PluginStatus
from ..query import Query
from ..security import SecurityContext, SecurityLevel

IfTags = tuple[str, ...] | None
"""Only if the state has one of these tags (`PluginInfo.tag`, `GroupInfo.tag`), else `StateChanged`."""


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
    tags: tuple[str, ...] = ()
    subscriptions: int = 0
    capabilities: tuple[str, ...] = ()
    has_routes: bool = False
    health: HealthReport | None = None
    """Its last answer; None while it is not started."""
    metrics: PerformanceMetrics | None = None
    """What it has done and taken; None while it is not started."""

    @property
    def tag(self) -> str:
        """Of where it stands and why, and of its generation."""
        reason = self.reason and (self.reason.code, self.reason.text, self.reason.since.isoformat())
        return state_tag(self.plugin_id, self.status.value, self.activity, self.generation, reason)


class HandlerInfo(BaseModel):
    """One active handler."""

    model_config = ConfigDict(frozen=True)

    name: str
    group: str
    patterns: tuple[str, ...]
    concurrency: int
    timeout: float
    retry: RetryPolicy
    filtered: bool = False
    """Whether a predicate (`where`) chooses among the events."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Those of `SubscriptionOptions` that are not as by default."""


class PluginDetails(PluginInfo):
    """What `plugin show` tells."""

    metadata: PluginMetadata | None
    """None where its manifest was refused."""
    security: SecurityContext | None = None
    handlers: tuple[HandlerInfo, ...] = ()
    needed_by: tuple[str, ...] = ()
    shadowed: tuple[str, ...] = ()
    """Places where the same id was found as well, and passed over."""
    limits_enforced: tuple[str, ...] = ()
    """Which resource limits are enforced where the plugin runs now."""
    request_order: int | None = None
    """Its place among the plugins that see web requests before they are routed, if it is one of them."""
    traceback: str = ""
    """Where it stands at an error that its code has raised: the way there, bounded, the end kept."""
    last_stall: Stall | None = None
    """When it last blocked the event loop for long."""


class CommandResult(BaseModel):
    """The answer to a command: done, or accepted where the plugin commands itself."""

    model_config = ConfigDict(frozen=True)

    outcome: Literal["done", "accepted", "unchanged"]
    plugin: PluginInfo


class ListPlugins(Query[tuple[PluginInfo, ...]], capability="kernel.plugin.list"):
    """All plugins that were found, refused ones included, in start order; or those of which all is true."""

    tags: tuple[str, ...] = ()
    """It has each of them."""
    status: PluginStatus | None = None
    level: SecurityLevel | None = None
    """The one in force; the requested one while nothing is loaded."""
    handles: TypeName | None = None
    """It has a handler for this event type; before it is loaded, as its manifest says."""
    provides: TypeName | None = None
    """It provides this capability when it is started; before it is loaded, as its manifest says."""


class ShowPlugin(Query[PluginDetails], capability="kernel.plugin.show"):
    """Everything about one plugin."""

    plugin_id: str


class StartPlugin(Query[CommandResult], capability="kernel.plugin.start"):
    """Start a plugin that is stopped, unloaded or failed."""

    plugin_id: str
    if_tags: IfTags = None


class StopPlugin(Query[CommandResult], capability="kernel.plugin.stop"):
    """Stop a plugin; its groups keep their place. Refused for the web edge, on which commands come in."""

    plugin_id: str
    with_dependents: bool = False
    """Stop those that need it too, before it; else it is refused where one of them is started."""
    if_tags: IfTags = None


class EnablePlugin(Query[CommandResult], capability="kernel.plugin.enable"):
    """Have a plugin started now and whenever the kernel starts, whatever the settings say."""

    plugin_id: str
    if_tags: IfTags = None


class DisablePlugin(Query[CommandResult], capability="kernel.plugin.disable"):
    """Stop a plugin, and do not start it when the kernel starts, whatever the settings say."""

    plugin_id: str
    with_dependents: bool = False
    """As with stop; those are stopped, not disabled."""
    if_tags: IfTags = None


class ListDeadLetters(Query[tuple[DeadLetter, ...]], capability="kernel.dlq.list"):
    """Dead letters, the newest first; `after` an id, the next page."""

    selection: DeadLetterSelection = DeadLetterSelection()
    limit: int = Field(default=100, ge=1, le=1_000)
    after: str | None = None


class ShowDeadLetter(Query[DeadLetter], capability="kernel.dlq.show"):
    """One dead letter."""

    id: str


class RedriveDeadLetters(Query[int], capability="kernel.dlq.redrive"):
    """Put dead letters back to the group that failed; how many."""

    selection: DeadLetterSelection
    dry_run: bool = False
    """Only count."""
    rate: float | None = Field(default=None, gt=0)
    """At most so many a second."""


class DiscardDeadLetters(Query[int], capability="kernel.dlq.discard"):
    """Give dead letters up for good; how many."""

    selection: DeadLetterSelection
    dry_run: bool = False
    """Only count."""


class ImportDeadLetters(Query[int], capability="kernel.dlq.import"):
    """Add dead letters that were exported elsewhere; how many were new."""

    letters: tuple[DeadLetter, ...] = Field(max_length=1_000)


class ListGroups(Query[tuple[GroupInfo, ...]], capability="kernel.group.list"):
    """All groups with what waits, runs, is parked and dead."""


class ShowGroup(Query[GroupInfo], capability="kernel.group.show"):
    """One group."""

    group: str


class PauseGroup(Query[GroupInfo], capability="kernel.group.pause"):
    """Start nothing more of a group until it is resumed; it keeps its place."""

    group: str
    reason: str = ""
    if_tags: IfTags = None


class ResumeGroup(Query[GroupInfo], capability="kernel.group.resume"):
    """Let a paused group go on."""

    group: str
    if_tags: IfTags = None


class DropGroup(Query[GroupInfo], capability="kernel.group.drop"):
    """Retire a group with its place, its lot and its dead letters; what it was."""

    group: str
    if_tags: IfTags = None


class ListTopics(Query[tuple[TopicInfo, ...]], capability="kernel.bus.topics"):
    """All topics with what they keep, and who holds them."""


class BusDetails(BusInfo):
    """The bus as one replica sees it."""

    replica: str
    features: Features
    topics: tuple[TopicInfo, ...]


class ShowBus(Query[BusDetails], capability="kernel.bus.show"):
    """What the bus is and promises, what is in force on it, and what its topics keep."""


def _moment(given: object) -> object:
    """A time is told from a position by its form: a position may be a mere number."""
    if isinstance(given, str) and re.match(r"\d{4}-\d\d-\d\d[Tt ]", given):
        return datetime.fromisoformat(given)
    return given


Moment = Annotated[Annotated[AwareDatetime, Strict()] | str, BeforeValidator(_moment)]
"""A time (RFC 3339, with its zone), or the text of a position."""


class ReplayResult(BaseModel):
    """A replay has begun, or ended."""

    model_config = ConfigDict(frozen=True)

    group: str
    events: int
    """To go through; for a cancelled one: that were left."""


class ReplayEvents(Query[ReplayResult], capability="kernel.event.replay"):
    """Deliver retained events to one group once more, beside live traffic."""

    group: str
    start: Moment = "oldest"
    """`oldest`, a time, or a position."""
    end: Moment | None = None


class CancelReplay(Query[ReplayResult], capability="kernel.event.cancel_replay"):
    """End a replay."""

    group: str


class EventTypeInfo(BaseModel):
    """One version of an event type: its schema, who publishes it, who handles it."""

    model_config = ConfigDict(frozen=True)

    type: str
    version: int
    description: str = ""
    json_schema: dict[str, JsonValue] = Field(default_factory=dict)
    publishers: tuple[str, ...] = ()
    """Plugins that declare it."""
    handlers: tuple[str, ...] = ()
    """Groups whose patterns select it."""


class ListEventTypes(Query[tuple[EventTypeInfo, ...]], capability="kernel.event.types"):
    """The catalogue of event types, by name and version."""

    pattern: TypePattern | None = None


class Readiness(BaseModel):
    """Whether the kernel can take work; `reasons` name what is missing or degraded."""

    model_config = ConfigDict(frozen=True)

    status: Literal["ready", "degraded", "not_ready"]
    bus: Literal["connected", "unreachable"] | None = None
    """Whether the bus answers; None: it was not asked, because there is no kernel that would."""
    durability: Literal["none", "weak", "strong"] | None = None
    """Of what the bus has confirmed, as `BusInfo.durability`; None: not known yet."""
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What is weaker than one may expect although nothing is missing: one sentence each."""


class GetReadiness(Query[Readiness], capability="kernel.ready"):
    """Ready, degraded (an optional plugin failed), or not ready (also while the bus is not connected)."""
