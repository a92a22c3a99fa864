"""Putting plugins into quarantine, and letting them out: what becomes of the record, and who is told."""

from __future__ import annotations

import logging

from contracts.errors import PluginStepFailed
from contracts.messages import AuditRecorded, PluginQuarantined, PluginReleased, Severity
from contracts.messages.quarantine import QuarantineEntry
from contracts.plugin import PluginStatus

from .quarantine import BY_KERNEL, QUARANTINED, in_quarantine, quarantine_reason
from .registry import PluginRecord, PluginRegistry, make_reason
from .services import Services

S = PluginStatus

DOWN = ("stop", "shutdown")
PROCESS_ENDED = "start: the process ended while it was being started"


class Quarantining:
    """Joins the quarantine, which only keeps, with records, announcements and the audit log."""

    def __init__(self, services: Services, registry: PluginRegistry, log: logging.Logger) -> None:
        self._services = services
        self._registry = registry
        self._store = services.quarantine
        self._log = log
        self.suspects: frozenset[str] = frozenset()
        """Of whose start a process may have died: started one at a time, so that it is seen of which."""

    def enforce(self) -> None:
        """When the kernel starts, before anything is resolved: it stands on the records of those."""
        for record in self._registry:
            if (entry := self._store.release_changed(record)) is not None:
                self._log.info("plugin %s leaves the quarantine: its code has changed", record.plugin_id)
                self._tell_released(record, BY_KERNEL, "its code has changed")
            elif record.enabled and (entry := self._store.entry(record.plugin_id)) is not None:
                self._mark(record, entry)
                self._log.error("plugin %s is not started: %s", record.plugin_id, entry.reason)
        self._judge_ended_process()

    def _judge_ended_process(self) -> None:
        """The process before this one ended in the middle of starts: a failed start, where it was only one.

        Of several it is not known which, also where some are off or gone now; then nothing is counted until
        they were started one at a time. What is off now, as in safe mode, is counted as well.
        """
        left = self._services.start_notes.left()
        known = [self._registry.record(id) for id in left if id in self._registry]
        records = [record for record in known if not self.holds(record)]
        self.suspects = frozenset(record.plugin_id for record in records)
        if len(left) > 1:
            names = ", ".join(sorted(left))
            self._log.warning("the process ended while %s were being started; now one at a time", names)
            return
        for record in records:
            self._log.error("the process ended while %s was being started", record.plugin_id)
            entry = self._store.failed(record, "start", PROCESS_ENDED)
            if entry is not None and record.enabled:
                self._put_away(record, entry)

    def holds(self, record: PluginRecord) -> bool:
        """Whether it may not be started."""
        return self._store.entry(record.plugin_id) is not None

    def require_free(self, record: PluginRecord) -> None:
        """Raises `PluginQuarantinedError`."""
        if (entry := self._store.entry(record.plugin_id)) is not None:
            raise in_quarantine(entry)

    def start_failed(self, record: PluginRecord, error: PluginStepFailed) -> None:
        """Count it; one too many puts the plugin away."""
        text = str(error.info) if error.info is not None else error.message
        entry = self._store.failed(record, error.step, f"{error.step}: {text}")
        if entry is not None:
            self._put_away(record, entry)

    def did_not_end(self, record: PluginRecord, error: PluginStepFailed) -> None:
        """A plugin that ran over the deadline and still runs would run beside itself if it was started."""
        is_late = error.info is not None and error.info.matches("TimeoutError")
        if error.step in DOWN and is_late and record.leaks:
            said = f"it does not end: {error.message}; left behind: {'; '.join(record.leaks)}"
            self._put_away(record, self._store.add(record, said, by=BY_KERNEL))

    def add(self, record: PluginRecord, reason: str, by: str) -> QuarantineEntry:
        """By command; the plugin is not loaded."""
        entry = self._store.add(record, reason, by=by)
        self._put_away(record, entry)
        return entry

    def release(self, plugin_id: str, by: str) -> QuarantineEntry | None:
        """None: it was not in. Raises `PluginNotFound`, `PluginStateError` if it cannot be kept."""
        if plugin_id not in self._registry:
            gone = self._store.release(plugin_id)
            if gone is None:
                self._registry.record(plugin_id)  # raises, with the nearest id
            return gone
        record = self._registry.record(plugin_id)
        entry = self._store.release(plugin_id)
        if entry is not None:
            if record.reason is not None and record.reason.code == QUARANTINED:
                step = f"plugbus plugin start {plugin_id}"
                record.transition(S.UNLOADED, make_reason("released", "out of quarantine", next_step=step))
            self._tell_released(record, by, entry.reason)
        return entry

    def _put_away(self, record: PluginRecord, entry: QuarantineEntry) -> None:
        self._mark(record, entry)
        self._log.error("plugin %s is in quarantine: %s", record.plugin_id, entry.reason)
        self._services.tell(PluginQuarantined, record, entry.reason, by=entry.by)
        self._services.audit(
            AuditRecorded(
                plugin_id=entry.by,
                action="plugin.quarantined",
                subject=record.plugin_id,
                severity=Severity.WARNING,
                details=(("reason", entry.reason),),
            )
        )

    def _mark(self, record: PluginRecord, entry: QuarantineEntry) -> None:
        if record.status is S.ERROR:
            record.transition(S.UNLOADED)
        record.transition(S.ERROR, quarantine_reason(entry))

    def _tell_released(self, record: PluginRecord, by: str, reason: str) -> None:
        self._services.tell(PluginReleased, record, reason, by=by)
        self._services.audit(
            AuditRecorded(
                plugin_id=by,
                action="plugin.released",
                subject=record.plugin_id,
                details=(("reason", reason),),
            )
        )
