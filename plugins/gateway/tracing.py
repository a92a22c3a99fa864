"""A SERVER span for each request, by OpenTelemetry's HTTP conventions, where flows are traced.

`traceparent` and `tracestate` of the request are taken in; what breaks their rules begins a new trace. A
request that comes with a context that is not sampled makes no span, nor does what it publishes.
"""

from __future__ import annotations

import random
from collections.abc import MutableMapping
from typing import Any

from opentelemetry import context as variables
from opentelemetry import trace
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from contracts.tracing import SCHEMA, TraceContext, trace_of
from contracts.web import ASGIApp

Scope = MutableMapping[str, Any]
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""Of RFC 9110 and RFC 5789: those that the conventions know."""
QUIET = frozenset({"/livez", "/readyz", "/metrics"})
"""Whoever asks for these asks again and again: no span."""


async def serve_traced(app: ASGIApp, scope: Scope, receive: Any, send: Any) -> None:
    origin = trace_of(_values(scope, b"traceparent"), _values(scope, b"tracestate"))
    parent = variables.Context() if origin is None else _around(NonRecordingSpan(_remote(origin)))
    if origin is not None and not origin.is_sampled:
        await _within(parent, app, scope, receive, send)
        return
    method, said = _method(scope["method"])
    span = trace.get_tracer("plugbus", schema_url=SCHEMA).start_span(
        method, parent, SpanKind.SERVER,
        {**said, "url.path": scope["path"], "url.scheme": scope.get("scheme", "http"), **_client(scope)},
    )  # fmt: skip
    status = 0

    async def sending(message: MutableMapping[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    try:
        await _within(_around(span), app, scope, receive, sending)
    finally:
        _end(span, scope, method, status)


async def serve_quietly(app: ASGIApp, scope: Scope, receive: Any, send: Any) -> None:
    """In a flow that is not sampled: what is asked of the kernel for it makes no span either."""
    origin = TraceContext(f"{random.getrandbits(128) or 1:032x}", f"{random.getrandbits(64) or 1:016x}", 0)
    await _within(_around(NonRecordingSpan(_remote(origin))), app, scope, receive, send)


async def _within(context: variables.Context, app: ASGIApp, scope: Scope, receive: Any, send: Any) -> None:
    token = variables.attach(context)
    try:
        await app(scope, receive, send)
    finally:
        variables.detach(token)


def _end(span: Span, scope: Scope, method: str, status: int) -> None:
    route = getattr(scope.get("route"), "path_format", None)
    if route is not None:
        path = f"{scope.get('root_path', '')}{route}"
        span.update_name(f"{method} {path}")
        span.set_attribute("http.route", path)
    if status:
        span.set_attribute("http.response.status_code", status)
    if not status or status >= 500:
        span.set_attribute("error.type", str(status) if status else "no response")
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def _method(method: str) -> tuple[str, dict[str, str]]:
    """As names of spans and the attribute have it: whoever asks cannot make them as many as he likes."""
    if method in _METHODS:
        return method, {"http.request.method": method}
    return "HTTP", {"http.request.method": "_OTHER", "http.request.method_original": method}


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _client(scope: Scope) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    if scope.get("server"):
        host, port = scope["server"]
        found["server.address"] = host
        if port is not None:
            found["server.port"] = port
    if scope.get("client"):
        found["client.address"] = scope["client"][0]
    return found


def _around(span: Span) -> variables.Context:
    return trace.set_span_in_context(span, variables.Context())


def _remote(origin: TraceContext) -> SpanContext:
    state = TraceState.from_header([origin.state]) if origin.state else None
    return SpanContext(
        int(origin.trace_id, 16), int(origin.span_id, 16), is_remote=True,
        trace_flags=TraceFlags(origin.flags), trace_state=state,
    )  # fmt: skip
