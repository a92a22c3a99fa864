"""Log records tell what they belong to: the event that is handled, the plugin, the trace."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from contracts.message import HANDLING
from contracts.tracing import TRACING

Factory = Callable[..., logging.LogRecord]


def install() -> Callable[[], None]:
    """From now on each record of this process has the attributes of `told`. Returns what undoes it."""
    former = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = former(*args, **kwargs)
        record.__dict__.update(told())
        return record

    logging.setLogRecordFactory(factory)
    return lambda: logging.setLogRecordFactory(former)


def told() -> dict[str, object]:
    """`event_id`, `event_type`, `attempt`, `plugin_id`, `generation` of what is handled here; `trace_id` and
    `span_id` where flows are traced. Empty and zero outside of it, so that formats may name them always."""
    event = HANDLING.get()
    trace_id, span_id = _span()
    if event is None:
        return {
            "event_id": "", "event_type": "", "attempt": 0, "plugin_id": "", "generation": 0,
            "trace_id": trace_id, "span_id": span_id,
        }  # fmt: skip
    plugin_id, generation = event.handled_by
    return {
        "event_id": event.id, "event_type": event.type, "attempt": event.attempt,
        "plugin_id": plugin_id, "generation": generation, "trace_id": trace_id, "span_id": span_id,
    }  # fmt: skip


def _span() -> tuple[str, str]:
    if not TRACING.is_on or "opentelemetry.trace" not in sys.modules:
        return "", ""
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else ("", "")
