"""What goes on outward: the context of the flow in requests of plugins, CloudEvents' own in events."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fault_tools.servers import Server
from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased

import bus.tracing
from contracts.bus import EventBus, SubscriptionSpec
from contracts.event import EventData, EventResult
from contracts.message import PluginEvent
from contracts.tracing import TRACING
from contracts.web import StaticMount
from kernel.manager import PluginManager
from kernel.settings import load_settings
from kernel.testing import Harness
from plugbus import BasePlugin, Event, Query, on, provides
from plugins.telemetry.provider import Provider

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GUIDE = Path(__file__).resolve().parents[2] / "plugins/telemetry/README.md"
BEGAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
"""Where the transmission of an event began: another trace."""
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
EVENT = {"specversion": "1.0", "id": "1", "source": "/abroad", "type": "orders.placed", "data": {"n": 1}}


class Placed(Event, type="orders.placed"):
    n: int


class Billed(Event, type="bills.made"):
    n: int


class Made(Event, type="first.made"):
    of: str


class Returned(Event, type="returned.made"):
    of: str


class AskOutside(Query[dict[str, str]], capability="outside.ask"):
    pass


def injected() -> dict[str, str]:
    """What a plugin puts into the headers of a request that it makes."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


class Caller(
    BasePlugin, plugin_id="caller", version="1.0.0", security_level="trusted",
    publishes=("orders.placed", "bills.made"), requests=("outside.ask",),
):  # fmt: skip
    """Would call somebody outside from its route, from its handler, and as a provider."""

    handed: dict[str, dict[str, str]]

    async def get_api_router(self) -> Any:
        from fastapi import APIRouter

        router = APIRouter()

        @router.post("/orders")
        async def order() -> None:
            Caller.handed = {"route": injected()}
            await self.context.publish(Placed(n=1))

        @router.post("/orders/blocking")
        def order_blocking() -> None:
            Caller.handed = {"blocking route": injected()}

        return router

    async def get_static_mounts(self) -> list[StaticMount]:
        return []

    @on()
    async def bill(self, event: Placed) -> Billed:
        Caller.handed["handler"] = injected()
        Caller.handed["provider"] = await self.context.request(AskOutside())
        return Billed(n=event.n)

    @provides
    async def ask(self, query: AskOutside) -> dict[str, str]:
        return injected()


@pytest.fixture
async def manager(
    system: str, tmp_path: Path, server: Server, request: pytest.FixtureRequest
) -> AsyncIterator[PluginManager]:
    if system == "redis":
        server.command("FLUSHALL")
    plugins = {
        "gateway": {"config": {"port": 0}},
        **{name: {"enabled": False} for name in ("audit", "webhooks", "alerts", "host_monitor")},
    }
    url = server.url if system == "redis" else "memory://"
    settings = load_settings(
        overrides={"state_dir": tmp_path / "state", "plugins": plugins, "bus": {"url": url}}
    )
    Caller.handed = {}
    async with PluginManager(settings, profile="run") as running:
        await running.register_plugin(Caller)
        await running.start_plugin("caller")
        yield running


@pytest.fixture
async def client(manager: PluginManager) -> AsyncIterator[httpx.AsyncClient]:
    assert manager.state_dir is not None
    assert manager.url is not None
    token = (manager.state_dir / "token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=manager.url, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
def flow(spans: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`spans`, of the gateway as well."""
    tracer = spans.provider.get_tracer("plugbus")
    monkeypatch.setattr(trace, "get_tracer", lambda *args, **kwargs: tracer)
    return spans


PROVIDERS: dict[str, Callable[[], TracerProvider]] = {
    "the application's": lambda: TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False),
    "ours": lambda: Provider(Resource.create(), ALWAYS_OFF),
    "ours, by the id": lambda: Provider(Resource.create(), ParentBased(TraceIdRatioBased(0.0))),
}


@pytest.fixture(params=PROVIDERS)
def never(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced, by a sampler that takes nothing."""
    tracer = PROVIDERS[request.param]().get_tracer("plugbus")
    monkeypatch.setattr(trace, "get_tracer", lambda *args, **kwargs: tracer)
    monkeypatch.setattr(bus.tracing, "tracer", lambda: tracer)
    monkeypatch.setattr(TRACING, "is_on", True)


def made(flow: Any) -> set[str]:
    """Spans of requests, events and calls of the flow; the kernel itself makes others."""
    words = {"POST", "orders", "bills", "outside.ask"}
    return {span.name for span in flow.all if not words.isdisjoint(span.name.split())}


def traceparent(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def links_of(span: ReadableSpan) -> list[str]:
    return [f"00-{link.context.trace_id:032x}-{link.context.span_id:016x}-{link.context.trace_flags:02x}"
            for link in span.links]  # fmt: skip


# --- requests that plugins make ---------------------------------------------------------------------------


@pytest.mark.usefixtures("manager")
async def test_a_request_of_a_plugin_hangs_on_the_span_that_is_current_there(
    flow: Any, manager: PluginManager, client: httpx.AsyncClient
) -> None:
    """In a route, in a handler and in a provider; the state of the flow goes with it."""
    asked = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
    assert (await client.post("/plugins/caller/orders", headers=asked)).is_success
    await manager.bus.quiet()
    [route], [handler] = flow.of("POST /plugins/caller/orders"), flow.of("process orders")
    [provider] = [span for span in flow.of("outside.ask") if span.kind is trace.SpanKind.SERVER]
    current = {"route": route, "handler": handler, "provider": provider}
    assert {format(span.get_span_context().trace_id, "032x") for span in current.values()} == {TRACE}
    assert Caller.handed == {
        where: {"traceparent": traceparent(span), "tracestate": "vendor=1"} for where, span in current.items()
    }


async def test_the_example_of_the_guide_hands_a_flow_on(
    flow: Any, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[httpx.Request] = []

    async def answer(self: Any, request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(201, request=request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", answer)
    [code] = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)
    example: dict[str, Any] = {"__name__": "example"}
    exec(code, example)  # noqa: S102 - our own document
    await harness.load(example["Shipping"])
    await harness.publish(example["OrderPlaced"](order_id="A7"))
    await harness.quiet()
    [request], [process] = asked, flow.of("process orders")
    assert request.headers["traceparent"] == traceparent(process)


async def test_a_blocking_route_hands_on_as_well(flow: Any, client: httpx.AsyncClient) -> None:
    """It runs in a thread."""
    asked = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    assert (await client.post("/plugins/caller/orders/blocking", headers=asked)).is_success
    [route] = flow.of("POST /plugins/caller/orders/blocking")
    assert Caller.handed == {"blocking route": {"traceparent": traceparent(route)}}


async def test_what_is_not_sampled_is_handed_on_as_it_came(
    flow: Any, manager: PluginManager, client: httpx.AsyncClient
) -> None:
    """Everywhere the context of who asked: nobody in between has made a span."""
    asked = {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "vendor=1"}
    assert (await client.post("/plugins/caller/orders", headers=asked)).is_success
    await manager.bus.quiet()
    assert made(flow) == set()
    assert Caller.handed == dict.fromkeys(("route", "handler", "provider"), asked)


@pytest.mark.usefixtures("never")
async def test_what_our_sampler_does_not_take_is_one_flow_all_the_same(
    manager: PluginManager, client: httpx.AsyncClient
) -> None:
    """The flow begins here: others are told that it was decided."""
    assert (await client.post("/plugins/caller/orders")).is_success
    await manager.bus.quiet()
    told = [headers["traceparent"] for headers in Caller.handed.values()]
    assert len(told) == 3
    assert len({text.split("-")[1] for text in told}) == 1
    assert all(int(text[-2:], 16) & 1 == 0 for text in told)


async def test_where_nothing_is_traced_nothing_is_handed_on(
    manager: PluginManager, client: httpx.AsyncClient
) -> None:
    asked = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    assert (await client.post("/plugins/caller/orders", headers=asked)).is_success
    await manager.bus.quiet()
    assert Caller.handed == {where: {} for where in ("route", "handler", "provider")}


# --- CloudEvents' tracing extension -----------------------------------------------------------------------


async def came_back(client: httpx.AsyncClient, headers: dict[str, str], **body: Any) -> list[dict[str, Any]]:
    """Publish; the event as a stream shows it, and the one that it has caused."""
    async with client.stream("GET", "/events/stream?pattern=orders.*&pattern=bills.*") as stream:
        assert (await client.post("/events", headers=headers, **body)).is_success
        found = list[dict[str, Any]]()
        async for line in stream.aiter_lines():
            if line.startswith("data:"):
                found.append(json.loads(line.removeprefix("data:")))
            if len(found) == 2:
                return found
    raise AssertionError("the stream ended")


def sent(mode: str, extension: dict[str, str], headers: dict[str, str]) -> dict[str, Any]:
    """How a CloudEvent is posted, its extension as a member or as a header."""
    if mode == "structured":
        return {"headers": {**STRUCTURED, **headers}, "json": {**EVENT, **extension}}
    names = {"specversion": "1.0", "id": "1", "source": "/abroad", "type": "orders.placed", **extension}
    told = {f"ce-{name}": value for name, value in names.items()}
    return {"headers": {"Content-Type": "application/json", **told, **headers}, "json": {"n": 1}}


@pytest.mark.parametrize("mode", ["structured", "binary"])
async def test_the_parent_is_the_hop_and_the_extension_a_link(
    flow: Any, client: httpx.AsyncClient, mode: str
) -> None:
    """The extension tells where the transmission began: it is kept, and not for what the event causes."""
    extension = {"traceparent": BEGAN, "tracestate": "rojo=1"}
    hop = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
    placed, billed = await came_back(client, **sent(mode, extension, hop))
    assert (placed["traceparent"], placed["tracestate"]) == (BEGAN, "rojo=1")
    assert {"traceparent", "tracestate"}.isdisjoint(billed)
    [request], [publish], [process] = (
        flow.of("POST /events"),
        flow.of("publish orders"),
        flow.of("process orders"),
    )
    assert (format(request.parent.trace_id, "032x"), format(request.parent.span_id, "016x")) == (TRACE, SPAN)
    assert publish.parent.span_id == request.context.span_id
    assert process.parent.span_id == publish.context.span_id
    assert links_of(process) == [traceparent(publish), BEGAN]
    assert process.links[1].context.trace_state.to_header() == "rojo=1"
    assert process.context.trace_state.to_header() == "vendor=1"


@pytest.mark.parametrize("mode", ["structured", "binary"])
async def test_an_extension_alone_begins_no_flow_and_continues_none(
    flow: Any, client: httpx.AsyncClient, mode: str
) -> None:
    """It does not stand for the header: the flow begins with the request, and is linked to it."""
    placed, _ = await came_back(client, **sent(mode, {"traceparent": BEGAN}, {}))
    assert placed["traceparent"] == BEGAN
    [request], [publish], [process] = (
        flow.of("POST /events"),
        flow.of("publish orders"),
        flow.of("process orders"),
    )
    assert request.parent is None
    assert links_of(process) == [traceparent(publish), BEGAN]


@pytest.mark.parametrize("mode", ["structured", "binary"])
async def test_a_header_alone_makes_no_extension(flow: Any, client: httpx.AsyncClient, mode: str) -> None:
    placed, _ = await came_back(client, **sent(mode, {}, {"traceparent": f"00-{TRACE}-{SPAN}-01"}))
    assert {"traceparent", "tracestate"}.isdisjoint(placed)
    [publish], [process] = flow.of("publish orders"), flow.of("process orders")
    assert links_of(process) == [traceparent(publish)]


async def test_an_extension_that_is_none_is_kept_and_no_link(flow: Any, client: httpx.AsyncClient) -> None:
    """It is the sender's; only for us it says nothing."""
    placed, _ = await came_back(client, **sent("structured", {"traceparent": "nonsense"}, {}))
    assert placed["traceparent"] == "nonsense"
    [publish], [process] = flow.of("publish orders"), flow.of("process orders")
    assert links_of(process) == [traceparent(publish)]


async def test_the_hop_decides_whether_it_is_sampled(flow: Any, client: httpx.AsyncClient) -> None:
    hop = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
    placed, _ = await came_back(client, **sent("structured", {"traceparent": BEGAN}, hop))
    assert placed["traceparent"] == BEGAN
    assert made(flow) == set()


# --- flows that begin with an event -----------------------------------------------------------------------


@pytest.mark.usefixtures("never")
async def test_a_flow_that_begins_with_an_event_and_is_not_sampled_is_one_all_the_same(
    event_bus: EventBus,
) -> None:
    """Whoever asks, whenever: in the handler, in a task that outlives it, and in what both publish."""
    seen: dict[str, list[str]] = {}
    may_go_on, left = asyncio.Event(), list[asyncio.Task[None]]()

    def look(of: str) -> None:
        headers: dict[str, str] = {}
        propagate.inject(headers)
        seen.setdefault(of, []).append(headers["traceparent"])

    async def outlive(of: str) -> None:
        await may_go_on.wait()
        look(of)
        await event_bus.publish(EventData(type="late.made", data=json.dumps({"of": of})), source="/t")

    async def handle(event: PluginEvent) -> EventResult | None:
        of = json.loads(event.message.data.decode())["of"]
        look(of)
        if event.type != "first.made":
            return None
        left.append(asyncio.create_task(outlive(of)))
        await event_bus.publish(EventData(type="next.made", data=json.dumps({"of": of})), source="/t")
        return EventResult.ok(Returned(of=of))

    patterns = ("first.made", "next.made", "returned.made", "late.made")
    spec = SubscriptionSpec(group="a.b", plugin_id="a", handler="b", patterns=patterns)
    await event_bus.subscribe(spec, handle)
    for of in ("x", "y", "z"):
        await event_bus.publish(Made(of=of), source="/t")
    await event_bus.quiet()
    may_go_on.set()
    await asyncio.gather(*left)
    await event_bus.quiet()
    assert {of: len(told) for of, told in seen.items()} == {"x": 5, "y": 5, "z": 5}
    for told in seen.values():
        assert len({text.split("-")[1] for text in told}) == 1, "one flow"
        assert all(text[-2:] in ("00", "02") for text in told)
    assert len({told[0].split("-")[1] for told in seen.values()}) == 3, "each its own"
