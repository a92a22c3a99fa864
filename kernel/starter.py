"""Bringing a plugin up after those that it needs, and down; and what a step that fails leads to."""

from __future__ import annotations

import logging

from contracts.errors import PluginStateError, PluginStepFailed
from contracts.plugin import PluginStatus

from .activation import Activation
from .dependents import WAITS_FOR_DEPENDENCY, failed_dependency, needed_by, require_dependencies
from .lifecycle import PluginLifecycleManager
from .operations import Operations
from .phase import Phase
from .quarantining import Quarantining
from .registry import Activity, PluginRecord, PluginRegistry
from .retries import Retries, is_not_ready
from .scope import Scope
from .services import Services

S = PluginStatus


class PluginStarter:
    """Starts plugins in their turn; has those that wait: for being ready, and for being needed."""

    def __init__(
        self,
        services: Services,
        registry: PluginRegistry,
        lifecycle: PluginLifecycleManager,
        operations: Operations,
        quarantine: Quarantining,
        phase: Phase,
        scope: Scope,
        log: logging.Logger,
    ) -> None:
        self._notes = services.start_notes
        self._registry = registry
        self._lifecycle = lifecycle
        self._operations = operations
        self._quarantine = quarantine
        self._phase = phase
        self._log = log
        self.retries = Retries(
            registry,
            operations,
            scope,
            log,
            backoff=services.backoff,
            bring_up=self._bring_up_again,
            failed=quarantine.start_failed,
            started=self._start_waiting,
        )
        self.activation = Activation(
            services,
            registry,
            operations,
            scope,
            log,
            bring_up=self.bring_up,
            bring_down=self.bring_down,
        )

    async def start_in_turn(self, record: PluginRecord, reason: str) -> None:
        """Start a plugin whose turn has come; whatever comes of it is on its record."""
        if self._phase.is_stopping or record.plugin_id in self._operations or record.status is S.STARTED:
            return  # whoever took it up meanwhile decides
        if record.is_armed:
            return  # it starts when it is needed
        if record.is_put_off or not record.enabled or self._quarantine.holds(record):
            return  # an operator came before
        if (waiting := failed_dependency(record, self._registry)) is not None:
            self._lifecycle.refuse(record, "resolve", waiting)
            return
        try:
            await self._operations.run(record, Activity.LOADING, self.bring_up(record, reason))
        except (PluginStepFailed, PluginStateError) as error:
            self._log.debug("%s", error)  # told where it happened, or the kernel stops

    async def bring_up(self, record: PluginRecord, reason: str) -> None:
        """Start it, an operation of its own. Raises `PluginStateError`, and `PluginStepFailed` when that
        is dealt with: it is tried again, or counted."""
        await self._activate_dependencies(record)
        try:
            await self._bring_up(record, reason)
        except PluginStepFailed as error:
            self._failed(record, error)
            raise

    async def _bring_up(self, record: PluginRecord, reason: str) -> None:
        with self._notes.noted(record.plugin_id):
            await self._lifecycle.bring_up(record, reason)

    def _failed(self, record: PluginRecord, error: PluginStepFailed) -> None:
        if self._phase.is_stopping:
            return
        if not is_not_ready(error):
            self._quarantine.start_failed(record, error)
        elif not record.is_armed:  # else it is tried again when it is needed
            self.retries.begin(record, error)

    async def bring_down(self, record: PluginRecord, reason: str) -> None:
        """Stop and unload it, an operation of its own. Raises `PluginStepFailed`."""
        try:
            await self._lifecycle.bring_down(record, reason)
        except PluginStepFailed as error:
            self._quarantine.did_not_end(record, error)
            raise

    # --- those that it needs, and that need it ----------------------------------------------------------

    async def _activate_dependencies(self, record: PluginRecord) -> None:
        """Start those that are loaded when they are needed, and wait for the others' turn."""
        for dependency in record.metadata.dependencies:
            needed = self._registry.record(dependency.plugin_id)
            if needed.is_armed:
                await self.activation.activate(needed, f"{record.plugin_id} needs it")
            elif not self._phase.is_booted:
                await self._start_early(needed)
            else:
                await self._operations.idle(needed.plugin_id)
        require_dependencies(record, self._registry)

    async def _start_early(self, record: PluginRecord) -> None:
        """Before its turn at boot, for one that is needed already."""
        if not record.enabled or record.status is not S.UNLOADED:
            return
        for dependency in record.metadata.dependencies:
            await self._start_early(self._registry.record(dependency.plugin_id))
        await self.start_in_turn(record, "it is needed before its turn")
        await self._operations.idle(record.plugin_id)

    async def _bring_up_again(self, record: PluginRecord) -> None:
        await self._activate_dependencies(record)
        await self._bring_up(record, "retry")

    async def _start_waiting(self, plugin_id: str) -> None:
        """Start those that were refused at boot only because this one was not there yet."""
        for id in needed_by(plugin_id, self._registry):
            record = self._registry.record(id)
            if record.reason is not None and record.reason.code == WAITS_FOR_DEPENDENCY:
                await self.start_in_turn(record, f"{plugin_id} is started")
                if record.status is S.STARTED:
                    await self._start_waiting(id)
