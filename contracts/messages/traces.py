"""Traces of flows, as the enabled `telemetry` plugin keeps them."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from ..query import Query


class TraceStep(BaseModel):
    """One span: a publish, an attempt to handle, a request, or what a plugin has traced itself."""

    model_config = ConfigDict(frozen=True)

    trace_id: str
    span_id: str
    parent_id: str | None = None
    """None where the flow began, or its cause is not known."""
    name: str
    kind: str
    """`producer`, `consumer`, `server`, `client` or `internal`."""
    start: AwareDatetime
    duration: float
    """Seconds."""
    is_error: bool = False
    """The last failure of its flow. A failed attempt that was repeated is none."""
    outcome: str = ""
    """How a failed attempt ended: `retry`, `dead_letter`, `discard`, `pause`."""
    attempt: int = 1
    event_id: str | None = None
    event_type: str | None = None
    group: str | None = None
    errors: tuple[str, ...] = ()
    attributes: dict[str, JsonValue] = {}


class TraceRecord(BaseModel):
    """What one kernel keeps of a trace, and of all of them together."""

    model_config = ConfigDict(frozen=True)

    replica: str = ""
    steps: tuple[TraceStep, ...] = ()
    kept: int = 0
    """Spans in the record."""
    most: int = 0
    dropped: int = 0
    """Spans that were dropped because there were more: the oldest go."""
    lost: int = 0
    """Spans that could not be exported: the backend was gone, or said no."""
    oldest: AwareDatetime | None = None


class RecentSpans(Query[TraceRecord], capability="telemetry.trace.recent"):
    """The last spans that one kernel keeps, of whatever trace; the earliest first."""

    limit: int = Field(default=1_000, ge=1, le=10_000)


class ShowTrace(Query[TraceRecord], capability="telemetry.trace.show"):
    """Everything of one trace that is kept. Ask all replicas: each keeps what happened in it."""

    id: str
    """Of the trace (32 hexadecimal digits), or of an event in it."""
