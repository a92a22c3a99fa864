"""GitHub's webhooks: what is signed becomes one typed event, everything else a problem document."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import HTTPException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import BusFull, PayloadTooLarge, SettingsError
from contracts.event import dump_event
from plugins.gateway.adapter import build
from plugins.webhooks import EVENTS, GitHubEvent, Webhooks
from plugins.webhooks.webhooks import make_event

SECRET = "höchst geheim"
OWN = Path(__file__).parents[1] / "data" / "github"
OTHERS = os.environ.get("PLUGBUS_TEST_WEBHOOKS")
BODIES = [
    file for folder in (OWN, OTHERS) if folder is not None for file in sorted(Path(folder).glob("*__*.json"))
]


def sign(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def headers(body: bytes, name: str = "push", delivery: str = "d-1", secret: str = SECRET) -> dict[str, str]:
    return {
        "X-GitHub-Event": name,
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": sign(body, secret),
        "Content-Type": "application/json",
    }


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * depth + b"]" * depth + b"}"


async def serve(plugin: Any) -> httpx.AsyncClient:
    mount = build("webhooks", 1, await plugin.get_api_router())
    return httpx.AsyncClient(transport=httpx.ASGITransport(mount.app), base_url="http://test")


@pytest.fixture
async def webhooks(set_up: Callable[..., Any]) -> Any:
    plugin = set_up(Webhooks, secret=SECRET)
    await plugin.initialize()
    return plugin


@pytest.fixture
async def http(webhooks: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with await serve(webhooks) as client:
        yield client


def assert_problem(answer: httpx.Response, status: int, says: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert says in problem["detail"]


@pytest.mark.parametrize(
    ("name", "body"),
    [(file.name.partition("__")[0], file.read_bytes()) for file in BODIES],
    ids=[file.name for file in BODIES],
)
async def test_a_body_of_github_becomes_one_typed_event_with_the_same_content(
    webhooks: Any, http: httpx.AsyncClient, name: str, body: bytes
) -> None:
    """A signed body, posted twice with one delivery id, is published once, whole, with its key."""
    first = await http.post("/github", content=body, headers=headers(body, name))
    again = await http.post("/github", content=body, headers=headers(body, name))

    assert (first.status_code, first.json()) == (
        202,
        {"id": "d-1", "type": f"github.{name}", "duplicate": False},
    )
    assert (again.status_code, again.json()["duplicate"]) == (202, True)
    [(event, key)] = webhooks.context.published.values()
    content = json.loads(body)
    assert type(event) is EVENTS[name]
    assert event.payload == content
    assert json.loads(dump_event(event))["payload"] == content
    repository = content.get("repository", {}).get("full_name")
    assert key == (repository or content.get("organization", {}).get("login"))
    assert event.action == content.get("action")
    assert event.sender == content.get("sender", {}).get("login")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("push__unusual-characters.json", "blue-harbour/tide-tables"),
        ("organization__member_added.json", "blue-harbour"),
        ("ping__of-an-app.json", None),
    ],
)
async def test_the_key_is_the_repository_else_the_organization_else_none(
    webhooks: Any, http: httpx.AsyncClient, file: str, expected: str | None
) -> None:
    """Events of one repository share a key; what has no repository goes by its organization."""
    body = (OWN / file).read_bytes()
    await http.post("/github", content=body, headers=headers(body, file.partition("__")[0]))
    [(_, key)] = webhooks.context.published.values()
    assert key == expected


BODY = b'{"ref": "refs/heads/main"}'
REFUSED = {
    "wrong signature": (BODY, {"X-Hub-Signature-256": sign(BODY, "guessed")}, 403, "does not fit"),
    "no signature": (BODY, {"X-Hub-Signature-256": ""}, 403, "does not fit"),
    "signature without its method": (BODY, {"X-Hub-Signature-256": sign(BODY)[7:]}, 403, "does not fit"),
    "signature that is not ASCII": (BODY, {"X-Hub-Signature-256": b"sha256=\xe4"}, 403, "does not fit"),
    "another body": (BODY, {"X-Hub-Signature-256": sign(b"{}")}, 403, "does not fit"),
    "no delivery": (BODY, {"X-GitHub-Delivery": ""}, 400, "X-GitHub-Delivery"),
    "no event": (BODY, {"X-GitHub-Event": ""}, 422, "X-GitHub-Event"),
    "unknown event": (BODY, {"X-GitHub-Event": "tide"}, 422, "'tide'"),
    "event in other letters": (BODY, {"X-GitHub-Event": "Push"}, 422, "'Push'"),
    "truncated": (BODY[:-3], {}, 400, "EOF"),
    "empty": (b"", {}, 400, "EOF"),
    "form": (b"payload=%7B%7D", {}, 400, "content type application/json"),
    "not UTF-8": (b'{"a": "\xff\xfe"}', {}, 400, "unicode"),
    "not an object": (b"[1, 2]", {}, 400, "not an object"),
    "null": (b"null", {}, 400, "not an object"),
    "NaN": (b'{"a": NaN}', {}, 400, "expected value"),
    "number too large": (b'{"a": 1e999}', {}, 400, "out of range"),
    "half a surrogate": (rb'{"a": "\ud800"}', {}, 400, "escape"),
    "nested 10,000 deep": (nested(10_000), {}, 400, "recursion"),
    "one over the size": (b'{"a":"' + b"x" * (1_032_192 - 7) + b'"}', {}, 413, "larger than"),
}


@pytest.mark.parametrize(("body", "changed", "status", "says"), REFUSED.values(), ids=REFUSED)
async def test_what_is_not_from_github_is_refused_and_disturbs_nothing(
    webhooks: Any, http: httpx.AsyncClient, body: bytes, changed: dict[str, Any], status: int, says: str
) -> None:
    """Bad input gets a problem document that says what was wrong; nothing is published, the next goes in."""
    answer = await http.post("/github", content=body, headers={**headers(body), **changed})
    assert_problem(answer, status, says)
    assert webhooks.context.published == {}
    assert (await http.post("/github", content=BODY, headers=headers(BODY))).status_code == 202


async def test_missing_headers_are_refused_like_wrong_ones(http: httpx.AsyncClient) -> None:
    """A request without any of GitHub's headers is not signed."""
    assert_problem(await http.post("/github", content=BODY), 403, "X-Hub-Signature-256")


@pytest.mark.parametrize("size", [1_032_190, 1_032_191, 1_032_192])
async def test_a_body_up_to_the_limit_is_taken(webhooks: Any, http: httpx.AsyncClient, size: int) -> None:
    """The largest body that is taken still makes an event of at most 1 MiB."""
    body = b'{"a":"' + b"x" * (size - 8) + b'"}'
    answer = await http.post("/github", content=body, headers=headers(body))
    assert answer.status_code == 202
    assert len(dump_event(webhooks.context.events[0])) <= 1 << 20


@pytest.mark.parametrize("depth", range(190, 210))
async def test_what_is_taken_can_be_read_by_every_handler(
    webhooks: Any, http: httpx.AsyncClient, depth: int
) -> None:
    """Whatever the depth at which nesting is refused: an event that was published can be read back."""
    body = nested(depth)
    answer = await http.post("/github", content=body, headers=headers(body))
    assert answer.status_code in (202, 400)
    for event in webhooks.context.events:
        assert GitHubEvent.model_validate_json(dump_event(event)).payload == json.loads(body)


async def test_a_body_of_unknown_length_is_read_no_further_than_the_limit(
    webhooks: Any, http: httpx.AsyncClient
) -> None:
    """A body that comes in pieces without its length is refused as soon as it is too large."""
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 100_000

    messages = pieces()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(messages), "more_body": True}

    assert (await call(webhooks, receive))["status"] == 413
    assert sent == 11
    await messages.aclose()


async def test_a_client_that_goes_away_disturbs_nothing(webhooks: Any) -> None:
    """A connection that ends within the body is no error of ours."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    assert (await call(webhooks, receive))["status"] == 400
    assert webhooks.context.published == {}


async def call(plugin: Any, receive: Callable[[], Any]) -> dict[str, Any]:
    """Call the application as a server does, with the body that `receive` gives; the first answer."""
    answers: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/github",
        "raw_path": b"/github",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "http_version": "1.1",
        "headers": [],
    }
    mount = build("webhooks", 1, await plugin.get_api_router())
    await mount.app(scope, receive, send)
    return answers[0]


@pytest.mark.parametrize(
    ("error", "status"),
    [(PayloadTooLarge("data of 1048577 bytes"), 413), (BusFull("github is at its limit"), 503)],
)
async def test_what_the_bus_refuses_is_answered_with_its_reason(
    webhooks: Any, http: httpx.AsyncClient, error: Exception, status: int
) -> None:
    """An event that the bus does not take is a problem document, not a failure of the server."""

    async def publish(*_: Any, **__: Any) -> None:
        raise error

    webhooks.context.publish = publish
    answer = await http.post("/github", content=BODY, headers=headers(BODY))
    assert_problem(answer, status, str(error))


async def test_without_a_configured_secret_one_is_made_and_kept(
    set_up: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The made secret lies in the data folder for its owner alone, outlives a restart, and is not logged."""
    first, second = set_up(Webhooks), set_up(Webhooks)
    with caplog.at_level(logging.WARNING):
        await first.initialize()
        await second.initialize()
    file = first.context.data_dir / "secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [str(file) in record.getMessage() for record in caplog.records] == [True]
    assert file.read_text() not in caplog.text
    assert len(file.read_text()) >= 32
    assert second.secret == first.secret == file.read_bytes()
    async with await serve(second) as http:
        answer = await http.post("/github", content=BODY, headers=headers(BODY, secret=file.read_text()))
    assert answer.status_code == 202


async def test_an_empty_file_is_no_secret(set_up: Callable[..., Any]) -> None:
    """What a crash left of a secret is not signed with."""
    plugin = set_up(Webhooks, secret="")
    (plugin.context.data_dir / "secret").touch()
    await plugin.initialize()
    assert len(plugin.secret) >= 32


@pytest.mark.parametrize(
    ("config", "says"),
    [({"max_body_bytes": 0}, "max_body_bytes"), ({"secrets": "x"}, "'secrets'")],
)
async def test_a_wrong_configuration_is_named(
    set_up: Callable[..., Any], config: dict[str, Any], says: str
) -> None:
    """The error names the key, the place and what to do."""
    with pytest.raises(SettingsError, match=says) as caught:
        await set_up(Webhooks, **config).initialize()
    assert caught.value.where == "[plugins.webhooks.config]"
    assert "max_body_bytes" in caught.value.fix


async def test_the_route_is_described(webhooks: Any) -> None:
    """The OpenAPI document tells the headers, the body and the answer."""
    document = build("webhooks", 1, await webhooks.get_api_router()).openapi
    assert document is not None
    operation = document["paths"]["/github"]["post"]
    assert {item["name"] for item in operation["parameters"]} == {
        "x-github-event",
        "x-github-delivery",
        "x-hub-signature-256",
    }
    assert "application/json" in operation["requestBody"]["content"]
    assert "202" in operation["responses"]


def test_every_event_has_a_class_with_its_name() -> None:
    """Each of GitHub's names is one event type of the topic `github`, described in the catalogue."""
    assert list(EVENTS) == sorted(EVENTS)
    for name, event in EVENTS.items():
        assert event.__event_type__ == f"github.{name}"
        assert event.__doc__
        assert name in event.__doc__
    assert EVENTS["pull_request_review"].__name__ == "GitHubPullRequestReview"
    assert len({event.__name__ for event in EVENTS.values()}) == len(EVENTS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('aé潮\x00\u2028\\"'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def is_standard(value: Any) -> bool:
    """Whether JSON has a way to write it: it has none for NaN and the infinities."""
    if isinstance(value, dict):
        return all(map(is_standard, value.values()))
    if isinstance(value, list):
        return all(map(is_standard, value))
    return not isinstance(value, float) or math.isfinite(value)


@given(st.dictionaries(st.sampled_from(["action", "repository", "organization", "sender"]), json_values))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_object_is_taken_whole_or_refused(body: dict[str, Any]) -> None:
    """Whatever shape a signed body has, it is passed on as it was, or refused as bad input."""
    text = json.dumps(body).encode()
    if not is_standard(body):
        with pytest.raises(HTTPException, match="no JSON object"):
            make_event("push", text)
        return
    event = make_event("push", text)
    assert event.payload == body
    assert GitHubEvent.model_validate_json(dump_event(event)).payload == body
