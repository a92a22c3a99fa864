"""The commands about one plugin, which the queries and the manager call."""

from __future__ import annotations

import logging

from contracts.errors import PluginStateError, PluginStepFailed
from contracts.messages import QuarantineEntry
from contracts.plugin import PluginStatus

from .dependents import WAITS_FOR_DEPENDENCY, require_dependencies, stopped_before, users_of
from .enabling import disabled
from .operations import Operations, stopping
from .phase import Phase
from .quarantining import Quarantining
from .registry import Activity, PluginRecord, PluginRegistry, make_reason
from .services import Services
from .start_order import RegistryResolver
from .starter import PluginStarter

S = PluginStatus


class PluginControl:
    """What an operator, or an application, does with a plugin while the kernel runs."""

    def __init__(
        self,
        services: Services,
        registry: PluginRegistry,
        resolver: RegistryResolver,
        starter: PluginStarter,
        operations: Operations,
        quarantine: Quarantining,
        phase: Phase,
        log: logging.Logger,
    ) -> None:
        self._services = services
        self._registry = registry
        self._resolver = resolver
        self._starter = starter
        self._activation = starter.activation
        self._operations = operations
        self._quarantine = quarantine
        self._phase = phase
        self._log = log

    # --- starting ---------------------------------------------------------------------------------------

    async def start(self, plugin_id: str, reason: str) -> bool:
        """Start one plugin; False if it was started already.

        Raises `PluginNotFound`, `PluginBusy`, `PluginStateError` (a dependency is not started, or the
        manifest was refused) and `PluginStepFailed`.
        """
        record = self._registry.record(plugin_id)
        self._operations.require_idle(record)
        if record.status is S.STARTED:
            return False
        self._require_startable(record)
        self._starter.retries.forget(record)
        record.is_put_off = False
        if record.metadata.activation == "lazy":
            await self._activation.activate(record, reason)
        else:
            await self._operations.run(record, Activity.LOADING, self._starter.bring_up(record, reason))
        return True

    async def activate(self, plugin_id: str, reason: str) -> None:
        """Start a plugin unless it is started; where it comes or goes already, wait for that first.

        Raises as `start`.
        """
        record = self._registry.record(plugin_id)
        if record.metadata.activation == "lazy":
            if record.status is not S.STARTED:
                self._require_startable(record)
            await self._activation.activate(record, reason)
        else:
            await self._operations.idle(plugin_id)
            await self.start(plugin_id, reason)

    def _require_startable(self, record: PluginRecord) -> None:
        if self._phase.is_stopping:
            raise stopping(record)
        self._quarantine.require_free(record)
        problems = self._resolver.problems_of(record)
        if record.found is None or problems:
            why = problems[0].message if problems else (record.reason.text if record.reason else "")
            fix = problems[0].fix if problems else "mend its manifest, and start the kernel again"
            raise PluginStateError(
                f"plugin {record.plugin_id!r} cannot be started: {why}",
                plugin_id=record.plugin_id,
                where=record.metadata.file_path,
                fix=fix,
            )
        require_dependencies(record, self._registry)

    # --- stopping ---------------------------------------------------------------------------------------

    async def stop(self, plugin_id: str, reason: str, *, with_dependents: bool = False) -> bool:
        """Stop and unload one plugin, or stop trying to start it; False if there was nothing to stop.

        `with_dependents`: those that need it first, in reverse start order; what of them does not stop
        cleanly is logged and gone past. Raises `PluginNotFound`, `PluginBusy`, `PluginStateError` (others
        need it), and `PluginStepFailed` where it did not stop cleanly; it is unloaded then as well.
        """
        record = self._registry.record(plugin_id)
        self._operations.require_idle(record)
        self._activation.require_idle(record)
        if record.current is None:
            waited = self._starter.retries.forget(record) or self._waits_for_its_turn(record)
            record.is_put_off = True
            if await self._activation.disarm(record) or waited:
                self._say_stopped(record, reason)
                return True
            return False
        if with_dependents:
            await self._stop_dependents(plugin_id)
        if users := users_of(plugin_id, self._registry, self._operations):
            raise PluginStateError(
                f"plugin {plugin_id!r} is needed by {', '.join(users)}",
                plugin_id=plugin_id,
                fix=f"stop them as well: plugbus plugin stop {plugin_id} --with-dependents",
            )
        await self._activation.disarm(record)
        await self._operations.run(record, Activity.DRAINING, self._starter.bring_down(record, reason))
        return True

    def _waits_for_its_turn(self, record: PluginRecord) -> bool:
        """Whether it would be started without being asked: at boot, or once what it needs is there."""
        if not record.enabled or record.is_put_off:
            return False
        if record.status is S.ERROR:
            return record.reason is not None and record.reason.code == WAITS_FOR_DEPENDENCY
        return not (self._phase.is_booted or self._phase.is_stopping)

    def _say_stopped(self, record: PluginRecord, reason: str) -> None:
        """Of a plugin that was not loaded, but would have been."""
        why = make_reason("stopped", reason, next_step=f"plugbus plugin start {record.plugin_id}")
        if record.status is S.UNLOADED:
            record.reason = why
        else:
            record.transition(S.UNLOADED, why)

    async def _stop_dependents(self, plugin_id: str) -> None:
        """Nothing is stopped where one of them is busy."""
        users = map(self._registry.record, stopped_before(plugin_id, self._registry))
        started = [one for one in users if one.current is not None or one.plugin_id in self._operations]
        for record in started:
            self._operations.require_idle(record)
            self._activation.require_idle(record)
        for record in started:
            try:
                await self.stop(record.plugin_id, f"{plugin_id}, which it needs, is stopped")
            except PluginStepFailed as error:
                self._log.warning("%s", error)

    # --- for longer than now ----------------------------------------------------------------------------

    async def enable(self, plugin_id: str, by: str) -> bool:
        """Start it now, and from now on whenever the kernel starts; False if both was so.

        Raises as `start`. Where it cannot be started nothing is decided; where it then fails to,
        it is enabled all the same.
        """
        record = self._registry.record(plugin_id)
        self._operations.require_idle(record)
        if record.status is not S.STARTED:
            self._require_startable(record)
        decided = self._services.decisions.decide(record, True, by)
        return await self.start(plugin_id, f"enabled by {by}") or decided

    def require_not_edge(self, plugin_id: str, *, with_dependents: bool = False) -> None:
        """Raises `PluginStateError`: whoever takes the edge away could not bring it back."""
        along = stopped_before(plugin_id, self._registry) if with_dependents else ()
        for edge in (plugin_id, *along):
            if edge in self._services.settings.edge_plugins:
                raise PluginStateError(
                    f"plugin {edge!r} is the way on which commands come in, and none could start it again",
                    plugin_id=edge,
                    fix=f"end the kernel; to run without: [plugins.{edge}] enabled = false in plugbus.toml",
                )

    async def disable(self, plugin_id: str, by: str, *, with_dependents: bool = False) -> bool:
        """Stop it now, and do not start it when the kernel starts; False if both was so.

        Raises as `stop`; where it is not stopped, nothing is decided. Once begun it is done wholly: who gives
        up waiting leaves nothing stopped that is not also decided.
        """
        self.require_not_edge(plugin_id, with_dependents=with_dependents)
        record = self._registry.record(plugin_id)
        disabling = self._disable(record, by, with_dependents=with_dependents)
        return await self._operations.wholly(record, disabling, "disable")

    async def _disable(self, record: PluginRecord, by: str, *, with_dependents: bool) -> bool:
        plugin_id = record.plugin_id
        stopped = await self._stop_anyway(record, f"disabled by {by}", with_dependents=with_dependents)
        decided = self._services.decisions.decide(record, False, by)
        if record.status is S.UNLOADED:
            record.reason = disabled(plugin_id)
        elif record.found is not None:
            record.transition(S.UNLOADED, disabled(plugin_id))
        return stopped or decided

    async def release(self, plugin_id: str, by: str) -> QuarantineEntry | None:
        """Let it out of quarantine; a lazy one is started again as soon as it is needed. None: it was not in.

        Raises `PluginNotFound`, `PluginStateError` where that cannot be kept.
        """
        entry = self._quarantine.release(plugin_id, by)
        if entry is not None and plugin_id in self._registry:
            record = self._registry.record(plugin_id)
            if record.metadata.activation == "lazy" and record.enabled and self._phase.is_booted:
                await self._activation.arm(record)
        return entry

    async def quarantine(self, plugin_id: str, reason: str, by: str) -> QuarantineEntry:
        """Stop one plugin and put it into quarantine, wholly once begun. Raises as `stop`."""
        record = self._registry.record(plugin_id)
        return await self._operations.wholly(record, self._put_away(record, reason, by), "quarantine")

    async def _put_away(self, record: PluginRecord, reason: str, by: str) -> QuarantineEntry:
        await self._stop_anyway(record, reason)
        return self._quarantine.add(record, reason, by)

    async def _stop_anyway(self, record: PluginRecord, reason: str, *, with_dependents: bool = False) -> bool:
        """As `stop`; that it did not stop cleanly was announced, and it is unloaded all the same."""
        try:
            stopped = await self.stop(record.plugin_id, reason, with_dependents=with_dependents)
        except PluginStepFailed as error:
            self._log.warning("%s", error)
            stopped = True
        self._operations.require_idle(record)
        return stopped
