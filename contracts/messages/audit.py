"""What was decided and done, for the audit log."""

from __future__ import annotations

import enum

from .fact import Fact


class Severity(str, enum.Enum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class AuditRecorded(Fact, type="audit.recorded"):
    """A decision or an action: granted, denied, started, configured, commanded."""

    plugin_id: str
    """Who acted or asked."""
    action: str
    """What, as words joined by dots: `publish.denied`, `plugin.stop`, `permission.added`."""
    subject: str = ""
    """On what: a type, a capability, a plugin."""
    severity: Severity = Severity.INFO
    details: tuple[tuple[str, str], ...] = ()
