"""The last spans of this process, in memory: what `plugbus trace show` tells without a backend."""

from __future__ import annotations

import threading
from collections import deque
from datetime import UTC, datetime
from typing import cast

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import StatusCode

from contracts.messages import TraceStep

_EVENT = "messaging.message.id"


class FlowRecord(SpanProcessor):
    """Keeps the last `most` spans that have ended; the oldest go, and are counted. Safe from any thread.

    There is no index: spans come a hundred thousand times a second, and are looked for now and then.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._spans: deque[ReadableSpan] = deque(maxlen=most)
        self._came = 0
        self._lock = threading.Lock()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """It is kept when it ends."""

    def on_end(self, span: ReadableSpan) -> None:
        with self._lock:
            self._spans.append(span)
            self._came += 1

    def shutdown(self) -> None:
        """What is kept stays until the record goes."""

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True

    # --- what it tells ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def dropped(self) -> int:
        return max(0, self._came - self.most)

    @property
    def oldest_ns(self) -> int | None:
        """When the oldest that is kept ended, nanoseconds since the epoch."""
        kept = self._kept()
        return kept[0].end_time if kept else None

    def steps(self, id: str) -> list[TraceStep]:
        """Everything of a trace, by its id or by that of an event in it; the earliest first."""
        kept = self._kept()
        about = {_trace_of(span) for span in kept if (span.attributes or {}).get(_EVENT) == id}
        traces = about or _number_in(id)
        found = [span for span in kept if _trace_of(span) in traces] if traces else []
        return sorted((_step(span) for span in found), key=lambda step: step.start)

    def last(self, most: int) -> list[TraceStep]:
        """The last `most` that have ended, by their start."""
        return sorted((_step(span) for span in self._kept()[-most:]), key=lambda step: step.start)

    def _kept(self) -> list[ReadableSpan]:
        return list(self._spans)  # in one step: others may come meanwhile


def _number_in(id: str) -> set[int]:
    try:
        return {int(id, 16)}
    except ValueError:
        return set()


def _trace_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    return 0 if context is None else context.trace_id  # an ended span has one


def _step(span: ReadableSpan) -> TraceStep:
    context, attributes = span.get_span_context(), dict(span.attributes or {})
    assert context is not None  # noqa: S101 - an ended span has one
    start, end = span.start_time or 0, span.end_time or 0
    return TraceStep(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id=None if span.parent is None else f"{span.parent.span_id:016x}",
        name=span.name,
        kind=span.kind.name.lower(),
        start=datetime.fromtimestamp(start / 1e9, UTC),
        duration=(end - start) / 1e9,
        is_error=span.status.status_code is StatusCode.ERROR,
        outcome=str(attributes.get("plugbus.outcome", "")),
        attempt=cast(int, attributes.get("plugbus.attempt", 1)),
        event_id=cast("str | None", attributes.get(_EVENT)),
        event_type=cast("str | None", attributes.get("cloudevents.event_type")),
        group=cast("str | None", attributes.get("messaging.consumer.group.name")),
        errors=tuple(map(_error, (event for event in span.events if event.name == "exception"))),
        attributes={
            name: value if isinstance(value, str | int | float | bool) else str(value)
            for name, value in attributes.items()
        },
    )


def _error(event: Event) -> str:
    told = event.attributes or {}
    return f"{told.get('exception.type')}: {told.get('exception.message')}"
