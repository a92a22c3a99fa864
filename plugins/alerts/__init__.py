"""Alerts about machines and repositories; see `alerts.py`."""

from .alerts import ActiveAlerts, Alert, AlertRaised, Alerts

__all__ = ["ActiveAlerts", "Alert", "AlertRaised", "Alerts"]
