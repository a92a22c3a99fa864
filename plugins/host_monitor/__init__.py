"""Samples of this machine; see `host_monitor.py`."""

from .host_monitor import Disk, HostMonitor, HostSampled

__all__ = ["Disk", "HostMonitor", "HostSampled"]
