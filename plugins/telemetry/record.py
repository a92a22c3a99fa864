"""The last spans of this process, in memory: what `plugbus trace show` tells without a backend."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import cast

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import StatusCode

from contracts.messages import TraceStep

_EVENT = "messaging.message.id"


class FlowRecord(SpanProcessor):
    """Keeps the last `most` spans that have ended; the oldest go, and are counted. Safe from any thread."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.dropped = 0
        self._lock = threading.Lock()
        self._spans: OrderedDict[int, ReadableSpan] = OrderedDict()
        self._number = 0
        self._index: dict[int | str, list[int]] = {}
        """Numbers of spans, by their trace and by the event that they are about."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """It is kept when it ends."""

    def on_end(self, span: ReadableSpan) -> None:
        with self._lock:
            self._number += 1
            self._spans[self._number] = span
            for key in _keys(span):
                self._index.setdefault(key, []).append(self._number)
            if len(self._spans) > self.most:
                self._drop()

    def shutdown(self) -> None:
        """What is kept stays until the record goes."""

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True

    def _drop(self) -> None:
        number, span = self._spans.popitem(last=False)
        self.dropped += 1
        for key in _keys(span):
            left = self._index[key]
            left.remove(number)
            if not left:
                del self._index[key]

    # --- what it tells ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def oldest_ns(self) -> int | None:
        """When the oldest that is kept ended, nanoseconds since the epoch."""
        with self._lock:
            first = next(iter(self._spans.values()), None)
        return None if first is None else first.end_time

    def steps(self, id: str) -> list[TraceStep]:
        """Everything of a trace, by its id or by that of an event in it; the earliest first."""
        with self._lock:
            traces = {_trace_of(self._spans[number]) for number in self._index.get(id, ())} or _number_in(id)
            found = [self._spans[number] for trace in traces for number in self._index.get(trace, ())]
        return sorted((_step(span) for span in found), key=lambda step: step.start)


def _number_in(id: str) -> set[int]:
    try:
        return {int(id, 16)}
    except ValueError:
        return set()


def _trace_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    return 0 if context is None else context.trace_id  # an ended span has one


def _keys(span: ReadableSpan) -> Iterator[int | str]:
    yield _trace_of(span)
    event_id = (span.attributes or {}).get(_EVENT)
    if isinstance(event_id, str):
        yield event_id


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
