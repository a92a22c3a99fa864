"""Spans of the bus: what each says, what hangs on what, and what is left out."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from contracts.bus import DeadLetterSelection, EventBus, RetryPolicy, SubscriptionOptions, SubscriptionSpec
from contracts.envelope import Envelope
from contracts.event import Event, EventData, EventResult
from contracts.message import PluginEvent
from contracts.tracing import SCHEMA, TRACING, TraceContext

SOURCE = "/plugins/shop"
KNOWN = re.compile(
    r"messaging\.(operation\.(name|type)|system|destination\.(name|partition\.id)|consumer\.group\.name"
    r"|message\.(id|conversation_id)|client\.id)"
)
"""What the conventions know of what we say."""


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


async def test_what_is_published_and_handled_is_one_trace(
    event_bus: EventBus, system: str, spans: Any
) -> None:
    """A PRODUCER, and a CONSUMER below it that is linked to it; names and attributes of the conventions."""

    async def handle(event: PluginEvent) -> None:
        pass

    await event_bus.subscribe(spec(), handle)
    receipt = await event_bus.publish(Placed(n=1), source=SOURCE, key="k", subject="blue")
    await event_bus.quiet()
    [publish], [process] = spans.of("publish orders"), spans.of("process orders")
    assert (publish.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert parent_of(publish) is None
    assert parent_of(process) == ids(publish)
    assert [(link.context.trace_id, link.context.span_id) for link in process.links] == [ids(publish)]
    common = {
        "messaging.system": system,
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": receipt.position.partition("/")[2].partition(":")[0],
        "messaging.message.id": receipt.id,
        "cloudevents.event_type": "orders.placed",
        "cloudevents.event_subject": "blue",
    }
    assert publish.attributes == {
        **common,
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
    }
    assert process.attributes == {
        **common,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "shop.handle",
    }
    for span in (publish, process):
        assert span.status.status_code is StatusCode.UNSET
        assert span.instrumentation_scope.schema_url == SCHEMA
        assert all(KNOWN.fullmatch(name) for name in span.attributes if name.startswith("messaging."))


async def test_what_a_handler_publishes_and_returns_goes_on_in_its_span(
    event_bus: EventBus, spans: Any
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
    await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    [process], [own] = spans.of("process orders"), spans.of("look up")
    published = {span.attributes["cloudevents.event_type"]: span for span in spans.of("publish bills")}
    for name in ("bills.by_hand", "bills.by_task", "bills.made"):
        assert parent_of(published[name]) == ids(process), name
    assert parent_of(own) == ids(process)
    assert parent_of(published["bills.below"]) == ids(own)
    assert {ids(span)[0] for span in spans.all} == {ids(process)[0]}
    root = process.attributes["messaging.message.id"]
    assert published["bills.made"].attributes["messaging.message.conversation_id"] == root


async def test_each_attempt_is_a_span_and_only_the_last_failure_is_an_error(
    event_bus: EventBus, spans: Any
) -> None:
    """Siblings below the publish; a retry says which attempt it is, and each failure has its exception."""

    async def handle(event: PluginEvent) -> None:
        raise ValueError(f"no {event.attempt}")

    await event_bus.subscribe(spec(retry=RetryPolicy(attempts=3, first_delay=0.01, jitter=0)), handle)
    await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    [publish], attempts = spans.of("publish orders"), spans.of("process orders")
    assert [parent_of(one) for one in attempts] == [ids(publish)] * 3
    assert [one.attributes.get("plugbus.attempt") for one in attempts] == [None, 2, 3]
    assert [one.attributes["plugbus.outcome"] for one in attempts] == ["retry", "retry", "dead_letter"]
    assert [one.status.status_code for one in attempts] == [
        StatusCode.UNSET, StatusCode.UNSET, StatusCode.ERROR,
    ]  # fmt: skip
    assert [one.attributes.get("error.type") for one in attempts] == [None, None, "ValueError"]
    for number, one in enumerate(attempts, 1):
        [event] = one.events
        assert event.name == "exception"
        assert event.attributes["exception.type"] == "ValueError"
        assert event.attributes["exception.message"] == f"no {number}"
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
    event_bus: EventBus, spans: Any, result: EventResult, outcome: str | None, is_error: bool
) -> None:
    async def handle(event: PluginEvent) -> EventResult:
        return result

    await event_bus.subscribe(spec(), handle)
    await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    [process] = spans.of("process orders")
    assert process.attributes.get("plugbus.outcome") == outcome
    assert (process.status.status_code is StatusCode.ERROR) == is_error


async def test_what_is_put_back_or_replayed_hangs_on_its_first_publish(
    event_bus: EventBus, system: str, spans: Any
) -> None:
    """Hours later as well: it is the same flow. A replay says that it is one."""
    broken = [True]

    async def handle(event: PluginEvent) -> None:
        if broken:
            raise ValueError("not yet")

    await event_bus.subscribe(spec(retry=RetryPolicy(attempts=1)), handle)
    await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    broken.clear()
    assert await event_bus.redrive(DeadLetterSelection()) == 1
    await event_bus.quiet()
    assert await event_bus.replay("shop.handle") == 1
    await event_bus.quiet()
    [publish], attempts = spans.of("publish orders"), spans.of("process orders")
    assert len(attempts) == 3
    for attempt in attempts:
        assert parent_of(attempt) == ids(publish)
        assert [link.context.span_id for link in attempt.links] == [ids(publish)[1]]
    assert [one.attributes.get("plugbus.replayed") for one in attempts] == [None, None, True]
    assert [one.status.status_code is StatusCode.ERROR for one in attempts] == [True, False, False]


async def test_what_is_delayed_hangs_on_its_publish(event_bus: EventBus, spans: Any) -> None:
    async def handle(event: PluginEvent) -> None:
        pass

    await event_bus.subscribe(spec(), handle)
    await event_bus.publish(Placed(n=1), source=SOURCE, delay=0.05)
    await event_bus.quiet()
    [publish], [process] = spans.of("publish orders"), spans.of("process orders")
    assert parent_of(process) == ids(publish)


async def test_a_subscription_made_inside_a_span_is_not_below_it(event_bus: EventBus, spans: Any) -> None:
    """What its handler returns is published by the loop, which lives longer than who has subscribed."""

    async def handle(event: PluginEvent) -> EventResult:
        return EventResult.ok(Billed(n=1))

    with spans.provider.get_tracer("of the plugin").start_as_current_span("start up"):
        await event_bus.subscribe(spec(), handle)
    await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    [process], [billed] = spans.of("process orders"), spans.of("publish bills")
    assert parent_of(billed) == ids(process)


async def test_a_timeout_ends_its_span(event_bus: EventBus, spans: Any) -> None:
    async def handle(event: PluginEvent) -> None:
        await asyncio.Event().wait()

    await event_bus.subscribe(spec(timeout=0.05, retry=RetryPolicy(attempts=1)), handle)
    await event_bus.publish(Placed(n=1), source=SOURCE)
    await event_bus.quiet()
    [process] = spans.of("process orders")
    assert process.attributes["error.type"] == "contracts.errors.HandlerTimeout"


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
