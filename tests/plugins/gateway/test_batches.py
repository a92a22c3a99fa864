"""POST /events with many events: what is taken, what is refused, and what is said of each."""

import json
from typing import Any

import httpx
import pytest
from pydantic import JsonValue

from contracts import errors
from contracts.bus import CatalogEntry
from plugins.gateway import cloudevents

BATCHED = {"Content-Type": "application/cloudevents-batch+json"}


def event(identity: int, **more: Any) -> dict[str, JsonValue]:
    return {
        "specversion": "1.0",
        "id": str(identity),
        "source": "/shop",
        "type": "orders.placed",
        "data": {"order_id": "17"},
        **more,
    }


async def post(http: httpx.AsyncClient, events: Any) -> httpx.Response:
    content = events if isinstance(events, bytes) else json.dumps(events).encode()
    return await http.post("/events", content=content, headers=BATCHED)


async def test_each_event_has_its_receipt(http: Any, context: Any) -> None:
    """In the order of the batch; what stands there twice is a duplicate; data keep their digits."""
    answer = await post(http, b"[%s, %s,\n%s]" % tuple(json.dumps(event(n)).encode() for n in (1, 2, 1)))
    assert answer.status_code == 202
    assert answer.json() == [
        {"id": "1", "position": "1", "duplicate": False},
        {"id": "2", "position": "2", "duplicate": False},
        {"id": "1", "position": "1", "duplicate": True},
    ]
    text = json.dumps(event(3)).replace('"17"', "1.10000000000000000001")
    assert (await post(http, f"[{text}]".encode())).status_code == 202
    assert "1.10000000000000000001" in context.relayed[-1][1].data


async def test_a_batch_may_be_empty(http: Any) -> None:
    assert (await post(http, [])).json() == []


async def test_one_bad_event_and_none_is_taken(http: Any, context: Any) -> None:
    """Each bad one is named by its number with what is wrong with it, whoever finds it."""
    context.types = [
        CatalogEntry(
            type="orders.paid",
            version=1,
            description="",
            json_schema={"type": "object", "required": ["sum"]},
            plugin_id="billing",
            published=True,
        )
    ]
    bad = [
        event(1, source=""),
        event(2, type="kernel.started"),
        event(3, type="orders.paid"),
        event(4, x=[1]),
    ]
    answer = await post(http, [event(0), *bad, event(5)])
    problem = answer.json()
    assert (answer.status_code, problem["type"], problem["refused"]) == (422, "/problems/invalid-batch", 4)
    assert context.relayed == []
    told = [(each["event"], each["status"]) for each in problem["errors"]]
    assert told == [(1, 400), (2, 403), (3, 422), (4, 400)]
    assert "'sum'" in str(problem["errors"][2]["errors"])
    assert "none was" in problem["detail"]


async def test_bad_events_of_one_kind_give_their_kind_to_the_whole(http: Any, context: Any) -> None:
    """Then the status is that of a single event; of very many a hundred are told."""
    answer = await post(http, [event(n, type="kernel.started") for n in range(150)])
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (403, "/problems/permission-denied")
    assert (len(problem["errors"]), problem["refused"]) == (100, 150)
    assert context.relayed == []


async def test_where_the_bus_stops_it_is_said_what_it_has_taken(http: Any, context: Any) -> None:
    """Those before it, with their receipts; sent again, they are duplicates and the rest follows."""
    context.relays, context.relay_error = 2, errors.BusFull("full", topic="orders", fix="wait")
    answer = await post(http, [event(n) for n in range(4)])
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (503, "/problems/bus-full")
    assert [receipt["id"] for receipt in problem["taken"]] == ["0", "1"]
    assert answer.headers["retry-after"] == "1"
    context.relay_error = None
    again = (await post(http, [event(n) for n in range(4)])).json()
    assert [receipt["duplicate"] for receipt in again] == [True, True, False, False]


async def test_too_many_events_are_a_413(http: Any, context: Any) -> None:
    """With the limit; nothing is taken."""
    answer = await post(http, [event(n) for n in range(1_001)])
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/batch-too-large")
    assert answer.json()["limit"] == 1_000
    assert context.relayed == []
    assert (await post(http, [event(n) for n in range(1_000)])).status_code == 202


async def test_the_events_of_a_batch_that_is_too_large_are_not_looked_at(http: Any, monkeypatch: Any) -> None:
    """A body has room for hundreds of thousands of bad ones, and judging them would hold up everybody."""
    monkeypatch.setattr(cloudevents, "_parsed", None)
    answer = await post(http, b"[" + b"0," * 300_000 + b"0]")
    assert (answer.status_code, answer.json()["detail"]) == (
        413,
        "300,001 events are in the batch; at most 1,000 may be",
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{}", 400),
        (b'"x"', 400),
        (b"[", 400),
        (b"[1]", 400),
        (b"[[]]", 400),
        (b"[null]", 400),
        (b"[" * 10_000, 400),
        (b"[\xff]", 400),
        (b"[" + b" " * 1_200_000 + b"]", 413),
    ],
)
async def test_what_is_no_batch_is_refused(http: Any, context: Any, body: bytes, status: int) -> None:
    """As a problem document, and the next one goes through."""
    answer = await post(http, body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert context.relayed == []
    assert (await post(http, [event(1)])).status_code == 202


async def test_a_batch_needs_the_right_to_publish(http: Any, context: Any) -> None:
    answer = await http.post(
        "/events", json=[event(1)], headers={**BATCHED, "Authorization": "Bearer t-read"}
    )
    assert answer.status_code == 403
    assert context.relayed == []
