"""The audit log: everything of `kernel.**`, `plugin.**`, `audit.**` and `bus.**`, one JSON line each.

A line is the event in CloudEvents' structured form. It is written before the event counts as handled,
and what cannot be written is tried again. So nothing is missing; after a crash an event may be there
twice, with the same `source` and `id`.
"""

import errno
import json
import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from contracts.messages import AuditRecorded, Severity
from plugbus import BasePlugin, Envelope, PluginEvent, RetryPolicy, on


class AuditLogger:
    """Appends records to a file that only its owner can read.

    Every method writes before it returns, and raises `OSError` where it cannot; the file is then as it
    was before. The file may be moved away between two records; the next one begins a new file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def log_event(self, event: PluginEvent) -> None:
        """Record an event that came over the bus."""
        self._write(event.envelope, event.data)

    def log_plugin_action(
        self,
        plugin_id: str,
        action: str,
        details: Mapping[str, object] | None = None,
        severity: Severity = Severity.INFO,
    ) -> None:
        """Record what a plugin did, without the bus, as an `audit.recorded`."""
        pairs = tuple((name, str(value)) for name, value in (details or {}).items())
        record = AuditRecorded(plugin_id=plugin_id, action=action, severity=severity, details=pairs)
        envelope = Envelope(
            id=uuid.uuid4().hex,
            source=f"/plugins/{plugin_id}",
            type=record.__event_type__,
            time=datetime.now(UTC),
        )
        self._write(envelope, record.model_dump(mode="json"))

    def _write(self, envelope: Envelope, data: JsonValue) -> None:
        record = {**envelope.attributes(), "data": data}
        append_line(self.file, json.dumps(record, separators=(",", ":")).encode())


def append_line(file: Path, line: bytes) -> None:
    """Append `line` whole, or raise `OSError` and leave the file as it was."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    descriptor = os.open(file, flags, 0o600)
    try:
        end = os.fstat(descriptor).st_size
        if os.write(descriptor, line + b"\n") <= len(line):
            os.ftruncate(descriptor, end)
            raise OSError(errno.ENOSPC, "only a part of the record could be written", str(file))
    finally:
        os.close(descriptor)


class Audit(BasePlugin):
    """Writes down what the kernel, the plugins and the bus decided and did."""

    log: AuditLogger

    async def initialize(self) -> None:
        self.log = AuditLogger(self.context.data_dir / "audit.jsonl")

    # A full disk is no reason to lose a record: tried for more than an hour.
    @on("kernel.**", "plugin.**", "audit.**", "bus.**", retry=RetryPolicy(attempts=70, max_delay=60))
    async def record(self, event: PluginEvent) -> None:
        self.log.log_event(event)
