"""POST /events: what the gateway does around the parser, and the SDK of CloudEvents as a client."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from contracts import errors

EVENT = {
    "specversion": "1.0",
    "id": "1",
    "source": "/shop",
    "type": "orders.placed",
    "data": {"order_id": "17"},
}
STRUCTURED = {"Content-Type": "application/cloudevents+json"}


async def post(http: httpx.AsyncClient, event: Any, **headers: str) -> httpx.Response:
    return await http.post("/events", content=json.dumps(event), headers={**STRUCTURED, **headers})


async def test_an_event_is_relayed_and_answered_with_its_receipt(http: Any, context: Any) -> None:
    """202 with id and position; the same (source, id) again is a duplicate at the first position."""
    first, again = await post(http, EVENT), await post(http, EVENT)
    assert first.status_code == again.status_code == 202
    assert first.json() == {"id": "1", "position": "1", "duplicate": False}
    assert again.json() == {"id": "1", "position": "1", "duplicate": True}
    [(envelope, data)] = context.relayed
    assert (envelope.id, envelope.source, data.type) == ("1", "/shop", "orders.placed")


@pytest.mark.parametrize("bind", [to_binary, to_structured])
async def test_the_sdk_gets_its_events_in(http: Any, context: Any, bind: Any) -> None:
    """The CloudEvents SDK as a client, in both modes: every attribute and the data arrive."""
    event = CloudEvent(
        attributes={
            "type": "orders.placed",
            "source": "https://example.com/shop",
            "subject": 'Zürich 100% "quoted" €',
            "partitionkey": "customer-4",
            "tenant": "acme",
            "datacontenttype": "application/json",
        },
        data={"order_id": "17", "note": "Grüße 😀"},
    )
    message = bind(event, JSONFormat())
    answer = await http.post("/events", content=message.body, headers=message.headers)
    assert answer.status_code == 202
    [(envelope, data)] = context.relayed
    assert envelope.id == event.get_id() == answer.json()["id"]
    assert envelope.subject == event.get_subject()
    assert envelope.time == event.get_time()
    assert (envelope.partitionkey, envelope.extensions) == ("customer-4", {"tenant": "acme"})
    assert json.loads(data.data) == event.get_data()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.PermissionDeniedError("reserved"), 403, "permission-denied"),
        (errors.InvalidEvent("does not fit", errors=["order_id: missing"]), 422, "invalid-event"),
        (errors.PayloadTooLarge("over 1 MiB"), 413, "payload-too-large"),
        (errors.BusFull("full", topic="orders", fix="plugbus dlq"), 503, "bus-full"),
        (errors.BusClosed("closing"), 503, "bus-closed"),
        (errors.PublishUnknown("no reply", event_id="1"), 504, "publish-unknown"),
        (RuntimeError("secret inside"), 500, "internal-error"),
    ],
)
async def test_what_the_bus_refuses_is_a_problem(
    http: Any, context: Any, error: Exception, status: int, code: str
) -> None:
    """Each error of the bus has its status and a stable type; ours tell nothing of the inside."""
    context.relay_error = error
    answer = await post(http, EVENT)
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["type"]) == (status, status, f"/problems/{code}")
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["instance"] == "/events"
    assert "secret" not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)


async def test_a_reserved_type_is_forbidden(http: Any, context: Any) -> None:
    """Nobody outside speaks as the kernel."""
    answer = await post(http, {**EVENT, "type": "kernel.started"})
    assert answer.status_code == 403
    assert context.relayed == []


async def test_an_announced_body_over_the_limit_is_not_read(http: Any, context: Any) -> None:
    """Content-Length over the limit is a 413 before the first byte is read."""
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(64):
            read += 65_536
            yield b" " * 65_536

    headers = {**STRUCTURED, "Content-Length": str(64 * 65_536)}
    answer = await http.post("/events", content=body(), headers=headers)
    assert answer.status_code == 413
    assert answer.json()["limit"] == 1_114_112
    assert read <= 65_536  # the transport fetches the first piece by itself


async def test_an_endless_body_is_read_no_further_than_the_limit(http: Any) -> None:
    """Without Content-Length the bytes are counted: 413 as soon as there are too many."""
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 65_536
            yield b" " * 65_536

    answer = await http.post("/events", content=body(), headers=STRUCTURED)
    assert answer.status_code == 413
    assert read <= 1_114_112 + 2 * 65_536


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 10_000, b'{"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}"]
)
@pytest.mark.parametrize("mode", ["structured", "binary"])
async def test_bodies_that_cannot_be_read_disturb_nothing(
    http: Any, context: Any, body: bytes, mode: str
) -> None:
    """Broken, wrongly encoded and 10,000 deep bodies are a 400 problem; the next event goes through."""
    attributes = {f"ce-{name}": value for name, value in EVENT.items() if isinstance(value, str)}
    headers = STRUCTURED if mode == "structured" else {**attributes, "Content-Type": "application/json"}
    answer = await http.post(
        "/events", content=body or (b"" if mode == "structured" else b"x"), headers=headers
    )
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert context.relayed == []
    assert (await post(http, EVENT)).status_code == 202


@pytest.mark.parametrize(
    ("token", "status"),
    [
        (None, 401),
        ("Bearer unknown", 401),
        ("Basic dDo=", 401),
        ("Bearer t-read", 403),
        ("Bearer t-publish", 202),
    ],
)
async def test_publishing_needs_its_right(app: Any, context: Any, token: str | None, status: int) -> None:
    """No or an unknown token is a 401, a token without `publish` a 403; the body is not even read."""
    read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield json.dumps(EVENT).encode()

    headers = {**STRUCTURED, **({"Authorization": token} if token else {})}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as stranger:
        answer = await stranger.post("/events", content=body(), headers=headers)
    assert answer.status_code == status
    assert read == (status == 202)
    assert ("www-authenticate" in answer.headers) == (status != 202)
    assert len(context.relayed) == (status == 202)
