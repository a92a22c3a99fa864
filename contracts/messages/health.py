"""How plugins are: what the kernel was told last."""

from __future__ import annotations

from ..health import HealthReport
from ..query import Query


class ShowHealth(Query[tuple[HealthReport, ...]], capability="kernel.plugin.health"):
    """The last answer of each started plugin, in start order; nothing is asked anew."""

    plugin_id: str | None = None
    """Of this one alone; empty where it is not started."""
