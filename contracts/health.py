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


class PerformanceMetrics(BaseModel):
    """Figures of one plugin since it was started."""

    model_config = ConfigDict(frozen=True)

    handled: int = 0
    failed: int = 0
    published: int = 0
    calls: int = 0
    handler_seconds: float = 0.0
    """Time between start and end of its handlers, waiting included."""
    extra: dict[str, float] = Field(default_factory=dict)
