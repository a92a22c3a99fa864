"""GET /events/stream on a real server: frames, resuming, slow clients, and the end."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from contracts.bus import TailItem
from contracts.envelope import Envelope
from contracts.event import EventData
from plugins.gateway.filters import parse_filter, wanted
from plugins.gateway.gateway import Gateway
from plugins.gateway.stream import Framing, pieces

NOW = datetime(2026, 1, 31, 8, tzinfo=UTC)


def add(gateway: Gateway, identity: str, data: str = '{"order_id":"17"}', **more: Any) -> str:
    envelope = Envelope(id=identity, source="/shop", type="orders.placed", time=NOW)
    return gateway.context.log.add(envelope, EventData(type="orders.placed", data=data), **more)  # type: ignore[attr-defined]


async def frames(response: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """The frames of a stream as dicts; comments under the key `:`."""
    frame: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            frame[name or ":"] = value.strip()
        elif frame:
            yield frame
            frame = {}


async def test_events_come_as_structured_cloudevents(start_gateway: Any, client: Any) -> None:
    """Each event is a frame with its position as id and the CloudEvent on one line; a gap comes before
    the event that follows it, without an id."""
    gateway = await start_gateway()
    async with client.stream("GET", f"{gateway.url}/events/stream") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        stream = frames(response)
        assert await anext(stream) == {":": "listening"}
        add(gateway, "1", '{"text":\n"a"}')
        frame = await anext(stream)
        assert (frame["event"], frame["id"]) == ("event", "1")
        event = json.loads(frame["data"])
        assert (event["id"], event["data"]) == ("1", {"text": "a"})
        add(gateway, "2", missed=5)
        assert await anext(stream) == {"event": "gap", "data": '{"missed": 5}'}
        assert (await anext(stream))["id"] == "2"


async def test_patterns_are_handed_on(start_gateway: Any, client: Any) -> None:
    """Patterns are repeatable and default to everything; a bad one is a 422 before the stream begins."""
    gateway = await start_gateway()
    log = gateway.context.log
    for query in ("", "?pattern=orders.*&pattern=kernel.**"):
        async with client.stream("GET", f"{gateway.url}/events/stream{query}") as response:
            assert response.status_code == 200
    assert [tail.patterns for tail in log.tails] == [("**",), ("orders.*", "kernel.**")]
    refused = await client.get(f"{gateway.url}/events/stream?pattern=*.x")
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-pattern")


@pytest.mark.parametrize(
    ("query", "headers", "first"),
    [
        ("?position=1", {}, "2"),
        ("?position=oldest", {}, "1"),
        ("", {"Last-Event-ID": "2"}, "3"),
        ("?position=oldest", {"Last-Event-ID": "2"}, "3"),
    ],
)
async def test_a_stream_is_resumed(
    start_gateway: Any, client: Any, query: str, headers: Any, first: str
) -> None:
    """A stream goes on after `position`, or after `Last-Event-ID`, which wins: a browser sends it."""
    gateway = await start_gateway()
    for identity in ("1", "2", "3"):
        add(gateway, identity)
    async with client.stream("GET", f"{gateway.url}/events/stream{query}", headers=headers) as response:
        stream = frames(response)
        await anext(stream)
        assert (await anext(stream))["id"] == first


async def test_silence_is_broken_by_comments(start_gateway: Any, client: Any) -> None:
    """A silent stream carries comments, and the event that comes after one is not lost."""
    gateway = await start_gateway(keep_alive_seconds=0.01)
    async with client.stream("GET", f"{gateway.url}/events/stream") as response:
        stream = frames(response)
        await anext(stream)
        assert await anext(stream) == {":": "keep-alive"}
        for identity in ("1", "2", "3"):
            add(gateway, identity)
        assert [frame["id"] async for frame in first(stream, 3, "id")] == ["1", "2", "3"]


async def test_open_streams_do_not_hold_up_shutdown(start_gateway: Any, client: Any, stop: Any) -> None:
    """Each open stream says good-bye with the time after which to come back, and shutdown is quick."""
    gateway = await start_gateway()
    async with (
        client.stream("GET", f"{gateway.url}/events/stream") as one,
        client.stream("GET", f"{gateway.url}/events/stream") as two,
    ):
        streams = [frames(one), frames(two)]
        for stream in streams:
            await anext(stream)
        began = time.monotonic()
        stopping = asyncio.create_task(stop(gateway))
        for stream in streams:
            assert await anext(stream) == {"event": "bye", "retry": "1000", "data": "{}"}
            assert [frame async for frame in stream] == []
        await stopping
        assert time.monotonic() - began < 2
    assert all(tail.closed for tail in gateway.context.log.tails)


async def test_a_client_that_leaves_is_let_go(start_gateway: Any, client: Any) -> None:
    """When a client goes, its tail is closed and nothing of the stream goes on."""
    gateway = await start_gateway()
    async with client.stream("GET", f"{gateway.url}/events/stream") as response:
        await anext(frames(response))
    [tail] = gateway.context.log.tails
    async with asyncio.timeout(5):
        while not tail.closed:
            await gateway.context.log.changed.wait()


async def test_a_stream_ends_with_the_bus(start_gateway: Any, client: Any) -> None:
    """When the tail is closed from the other side, the client is told to come back."""
    gateway = await start_gateway()
    async with client.stream("GET", f"{gateway.url}/events/stream") as response:
        stream = frames(response)
        await anext(stream)
        [tail] = gateway.context.log.tails
        tail.close()
        assert (await anext(stream))["event"] == "bye"


async def test_nothing_is_queued_for_a_client_that_does_not_read(
    start_gateway: Any, client: Any, stop: Any
) -> None:
    """A client that stalls holds back its own tail and nobody else's; the end of the grace cuts it."""
    gateway = await start_gateway(grace_seconds=1)
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as stalled:
        stalled.sendall(b"GET /events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t-all\r\n\r\n")
        await gateway_has_tail(gateway)
        [tail] = gateway.context.log.tails
        filler = '{"filler":"' + "x" * 20_000 + '"}'
        async with client.stream("GET", f"{gateway.url}/events/stream") as reading:
            stream = frames(reading)
            for number in range(2_000):
                add(gateway, str(number), filler)
            ids = [frame["id"] async for frame in first(stream, 2_000, "id")]
        assert len(ids) == 2_000
        assert tail.at < 1_900  # what the operating system buffers, and no more
        began = time.monotonic()
        await stop(gateway)
        assert time.monotonic() - began < 3
    assert tail.closed


async def first(
    stream: AsyncIterator[dict[str, str]], count: int, having: str
) -> AsyncIterator[dict[str, str]]:
    """The first `count` frames that have the field `having`."""
    async for frame in stream:
        if having in frame:
            yield frame
            count -= 1
        if not count:
            return


async def gateway_has_tail(gateway: Gateway) -> None:
    log = gateway.context.log  # type: ignore[attr-defined]
    async with asyncio.timeout(5):
        while not log.tails:
            await log.changed.wait()


async def test_bursts_are_sent_in_bounded_pieces(start_gateway: Any) -> None:
    """Frames that are there at once travel together, in pieces of about 64 KiB."""
    gateway = await start_gateway()
    for number in range(50):
        add(gateway, str(number), '{"filler":"' + "x" * 10_000 + '"}')
    made = list(pieces(gateway.context.log.items, Framing()))
    assert 1 < len(made) < 50
    assert all(len(piece) < 80_000 and piece.endswith("\n\n") for piece in made)
    assert "".join(made).count("event: event\n") == 50


async def test_a_filter_lets_through_what_it_names(start_gateway: Any, client: Any) -> None:
    """On the server; all filters hold; what was missed before an event that is filtered out is told."""
    gateway = await start_gateway()
    for identity, order, missed in (("1", 17, 0), ("2", 18, 3), ("3", 17, 0)):
        add(gateway, identity, json.dumps({"order": {"id": order}}), missed=missed)
    url = f"{gateway.url}/events/stream?position=oldest&filter=data.order.id%3D17&filter=source%5E%3D/sh"
    async with client.stream("GET", url) as response:
        stream = frames(response)
        await anext(stream)
        assert (await anext(stream))["id"] == "1"
        assert await anext(stream) == {"event": "gap", "data": '{"missed": 3}'}
        assert (await anext(stream))["id"] == "3"
        add(gateway, "4", '{"order":{"id":17}}')
        assert (await anext(stream))["id"] == "4"


async def test_a_filtered_stream_tells_how_far_it_has_come(start_gateway: Any, client: Any) -> None:
    """With the comments that break the silence, also while events come that are filtered out: a client that
    comes back does not begin before all of them."""
    gateway = await start_gateway(keep_alive_seconds=0.01)
    async with client.stream("GET", f"{gateway.url}/events/stream?filter=subject=nobody") as response:
        stream = frames(response)
        await anext(stream)
        for identity in ("1", "2"):
            add(gateway, identity)
        seen = await anext(stream)
        while "id" not in seen or seen["id"] != "2":
            assert seen[":"] == "keep-alive"
            seen = await anext(stream)
        assert "event" not in seen


@pytest.mark.parametrize("bad", ["", "type", "typ=x", "data=1", "data.=1", "data..x=1", "time=now", "=x"])
async def test_what_is_no_filter_is_refused(start_gateway: Any, client: Any, bad: str) -> None:
    """Before the stream begins: a misspelled one would be silence without a reason."""
    gateway = await start_gateway()
    refused = await client.get(f"{gateway.url}/events/stream", params={"filter": bad})
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-filter")
    assert refused.json()["fix"] != f"did you mean {bad}?"
    assert gateway.context.log.tails == []


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("type=orders.placed", True),
        ("type=orders", False),
        ("type^=orders.", True),
        ("type!=orders.paid", True),
        ("source=/shop", True),
        ("subject=", False),
        ("subject!=x", True),
        ("partitionkey^=", False),
        ("data.name=Ada=Bo", True),
        ("data.name^=Ada", True),
        ("data.name!=Ada=Bo", False),
        ("data.count=3", True),
        ("data.count=3.0", True),
        ("data.count^=3", False),
        ("data.count=three", False),
        ("data.big=12345678901234567890", True),
        ("data.big=12345678901234567891", False),
        ("data.done=true", True),
        ("data.done=1", False),
        ("data.none=null", False),
        ("data.none!=1", True),
        ("data.deep.er.x=1", False),
        ("data.list=1", False),
        ("data.list.0=1", False),
        ("data.deep.er=y", True),
    ],
)  # fmt: skip
def test_filters_by_table(text: str, holds: bool) -> None:
    """Text by text, numbers by value, and nothing else is equal to anything."""
    data = {
        "name": "Ada=Bo", "count": 3, "big": 12345678901234567890, "done": True, "none": None,
        "deep": {"er": "y"}, "list": [1],
    }  # fmt: skip
    envelope = Envelope(id="1", source="/shop", type="orders.placed", time=NOW)
    item = TailItem(envelope=envelope, version=1, data=json.dumps(data), position="1")
    assert wanted([parse_filter(text)], item) is holds


def test_data_that_cannot_be_read_have_no_fields() -> None:
    """A number of more digits than Python reads ends no stream."""
    envelope = Envelope(id="1", source="/shop", type="orders.placed", time=NOW)
    item = TailItem(envelope=envelope, version=1, data='{"n": ' + "1" * 5_000 + "}", position="1")
    assert [wanted([parse_filter(each)], item) for each in ("data.n=1", "data.n!=1")] == [False, True]
