"""The main job: real webhooks over a real socket, through the gateway and the plugins, and watched.

`PLUGBUS_TEST_WEBHOOKS=FOLDER` adds a folder of bodies, `<event>__<anything>.json`, to our own.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from kernel.testing import Harness, MockPlugin
from plugbus import BasePlugin, Event, PluginEvent, RetryPolicy, on

SECRET = "s3cret"
OURS = Path(__file__).resolve().parents[1] / "data" / "github"


def bodies() -> list[tuple[str, bytes]]:
    """(event name, raw body) of every file, in order."""
    folders = [OURS, *(Path(name) for name in [os.environ.get("PLUGBUS_TEST_WEBHOOKS", "")] if name)]
    files = sorted(file for folder in folders for file in folder.glob("*.json"))
    return [(file.name.partition("__")[0], file.read_bytes()) for file in files]


def key_of(body: dict[str, Any]) -> str | None:
    """The ordering key as it is promised: repository, else organization, else none."""
    repository = (body.get("repository") or {}).get("full_name")
    login: str | None = (body.get("organization") or {}).get("login")
    return repository or login


def headers(event: str, delivery: str, body: bytes, secret: str = SECRET) -> dict[str, str]:
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": f"sha256={signature}",
    }


@pytest.fixture
async def client(harness: Harness) -> AsyncIterator[httpx.AsyncClient]:
    """The gateway on a port of its own, with a client that has the token."""
    await harness.load("gateway", config={"port": 0})
    assert harness.manager.url is not None
    assert harness.manager.state_dir is not None
    token = (harness.manager.state_dir / "token").read_text().strip()
    async with httpx.AsyncClient(
        base_url=harness.manager.url, headers={"Authorization": f"Bearer {token}"}, trust_env=False
    ) as client:
        yield client


async def read_stream(
    client: httpx.AsyncClient, pattern: str, count: int, listening: asyncio.Future[None]
) -> list[Any]:
    """The first `count` events of the live stream."""
    found: list[Any] = []
    async with client.stream("GET", "/events/stream", params={"pattern": pattern}, timeout=30) as response:
        assert response.status_code == 200, await response.aread()
        listening.set_result(None)
        async for line in response.aiter_lines():
            if line.startswith("data:") and '"specversion"' in line:
                found.append(json.loads(line[5:]))
                if len(found) == count:
                    return found
    return found


async def test_every_delivery_is_one_event_handled_in_order(
    harness: Harness, client: httpx.AsyncClient
) -> None:
    """Posted twice each: one typed event with the same content, in order per key, seen by who tails it."""
    for plugin in ("audit", "alerts"):
        await harness.load(plugin)
    await harness.load("webhooks", config={"secret": SECRET})
    posted = bodies()
    listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    stream = asyncio.create_task(read_stream(client, "github.**", len(posted), listening))
    await asyncio.wait([stream, listening], return_when=asyncio.FIRST_COMPLETED)
    for number, (event, body) in enumerate(posted):
        for duplicate in (False, True):
            response = await client.post(
                "/plugins/webhooks/github", content=body, headers=headers(event, f"delivery-{number}", body)
            )
            assert response.status_code == 202, response.text
            assert response.json()["duplicate"] is duplicate
    await harness.quiet()
    seen = await asyncio.wait_for(stream, 10)

    published = [item for item in harness.published() if item.envelope.type.startswith("github.")]
    assert [item.envelope.id for item in published] == [f"delivery-{n}" for n in range(len(posted))]
    for item, (event, body) in zip(published, posted, strict=True):
        content = json.loads(body)
        assert item.envelope.type == f"github.{event}"
        assert item.envelope.partitionkey == key_of(content)
        assert json.loads(item.data)["payload"] == content
    assert [event["id"] for event in seen] == [item.envelope.id for item in published]
    assert [event["data"] for event in seen] == [json.loads(item.data) for item in published]

    handled = [one.event for one in harness.handled("alerts.watch") if one.type.startswith("github.")]
    assert sorted(event.id for event in handled) == sorted(item.envelope.id for item in published)
    by_key: dict[str | None, list[int]] = defaultdict(list)
    for event in handled:
        by_key[event.envelope.partitionkey].append(int(event.id.removeprefix("delivery-")))
    assert all(numbers == sorted(numbers) for key, numbers in by_key.items() if key is not None)
    assert await harness.dead_letters() == []


async def test_what_is_refused_disturbs_nothing(harness: Harness, client: httpx.AsyncClient) -> None:
    """Each bad delivery gets a problem document; the next good one is handled as if nothing had been."""
    await harness.load("alerts")
    await harness.load("webhooks", config={"secret": SECRET, "max_body_bytes": 200_000})
    event, good = bodies()[0]
    deep = b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    cases: list[tuple[bytes, dict[str, str], set[int]]] = [
        (good, headers(event, "x", good, secret="wrong"), {403}),
        (good[:-20], headers(event, "x", good[:-20]), {400}),
        (b'{"a": "' + b"x" * 300_000 + b'"}', headers(event, "x", b"-"), {413}),
        (good, headers("no_such_event", "x", good), {422}),
        (b'{"a": "\xff\xfe"}', headers(event, "x", b'{"a": "\xff\xfe"}'), {400}),
        (deep, headers(event, "x", deep), {400}),
        (b"[]", headers(event, "x", b"[]"), {400}),
    ]
    for body, sent, expected in cases:
        response = await client.post("/plugins/webhooks/github", content=body, headers=sent)
        assert response.status_code in expected, (response.status_code, response.text)
        assert response.headers["content-type"].startswith("application/problem+json")
        problem = response.json()
        assert problem["status"] == response.status_code
        assert problem["title"]
        assert problem["detail"]
    await client.post("/plugins/webhooks/github", content=good, headers=headers(event, "good", good))
    await harness.quiet()
    assert [i.envelope.id for i in harness.published() if i.envelope.type.startswith("github.")] == ["good"]
    assert [one.event.id for one in harness.handled("alerts.watch")] == ["good"]


async def test_the_cloudevents_sdk_gets_its_events_in(harness: Harness, client: httpx.AsyncClient) -> None:
    """The standard's own client, in binary and in structured mode."""
    mock = MockPlugin.make("mock", handles=["shop.**"])
    await harness.load(mock)
    for number, encode in enumerate((to_binary_event, to_structured_event)):
        attributes = {
            "id": f"sdk-{number}",
            "source": "https://example.com/shop",
            "type": "shop.ordered",
            "specversion": "1.0",
            "time": datetime(2026, 1, 2, tzinfo=UTC),
            "datacontenttype": "application/json",
            "partitionkey": "customer ä 7",
            "tenant": "acme",
        }
        message = encode(CloudEvent(attributes=attributes, data={"order": number, "who": "Zoë"}))
        content = message.body if isinstance(message.body, bytes) else str(message.body).encode()
        response = await client.post("/events", content=content, headers=dict(message.headers))
        assert response.status_code == 202, response.text
        assert response.json()["id"] == f"sdk-{number}"
    await harness.quiet()
    assert [event.data for event in mock.events] == [{"order": 0, "who": "Zoë"}, {"order": 1, "who": "Zoë"}]
    for event in mock.events:
        envelope = event.envelope
        assert (envelope.source, envelope.partitionkey) == ("https://example.com/shop", "customer ä 7")
        assert envelope.time == datetime(2026, 1, 2, tzinfo=UTC)
        assert envelope.extensions["tenant"] == "acme"


class Job(Event, type="jobs.asked"):
    name: str


async def test_retries_dead_letters_and_other_keys(harness: Harness, client: httpx.AsyncClient) -> None:
    """Fails twice: done at the third. Fails always: dead, seen and redriven. Other keys do not wait."""
    attempts: dict[str, int] = defaultdict(int)
    mended = asyncio.Event()

    class Worker(BasePlugin, plugin_id="worker", version="1", security_level="trusted"):
        @on(concurrency=2, retry=RetryPolicy(attempts=4))
        async def work(self, event: Job, meta: PluginEvent) -> None:
            attempts[event.name] += 1
            if event.name == "twice" and meta.attempt < 3:
                raise ConnectionError("not yet")
            if event.name == "never" and not mended.is_set():
                raise ValueError("this one is broken")

    await harness.load(Worker)
    for name in ("never", "twice", "fine"):
        await harness.publish(Job(name=name), key=name)
    await harness.quiet()
    assert dict(attempts) == {"never": 4, "twice": 3, "fine": 1}

    [dead] = (await client.get("/admin/dead-letters")).json()
    assert (dead["group"], dead["reason"], dead["attempts"]) == ("worker.work", "attempts", 4)
    assert dead["error"]["type"] == "ValueError"
    assert "this one is broken" in dead["error"]["message"]
    assert "test_flow.py" in dead["error"]["place"]
    assert (await client.get(f"/admin/dead-letters/{dead['id']}")).json()["data"] == '{"name":"never"}'
    mended.set()
    answer = await client.post("/admin/dead-letters/redrive", json={"ids": [dead["id"]]})
    assert answer.json() == {"count": 1}
    await harness.quiet()
    assert attempts["never"] == 5
    assert (await client.get("/admin/dead-letters")).json() == []
    assert (await client.post("/admin/dead-letters/redrive", json={"ids": [dead["id"]]})).status_code == 404


async def test_plugins_and_capabilities_are_commanded_over_http(
    harness: Harness, client: httpx.AsyncClient
) -> None:
    """What the command line does: list, show, stop, start, request."""
    await harness.load("alerts")
    listed = {info["plugin_id"]: info["status"] for info in (await client.get("/admin/plugins")).json()}
    assert listed["alerts"] == "started"
    assert (await client.get("/admin/plugins/alerts")).json()["metadata"]["version"] == "1.0.0"
    assert (await client.post("/admin/capabilities/alerts.active", json={})).json() == []
    assert (await client.post("/admin/plugins/alerts/stop")).json()["plugin"]["status"] == "unloaded"
    gone = await client.post("/admin/capabilities/alerts.active", json={})
    assert (gone.status_code, gone.headers["content-type"]) == (404, "application/problem+json")
    assert (await client.post("/admin/plugins/alerts/start")).json()["plugin"]["status"] == "started"
    assert (await client.get("/admin/plugins/nobody")).status_code == 404
    assert (await client.get("/readyz")).status_code == 200


async def test_an_event_that_does_not_fit_is_refused_at_the_edge(
    harness: Harness, client: httpx.AsyncClient
) -> None:
    """What a loaded plugin publishes has a schema; who sends something else is told each field."""
    await harness.load("host_monitor", config={"interval": 3600})
    event = {
        "specversion": "1.0",
        "id": "1",
        "source": "/elsewhere",
        "type": "host.sampled",
        "data": {"host": 7, "colour": "red"},
    }
    sent = {"content-type": "application/cloudevents+json"}
    response = await client.post("/events", content=json.dumps(event), headers=sent)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    problem = response.json()
    assert "host.sampled v1 does not fit its schema" in problem["detail"]
    assert any("$.host" in line for line in map(str, problem["errors"]))
    await harness.quiet()
    assert [i for i in harness.published() if i.envelope.source == "/elsewhere"] == []
    unknown = {**event, "type": "shop.unknown"}
    assert (await client.post("/events", content=json.dumps(unknown), headers=sent)).status_code == 202


async def test_a_plugin_that_does_not_stop_cleanly_says_why(
    harness: Harness, client: httpx.AsyncClient
) -> None:
    """The operator is told the step, the error and the plugin's own line; it is gone all the same."""
    await harness.load(MockPlugin.make("mock", fails_in="stop"))
    response = await client.post("/admin/plugins/mock/stop")
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert "plugin 'mock' failed to stop: RuntimeError: mock was told to fail in stop" in problem["detail"]
    assert "testing.py:" in problem["where"]
    assert harness.plugin("mock").generation == 0
