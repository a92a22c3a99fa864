"""Spans of the bus: what each says, what hangs on what, and what is left out."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from conventions import not_in_force
from expected import Same
from fault_tools.servers import Server
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from bus.redis_streams import RedisBus
from contracts.bus import (
    Call,
    CallReply,
    DeadLetterSelection,
    EventBus,
    ProviderSpec,
    RetryPolicy,
    SubscriptionOptions,
    SubscriptionSpec,
)
from contracts.envelope import Envelope
from contracts.errors import BusFull, ProviderFailed
from contracts.event import Event, EventData, EventResult, Receipt
from contracts.message import PluginEvent
from contracts.tracing import SCHEMA, TRACING, TraceContext

SOURCE = "/plugins/shop"


class Placed(Event, type="orders.placed"):
    n: int


class Billed(Event, type="bills.made"):
    n: int


def spec(*patterns: str, group: str = "shop.handle", **options: Any) -> SubscriptionSpec:
    plugin, _, name = group.partition(".")
    return SubscriptionSpec(
        group=group, plugin_id=plugin, handler=name, patterns=patterns or ("orders.**",), generation=3,
        source=f"/plugins/{plugin}", options=SubscriptionOptions(**options),
    )  # fmt: skip


def ids(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    return context.trace_id, context.span_id


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def links_of(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def place_of(receipt: Receipt) -> str:
    return receipt.position.partition("/")[2].partition(":")[0]


class Said:
    """What spans of one bus are to say."""

    def __init__(self, system: str, bus: EventBus, server: Server | None) -> None:
        self._bus: dict[str, Any] = {"messaging.system": system, "messaging.client.id": bus.replica}
        if server is not None:
            self._bus |= {"server.address": "127.0.0.1", "server.port": server.port}

    def event(
        self, id: str, place: str | Same | None, *, type: str = "orders.placed", source: str = SOURCE,
        begun: str | None = None, **more: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """`begun`: id of the event with which the conversation began."""
        where = {} if place is None else {"messaging.destination.partition.id": place}
        return {
            **self._bus, **where, "messaging.destination.name": type.partition(".")[0],
            "messaging.message.id": id, "messaging.message.conversation_id": begun or id,
            "cloudevents.event_id": id, "cloudevents.event_source": source, "cloudevents.event_type": type,
            **more,
        }  # fmt: skip

    def publish(self, *args: Any, **more: Any) -> dict[str, Any]:
        operation = {"messaging.operation.name": "publish", "messaging.operation.type": "send"}
        return {**operation, **self.event(*args, **more)}

    def process(self, *args: Any, group: str = "shop.handle", **more: Any) -> dict[str, Any]:
        operation = {
            "messaging.operation.name": "process", "messaging.operation.type": "process",
            "messaging.consumer.group.name": group,
        }  # fmt: skip
        return {**operation, **self.event(*args, **more)}


@pytest.fixture
def said(system: str, event_bus: EventBus, server: Server) -> Said:
    return Said(system, event_bus, server if system == "redis" else None)


async def test_what_is_published_and_handled_is_one_trace(
    event_bus: EventBus, spans: Any, said: Said
) -> None:
    """A PRODUCER, and a CONSUMER below it that is linked to it; names and attributes of the conventions."""

    async def handle(event: PluginEvent) -> None:
        pass

    await event_bus.subscribe(spec(), handle)
    receipt = await event_bus.publish(Placed(n=1), source=SOURCE, key="k", subject="blue")
    await event_bus.quiet()
    [publish], [process] = spans.of("publish orders"), spans.of("process orders")
    assert (publish.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert (parent_of(publish), links_of(publish)) == (None, [])
    assert (parent_of(process), links_of(process)) == (ids(publish), [ids(publish)])
    subject = {"cloudevents.event_subject": "blue"}
    assert publish.attributes == said.publish(receipt.id, place_of(receipt), **subject)
    assert process.attributes == said.process(receipt.id, place_of(receipt), **subject)
    for span in (publish, process):
        assert (span.status.status_code, span.events) == (StatusCode.UNSET, ())
        assert (span.instrumentation_scope.name, span.instrumentation_scope.schema_url) == ("plugbus", SCHEMA)
        assert not_in_force(span.attributes) == set()


async def test_what_samplers_decide_by_is_there_from_the_beginning(
    event_bus: EventBus, spans: Any, said: Said
) -> None:
    """What is known only when it is published comes then."""
    begun: list[dict[str, Any]] = []

    class Watch(SpanProcessor):
        def on_start(self, span: Span, parent_context: Context | None = None) -> None:
            begun.append(dict(span.attributes or {}))

    spans.provider.add_span_processor(Watch())
    await event_bus.publish(Placed(n=1), source=SOURCE)
    later = {
        "messaging.message.id", "messaging.message.conversation_id", "cloudevents.event_id",
        "cloudevents.event_source",
    }  # fmt: skip
    wanted = said.publish("", None)
    assert begun == [{name: value for name, value in wanted.items() if name not in later}]


async def test_a_publish_that_fails_is_an_error_that_names_its_event(
    event_bus: EventBus, spans: Any, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*args: Any, **more: Any) -> Receipt:
        raise BusFull("no room")

    inner: Any = event_bus
    where = (inner, "_take") if hasattr(inner, "_take") else (inner._core.publisher, "publish")
    monkeypatch.setattr(*where, refuse)
    with pytest.raises(BusFull):
        await event_bus.publish(Placed(n=1), source=SOURCE, id="mine")
    [publish] = spans.of("publish orders")
    error = {"error.type": "contracts.errors.BusFull"}
    assert publish.attributes == said.publish("mine", None, **error)
    assert publish.status.status_code is StatusCode.ERROR
    assert publish.status.description == "BusFull: no room"


async def test_what_was_published_before_is_said_to_be_a_duplicate(
    event_bus: EventBus, spans: Any, said: Said
) -> None:
    first = await event_bus.publish(Placed(n=1), source=SOURCE, id="mine")
    await event_bus.publish(Placed(n=1), source=SOURCE, id="mine")
    once, twice = spans.of("publish orders")
    assert once.attributes == said.publish("mine", place_of(first))
    assert twice.attributes == {**once.attributes, "plugbus.outcome": "duplicate"}
    assert twice.status.status_code is StatusCode.UNSET


SOURCE_OF = {"bills.made": "/plugins/shop"}
"""Of what a handler returns: its plugin's."""


async def test_what_a_handler_publishes_and_returns_goes_on_in_its_span(
    event_bus: EventBus, spans: Any, said: Said
) -> None:
    """Also from a task that it starts, and below a span of its own."""
    mine = spans.provider.get_tracer("of the plugin")

    async def handle(event: PluginEvent) -> EventResult:
        await event_bus.publish(EventData(type="bills.by_hand", data="{}"), source=SOURCE)
        await asyncio.create_task(
            event_bus.publish(EventData(type="bills.by_task", data="{}"), source=SOURCE)  # type: ignore[arg-type]
        )
        with mine.start_as_current_span("look up"):
            await event_bus.publish(EventData(type="bills.below", data="{}"), source=SOURCE)
        return EventResult.ok(Billed(n=1))

    await event_bus.subscribe(spec("orders.**"), handle)
    receipt = await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    [process], [own] = spans.of("process orders"), spans.of("look up")
    published = {span.attributes["cloudevents.event_type"]: span for span in spans.of("publish bills")}
    above = {"bills.by_hand": process, "bills.by_task": process, "bills.made": process, "bills.below": own}
    assert published.keys() == above.keys()
    assert (parent_of(own), links_of(own)) == (ids(process), [])
    for name, parent in above.items():
        span = published[name]
        assert (parent_of(span), links_of(span)) == (ids(parent), []), name
        assert span.attributes == said.publish(
            Same("[^ ]+"), Same(r"\d+"), type=name, begun=receipt.id, source=SOURCE_OF.get(name, SOURCE)
        )
    assert {ids(span)[0] for span in spans.all} == {ids(process)[0]}


async def test_a_task_of_a_handler_that_lives_longer_stays_in_the_flow(
    event_bus: EventBus, spans: Any, said: Said
) -> None:
    """Its span has ended: what the task publishes later hangs on it all the same."""
    is_over, tasks = asyncio.Event(), list[asyncio.Task[Receipt]]()

    async def later() -> Receipt:
        await is_over.wait()
        return await event_bus.publish(Billed(n=1), source=SOURCE)

    async def handle(event: PluginEvent) -> None:
        tasks.append(asyncio.create_task(later()))

    await event_bus.subscribe(spec(), handle)
    receipt = await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    [process] = spans.of("process orders")
    is_over.set()
    billed = await tasks[0]
    [publish] = spans.of("publish bills")
    assert (parent_of(publish), links_of(publish)) == (ids(process), [])
    assert publish.attributes == said.publish(
        billed.id, place_of(billed), type="bills.made", begun=receipt.id
    )


async def test_each_attempt_is_a_span_and_only_the_last_failure_is_an_error(
    event_bus: EventBus, spans: Any, said: Said
) -> None:
    """Siblings below the publish; a retry says which attempt it is, and each failure has its exception."""

    async def handle(event: PluginEvent) -> None:
        raise ValueError(f"no {event.attempt}")

    await event_bus.subscribe(spec(retry=RetryPolicy(attempts=3, first_delay=0.01, jitter=0)), handle)
    receipt = await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    [publish], attempts = spans.of("publish orders"), spans.of("process orders")
    more: list[dict[str, Any]] = [
        {"plugbus.outcome": "retry"},
        {"plugbus.outcome": "retry", "plugbus.attempt": 2},
        {"plugbus.outcome": "dead_letter", "plugbus.attempt": 3, "error.type": "ValueError"},
    ]
    assert [one.attributes for one in attempts] == [
        said.process(receipt.id, place_of(receipt), **each) for each in more
    ]
    assert [(parent_of(one), links_of(one)) for one in attempts] == [(ids(publish), [ids(publish)])] * 3
    assert [(one.status.status_code, one.status.description) for one in attempts] == [
        (StatusCode.UNSET, None), (StatusCode.UNSET, None), (StatusCode.ERROR, "ValueError: no 3"),
    ]  # fmt: skip
    for number, one in enumerate(attempts, 1):
        [event] = one.events
        assert event.name == "exception"
        assert event.attributes == {
            "exception.type": "ValueError",
            "exception.message": f"no {number}",
            "exception.stacktrace": Same(f"Traceback .*ValueError: no {number}\n"),
        }
    [letter] = await event_bus.dead_letters()
    assert letter.traceparent is not None
    assert int(letter.traceparent.split("-")[1], 16) == ids(publish)[0]


@pytest.mark.parametrize(
    ("result", "outcome", "is_error"),
    [
        (EventResult.discard("old"), "discard", False),
        (EventResult.dead_letter("bad"), "dead_letter", True),
        (EventResult.ok(), None, False),
    ],
)
async def test_what_a_handler_decides(
    event_bus: EventBus, spans: Any, said: Said, result: EventResult, outcome: str | None, is_error: bool
) -> None:
    """Its reason stands where an error would; nothing was raised, so there is no stack."""

    async def handle(event: PluginEvent) -> EventResult:
        return result

    await event_bus.subscribe(spec(), handle)
    receipt = await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    [process] = spans.of("process orders")
    kind = f"EventResult.{outcome}"
    more = {"plugbus.outcome": outcome} if outcome else {}
    if is_error:
        more["error.type"] = kind
    assert process.attributes == said.process(receipt.id, place_of(receipt), **more)
    assert (process.status.status_code is StatusCode.ERROR) == is_error
    told = [(event.name, dict(event.attributes)) for event in process.events]
    reason = {"exception.type": kind, "exception.message": result.reason}
    assert told == ([("exception", reason)] if outcome else [])


async def test_what_is_put_back_or_replayed_hangs_on_its_first_publish(
    event_bus: EventBus, spans: Any, said: Said
) -> None:
    """Hours later as well: it is the same flow. A replay says that it is one."""
    broken = [True]

    async def handle(event: PluginEvent) -> None:
        if broken:
            raise ValueError("not yet")

    await event_bus.subscribe(spec(retry=RetryPolicy(attempts=1)), handle)
    receipt = await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    broken.clear()
    assert await event_bus.redrive(DeadLetterSelection()) == 1
    await event_bus.quiet()
    assert await event_bus.replay("shop.handle") == 1
    await event_bus.quiet()
    [publish], attempts = spans.of("publish orders"), spans.of("process orders")
    assert [(parent_of(one), links_of(one)) for one in attempts] == [(ids(publish), [ids(publish)])] * 3
    more: list[dict[str, Any]] = [
        {"plugbus.outcome": "dead_letter", "error.type": "ValueError"}, {}, {"plugbus.replayed": True},
    ]  # fmt: skip
    assert [one.attributes for one in attempts] == [
        said.process(receipt.id, place_of(receipt), **each) for each in more
    ]
    assert [one.status.status_code is StatusCode.ERROR for one in attempts] == [True, False, False]
    assert {span.name for span in spans.all} == {"publish orders", "process orders"}


async def test_what_is_delayed_hangs_on_its_publish(event_bus: EventBus, spans: Any, said: Said) -> None:
    """Where it will lie is not known before it is due."""

    async def handle(event: PluginEvent) -> None:
        pass

    await event_bus.subscribe(spec(), handle)
    receipt = await event_bus.publish(Placed(n=1), source=SOURCE, delay=0.05)
    await event_bus.quiet()
    [publish], [process] = spans.of("publish orders"), spans.of("process orders")
    assert (parent_of(publish), links_of(publish)) == (None, [])
    assert (parent_of(process), links_of(process)) == (ids(publish), [ids(publish)])
    assert publish.attributes == said.publish(receipt.id, None)
    assert process.attributes == said.process(receipt.id, Same(r"\d+"))


async def test_a_subscription_made_inside_a_span_is_not_below_it(
    event_bus: EventBus, spans: Any, said: Said
) -> None:
    """What its handler returns is published by the loop, which lives longer than who has subscribed."""

    async def handle(event: PluginEvent) -> EventResult:
        return EventResult.ok(Billed(n=1))

    with spans.provider.get_tracer("of the plugin").start_as_current_span("start up"):
        await event_bus.subscribe(spec(), handle)
    receipt = await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    [start_up], [publish] = spans.of("start up"), spans.of("publish orders")
    [process], [billed] = spans.of("process orders"), spans.of("publish bills")
    assert (parent_of(publish), parent_of(process)) == (None, ids(publish))
    assert (parent_of(billed), links_of(billed)) == (ids(process), [])
    assert ids(start_up)[0] not in {ids(span)[0] for span in (publish, process, billed)}
    assert billed.attributes == said.publish(
        Same("[^ ]+"), Same(r"\d+"), type="bills.made", begun=receipt.id, source=SOURCE_OF["bills.made"]
    )


async def test_a_timeout_ends_its_span(event_bus: EventBus, spans: Any, said: Said) -> None:
    async def handle(event: PluginEvent) -> None:
        await asyncio.Event().wait()

    await event_bus.subscribe(spec(timeout=0.05, retry=RetryPolicy(attempts=1)), handle)
    receipt = await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    [process] = spans.of("process orders")
    error = {"plugbus.outcome": "dead_letter", "error.type": "contracts.errors.HandlerTimeout"}
    assert process.attributes == said.process(receipt.id, place_of(receipt), **error)
    assert process.status.status_code is StatusCode.ERROR


async def test_a_call_that_fails_is_an_error_on_both_sides(event_bus: EventBus, spans: Any) -> None:
    """Each says what it saw: the provider its own error, who asked that the provider has failed."""

    async def refuse(call: Call) -> CallReply:
        raise ValueError("no price")

    await event_bus.provide(ProviderSpec(capability="price.ask", plugin_id="pricer", provider="ask"), refuse)
    with pytest.raises(ProviderFailed):
        await event_bus.request("price.ask", "{}", source=SOURCE)
    server, client = sorted(spans.of("price.ask"), key=lambda span: span.kind.value)
    assert (client.kind, server.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    assert (parent_of(client), parent_of(server)) == (None, ids(client))
    call = {"rpc.system.name": "plugbus", "rpc.method": "price.ask"}
    assert client.attributes == {**call, "error.type": "contracts.errors.ProviderFailed"}
    assert server.attributes == {**call, "plugbus.plugin.id": "pricer", "error.type": "ValueError"}
    assert server.status.description == "ValueError: no price"
    assert {span.status.status_code for span in (client, server)} == {StatusCode.ERROR}


async def test_what_is_not_sampled_makes_no_span_and_stays_one_flow(event_bus: EventBus, spans: Any) -> None:
    """The decision of who began is carried on through every hop; correlation goes on as ever."""
    origin = TraceContext("a" * 32, "b" * 16, 0, "vendor=1")
    seen: list[PluginEvent] = []

    async def handle(event: PluginEvent) -> None:
        seen.append(event)
        await event_bus.publish(Billed(n=1), source=SOURCE)

    async def bill(event: PluginEvent) -> None:
        seen.append(event)

    await event_bus.subscribe(spec(), handle)
    await event_bus.subscribe(spec("bills.**", group="bills.keep"), bill)
    token = trace.set_span_in_context(trace.NonRecordingSpan(trace.SpanContext(
        int(origin.trace_id, 16), int(origin.span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(0),
        trace_state=trace.TraceState([("vendor", "1")]),
    )))  # fmt: skip
    from opentelemetry import context

    attached = context.attach(token)
    receipt = await event_bus.publish(Placed(n=1), source=SOURCE)
    context.detach(attached)
    await event_bus.quiet()
    assert spans.all == []
    assert [event.message.trace for event in seen] == [str(origin)] * 2
    assert seen[1].envelope.correlationid == receipt.id


async def test_a_foreign_event_keeps_the_context_that_it_came_with(event_bus: EventBus, spans: Any) -> None:
    """CloudEvents' extension says where the transmission began; each hop has a context of its own."""
    came = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    seen: list[PluginEvent] = []

    async def handle(event: PluginEvent) -> None:
        seen.append(event)

    await event_bus.subscribe(spec(), handle)
    from datetime import UTC, datetime

    envelope = Envelope(
        id="1",
        source="/abroad",
        type="orders.placed",
        time=datetime.now(UTC),
        traceparent=came,
        tracestate="a=1",
    )
    await event_bus.relay(envelope, EventData(type="orders.placed", data='{"n":1}'))
    await event_bus.quiet()
    [event] = seen
    assert (event.envelope.traceparent, event.envelope.tracestate) == (came, "a=1")
    [publish] = spans.of("publish orders")
    assert event.message.trace is not None
    assert event.message.trace.split("-")[2] == f"{ids(publish)[1]:016x}"


async def test_off_it_is_off(event_bus: EventBus, spans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TRACING, "is_on", False)
    seen: list[PluginEvent] = []

    async def handle(event: PluginEvent) -> None:
        seen.append(event)

    await event_bus.subscribe(spec(), handle)
    await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    assert [event.message.trace for event in seen] == [None]
    assert spans.all == []


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("redis://redis.example:7000/2", {"server.address": "redis.example", "server.port": 7000}),
        (
            "redis://ada:example-password@redis.example",
            {"server.address": "redis.example", "server.port": 6379},
        ),
        ("rediss://[::1]:7000", {"server.address": "::1", "server.port": 7000}),
        ("redis://:6379", {"server.address": "localhost", "server.port": 6379}),
        ("unix:///run/redis.sock?db=2", {"server.address": "/run/redis.sock"}),
        ("redis+sentinel://one:26379,two:26379/shop", {}),
    ],
)
def test_where_redis_listens_is_said_without_a_password(url: str, server: dict[str, Any]) -> None:
    """Not where sentinels tell it: it moves."""
    client = RedisBus(url, replica="front-1")._core.measures.client
    assert client.attributes == {"messaging.system": "redis", "messaging.client.id": "front-1", **server}


async def test_where_tracing_has_ended_no_lane_is_below_an_old_span(
    event_bus: EventBus, spans: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several lanes each forgets what it was in, however many ask first."""
    gate, began = asyncio.Event(), list[bool]()

    async def handle(event: PluginEvent) -> None:
        began.append(trace.get_current_span().get_span_context().is_valid)
        await gate.wait()

    spec = SubscriptionSpec(
        group="a.b", plugin_id="a", handler="b", patterns=("x.*",),
        options=SubscriptionOptions(concurrency=3, order="none"),
    )  # fmt: skip
    await event_bus.subscribe(spec, handle)
    for is_on in (True, False):
        monkeypatch.setattr(TRACING, "is_on", is_on)
        began.clear()
        gate.clear()
        for _ in range(3):
            await event_bus.publish(EventData(type="x.y", data="{}"), source="/t")
        async with asyncio.timeout(20):
            while len(began) < 3:  # noqa: ASYNC110 - handlers on several lanes tell
                await asyncio.sleep(0.01)
        assert began == [is_on] * 3
        gate.set()
        await event_bus.quiet()


@pytest.mark.usefixtures("spans")
async def test_attempts_are_counted_by_what_was_wrong_with_them(event_bus: EventBus) -> None:
    """Also what raised nothing: the handler has asked for another attempt, or its time was up, whether it
    then ended or went on as if nothing were."""

    async def handle(event: PluginEvent) -> EventResult | None:
        match event.type, event.attempt:
            case "x.asks", 1:
                return EventResult.retry("not yet")
            case "x.hangs", 1:
                await asyncio.Event().wait()
            case "x.swallows", 1:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
        return None

    spec = SubscriptionSpec(
        group="a.b", plugin_id="a", handler="b", patterns=("x.*",),
        options=SubscriptionOptions(timeout=0.2, retry=RetryPolicy(attempts=2, first_delay=0.05)),
    )  # fmt: skip
    await event_bus.subscribe(spec, handle)
    for type in ("x.asks", "x.hangs", "x.swallows"):
        await event_bus.publish(EventData(type=type, data="{}"), source="/t")
    await event_bus.quiet()
    [took] = [metric for metric in event_bus.metrics() if metric.name == "messaging.process.duration"]
    counted = {point.attributes.get("error.type", ""): getattr(point, "count", 0) for point in took.points}
    assert counted == {"": 3, "EventResult.retry": 1, "contracts.errors.HandlerTimeout": 2}


@pytest.mark.usefixtures("spans")
async def test_what_is_not_sampled_is_counted_as_well(event_bus: EventBus) -> None:
    """On the plain way and on any other; what was published, and what was handled."""

    async def handle(event: PluginEvent) -> None:
        pass

    spec = SubscriptionSpec(group="a.b", plugin_id="a", handler="b", patterns=("orders.*",))
    await event_bus.subscribe(spec, handle)
    origin = trace.NonRecordingSpan(trace.SpanContext(7, 9, is_remote=True))
    with trace.use_span(origin):
        for key in (None, None, "k"):
            await event_bus.publish(Placed(n=1), source="/t", key=key)
    await event_bus.quiet()
    counted = {
        metric.name: sum(getattr(point, "value", 0) for point in metric.points)
        for metric in event_bus.metrics()
        if metric.kind == "counter"
    }
    assert counted["messaging.client.sent.messages"] == 3
    assert counted["messaging.client.consumed.messages"] == 3
