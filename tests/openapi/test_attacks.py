"""What a client that keeps no rules sends by a bare socket: what of it the gateway answers, and what not."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx
import pytest
from edge import DEADLINE, Edge, kernel
from problem import judge

Answer = tuple[int, dict[str, str], bytes]
JSON = "Content-Type: application/cloudevents+json\r\n"
EVENT = '{"specversion":"1.0","id":"1","source":"/s","type":"a.b"'


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with kernel(tmp_path_factory.mktemp("kernel")) as running:
        yield running


def send(edge: Edge, request: bytes) -> Answer:
    """Status, headers and body of the one answer; the connection is closed by the server."""
    found = b""
    with socket.create_connection(edge.address, timeout=DEADLINE) as connection:
        connection.sendall(request)
        while piece := connection.recv(65_536):
            found += piece
    head, _, body = found.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, value in headers.items()}, body


def ask(
    edge: Edge, line: str | bytes, body: bytes = b"", *, more: str | bytes = "", token: str | None = None
) -> int:
    """The status of what the gateway says to it, which is a 2xx or a problem document."""
    line, more = (each.encode() if isinstance(each, str) else each for each in (line, more))
    token = f"Authorization: Bearer {edge.token}\r\n" if token is None else token
    head = b"%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b%b" % (line, token.encode("latin-1"), more)
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    status, headers, told = send(edge, head + length + b"\r\n" + body)
    judge(status, headers, told, method=line.split()[0].decode())
    return status


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("HEAD /livez", 405),
        ("OPTIONS /admin/bus", 405),
        ("TRACE /admin/bus", 405),
        ("BREW /readyz", 405),
        ("CONNECT /livez", 405),
        ("OPTIONS *", 404),
        ("GET http://other:80/livez", 404),
        ("GET //other/livez", 404),
        ("GET //[", 404),
        ("GET /%00%ff%ed%a0%80", 404),
        ("GET /%zz%", 404),
        ("GET /" + "a" * 50_000, 404),
        ("GET /livez/", 307),
        ("GET /docs/static/%00", 404),
        ("GET /docs/static/..%2f..%2fproblems.py", 404),
        ("POST /docs/static/docs.html", 405),
        ("GET /plugins/%00%20/x", 404),
        ("GET /plugins/webhooks/a%20b", 404),
        ("GET /admin/plugins/%00", 404),
        ("GET /admin/groups/%ff", 404),
        ("GET /admin/traces/%20", 404),
        ("GET /admin/dead-letters/%E2%80%A8", 404),
        ("GET /admin/dead-letters?min_age=nan", 422),
        ("GET /admin/dead-letters?limit=" + "9" * 5_000, 422),
        ("GET /admin/dead-letters?%zz=%ff", 422),
        ("GET /admin/dead-letters?limit=1&limit=0", 422),
        ("GET /admin/events/types?pattern=%00", 422),
        ("GET /events/stream?position=" + "[" * 5_000, 422),
        ("GET /events/stream?pattern=%ff", 422),
    ],
)
def test_odd_addresses_and_methods(edge: Edge, line: str, status: int) -> None:
    """Never a 5xx, and always in the same form."""
    assert ask(edge, line) == status


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/admin/events/replay", b"", 400),
        ("/admin/events/replay", b'{"group":"\\u0000"}', 404),
        ("/admin/events/replay", b'{"group":"\\ud800"}', 400),
        ("/admin/events/replay", b'{"group":NaN}', 400),
        ("/admin/events/replay", b'{"group":"alerts.watch","start":' + b"9" * 9_000 + b"}", 400),
        ("/admin/events/replay", b'{"group":"alerts.watch","start":1e300}', 422),
        ("/admin/events/replay", b"[" * 100_000, 400),
        ("/admin/events/replay", b'\xef\xbb\xbf{"group":"a"}', 400),
        ("/admin/events/replay", '{"group":"a"}'.encode("utf-16"), 400),
        ("/admin/events/replay", b'{"group":"\xff"}', 400),
        ("/admin/dead-letters/discard", b'{"type":"\\u0000"}', 422),
        ("/admin/dead-letters/import", b'{"letters":[{}]}', 422),
        ("/admin/capabilities/%00", b"{}", 404),
        ("/admin/capabilities/kernel.ready?timeout=nan", b"{}", 422),
        ("/admin/capabilities/kernel.plugin.show", b'{"plugin_id":[1e999]}', 422),
        ("/events", EVENT.encode() + b',"id":"2"}', 400),
        ("/events", EVENT.encode() + b',"data":{"a":' + b"1" * 5_000 + b"}}", 400),
        ("/events", EVENT.encode() + b',"data":' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}", 400),
        ("/events", EVENT.encode() + b',"time":"0001-01-01T00:00:00+23:59"}', 400),
        ("/events", EVENT.encode() + b',"partitionkey":"\\u0000"}', 400),
        ("/plugins/webhooks/github", b"[" * 100_000, 403),
    ],
)
def test_odd_bodies(edge: Edge, path: str, body: bytes, status: int) -> None:
    """Never a 5xx, and always in the same form."""
    assert ask(edge, f"POST {path}", body, more=JSON) == status


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Content-Type: application/cloudevents+xml", 415),
        (b"Content-Type: application/cloudevents+json; charset=utf-16", 415),
        (b"Content-Type: \xff;;;=", 400),
        (b"Content-Type: text/plain\r\nContent-Type: text/html", 400),
        (b"ce-id: %C0%A0\r\nce-specversion: 1.0", 400),
        (b"ce-id: \xff\r\nce-specversion: 1.0", 400),
        (b"ce-id: 1\r\nce-id: 2\r\nce-specversion: 1.0", 400),
        (b"traceparent: \xff\r\nCookie: \xff=;;=\r\nAccept: nothing", 400),
    ],
)
def test_odd_headers(edge: Edge, header: bytes, status: int) -> None:
    """Never a 5xx, and always in the same form."""
    assert ask(edge, "POST /events", b"{}", more=header + b"\r\n") == status


def test_a_body_that_is_too_long_is_refused_before_it_comes(edge: Edge) -> None:
    """413, by what is announced."""
    assert ask(edge, "POST /admin/events/replay", more="Content-Length: 2000000\r\n") == 413


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Basic eA==", "Bearer \xff", "Bearer " + "a" * 9_000, "\xff\xff"]
)
def test_odd_tokens(edge: Edge, value: str) -> None:
    """401, which says how to ask."""
    assert ask(edge, "GET /admin/bus", token=f"Authorization: {value}\r\n" if value else "") == 401


def test_no_operation_of_ours_answers_without_the_token(edge: Edge) -> None:
    """Every one that wants it, one after the other: 401, whatever else is missing."""
    asked = 0
    with httpx.Client(base_url=edge.url, trust_env=False) as stranger:
        for path, item in stranger.get("/openapi.json").json()["paths"].items():
            for method, operation in item.items():
                if operation.get("security") == [{"token": []}]:
                    asked += 1
                    answer = stranger.request(method, path.replace("{", "").replace("}", ""))
                    judge(answer.status_code, answer.headers, answer.content)
                    assert answer.status_code == 401, (method, path)
    assert asked >= 25


CHUNKED = "POST /events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked"
LENGTH = "POST /events HTTP/1.1\r\nHost: x\r\nContent-Length:"


@pytest.mark.parametrize(
    "request_bytes",
    [
        f"{LENGTH} abc\r\n\r\n".encode(),
        f"{LENGTH} -1\r\n\r\n".encode(),
        f"{LENGTH} 1\r\nContent-Length: 2\r\n\r\nab".encode(),
        f"{LENGTH} {'9' * 30}\r\n\r\n".encode(),
        b"POST /events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        f"{CHUNKED}\r\nAuthorization: Bearer TOKEN\r\n\r\nzz\r\n".encode(),
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 66_000,
        "GET /ä HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_by_the_web_server(edge: Edge, request_bytes: bytes) -> None:
    """A 400 as plain text, before there is a request that the gateway could see; the edge goes on. The
    README says so."""
    status, headers, body = send(edge, request_bytes.replace(b"TOKEN", edge.token.encode()))
    assert (status, headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert b"Invalid HTTP request received." in body
    assert httpx.get(f"{edge.url}/livez", trust_env=False).status_code == 200


def test_a_websocket_of_no_plugin_is_refused_with_a_problem(edge: Edge) -> None:
    """As a request would be."""
    lines = ["GET /plugins/none/ HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    status, headers, body = send(edge, "\r\n".join([*lines, "", ""]).encode())
    assert (status, headers["content-type"]) == (404, "application/problem+json")
    assert json.loads(body)["type"] == "/problems/plugin-not-found"


@pytest.mark.parametrize(("path", "key", "status"), [("/events", True, 403), ("/", False, 400)])
def test_a_refused_websocket_is_answered_by_the_web_server(
    edge: Edge, path: str, key: bool, status: int
) -> None:
    """Without a problem document, as the README says."""
    lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket"]
    if key:
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    refused = send(edge, "\r\n".join([*lines, "", ""]).encode())
    assert (refused[0], refused[1]["content-type"]) == (status, "text/plain; charset=utf-8")
