"""Which plugins are not started any more: those that fail again and again, and those that were put away.

Failed starts are counted over the kernel's own life: a plugin that fails each time that the kernel starts
is a crash loop as well.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from contracts.errors import PluginQuarantinedError
from contracts.messages import PluginReason
from contracts.messages.quarantine import FailedStart, QuarantineEntry

from .kept import KeptFile
from .registry import PluginRecord, make_reason
from .settings import QuarantineSettings

QUARANTINED = "quarantined"
"""Code of the reason of a plugin in quarantine."""
BY_KERNEL = "/kernel"


class _Conduct(BaseModel):
    """What is remembered of one plugin."""

    model_config = ConfigDict(frozen=True)

    checksum: str = ""
    failures: tuple[FailedStart, ...] = ()
    entry: QuarantineEntry | None = None


class Quarantine:
    """Counts failed starts, and keeps who is in quarantine (`quarantine.json` in the state folder)."""

    def __init__(self, state: Path, settings: QuarantineSettings, log: logging.Logger) -> None:
        """Raises `SettingsError` where the file is damaged."""
        self._kept = KeptFile(state / "quarantine.json", _Conduct, "what is in quarantine")
        self._settings = settings
        self._log = log

    def entries(self) -> tuple[QuarantineEntry, ...]:
        """By plugin id, those of plugins that are not there any more included."""
        return tuple(conduct.entry for _, conduct in self._kept.items() if conduct.entry is not None)

    def entry(self, plugin_id: str) -> QuarantineEntry | None:
        conduct = self._kept.get(plugin_id)
        return None if conduct is None else conduct.entry

    def failed(self, record: PluginRecord, step: str, text: str) -> QuarantineEntry | None:
        """A start has failed; the entry, if that was one too many."""
        now = datetime.now(UTC)
        checksum = record.metadata.checksum
        former = self._kept.get(record.plugin_id)
        same = former is not None and former.checksum == checksum  # other code has failed in its own right
        oldest = now - timedelta(seconds=self._settings.start_limit_interval)
        recent = [one for one in former.failures if oldest <= one.at <= now] if former and same else []
        failures = (*recent, FailedStart(at=now, step=step, text=text))
        if len(failures) >= self._settings.start_limit_burst:
            seconds = self._settings.start_limit_interval
            said = f"{len(failures)} failed starts within {seconds:g} s; the last: {text}"
            return self.add(record, said, by=BY_KERNEL, failures=failures)
        self._keep(record.plugin_id, _Conduct(checksum=checksum, failures=failures))
        return None

    def add(
        self, record: PluginRecord, reason: str, *, by: str, failures: tuple[FailedStart, ...] = ()
    ) -> QuarantineEntry:
        """Put it away until it is released. What cannot be kept holds for as long as the kernel runs."""
        checksum = record.metadata.checksum if by == BY_KERNEL else ""
        entry = QuarantineEntry(
            plugin_id=record.plugin_id,
            reason=reason,
            by=by,
            since=datetime.now(UTC),
            failures=failures,
            checksum=checksum,
        )
        self._keep(record.plugin_id, _Conduct(checksum=record.metadata.checksum, entry=entry))
        return entry

    def release(self, plugin_id: str) -> QuarantineEntry | None:
        """Let it be started again, its failed starts forgotten; None: it was not in quarantine.

        Raises `PluginStateError` where that cannot be kept; it is in quarantine still.
        """
        entry = self.entry(plugin_id)
        if entry is not None:
            self._kept.drop(plugin_id, "the release of")
        return entry

    def release_changed(self, record: PluginRecord) -> QuarantineEntry | None:
        """Release it if the kernel put it away for code that is not there any more."""
        entry = self.entry(record.plugin_id)
        if entry is None or not entry.checksum or not record.metadata.checksum:
            return None
        return self.release(record.plugin_id) if entry.checksum != record.metadata.checksum else None

    def _keep(self, plugin_id: str, conduct: _Conduct) -> None:
        self._kept.put_anyway(plugin_id, conduct, "the quarantine", self._log)


def quarantine_reason(entry: QuarantineEntry) -> PluginReason:
    """What stands on the record of a plugin in quarantine."""
    return make_reason(QUARANTINED, f"in quarantine: {entry.reason}", next_step=_fix(entry.plugin_id))


def in_quarantine(entry: QuarantineEntry) -> PluginQuarantinedError:
    return PluginQuarantinedError(
        f"plugin {entry.plugin_id!r} is in quarantine since {entry.since:%Y-%m-%d %H:%M:%S} UTC:"
        f" {entry.reason}",
        plugin_id=entry.plugin_id,
        fix=_fix(entry.plugin_id),
    )


def _fix(plugin_id: str) -> str:
    return f"mend it, then: plugbus plugin quarantine release {plugin_id}, plugbus plugin start {plugin_id}"
