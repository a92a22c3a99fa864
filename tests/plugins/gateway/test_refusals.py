"""What is refused at the edges of HTTP itself: addresses, methods, ranges, bodies of another form."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from contracts.web import StaticMount
from plugins.gateway.adapter import build
from plugins.gateway.problems import reference


def is_problem(answer: httpx.Response, status: int) -> bool:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return (answer.status_code, answer.json()["status"]) == (status, status)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/admin/plugins", "/admin/plugins"),
        ("/a b", "/a%20b"),
        ("/ä\x00[", "/%C3%A4%00%5B"),
        ("/%zz", "/%25zz"),
        ("/\ud800", "/%3F"),
        ("/a:b@c", "/a:b@c"),
        ("//host:x/y", "/.//host:x/y"),
        ("*", "*"),
        ("http://a:b/livez", "http%3A//a%3Ab/livez"),
        ("a:b", "a%3Ab"),
    ],
)
def test_any_path_has_a_reference(path: str, expected: str) -> None:
    """What ASGI has decoded becomes a URI reference again, never one to another host or scheme."""
    assert reference(path) == expected


async def test_the_instance_of_a_problem_leads_to_what_was_asked(http: Any) -> None:
    """As an address, also where the path has what none may have."""
    answer = await http.get("/no%20where%5B")
    assert is_problem(answer, 404)
    assert answer.json()["instance"] == "/no%20where%5B"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("OPTIONS", "/admin/capabilities/a", {"GET", "POST"}),
        ("DELETE", "/admin/dead-letters/discard", {"GET", "POST"}),
        ("TRACE", "/livez", {"GET"}),
        ("PUT", "/events", {"POST"}),
        ("POST", "/docs/static/docs.html", {"GET", "HEAD"}),
        ("GET", "/plugins/shop/items", {"POST", "PUT"}),
        ("GET", "/plugins/shop/rare", {"PROPFIND"}),
        ("PATCH", "/plugins/shop/files/a.txt", {"GET", "HEAD"}),
        ("PATCH", "/plugins/bar/items", {"GET", "HEAD", "POST", "PUT"}),
    ],
)
async def test_a_405_tells_every_method_that_there_is(
    http: Any, context: Any, tmp_path: Path, method: str, path: str, allowed: set[str]
) -> None:
    """Those of all routes of the address, not of the first that fits; for folders too."""
    router = APIRouter()

    @router.post("/items")
    async def add() -> None: ...

    @router.put("/items")
    async def replace() -> None: ...

    router.add_api_route("/rare", replace, methods=["PROPFIND"])
    context.mounts.put(build("shop", 1, router, (StaticMount(path="/files", directory=tmp_path),)))
    context.mounts.put(build("bar", 1, router, (StaticMount(path="/", directory=tmp_path),)))
    answer = await http.request(method, path)
    assert is_problem(answer, 405)
    assert set(answer.headers["allow"].split(", ")) == allowed


async def application(scope: Any, receive: Any, send: Any) -> None:
    """A plugin's own; it is not asked here."""


@pytest.mark.parametrize("served", [APIRouter(), application])
async def test_a_folder_refuses_ranges_with_problems(
    http: Any, context: Any, tmp_path: Path, served: Any
) -> None:
    """One that cannot be read, one behind the end with the length; also beside an application, which has no
    problem documents of its own. A range that there is is served."""
    (tmp_path / "a.txt").write_text("0123456789")
    context.mounts.put(build("shop", 1, served, (StaticMount(path="/files", directory=tmp_path),)))
    file = "/plugins/shop/files/a.txt"
    part = await http.get(file, headers={"Range": "bytes=2-3"})
    assert (part.status_code, part.text) == (206, "23")
    assert is_problem(await http.get(file, headers={"Range": "lines=2"}), 400)
    behind = await http.get(file, headers={"Range": "bytes=99-"})
    assert is_problem(behind, 416)
    assert behind.headers["content-range"].endswith("*/10")
    assert is_problem(await http.get("/plugins/shop/files/none"), 404)
    assert is_problem(await http.get("/docs/static/docs.html", headers={"Range": "bytes=999999-"}), 416)


@pytest.mark.parametrize(
    "body", ['{"max_age": false}', '{"min_age": "3"}', '{"generation": "1"}', '{"ids": "a"}']
)
async def test_a_body_has_the_types_that_the_document_names(http: Any, context: Any, body: str) -> None:
    """JSON says itself what a number is: nothing else is taken for one, and nothing is settled by it."""
    answer = await http.post("/admin/dead-letters/discard", content=body)
    assert is_problem(answer, 422)
    assert context.asked == []


async def test_whoever_leaves_in_the_middle_of_a_body_is_no_failure(
    start_gateway: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The request ends, and the log has no error of ours."""
    gateway = await start_gateway()
    host, port = gateway.url.removeprefix("http://").split(":")
    before = asyncio.all_tasks()
    _, writer = await asyncio.open_connection(host, int(port))
    head = "POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t-all\r\nContent-Length: 100\r\n\r\n"
    writer.write(head.encode() + b"{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await asyncio.gather(*(asyncio.all_tasks() - before), return_exceptions=True)
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{gateway.url}/livez")).status_code == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_the_document_knows_every_answer(http: Any) -> None:
    """That a command was only accepted, that /readyz may be asked without the token, and how patterns and
    reasons are spelled."""
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert "202" in paths["/admin/plugins/{plugin_id}/stop"]["post"]["responses"]
    assert {} in paths["/readyz"]["get"]["security"]
    stream = paths["/events/stream"]["get"]["parameters"][0]["schema"]["items"]
    assert "pattern" in stream
    letters = {one["name"]: one["schema"] for one in paths["/admin/dead-letters"]["get"]["parameters"]}
    assert "pattern" in letters["type"]["anyOf"][0]
    assert "attempts" in letters["reason"]["anyOf"][0]["enum"]
    for path, item in paths.items():
        for method, operation in item.items():
            assert "application/problem+json" in operation["responses"]["default"]["content"], (method, path)
