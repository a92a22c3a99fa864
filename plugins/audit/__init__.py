"""The audit log; see `audit.py`."""

from .audit import Audit, AuditLogger

__all__ = ["Audit", "AuditLogger"]
