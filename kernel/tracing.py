"""Spans for what the kernel does with a plugin. Nothing is loaded or made where flows are not traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from contracts.errors import ErrorInfo
from contracts.tracing import SCHEMA, TRACING, exception_of


@contextlib.contextmanager
def step_of(plugin_id: str, step: str) -> Iterator[None]:
    """`plugin load`, `plugin start` …: an error of the step is one of the span.

    It is not the current span of the body: tasks that a plugin starts there live longer, and what they do is
    not caused by it.
    """
    if not TRACING.is_on:
        yield
        return
    from opentelemetry import trace  # loads OpenTelemetry

    tracer = trace.get_tracer("plugbus", schema_url=SCHEMA)
    span = tracer.start_span(f"plugin {step}", attributes={"plugbus.plugin.id": plugin_id})
    try:
        yield
    except BaseException as error:
        info = ErrorInfo.of(error)  # of the plugin's own error, not of what carries it out of its host
        span.add_event("exception", exception_of(info))
        span.set_attribute("error.type", info.type)
        span.set_status(trace.Status(trace.StatusCode.ERROR, str(info)))
        raise
    finally:
        span.end()
