"""Who is there, and in which state: the records, and the one method that changes a state."""

from __future__ import annotations

import difflib
import enum
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import JsonValue

from contracts.errors import PluginAlreadyRegisteredError, PluginNotFound, PluginStateError
from contracts.health import HealthCheck, Stall
from contracts.messages import PluginReason
from contracts.metadata import PluginMetadata
from contracts.plugin import PluginHandle, PluginStatus
from contracts.security import SecurityContext, SecurityLevel
from contracts.web import WebMount

from .discovery import Discovered
from .health_check import HealthState
from .hosts import Declaration, Host
from .port import PluginPort
from .scope import Entry, Scope
from .selection import rank_of, would_handle

S = PluginStatus

TRANSITIONS: dict[PluginStatus, frozenset[PluginStatus]] = {
    S.UNLOADED: frozenset({S.LOADED, S.ERROR}),
    S.LOADED: frozenset({S.INITIALIZED, S.UNLOADED, S.ERROR}),
    S.INITIALIZED: frozenset({S.STARTED, S.UNLOADED, S.ERROR}),
    S.STARTED: frozenset({S.STOPPED, S.ERROR}),
    S.STOPPED: frozenset({S.STARTED, S.UNLOADED, S.ERROR}),
    S.ERROR: frozenset({S.UNLOADED}),
}
"""What may follow what; anything else is refused."""


class Activity(enum.Enum):
    """What a plugin is doing, beside where it stands."""

    NONE = "none"
    LOADING = "loading"
    INITIALIZING = "initializing"
    STARTING = "starting"
    DRAINING = "draining"
    STOPPING = "stopping"
    CONFIGURING = "configuring"
    WAITING = "waiting to retry"

    @property
    def goes_down(self) -> bool:
        return self in (Activity.DRAINING, Activity.STOPPING)


@dataclass(eq=False)
class Generation:
    """One load of a plugin's code, and everything that belongs to it."""

    number: int
    host: Host
    declaration: Declaration
    security: SecurityContext
    port: PluginPort
    scope: Scope
    """The kernel's half of what `start` acquired."""
    mount: WebMount | None = None
    routes: Entry | None = None
    """`mount` as it is served: taken out again by undoing it."""
    config: dict[str, JsonValue] = field(default_factory=dict)
    """The configuration that it works with."""
    health: HealthState = field(init=False)
    began: float = field(default_factory=time.monotonic)
    stalls: int = 0
    last_stall: Stall | None = None

    def __post_init__(self) -> None:
        self.health = HealthState(self.host, self.port.plugin_id)


@dataclass(eq=False)
class PluginRecord:
    """What the kernel knows of one plugin. The record is the truth; all else mirrors it."""

    metadata: PluginMetadata
    found: Discovered | type | None = None
    """Where its code comes from; None where only the manifest could be read."""
    consent: str = ""
    """Who allowed a level below the requested one, for exactly this plugin."""
    status: PluginStatus = S.UNLOADED
    activity: Activity = Activity.NONE
    reason: PluginReason | None = None
    current: Generation | None = None
    coming: Host | None = None
    """Runs the code that is being loaded, and is no generation yet."""
    loads: int = 0
    is_armed: bool = False
    """It is lazy, and started when it is needed; else it was stopped on command, or is in quarantine."""
    is_put_off: bool = False
    """Stopped on command before its turn to start had come."""
    standing_in: Mapping[str, int] = field(default_factory=dict)
    """Capability → rank of those whose calls stand-ins take while it is not loaded."""
    leaks: tuple[str, ...] = ()
    """What was still there when its last generation was let go."""
    traceback: str = ""
    """Of the step that failed last, where the plugin's code, and not a rule of ours, was the cause."""
    shadowed: tuple[str, ...] = ()
    enabled: bool = True
    enabled_by: str = ""
    """Who or what decided that."""
    config: dict[str, JsonValue] = field(default_factory=dict)
    """Given with the plugin by the application; lies over settings and defaults."""

    @property
    def plugin_id(self) -> str:
        return self.metadata.plugin_id

    @property
    def level(self) -> SecurityLevel:
        """The effective level, or the requested one while nothing is loaded."""
        return self.current.security.effective if self.current else self.metadata.security_level

    @property
    def is_asleep(self) -> bool:
        """Lazy, well, and not started: it comes when it is needed, or is on its way."""
        return self.is_armed and self.status not in (S.STARTED, S.ERROR)

    @property
    def is_idle(self) -> bool:
        """Nothing of it is loaded, and nobody is about to load it."""
        return self.current is None and self.activity is Activity.NONE

    def require_current(self) -> Generation:
        """For who knows that something is loaded of it; else raises `RuntimeError`."""
        if self.current is None:
            raise RuntimeError(f"{self.plugin_id} has no generation")
        return self.current

    def transition(self, to: PluginStatus, reason: PluginReason | None = None) -> None:
        """The one place where a state changes. Raises `PluginStateError` if the table forbids it."""
        if to not in TRANSITIONS[self.status]:
            allowed = ", ".join(sorted(status.value for status in TRANSITIONS[self.status]))
            raise PluginStateError(
                f"plugin {self.plugin_id!r} is {self.status.value} and cannot become {to.value}",
                plugin_id=self.plugin_id,
                fix=f"from here it can become: {allowed}",
            )
        self.status = to
        self.reason = reason
        if to is S.STARTED:
            self.traceback = ""
        if self.current is not None:
            self.current.host.mirror_status(to)


def make_reason(code: str, text: str, *, place: str = "", next_step: str = "") -> PluginReason:
    return PluginReason(code=code, text=text, since=datetime.now(UTC), place=place, next_step=next_step)


class RecordHandle:
    """See `contracts.plugin.PluginHandle`: a view of a record, never of the instance."""

    def __init__(self, record: PluginRecord, deadline: float) -> None:
        self._record = record
        self._deadline = deadline

    @property
    def id(self) -> str:
        return self._record.plugin_id

    @property
    def name(self) -> str:
        return self._record.metadata.name

    @property
    def version(self) -> str:
        return self._record.metadata.version

    @property
    def status(self) -> PluginStatus:
        return self._record.status

    @property
    def metadata(self) -> PluginMetadata:
        return self._record.metadata

    async def health(self) -> HealthCheck:
        return await check_health(self._record, self._deadline)


async def check_health(record: PluginRecord, deadline: float) -> HealthCheck:
    """The plugin's own answer within `deadline` seconds, or one that says why there is none."""
    if record.current is None or record.status is not S.STARTED:
        why = record.reason.text if record.reason else f"the plugin is {record.status.value}"
        return HealthCheck(status="healthy" if record.is_asleep else "unhealthy", message=why)
    return (await record.current.health.ask(deadline)).check


class PluginRegistry:
    """All plugins that were found, refused ones included, by id and in start order."""

    def __init__(self, health_deadline: float = 5.0) -> None:
        self._records: dict[str, PluginRecord] = {}
        self._health_deadline = health_deadline

    def __iter__(self) -> Iterator[PluginRecord]:
        return iter(list(self._records.values()))

    def __contains__(self, plugin_id: str) -> bool:
        return plugin_id in self._records

    def register_plugin(self, record: PluginRecord) -> None:
        """Raises `PluginAlreadyRegisteredError`; nothing has changed then."""
        if record.plugin_id in self._records:
            raise PluginAlreadyRegisteredError(
                f"plugin id {record.plugin_id!r} is taken",
                plugin_id=record.plugin_id,
                where=self._records[record.plugin_id].metadata.file_path,
                fix="give one of the two another plugin_id",
            )
        self._records[record.plugin_id] = record

    def unregister_plugin(self, plugin_id: str) -> None:
        """Forget an idle plugin. Raises `PluginNotFound`, and `PluginStateError` where it is not."""
        record = self.record(plugin_id)
        if not record.is_idle:
            doing = record.activity if record.activity is not Activity.NONE else record.status
            raise PluginStateError(
                f"plugin {plugin_id!r} is {doing.value}", plugin_id=plugin_id, fix="stop it first"
            )
        del self._records[plugin_id]

    def record(self, plugin_id: str) -> PluginRecord:
        """Raises `PluginNotFound`, with the nearest id."""
        found = self._records.get(plugin_id)
        if found is None:
            raise PluginNotFound(
                f"there is no plugin {plugin_id!r}", plugin_id=plugin_id, fix=self._did_you_mean(plugin_id)
            )
        return found

    def reorder(self, order: tuple[str, ...]) -> None:
        """List records in this order; those that are not named come last."""
        rest = [id for id in self._records if id not in order]
        self._records = {id: self._records[id] for id in (*order, *rest)}

    def get_plugin(self, plugin_id: str) -> PluginHandle:
        return RecordHandle(self.record(plugin_id), self._health_deadline)

    def get_metadata(self, plugin_id: str) -> PluginMetadata:
        return self.record(plugin_id).metadata

    def get_all_plugins(self) -> list[PluginHandle]:
        return [self.get_plugin(id) for id in self._records]

    def get_plugins_by_capability(self, capability: str) -> list[PluginHandle]:
        ranks = {record.plugin_id: rank_of(record, capability) for record in self}
        found = [id for id, rank in ranks.items() if rank is not None]
        return [self.get_plugin(id) for id in sorted(found, key=lambda found_id: -(ranks[found_id] or 0))]

    def get_plugins_by_tag(self, tag: str) -> list[PluginHandle]:
        return self.select(lambda record: tag in record.metadata.tags)

    def get_plugins_by_status(self, status: PluginStatus) -> list[PluginHandle]:
        return self.select(lambda record: record.status is status)

    def get_plugins_by_level(self, level: SecurityLevel) -> list[PluginHandle]:
        return self.select(lambda record: record.level is level)

    def get_plugins_by_event_type(self, type_name: str) -> list[PluginHandle]:
        return self.select(lambda record: would_handle(record, type_name))

    def select(self, wanted: Callable[[PluginRecord], bool]) -> list[PluginHandle]:
        """Those for which it is true, in start order."""
        return [self.get_plugin(id) for id, record in self._records.items() if wanted(record)]

    def _did_you_mean(self, plugin_id: str) -> str:
        near = difflib.get_close_matches(plugin_id, self._records, n=1)
        return f"did you mean {near[0]!r}?" if near else "plugbus plugin list"
