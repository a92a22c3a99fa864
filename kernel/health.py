"""How all plugins are: asked at an interval, side by side, and what readiness makes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from contracts.event import Event
from contracts.health import HealthReport
from contracts.messages import PluginHealthChanged
from contracts.plugin import PluginStatus

from .registry import Generation, PluginRecord, PluginRegistry
from .scope import Scope
from .settings import HealthSettings

Announce = Callable[[Event], None]


class Trouble(NamedTuple):
    """A plugin that runs and is not well."""

    record: PluginRecord
    report: HealthReport

    @property
    def is_grave(self) -> bool:
        """Whether the kernel cannot take work because of it."""
        return self.record.metadata.criticality == "required" and self.report.counts_as == "unhealthy"

    def __str__(self) -> str:
        message = f": {self.report.message}" if self.report.message else ""
        return f"{self.record.plugin_id}: {self.report.counts_as}{message}"


class HealthMonitor:
    """Asks every started plugin that has something to tell. A change is announced and logged, once."""

    def __init__(
        self,
        registry: PluginRegistry,
        settings: HealthSettings,
        announce: Announce,
        log: logging.Logger,
        *,
        deadline: float,
        replica: str,
    ) -> None:
        """`deadline`: seconds for one answer."""
        self._registry = registry
        self._settings = settings
        self._announce = announce
        self._log = log
        self._deadline = deadline
        self._replica = replica
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def run(self, scope: Scope) -> None:
        """Ask at each interval until cancelled. Who has not answered yet is not asked again."""
        while True:
            for record in self._registry:
                asking = self._asking.get(record.plugin_id)
                if _tells(record) and (asking is None or asking.done()):
                    self._asking[record.plugin_id] = scope.spawn(
                        self.check(record), name=f"health of {record.plugin_id}"
                    )
            await asyncio.sleep(self._settings.interval)

    async def check(self, record: PluginRecord) -> None:
        """Ask one plugin now, and make of the answer what is to be made."""
        if (generation := record.current) is None:
            return
        answer = await generation.health.ask(self._deadline)
        if record.current is not generation or record.status is not PluginStatus.STARTED:
            return  # it went meanwhile: no answer of a plugin that runs
        before = generation.health.take(answer, self._settings.failures)
        if before is not None:
            self._changed(record, generation, PluginHealthChanged(
                plugin_id=record.plugin_id, version=record.metadata.version, generation=generation.number,
                replica=self._replica, status=generation.health.counts_as, before=before,
                message=answer.check.message, failures=generation.health.failures,
            ))  # fmt: skip

    def _changed(self, record: PluginRecord, generation: Generation, fact: PluginHealthChanged) -> None:
        level = logging.INFO if fact.status == "healthy" else logging.WARNING
        more = f": {fact.message}" if fact.message else ""
        self._log.log(level, "%s is %s, was %s%s", record.plugin_id, fact.status, fact.before, more)
        self._announce(fact)

    # --- what it knows ----------------------------------------------------------------------------------

    def reports(self, plugin_id: str | None = None) -> tuple[HealthReport, ...]:
        """Of the started plugins, in start order. Raises `PluginNotFound` for an id that is none."""
        records = self._registry if plugin_id is None else (self._registry.record(plugin_id),)
        return tuple(report for record in records if (report := health_of(record)) is not None)

    def troubles(self) -> tuple[Trouble, ...]:
        """Started plugins that do not count as healthy."""
        found = ((record, health_of(record)) for record in self._registry)
        return tuple(
            Trouble(record, report) for record, report in found if report and report.counts_as != "healthy"
        )


def health_of(record: PluginRecord) -> HealthReport | None:
    """The last answer of a started plugin."""
    if record.current is None or record.status is not PluginStatus.STARTED:
        return None
    return record.current.health.report()


def _tells(record: PluginRecord) -> bool:
    generation = record.current
    if generation is None or record.status is not PluginStatus.STARTED:
        return False
    return generation.declaration.has_health or generation.declaration.has_metrics
