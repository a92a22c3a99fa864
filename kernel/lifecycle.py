"""The steps of one plugin: load, initialize, start, stop, shutdown, unload.

Each step has a deadline, is undone where it fails half-way, changes the record first and announces the
change afterwards. Nothing is awaited between the success of a step and the change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from contracts.errors import ErrorInfo, PluginStepFailed
from contracts.messages import (
    PluginInitialized,
    PluginLeaked,
    PluginLoaded,
    PluginStarted,
    PluginStopped,
    PluginUnloaded,
)
from contracts.plugin import PluginStatus

from .configuration.handover import ConfigurationHandover
from .declaration_check import check_against_manifest, check_grants
from .hosts import Host, Setup
from .offers import Offers
from .port import PluginPort
from .registry import Activity, Generation, PluginRecord, make_reason
from .scope import Scope
from .security import PermissionManager
from .services import Services
from .serving import Serving
from .settings import Deadlines
from .steps import Steps, raise_together
from .use import Use

S = PluginStatus


class PluginLifecycleManager:
    """Takes one plugin through its steps. The caller keeps them from overlapping for one plugin."""

    def __init__(
        self,
        services: Services,
        log: logging.Logger,
        *,
        loaded: Callable[[PluginRecord], None] = lambda record: None,
        dependents: Callable[[str], tuple[str, ...]] = lambda plugin_id: (),
    ) -> None:
        """`loaded` is told of each plugin that was loaded, before it is initialized; it must not raise.

        `dependents`: the started plugins that a change of one concerns.
        """
        self._dependents = dependents
        self._services = services
        self._loaded = loaded
        self._log = log
        self._steps = Steps(services, log)
        self._serving = Serving(services, log)
        self.handover = ConfigurationHandover(services.configuration, self._deadlines.configure, log)

    @property
    def _deadlines(self) -> Deadlines:
        return self._services.settings.deadlines

    # --- up -------------------------------------------------------------------------------------------

    async def bring_up(self, record: PluginRecord, reason: str) -> None:
        """From where it stands to started. Raises `PluginStepFailed`; the record then says why."""
        began = time.monotonic()
        if record.status is S.ERROR:
            record.transition(S.UNLOADED)
        if record.status is S.UNLOADED:
            await self.load(record, reason)
        if record.status is S.LOADED:
            await self.initialize(record, reason)
        await self.start(record, reason, began)

    async def load(self, record: PluginRecord, reason: str) -> None:
        """Import the code, decide the level and the grants, hand over the configuration."""
        services, metadata = self._services, record.metadata
        async with self._steps.step(record, "load", Activity.LOADING, self._deadlines.load):
            services.security.effective_level(metadata, services.policy(record), record.consent)
            number = record.loads = record.loads + 1
            host = record.coming = services.make_host(record, number)
            try:
                record.current = await self._generation(host, record, number)
            except BaseException:
                await self._steps.anyway(record, "unload", host.unload(), self._deadlines.shutdown)
                raise
            finally:
                record.coming = None
            record.transition(S.LOADED)
        self._services.tell(PluginLoaded, record, reason)
        self._loaded(record)

    async def _generation(self, host: Host, record: PluginRecord, number: int) -> Generation:
        services = self._services
        declaration = await host.load()
        check_against_manifest(record, declaration)
        security = services.security.create_security_context(
            record.metadata, declaration, services.policy(record), consent=record.consent
        )
        permissions = PermissionManager(security, services.audit)
        check_grants(permissions, declaration)
        config = await self.handover.configure(record, host)
        port = self._port(host, record, number, permissions)
        return Generation(number, host, declaration, security, port, self._scope(record), config=config)

    def _port(
        self, host: Host, record: PluginRecord, number: int, permissions: PermissionManager
    ) -> PluginPort:
        services, id, version = self._services, record.plugin_id, record.metadata.version
        ranks = services.policy(record).ranks
        return PluginPort(
            id,
            number,
            services.bus,
            host,
            permissions,
            offers=Offers(number, services.notices(record), ranks, lambda: record.standing_in),
            version=version,
            backoff=services.backoff,
            use=Use() if record.metadata.activation == "lazy" else None,
        )

    def _scope(self, record: PluginRecord) -> Scope:
        return Scope(f"{record.plugin_id} (kernel)", self._log)

    async def initialize(self, record: PluginRecord, reason: str) -> None:
        generation = record.require_current()
        host, most = generation.host, self._deadlines.initialize

        async def clear_up() -> None:
            await self.unload(record, "initialize failed")

        async with self._steps.step(record, "initialize", Activity.INITIALIZING, most, clear_up=clear_up):
            await host.initialize(self._setup(record, generation), generation.port)
            try:
                generation.mount = await host.asgi()
            except BaseException:
                await self._shut_down_anyway(record, host)
                raise
            record.transition(S.INITIALIZED)
        self._services.tell(PluginInitialized, record, reason)

    async def _shut_down_anyway(self, record: PluginRecord, host: Host) -> None:
        await self._steps.anyway(record, "shutdown", host.shutdown(), self._deadlines.shutdown)

    async def start(self, record: PluginRecord, reason: str, began: float | None = None) -> None:
        """Run `start`, then make handlers, providers and routes active."""
        generation = record.require_current()
        began = time.monotonic() if began is None else began

        async def clear_up() -> None:
            await self._shut_down_anyway(record, generation.host)
            await self.unload(record, "start failed")

        async with self._steps.step(
            record, "start", Activity.STARTING, self._deadlines.start, clear_up=clear_up
        ):
            generation.scope = self._scope(record)
            generation.port.open(generation.scope)
            await self._started(record, generation)
            record.transition(S.STARTED)
        security = generation.security
        self._services.tell(
            PluginStarted,
            record,
            reason,
            level_requested=security.requested.value,
            level_effective=security.effective.value,
            seconds=round(time.monotonic() - began, 6),
            dependents=self._dependents(record.plugin_id),
        )

    async def _started(self, record: PluginRecord, generation: Generation) -> None:
        """Both, or neither of them."""
        most, started = self._deadlines.stop, False
        try:
            await generation.host.start()
            started = True
            await self._serving.begin(generation)
        except BaseException:
            await self._steps.anyway(record, "deactivate", self._serving.end(generation), most)
            if started:
                await self._steps.anyway(record, "stop", generation.host.stop(), most)
            raise

    def _setup(self, record: PluginRecord, generation: Generation) -> Setup:
        return Setup(
            metadata=record.metadata,
            generation=generation.number,
            config=generation.config,
            security=generation.security,
            data_dir=self._services.data_dir(record.plugin_id),
        )

    # --- down -----------------------------------------------------------------------------------------

    async def bring_down(self, record: PluginRecord, reason: str) -> None:
        """From where it stands to unloaded, as far as it goes; what fails is recorded and gone past.

        Raises `PluginStepFailed` afterwards: the step that failed, or the first with all behind it as its
        cause (an `ExceptionGroup`).
        """
        errors: list[PluginStepFailed] = []
        entered = record.status in (S.STARTED, S.STOPPED, S.INITIALIZED)
        if record.status is S.STARTED:
            await self._attempt(self.stop(record, reason), errors)
        if entered and record.current is not None:
            await self._attempt(self.shutdown(record, reason), errors)
        if record.current is not None:
            await self.unload(record, reason)
        raise_together(record.plugin_id, errors)

    async def _attempt(self, step: Awaitable[None], errors: list[PluginStepFailed]) -> None:
        try:
            await step
        except PluginStepFailed as error:
            errors.append(error)

    async def stop(self, record: PluginRecord, reason: str) -> None:
        """No new deliveries, drain, `stop`, undo. Its groups keep their place."""
        generation = record.require_current()
        record.activity = Activity.DRAINING
        await generation.health.end()
        await self._drain(record, generation)
        async with self._steps.step(record, "stop", Activity.STOPPING, self._deadlines.stop):
            try:
                await self._serving.end(generation)
            finally:
                await generation.host.stop()
            record.transition(S.STOPPED)
        self._services.tell(PluginStopped, record, reason, dependents=self._dependents(record.plugin_id))

    async def _drain(self, record: PluginRecord, generation: Generation) -> None:
        """Draining keeps the grace itself; the deadline is for a bus that does not answer."""
        grace = self._deadlines.drain
        longest = grace + self._deadlines.stop
        if generation.routes is not None:  # while everything that they use is still there
            await self._steps.anyway(record, "close routes", generation.routes.undo(longest), longest)
        drained = await self._steps.anyway(record, "drain", generation.port.drain(grace), longest)
        if drained is False:
            self._log.warning("%s: handlers were cancelled after %g s", record.plugin_id, grace)

    async def shutdown(self, record: PluginRecord, reason: str) -> None:
        """Run `shutdown` and undo what `initialize` acquired."""
        async with self._steps.step(record, "shutdown", Activity.STOPPING, self._deadlines.shutdown):
            await record.require_current().host.shutdown()

    async def unload(self, record: PluginRecord, reason: str) -> None:
        """Let the code go, and prove that nothing of the plugin is left."""
        generation = record.require_current()
        leaks = record.leaks = await self._let_go(record, generation)
        if record.status is not S.ERROR:
            why = make_reason("stopped", reason, next_step=f"plugbus plugin start {record.plugin_id}")
            record.transition(S.UNLOADED, why)
        record.current = None
        self._services.tell(PluginUnloaded, record, reason, generation=generation.number)
        if leaks:
            self._log.error("%s left behind: %s", record.plugin_id, "; ".join(leaks))
            self._services.tell(PluginLeaked, record, reason, generation=generation.number, leaks=leaks)

    async def _let_go(self, record: PluginRecord, generation: Generation) -> tuple[str, ...]:
        """Unload, and undo what a step that was cut off had left; its names, and what is there even so."""
        held = [*generation.scope.names, *generation.health.left()]
        await self._steps.anyway(record, "undo", self._serving.end(generation), self._deadlines.shutdown)
        generation.port.retire()
        held += self._serving.left_of(record)
        left = await self._steps.anyway(record, "unload", generation.host.unload(), self._deadlines.shutdown)
        return (*held, *(left if left is not None else ("its code",)))

    def refuse(self, record: PluginRecord, step: str, info: ErrorInfo) -> None:
        """Put a plugin into `error` with the reason, and announce it."""
        self._steps.refuse(record, step, info)
