"""What a plugin tells of itself: health and figures."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

HealthStatus = Literal["healthy", "degraded", "unhealthy"]
HEALTH: tuple[HealthStatus, ...] = ("healthy", "degraded", "unhealthy")
"""From the best to the worst."""


class HealthCheck(BaseModel):
    """One answer of `health_check`."""

    model_config = ConfigDict(frozen=True)

    status: HealthStatus = "healthy"
    message: str = ""
    details: dict[str, JsonValue] = Field(default_factory=dict)


class HealthReport(HealthCheck):
    """The last answer of one plugin, and what the kernel makes of it."""

    plugin_id: str
    counts_as: HealthStatus = "healthy"
    """What readiness goes by: worse only after several answers in a row, better at once."""
    failures: int = 0
    """Answers in a row that were not healthy."""
    checked_at: AwareDatetime | None = None
    """When it was asked; None: not yet, or it has neither `health_check` nor `get_metrics`."""
    seconds: float = 0.0
    """How long the answer took."""


class Stall(BaseModel):
    """A plugin has blocked the event loop: nobody else ran meanwhile."""

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    """When it was seen."""
    seconds: float
    place: str
    """File and line of the plugin's own code."""
    stack: tuple[str, ...] = ()
    """What ran, the innermost first, down to the plugin's own code."""


class PerformanceMetrics(BaseModel):
    """Figures of one plugin since it was started. A plugin's `get_metrics` gives `extra`, and what else it
    likes; the kernel tells what it has measured itself."""

    model_config = ConfigDict(frozen=True)

    seconds: float = 0.0
    """Since it was started."""
    handled: int = 0
    """Events that were handed to a handler, each attempt once."""
    failed: int = 0
    """Attempts that failed, of these."""
    published: int = 0
    calls: int = 0
    """Calls of its capabilities."""
    handler_seconds: float = 0.0
    """Time between start and end of its handlers, waiting included."""
    loop_seconds: float = 0.0
    """Time in which its steps occupied the event loop, so that nobody else ran."""
    pending: int | None = None
    """Events without an outcome in its groups, on all replicas; None: not known, the bus does not answer."""
    tasks: int = 0
    """Tasks that it has spawned and that are still there."""
    memory_bytes: int | None = None
    """None: not known, which is so for plugins that share a process."""
    stalls: int = 0
    """How often it blocked the event loop for longer than `health.stall_after`."""
    extra: dict[str, float] = Field(default_factory=dict)
