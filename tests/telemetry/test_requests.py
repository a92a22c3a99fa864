"""Spans of web requests, and what becomes of the headers that come with them."""

from __future__ import annotations

import contextlib
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

import plugins.gateway.tracing
from contracts.web import EdgeContext
from kernel.request_chain import RequestPlugins
from plugins.gateway.edge import Edge
from plugins.gateway.tracing import serve_traced

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def served(spans: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serve one request with these headers; what the application saw as current."""
    tracer = spans.provider.get_tracer("plugbus")
    monkeypatch.setattr(plugins.gateway.tracing.trace, "get_tracer", lambda *args, **kwargs: tracer)

    async def serve(
        *headers: tuple[str, str], status: int = 200, route: str = "/x/{id}", method: str = "POST"
    ) -> Any:
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(trace.get_current_span().get_span_context())
            scope["route"] = type("Route", (), {"path_format": route})()
            if not status:
                raise ConnectionResetError
            await send({"type": "http.response.start", "status": status, "headers": []})

        async def send(message: Any) -> None:
            pass

        scope = {
            "type": "http",
            "method": method,
            "path": "/x/1",
            "scheme": "http",
            "server": ("127.0.0.1", 8000),
            "client": ("10.0.0.1", 5),
            "headers": [(name.encode(), value.encode()) for name, value in headers],
        }
        with contextlib.suppress(ConnectionResetError):
            await serve_traced(app, scope, None, send)
        return seen[0]

    return serve


async def test_a_request_is_a_server_span_below_who_has_sent_it(served: Any, spans: Any) -> None:
    seen = await served(("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "vendor=1"))
    [span] = spans.all
    assert (span.name, span.kind) == ("POST /x/{id}", SpanKind.SERVER)
    assert (span.parent.trace_id, span.parent.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert span.context.trace_state.to_header() == "vendor=1"
    assert seen.span_id == span.context.span_id
    assert span.attributes == {
        "http.request.method": "POST",
        "url.path": "/x/1",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": 8000,
        "client.address": "10.0.0.1",
        "http.route": "/x/{id}",
        "http.response.status_code": 200,
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(("status", "is_error"), [(404, False), (500, True), (503, True), (0, True)])
async def test_what_the_server_could_not_do_is_an_error(
    served: Any, spans: Any, status: int, is_error: bool
) -> None:
    """Not what the client did wrong; an application that breaks has no status."""
    await served(status=status)
    [span] = spans.all
    assert (span.status.status_code is StatusCode.ERROR) == is_error
    assert ("error.type" in span.attributes) == is_error


async def test_a_method_that_nobody_knows_makes_no_name_of_its_own(served: Any, spans: Any) -> None:
    """Else a stranger makes as many names as he likes."""
    await served(method="BREW")
    [span] = spans.all
    assert span.name == "HTTP /x/{id}"
    assert span.attributes["http.request.method"] == "_OTHER"
    assert span.attributes["http.request.method_original"] == "BREW"


async def test_a_request_that_is_not_sampled_makes_no_span(served: Any, spans: Any) -> None:
    """What it publishes is of the same trace, and not sampled either."""
    seen = await served(("traceparent", f"00-{TRACE}-{SPAN}-00"))
    assert spans.all == []
    assert (seen.trace_id, int(seen.trace_flags)) == (int(TRACE, 16), 0)


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "nonsense")],
        [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("traceparent", f"00-{TRACE}-{SPAN}-01")],
        [("traceparent", f"ff-{TRACE}-{SPAN}-01")],
        [("traceparent", "x" * 10_000)],
        [("tracestate", "a=" + "x" * 10_000)],
    ],
    ids=["malformed", "twice", "a version that is none", "10 kB", "state alone, 10 kB"],
)
async def test_headers_that_break_the_rules_begin_a_new_trace(
    served: Any, spans: Any, headers: list[tuple[str, str]]
) -> None:
    seen = await served(*headers)
    [span] = spans.all
    assert span.parent is None
    assert span.context.trace_id not in (0, int(TRACE, 16))
    assert seen.span_id == span.context.span_id


async def test_a_hostile_state_is_left_out(served: Any, spans: Any) -> None:
    await served(("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=" + "x" * 10_000))
    [span] = spans.all
    assert (span.context.trace_id, span.context.trace_state.to_header()) == (int(TRACE, 16), "")


@pytest.mark.parametrize(
    ("root", "path", "is_traced"),
    [
        ("", "/readyz", False),
        ("", "/livez", False),
        ("", "/metrics", False),
        ("", "/events", True),
        ("/below", "/below/readyz", False),
        ("/below", "/below/events", True),
        ("", "/plugins/shop/readyz", True),
    ],
)
async def test_who_asks_whether_we_live_is_not_traced(
    spans: Any, monkeypatch: pytest.MonkeyPatch, root: str, path: str, is_traced: bool
) -> None:
    """Wherever the gateway is mounted; what a plugin calls by such a name is its own. And no SERVER span of
    the framework stands below ours."""
    tracer, seen, below = spans.provider.get_tracer("plugbus"), list[Any](), list[Any]()
    monkeypatch.setattr(plugins.gateway.tracing.trace, "get_tracer", lambda *args, **kwargs: tracer)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        below.append(trace.get_current_span().get_span_context())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def send(message: Any) -> None:
        pass

    mounts = {"shop": SimpleNamespace(app=app)}
    edge = Edge(
        cast(
            EdgeContext,
            SimpleNamespace(mounts=mounts, requests=RequestPlugins(1.0, logging.getLogger(__name__))),
        ),
        app,
    )
    scope = {"type": "http", "method": "GET", "path": path, "root_path": root, "headers": []}
    await edge(scope, None, send)
    [served] = seen
    assert served["fastapi.telemetry"] is None
    assert len(spans.all) == int(is_traced)
    assert below[0].is_valid, "what is asked of the kernel for it begins no flow of its own"
    assert below[0].trace_flags.sampled == is_traced
