"""The order of the whole: what is found, who starts after whom, and the shutdown script."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from contracts.errors import (
    DependencyError,
    ErrorInfo,
    PlugbusError,
    PluginNotReady,
    PluginStateError,
    PluginStepFailed,
)
from contracts.messages import KernelStarted, KernelStopping, PluginDiscovered, QuarantineEntry, Readiness
from contracts.metadata import PluginMetadata
from contracts.patterns import RESERVED_TOPICS, topic_of
from contracts.plugin import PluginStatus

from .activation import Activation
from .announcer import Announcer
from .bus_health import BusHealth
from .configuration.changing import ConfigurationChanges
from .discovered import Discovered
from .enabling import disabled
from .event_models import misfits_of
from .health import HealthMonitor
from .lifecycle import PluginLifecycleManager
from .metrics import Metrics
from .operations import Operations, stopping
from .quarantining import Quarantining
from .registry import Activity, PluginRecord, PluginRegistry, make_reason
from .requirements import unmet_requirements
from .resolver import DependencyResolver, Resolution
from .scope import Scope
from .services import Services
from .stalls import Stalls

S = PluginStatus

RETRY_FIRST = 1.0
RETRY_LONGEST = 60.0
"""Seconds between tries of a plugin that is not ready; doubled each time."""
RETRY_SHORTEST = 0.01
"""Seconds that lie between two tries whatever the plugin and the test kit say."""
SETTLE_GRACE = 2.0
"""Seconds in which announcements may be published before the shutdown goes on without."""
WAITS_FOR_DEPENDENCY = DependencyError.__name__
"""Code of the reason of a plugin that is well, but needs one that is not started."""

OBSERVERS_FIRST = "it handles only what the kernel and the bus say; such plugins see the others start"
EDGE_LAST = "it is the web edge, which starts last: nothing comes in before it can be handled"


class Kernel:
    """Boots and stops all plugins, and starts and stops one on command."""

    def __init__(
        self,
        services: Services,
        registry: PluginRegistry,
        announcer: Announcer,
        log: logging.Logger,
        *,
        version: str,
        stall_after: float = 0.0,
    ) -> None:
        self.services = services
        self.registry = registry
        self.lifecycle = PluginLifecycleManager(
            services, log, loaded=self._warn_of_misfits, dependents=self._concerned_by
        )
        self.scope = Scope("kernel", log)
        self._bus_health = BusHealth(services.bus)
        self.health = HealthMonitor(
            registry,
            services.settings.health,
            services.announce,
            log,
            deadline=services.settings.deadlines.health,
            replica=services.bus.replica,
        )
        self.stalls = Stalls(
            registry, services.announce, log, after=stall_after, replica=services.bus.replica
        )
        self.metrics = Metrics(services.bus, registry, self.stalls)
        self._announcer = announcer
        self._log = log
        self._version = version
        self.operations = Operations()
        self.configuration = ConfigurationChanges(
            services.configuration, registry, self.operations, self.lifecycle.handover
        )
        self.quarantine = Quarantining(services, registry, log)
        self.activation = Activation(
            services,
            self.operations,
            self.scope,
            log,
            bring_up=self._bring_up,
            bring_down=self._bring_down,
            is_needed=self._is_needed_now,
        )
        self._retries: dict[str, asyncio.Task[None]] = {}
        self.waves: tuple[tuple[str, ...], ...] = ()
        """The start order as it was when the kernel started."""
        self._rules: dict[str, str] = {}
        self._booted = False
        self._stopping = False

    # --- boot -----------------------------------------------------------------------------------------

    async def boot(self) -> None:
        """Resolve everything at once, then start wave after wave; a broken plugin never blocks the others."""
        began = time.monotonic()
        self.metrics.loop.start()
        self.scope.push("loop lag", self.metrics.loop.stop)
        self.stalls.start()
        self.scope.spawn(self.health.run(self.scope), name="health")
        for record in self.registry:
            if record.status is S.UNLOADED and record.enabled:
                self._announce_found(record)
        self.quarantine.enforce()
        resolution = self.resolve()
        for plugin_id, problems in resolution.problems.items():
            self._refuse_unresolved(self.registry.record(plugin_id), problems)
        self.waves = self._arrange(resolution)
        self.registry.reorder(tuple(id for wave in self.waves for id in wave))
        self.scope.push("stand-ins", self.activation.close)
        lazy = [self.registry.record(id) for id in self._lazy_among(resolution.order)]
        await asyncio.gather(*map(self.activation.arm, lazy))
        for wave in self.waves:
            await asyncio.gather(*(self._start_in_turn(self.registry.record(id), "boot") for id in wave))
            if self._stopping:
                return
        self._booted = True
        self._announcer.announce(
            KernelStarted(
                replica=self.services.bus.replica,
                version=self._version,
                started=self._ids(S.STARTED),
                failed=self._ids(S.ERROR),
                seconds=round(time.monotonic() - began, 3),
            )
        )

    def resolve(self) -> Resolution:
        """Who can start, in which order, and what is wrong with the others."""
        records = [record for record in self.registry if record.enabled and record.status is not S.ERROR]
        resolution = self._resolve(records)
        for sentence in resolution.ignored:
            self._log.warning("%s", sentence)
        return resolution

    def _resolve(self, records: Sequence[PluginRecord]) -> Resolution:
        others = [record for record in self.registry if record not in records]
        return DependencyResolver().resolve(
            [record.metadata for record in records],
            plugbus_version=self._version,
            bus_features=self.services.bus.features,
            disabled=[record.plugin_id for record in others if not record.enabled],
            refused=[record.plugin_id for record in others if record.enabled],
            unmet=unmet_requirements(r.found for r in records if isinstance(r.found, Discovered)),
        )

    def _arrange(self, resolution: Resolution) -> tuple[tuple[str, ...], ...]:
        """Observers first, the edge last; stopping is the reverse.

        So the audit log sees every start and stop, and nothing comes in from outside before it can be
        handled. Both move only as far as their dependencies allow: neither has any among the built-ins.
        """
        free = {id for wave in resolution.waves[:1] for id in wave}
        observers = tuple(id for id in resolution.order if id in free and _observes(self._metadata(id)))
        edge_ids = self.services.settings.edge_plugins
        edge = tuple(id for id in resolution.order if id in edge_ids and not self.needed_by(id))
        self._rules = dict.fromkeys(observers, OBSERVERS_FIRST) | dict.fromkeys(edge, EDGE_LAST)
        middle = tuple(
            tuple(id for id in wave if id not in observers and id not in edge) for wave in resolution.waves
        )
        return tuple(wave for wave in (observers, *middle, edge) if wave)

    def _lazy_among(self, order: Sequence[str]) -> list[str]:
        """Those that are loaded when they are needed; who is needed by an eager one starts with it."""
        needed: set[str] = set()
        for plugin_id in reversed(order):
            metadata = self._metadata(plugin_id)
            if metadata.activation == "eager" or plugin_id in needed:
                needed |= {plugin_id, *(one.plugin_id for one in metadata.dependencies)}
        return [plugin_id for plugin_id in order if plugin_id not in needed]

    def rule_of(self, plugin_id: str) -> str:
        """Why a plugin comes first or last; empty where only those decide that it starts after."""
        return self._rules.get(plugin_id, "")

    def _metadata(self, plugin_id: str) -> PluginMetadata:
        return self.registry.record(plugin_id).metadata

    def _refuse_unresolved(self, record: PluginRecord, problems: Sequence[DependencyError]) -> None:
        first = problems[0]
        text = "; ".join(problem.message for problem in problems)
        info = ErrorInfo.of(first).model_copy(
            update={"message": text, "place": first.where or record.metadata.file_path, "fix": first.fix}
        )
        self.lifecycle.refuse(record, "resolve", info)

    async def _start_in_turn(self, record: PluginRecord, reason: str) -> None:
        """Start a plugin whose turn has come; whatever comes of it is on its record."""
        if self._stopping or record.plugin_id in self.operations or record.status is S.STARTED:
            return  # whoever took it up meanwhile decides
        if self.activation.is_armed(record.plugin_id):
            return  # it starts when it is needed
        if (waiting := self._failed_dependency(record)) is not None:
            self.lifecycle.refuse(record, "resolve", waiting)
            return
        try:
            await self.operations.run(record, Activity.LOADING, self._bring_up(record, reason))
        except (PluginStepFailed, PluginStateError) as error:
            self._log.debug("%s", error)  # told where it happened, or the kernel stops

    async def _bring_up(self, record: PluginRecord, reason: str) -> None:
        await self._activate_dependencies(record)
        try:
            await self.lifecycle.bring_up(record, reason)
        except PluginStepFailed as error:
            if _is_not_ready(error):
                self._retry_if_not_ready(record, error)
            elif not self._stopping:
                self.quarantine.start_failed(record, error)
            raise

    async def _activate_dependencies(self, record: PluginRecord) -> None:
        """Start those that are loaded when they are needed, and wait for the others' turn."""
        for dependency in record.metadata.dependencies:
            needed = self.registry.record(dependency.plugin_id)
            if self.activation.is_armed(needed.plugin_id):
                await self.activation.activate(needed, f"{record.plugin_id} needs it")
            elif not self._booted:
                await self._start_early(needed)
            else:
                await self.operations.idle(needed.plugin_id)
        if (waiting := self._failed_dependency(record)) is not None:
            raise PluginStateError(
                f"plugin {record.plugin_id!r} cannot be started: {waiting.message}",
                plugin_id=record.plugin_id,
                fix=waiting.fix,
            )

    async def _start_early(self, record: PluginRecord) -> None:
        """Before its turn at boot, for one that is needed already."""
        if not record.enabled or record.status is not S.UNLOADED:
            return
        for dependency in record.metadata.dependencies:
            await self._start_early(self.registry.record(dependency.plugin_id))
        await self._start_in_turn(record, "it is needed before its turn")
        await self.operations.idle(record.plugin_id)

    async def _bring_down(self, record: PluginRecord, reason: str) -> None:
        try:
            await self.lifecycle.bring_down(record, reason)
        except PluginStepFailed as error:
            self.quarantine.did_not_end(record, error)
            raise

    def _failed_dependency(self, record: PluginRecord) -> ErrorInfo | None:
        for dependency in record.metadata.dependencies:
            needed = self.registry.record(dependency.plugin_id)
            if needed.status is not S.STARTED and not self.activation.is_armed(needed.plugin_id):
                why = needed.reason.text if needed.reason else needed.status.value
                return ErrorInfo(
                    type=WAITS_FOR_DEPENDENCY,
                    message=f"it needs {needed.plugin_id!r}, which is not started: {why}",
                    place=needed.reason.place if needed.reason else "",
                    fix=f"mend {needed.plugin_id!r} first: plugbus plugin show {needed.plugin_id}",
                )
        return None

    def _warn_of_misfits(self, record: PluginRecord) -> None:
        """Tell of models that cannot read what others publish, when the second of the two is loaded."""
        try:
            for misfit in misfits_of(record, self.registry):
                self._log.warning("%s", misfit)
        except Exception:  # noqa: BLE001 - a schema may hold anything; that one cannot be read stops no plugin
            self._log.exception("the event types of %s could not be compared", record.plugin_id)

    def _announce_found(self, record: PluginRecord) -> None:
        metadata = record.metadata
        self._announcer.announce(
            PluginDiscovered(
                plugin_id=metadata.plugin_id,
                version=metadata.version,
                generation=0,
                replica=self.services.bus.replica,
                source=metadata.source,
            )
        )

    # --- a plugin that is not ready ---------------------------------------------------------------------

    def _retry_if_not_ready(self, record: PluginRecord, error: PluginStepFailed) -> None:
        if self._stopping or self.activation.is_armed(record.plugin_id):
            return  # that one is tried again when it is needed
        self._forget_retry(record)
        record.activity = Activity.WAITING
        retry = self.scope.spawn(
            self._retry(record, error), name=f"retry {record.plugin_id}", context=self.operations.context
        )
        self._retries[record.plugin_id] = retry

    def _forget_retry(self, record: PluginRecord) -> bool:
        """Try no more by itself; whether it would have."""
        retry = self._retries.pop(record.plugin_id, None)
        if retry is None or retry.done():
            return False
        retry.cancel()
        record.activity = Activity.NONE
        return True

    async def _retry(self, record: PluginRecord, error: PluginStepFailed) -> None:
        delay = RETRY_FIRST
        while _is_not_ready(error):
            asked = error.info.retry_after if error.info is not None else None
            pause = (delay if asked is None else asked) * self.services.backoff
            await asyncio.sleep(max(RETRY_SHORTEST, pause))
            delay = min(delay * 2, RETRY_LONGEST)
            if self._failed_dependency(record) is not None:
                continue
            try:
                await self.operations.run(record, Activity.LOADING, self._bring_up_again(record))
            except PluginStateError as failure:
                self._log.debug("%s", failure)  # what it depends on
            except PluginStepFailed as failure:
                error = failure
                record.activity = Activity.WAITING if _is_not_ready(error) else Activity.NONE
                if not _is_not_ready(error):
                    self.quarantine.start_failed(record, error)
            else:
                await self._start_waiting(record.plugin_id)
                return

    async def _bring_up_again(self, record: PluginRecord) -> None:
        await self._activate_dependencies(record)
        await self.lifecycle.bring_up(record, "retry")

    async def _start_waiting(self, plugin_id: str) -> None:
        """Start those that were refused at boot only because this one was not there yet."""
        for id in self.needed_by(plugin_id):
            record = self.registry.record(id)
            if record.reason is not None and record.reason.code == WAITS_FOR_DEPENDENCY:
                await self._start_in_turn(record, f"{plugin_id} is started")
                if record.status is S.STARTED:
                    await self._start_waiting(id)

    # --- one plugin, on command ---------------------------------------------------------------------------

    async def start_plugin(self, plugin_id: str, reason: str) -> bool:
        """Start one plugin; False if it was started already.

        Raises `PluginNotFound`, `PluginBusy`, `PluginStateError` (a dependency is not started, or the
        manifest was refused) and `PluginStepFailed`.
        """
        record = self.registry.record(plugin_id)
        self.operations.require_idle(record)
        if record.status is S.STARTED:
            return False
        self._require_startable(record)
        self._forget_retry(record)
        if record.metadata.activation == "lazy":
            await self.activation.activate(record, reason)
        else:
            await self.operations.run(record, Activity.LOADING, self._bring_up(record, reason))
        return True

    async def activate_plugin(self, plugin_id: str, reason: str) -> None:
        """Start a plugin unless it is started; where it comes or goes already, wait for that first.

        Raises as `start_plugin`.
        """
        record = self.registry.record(plugin_id)
        if record.metadata.activation == "lazy":
            if record.status is not S.STARTED:
                self._require_startable(record)
            await self.activation.activate(record, reason)
        else:
            await self.operations.idle(plugin_id)
            await self.start_plugin(plugin_id, reason)

    async def stop_plugin(self, plugin_id: str, reason: str, *, with_dependents: bool = False) -> bool:
        """Stop and unload one plugin, or stop trying to start it; False if there was nothing to stop.

        `with_dependents`: those that need it first, in reverse start order; what of them does not stop
        cleanly is logged and gone past. Raises `PluginNotFound`, `PluginBusy`, `PluginStateError` (others
        need it), and `PluginStepFailed` where it did not stop cleanly; it is unloaded then as well.
        """
        record = self.registry.record(plugin_id)
        self.operations.require_idle(record)
        self.activation.require_idle(record)
        if record.current is None:
            waited = self._forget_retry(record)
            if await self.activation.disarm(record) or waited:
                self._say_stopped(record, reason)
                return True
            return False
        if with_dependents:
            await self._stop_dependents(plugin_id)
        if users := self._started_users(plugin_id):
            raise PluginStateError(
                f"plugin {plugin_id!r} is needed by {', '.join(users)}",
                plugin_id=plugin_id,
                fix=f"stop them as well: plugbus plugin stop {plugin_id} --with-dependents",
            )
        await self.activation.disarm(record)
        await self.operations.run(record, Activity.DRAINING, self._bring_down(record, reason))
        return True

    def _say_stopped(self, record: PluginRecord, reason: str) -> None:
        """Of a plugin that was not loaded, but would have been."""
        why = make_reason("stopped", reason, next_step=f"plugbus plugin start {record.plugin_id}")
        if record.status is S.UNLOADED:
            record.reason = why
        else:
            record.transition(S.UNLOADED, why)

    async def _stop_dependents(self, plugin_id: str) -> None:
        """Nothing is stopped where one of them is busy."""
        started = [one for id in self.dependents_of(plugin_id) if (one := self.registry.record(id)).current]
        for record in started:
            self.operations.require_idle(record)
        for record in started:
            try:
                await self.stop_plugin(record.plugin_id, f"{plugin_id}, which it needs, is stopped")
            except PluginStepFailed as error:
                self._log.warning("%s", error)

    def dependents_of(self, plugin_id: str) -> tuple[str, ...]:
        """Ids of all that need it, or need one that does; each before those that it needs."""
        order: list[str] = []

        def visit(id: str) -> None:
            for user in self.needed_by(id):
                if user not in order:
                    visit(user)
                    order.append(user)

        visit(plugin_id)
        return tuple(id for id in order if id != plugin_id)

    async def enable_plugin(self, plugin_id: str, by: str) -> bool:
        """Start it now, and from now on whenever the kernel starts; False if both was so.

        Raises as `start_plugin`. Where it cannot be started nothing is decided; where it then fails to,
        it is enabled all the same.
        """
        record = self.registry.record(plugin_id)
        self.operations.require_idle(record)
        if record.status is not S.STARTED:
            self._require_startable(record)
        decided = self.services.decisions.decide(record, True, by)
        return await self.start_plugin(plugin_id, f"enabled by {by}") or decided

    def require_may_be_disabled(self, plugin_id: str) -> None:
        """Raises `PluginStateError`: who disables the edge could not enable it again."""
        if plugin_id in self.services.settings.edge_plugins:
            raise PluginStateError(
                f"plugin {plugin_id!r} is the way on which commands come in",
                plugin_id=plugin_id,
                fix=f"write [plugins.{plugin_id}] enabled = false into plugbus.toml, and start anew",
            )

    async def disable_plugin(self, plugin_id: str, by: str, *, with_dependents: bool = False) -> bool:
        """Stop it now, and do not start it when the kernel starts; False if both was so.

        Raises as `stop_plugin`; where it is not stopped, nothing is decided.
        """
        record = self.registry.record(plugin_id)
        self.require_may_be_disabled(plugin_id)
        try:
            stopped = await self.stop_plugin(plugin_id, f"disabled by {by}", with_dependents=with_dependents)
        except PluginStepFailed as error:
            self._log.warning("%s", error)  # it is unloaded all the same
            stopped = True
        self.operations.require_idle(record)
        decided = self.services.decisions.decide(record, False, by)
        if record.status is S.UNLOADED:
            record.reason = disabled(plugin_id)
        return stopped or decided

    async def release_plugin(self, plugin_id: str, by: str) -> QuarantineEntry | None:
        """Let it out of quarantine; a lazy one is started again as soon as it is needed. None: it was not in.

        Raises `PluginNotFound`, `PluginStateError` where that cannot be kept.
        """
        entry = self.quarantine.release(plugin_id, by)
        if entry is not None and plugin_id in self.registry:
            record = self.registry.record(plugin_id)
            if record.metadata.activation == "lazy" and record.enabled and self._booted:
                await self.activation.arm(record)
        return entry

    async def quarantine_plugin(self, plugin_id: str, reason: str, by: str) -> QuarantineEntry:
        """Stop one plugin and put it into quarantine. Raises as `stop_plugin`."""
        record = self.registry.record(plugin_id)
        try:
            await self.stop_plugin(plugin_id, reason)
        except PluginStepFailed as error:
            self._log.warning("%s", error)  # it is unloaded, and that it did not stop cleanly was announced
        self.operations.require_idle(record)
        return self.quarantine.add(record, reason, by)

    def _require_startable(self, record: PluginRecord) -> None:
        if self._stopping:
            raise stopping(record)
        self.quarantine.require_free(record)
        problems = self._problems_of(record)
        if record.found is None or problems:
            why = problems[0].message if problems else (record.reason.text if record.reason else "")
            fix = problems[0].fix if problems else "mend its manifest, and start the kernel again"
            raise PluginStateError(
                f"plugin {record.plugin_id!r} cannot be started: {why}",
                plugin_id=record.plugin_id,
                where=record.metadata.file_path,
                fix=fix,
            )
        if (waiting := self._failed_dependency(record)) is not None:
            raise PluginStateError(
                f"plugin {record.plugin_id!r} cannot be started: {waiting.message}",
                plugin_id=record.plugin_id,
                fix=waiting.fix,
            )

    def _problems_of(self, record: PluginRecord) -> tuple[DependencyError, ...]:
        """What is wrong with one plugin among those that are there, whatever state they are in."""
        present = [other for other in self.registry if other.found is not None]
        return self._resolve(present).problems.get(record.plugin_id, ())

    def needed_by(self, plugin_id: str) -> tuple[str, ...]:
        """Ids of the plugins that depend on this one."""
        return tuple(
            record.plugin_id
            for record in self.registry
            if any(dependency.plugin_id == plugin_id for dependency in record.metadata.dependencies)
        )

    def _started_users(self, plugin_id: str) -> list[str]:
        return [id for id in self.needed_by(plugin_id) if self.registry.record(id).status is S.STARTED]

    def _concerned_by(self, plugin_id: str) -> tuple[str, ...]:
        """Started plugins that depend on this one, or use it where it is there."""
        return tuple(
            record.plugin_id
            for record in self.registry
            if record.status is S.STARTED
            and any(
                one.plugin_id == plugin_id
                for one in (*record.metadata.dependencies, *record.metadata.optional_dependencies)
            )
        )

    def _is_needed_now(self, plugin_id: str) -> bool:
        """Whether one that depends on it is loaded, or comes or goes."""
        users = (self.registry.record(id) for id in self.needed_by(plugin_id))
        return any(user.current is not None or user.plugin_id in self.operations for user in users)

    async def settle(self) -> None:
        """Return when every announcement made so far is published."""
        await self._announcer.settle()

    # --- how it stands --------------------------------------------------------------------------------------

    async def readiness(self) -> Readiness:
        """Not ready: booting, stopping, a required plugin is not started or unhealthy, or the bus does not
        answer. Degraded: an optional plugin failed or is unhealthy, or one says that it is degraded."""
        bus = await self._bus_health.look()
        if not self._booted or self._stopping:
            reasons = ("stopping" if self._stopping else "starting", *bus.reasons)
            return bus.model_copy(update={"status": "not_ready", "reasons": reasons})
        enabled = [r for r in self.registry if r.enabled and not self._waits_to_be_needed(r)]
        missing = [r for r in enabled if r.metadata.criticality == "required" and r.status is not S.STARTED]
        failed = [record for record in enabled if record.status is S.ERROR and record not in missing]
        plugins = [
            f"{r.plugin_id}: {r.reason.text if r.reason else r.status.value}" for r in (*missing, *failed)
        ]
        troubles = self.health.troubles()
        is_ready = not (missing or bus.reasons or any(trouble.is_grave for trouble in troubles))
        status = "not_ready" if not is_ready else "degraded" if failed or troubles else "ready"
        reasons = (*bus.reasons, *plugins, *map(str, troubles))
        return bus.model_copy(update={"status": status, "reasons": reasons})

    def _waits_to_be_needed(self, record: PluginRecord) -> bool:
        return record.status is S.UNLOADED and self.activation.is_armed(record.plugin_id)

    def _ids(self, status: PluginStatus) -> tuple[str, ...]:
        return tuple(record.plugin_id for record in self.registry if record.status is status)

    # --- down -----------------------------------------------------------------------------------------

    async def shutdown(self, reason: str) -> None:
        """The shutdown script, in order. What fails is logged and gone past."""
        if self._stopping:
            return
        self._stopping = True
        self._announcer.announce(KernelStopping(replica=self.services.bus.replica, reason=reason))
        for error in await self.scope.close():  # no more retries, no more commands
            self._log.error("%s", error)
        await self.operations.end()
        for wave in reversed(self.waves):
            await asyncio.gather(*(self._stop_at_shutdown(id, reason) for id in wave))
            await self._announcer.settle(SETTLE_GRACE)
        for record in reversed(list(self.registry)):  # those that came after boot
            await self._stop_at_shutdown(record.plugin_id, reason)

    async def _stop_at_shutdown(self, plugin_id: str, reason: str) -> None:
        if plugin_id not in self.registry:
            return
        record = self.registry.record(plugin_id)
        try:
            await self.operations.run(record, Activity.DRAINING, self.lifecycle.bring_down(record, reason))
        except Exception as error:  # noqa: BLE001 - whatever one plugin does, the others are stopped as well
            self._log.error("%s", error)


def _is_not_ready(error: PluginStepFailed) -> bool:
    return error.info is not None and error.info.matches(PluginNotReady.__name__)


def _observes(metadata: PluginMetadata) -> bool:
    """Whether a plugin handles nothing but what the kernel and the bus say."""
    patterns = metadata.subscribed_patterns
    return bool(patterns) and all(topic_of(pattern) in RESERVED_TOPICS for pattern in patterns or ())


def refused_record(metadata: PluginMetadata, error: PlugbusError) -> PluginRecord:
    """A record for a plugin whose manifest was refused, so that it is seen with its reason."""
    return PluginRecord(
        metadata=metadata,
        status=S.ERROR,
        reason=make_reason(error.code, error.message, place=error.where, next_step=error.fix),
    )
