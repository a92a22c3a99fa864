"""Traces of flows, by OpenTelemetry; see `telemetry.py`."""

from .record import FlowRecord
from .telemetry import Telemetry

__all__ = ["FlowRecord", "Telemetry"]
