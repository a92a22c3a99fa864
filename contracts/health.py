"""What a plugin tells of itself: health and figures."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class HealthCheck(BaseModel):
    """One answer of `health_check`."""

    model_config = ConfigDict(frozen=True)

    status: Literal["healthy", "degraded", "unhealthy"] = "healthy"
    message: str = ""
    details: dict[str, JsonValue] = Field(default_factory=dict)


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
