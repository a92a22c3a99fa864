"""What stands before the SDK's batch processor, whose queue drops without telling how many."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

log = logging.getLogger("plugbus.telemetry")
_ROOM = 2_048
"""As the SDK has it, where nothing else is said."""


def room_of(environment: Mapping[str, str]) -> int:
    """How many spans the SDK's queue holds. What is no number is its default, as the SDK itself says."""
    try:
        return int(environment.get("OTEL_BSP_MAX_QUEUE_SIZE", _ROOM))
    except ValueError:
        return _ROOM


class ExportQueue(SpanProcessor):
    """Lets in what the queue of `inner` has room for, and counts the rest: its own overflow never happens.

    That would write a record of its log for each span, which costs as much as the span.
    """

    def __init__(self, inner: SpanProcessor, room: int, taken: Callable[[], int]) -> None:
        """`taken`: how many spans the exporter was given so far; those are no longer in the queue."""
        self._inner = inner
        self._room = room
        self._taken = taken
        self._entered = 0
        self._lock = threading.Lock()
        self.dropped = 0

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._inner.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is None or not context.trace_flags.sampled:
            return  # it is recorded only, and not for export
        with self._lock:
            has_room = self._entered - self._taken() < self._room
            self._entered += has_room
            self.dropped += not has_room
            is_first = not has_room and self.dropped == 1
        if has_room:
            self._inner.on_end(span)
        elif is_first:
            log.warning(
                "there are more spans than the backend takes: they are dropped and counted (plugbus trace"
                " show); fix: sample fewer flows (OTEL_TRACES_SAMPLER), or OTEL_BSP_MAX_QUEUE_SIZE"
            )

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)
