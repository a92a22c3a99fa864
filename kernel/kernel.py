"""The order of the whole: its parts joined, boot, and the shutdown script."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial

from contracts.errors import DependencyError, ErrorInfo
from contracts.messages import KernelStarted, KernelStopping, PluginDiscovered, Readiness
from contracts.plugin import PluginStatus

from .announcer import Announcer
from .bus_health import BusHealth
from .configuration.changing import ConfigurationChanges
from .control import PluginControl
from .dependents import concerned_by
from .event_models import misfits_of
from .health import HealthMonitor
from .lifecycle import PluginLifecycleManager
from .metrics import Metrics
from .operations import Operations
from .phase import Phase
from .quarantining import Quarantining
from .readiness import readiness_of
from .registry import Activity, PluginRecord, PluginRegistry
from .resolver import Resolution
from .scope import Scope
from .services import Services
from .stalls import Stalls
from .start_order import RegistryResolver, StartOrder, arranged, lazy_among
from .starter import PluginStarter

S = PluginStatus

SETTLE_GRACE = 2.0
"""Seconds in which announcements may be published before the shutdown goes on without."""


class Kernel:
    """Boots and stops all plugins; its parts do the rest."""

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
        self._announcer = announcer
        self._log = log
        self._version = version
        self._phase = Phase()
        self.scope = Scope("kernel", log)
        self.operations = Operations(log)
        self.order = StartOrder()
        """As it was when the kernel started."""
        self._join_plugins()
        self._join_watchers(stall_after)

    def _join_plugins(self) -> None:
        """What starts and stops plugins, and changes them."""
        services, registry, log = self.services, self.registry, self._log
        phase, operations = self._phase, self.operations
        concerned = partial(concerned_by, registry=registry)
        lifecycle = self._lifecycle = PluginLifecycleManager(
            services, log, loaded=self._warn_of_misfits, dependents=concerned
        )
        quarantine = self._quarantine = Quarantining(services, registry, log)
        features = services.bus.features
        resolver = self._resolver = RegistryResolver(registry, version=self._version, bus_features=features)
        starter = self._starter = PluginStarter(
            services, registry, lifecycle, operations, quarantine, phase, self.scope, log
        )
        self.activation = starter.activation
        self.control = PluginControl(
            services, registry, resolver, starter, operations, quarantine, phase, log
        )
        self.configuration = ConfigurationChanges(
            services.configuration, registry, operations, lifecycle.handover
        )

    def _join_watchers(self, stall_after: float) -> None:
        """What looks at plugins, loop and bus."""
        services, registry, log = self.services, self.registry, self._log
        replica, deadline = services.bus.replica, services.settings.deadlines.health
        self._bus_health = BusHealth(services.bus)
        self.health = HealthMonitor(
            registry, services.settings.health, services.announce, log, deadline=deadline, replica=replica
        )
        self.stalls = Stalls(registry, services.announce, log, after=stall_after, replica=replica)
        self.metrics = Metrics(services.bus, registry, self.stalls)

    # --- boot -----------------------------------------------------------------------------------------

    async def boot(self) -> None:
        """Resolve everything at once, then start wave after wave; a broken plugin never blocks the others."""
        began = time.monotonic()
        self._watch()
        for record in self.registry:
            if record.status is S.UNLOADED and record.enabled:
                self._announce_found(record)
        self._quarantine.enforce()
        resolution = self._resolve()
        self.order = arranged(resolution, self.registry, self.services.settings.edge_plugins)
        self.registry.reorder(self.order.ids)
        self.scope.push("stand-ins", self.activation.close)
        await asyncio.gather(*map(self.activation.arm, lazy_among(resolution.order, self.registry)))
        for wave in self.order.waves:
            await self._start_wave(wave)
            if self._phase.is_stopping:
                return
        self._phase.is_booted = True
        self._announcer.announce(
            KernelStarted(
                replica=self.services.bus.replica,
                version=self._version,
                started=self._ids(S.STARTED),
                failed=self._ids(S.ERROR),
                seconds=round(time.monotonic() - began, 3),
            )
        )

    async def _start_wave(self, wave: Sequence[str]) -> None:
        """Side by side; behind them, one at a time, those of whose start a process may have died."""
        suspects = self._quarantine.suspects
        await asyncio.gather(*(self._start_in_turn(id) for id in wave if id not in suspects))
        for plugin_id in wave:
            if plugin_id in suspects:
                await self._start_in_turn(plugin_id)

    async def _start_in_turn(self, plugin_id: str) -> None:
        await self._starter.start_in_turn(self.registry.record(plugin_id), "boot")

    def _watch(self) -> None:
        self.metrics.loop.start()
        self.scope.push("loop lag", self.metrics.loop.stop)
        self.stalls.start()
        self.scope.spawn(self.health.run(self.scope), name="health")

    def _resolve(self) -> Resolution:
        """Who can start; who cannot is refused, with everything that is wrong with it."""
        resolution = self._resolver.resolve()
        for sentence in resolution.ignored:
            self._log.warning("%s", sentence)
        for plugin_id, problems in resolution.problems.items():
            self._refuse_unresolved(self.registry.record(plugin_id), problems)
        return resolution

    def _refuse_unresolved(self, record: PluginRecord, problems: Sequence[DependencyError]) -> None:
        first = problems[0]
        text = "; ".join(problem.message for problem in problems)
        info = ErrorInfo.of(first).model_copy(
            update={"message": text, "place": first.where or record.metadata.file_path, "fix": first.fix}
        )
        self._lifecycle.refuse(record, "resolve", info)

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

    async def settle(self) -> None:
        """Return when every announcement made so far is published."""
        await self._announcer.settle()

    # --- how it stands --------------------------------------------------------------------------------------

    async def readiness(self) -> Readiness:
        """How the whole stands, with the bus as it answers now."""
        bus = await self._bus_health.look()
        return readiness_of(bus, self._phase, self.registry, self.health.troubles())

    def _ids(self, status: PluginStatus) -> tuple[str, ...]:
        return tuple(record.plugin_id for record in self.registry if record.status is status)

    # --- down -----------------------------------------------------------------------------------------

    async def shutdown(self, reason: str) -> None:
        """The shutdown script, in order. What fails is logged and gone past."""
        if self._phase.is_stopping:
            return
        self._phase.is_stopping = True
        self._announcer.announce(KernelStopping(replica=self.services.bus.replica, reason=reason))
        for error in await self.scope.close():  # no more retries, no more commands
            self._log.error("%s", error)
        await self.operations.end()
        for wave in reversed(self.order.waves):
            await asyncio.gather(*(self._stop_at_shutdown(id, reason) for id in wave))
            await self._announcer.settle(SETTLE_GRACE)
        for record in reversed(list(self.registry)):  # those that came after boot
            await self._stop_at_shutdown(record.plugin_id, reason)

    async def _stop_at_shutdown(self, plugin_id: str, reason: str) -> None:
        if plugin_id not in self.registry:
            return
        record = self.registry.record(plugin_id)
        try:
            await self.operations.run(record, Activity.DRAINING, self._lifecycle.bring_down(record, reason))
        except Exception as error:  # noqa: BLE001 - whatever one plugin does, the others are stopped as well
            self._log.error("%s", error)
