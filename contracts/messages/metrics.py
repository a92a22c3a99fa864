"""Figures of one kernel and of the bus that it is on."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict

from ..metrics import Metric
from ..query import Query


class MetricsRecord(BaseModel):
    """All figures at one moment. kernel/README.md tells them one by one."""

    model_config = ConfigDict(frozen=True)

    replica: str
    since: AwareDatetime
    """When the kernel was made: what it has counted itself begins there."""
    metrics: tuple[Metric, ...]


class ShowMetrics(Query[MetricsRecord], capability="kernel.metrics.show"):
    """What one kernel has counted itself, and what holds for the bus as a whole.

    While the bus does not answer, what only its backend knows is left out.
    """
