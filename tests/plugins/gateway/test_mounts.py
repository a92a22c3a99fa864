"""Routes of plugins: what the adapter builds, and how the edge finds it."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Request, WebSocket
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from contracts.errors import BusFull, PluginActivationFailed, PluginLoadError, PluginNotFound
from contracts.messages import PluginDetails
from contracts.metadata import PluginMetadata
from contracts.plugin import PluginStatus
from contracts.web import StaticMount, WebMount
from plugins.gateway.adapter import build
from plugins.gateway.problems import MEDIA_TYPE


class Item(BaseModel):
    name: str


def router() -> APIRouter:
    made = APIRouter()

    @made.get("/items/{number}")
    async def item(number: int) -> Item:
        return Item(name=f"item {number}")

    @made.get("/folder/")
    async def folder(request: Request) -> dict[str, str]:
        return {"root": request.scope["root_path"], "url": str(request.url_for("item", number=3))}

    @made.get("/fails/{how}")
    async def fails(how: str) -> None:
        raise {
            "http": HTTPException(418, "short and stout", headers={"X-Tea": "yes"}),
            "data": HTTPException(400, {"field": "name"}),
            "odd": HTTPException(499, "left"),
            "same": HTTPException(304),
            "full": BusFull("the topic is full", where="secret.py:3"),
        }.get(how, RuntimeError("secret inside"))

    @made.websocket("/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    return made


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Any ASGI application, without a framework."""
    await PlainTextResponse(f"{scope['path']} below {scope['root_path']}")(scope, receive, send)


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("secret inside")


async def cut(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise RuntimeError("half-way")


async def test_a_router_is_served_below_its_plugin(http: Any, context: Any) -> None:
    """A bare APIRouter answers at /plugins/{id}, with everything below it."""
    context.mounts.put(build("shop", 1, router(), ()))
    assert (await http.get("/plugins/shop/items/17")).json() == {"name": "item 17"}


async def test_redirects_and_urls_know_where_they_are(http: Any, context: Any) -> None:
    """The prefix is the root path: redirects, `url_for` and the root path itself contain it."""
    context.mounts.put(build("shop", 1, router(), ()))
    redirect = await http.get("/plugins/shop/folder")
    assert (redirect.status_code, redirect.headers["location"]) == (307, "http://edge/plugins/shop/folder/")
    answer = (await http.get("/plugins/shop/folder/")).json()
    assert answer == {"root": "/plugins/shop", "url": "http://edge/plugins/shop/items/3"}


async def test_the_edge_itself_may_stand_below_a_path(app: Any, context: Any) -> None:
    """Behind a server with a root path, the plugin's root path is both together."""
    context.mounts.put(build("plain", 1, hello, ()))
    transport = httpx.ASGITransport(app, root_path="/api")
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
        assert (
            await client.get("/api/plugins/plain/x")
        ).text == "/api/plugins/plain/x below /api/plugins/plain"
        assert (await client.get("/api/livez")).status_code == 200
        assert (await client.get("/api/", follow_redirects=False)).headers["location"] == "/api/docs"


@pytest.mark.parametrize("path", ["/plugins/plain", "/plugins/plain/", "/plugins/plain/a/b?c=d"])
async def test_any_asgi_application_is_served_as_it_is(http: Any, context: Any, path: str) -> None:
    """An application without a framework sees its root path and the whole path, as ASGI has it."""
    context.mounts.put(build("plain", 1, hello, ()))
    assert (await http.get(path)).text == f"{path.partition('?')[0]} below /plugins/plain"


async def test_below_a_plugin_no_token_is_asked_for(app: Any, context: Any) -> None:
    """The plugin decides who may come in."""
    context.mounts.put(build("shop", 1, router(), ()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge") as stranger:
        assert (await stranger.get("/plugins/shop/items/1")).status_code == 200


async def test_a_swap_serves_the_new_generation_at_once(http: Any, context: Any) -> None:
    """The next request goes to the new mount; one that is under way ends in the old."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await go_on.wait()
        await PlainTextResponse("old")(scope, receive, send)

    context.mounts.put(build("shop", 1, slow, ()))
    under_way = asyncio.create_task(http.get("/plugins/shop/"))
    await entered.wait()
    context.mounts.put(build("shop", 2, PlainTextResponse("new"), ()))
    assert (await http.get("/plugins/shop/")).text == "new"
    go_on.set()
    assert (await under_way).text == "old"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/plugins/shop/nowhere", 404, "not-found"),
        ("/plugins/shop/items/x", 422, "invalid-request"),
        ("/plugins/shop/fails/http", 418, "im-a-teapot"),
        ("/plugins/shop/fails/data", 400, "bad-request"),
        ("/plugins/shop/fails/odd", 499, "status-499"),
        ("/plugins/shop/fails/full", 503, "bus-full"),
        ("/plugins/shop/fails/otherwise", 500, "internal-error"),
        ("/plugins/broken/", 500, "internal-error"),
    ],
)
async def test_errors_of_plugins_are_problems(
    http: Any, context: Any, caplog: Any, path: str, status: int, code: str
) -> None:
    """Each error of a router, and one that an application lets through, is a problem document."""
    context.mounts.put(build("shop", 1, router(), ()))
    context.mounts.put(build("broken", 1, broken, ()))
    response = await http.get(path)
    problem = response.json()
    assert (response.status_code, problem["status"], problem["type"]) == (status, status, f"/problems/{code}")
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["instance"] == path
    assert "secret" not in response.text
    assert [record.levelname for record in caplog.records] == (["ERROR"] if status == 500 else [])


async def test_headers_and_data_of_an_http_error_survive(http: Any, context: Any) -> None:
    """What a plugin gives its HTTPException reaches the client."""
    context.mounts.put(build("shop", 1, router(), ()))
    assert (await http.get("/plugins/shop/fails/http")).headers["x-tea"] == "yes"
    assert (await http.get("/plugins/shop/fails/data")).json()["errors"] == {"field": "name"}
    wrong = await http.post("/plugins/shop/items/1")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")


async def test_an_answer_that_has_no_body_gets_none(http: Any, context: Any) -> None:
    """A plugin may raise 304; that is no document."""
    context.mounts.put(build("shop", 1, router(), ()))
    unchanged = await http.get("/plugins/shop/fails/same")
    assert (unchanged.status_code, unchanged.content) == (304, b"")


async def test_half_an_answer_is_not_passed_off_as_whole(http: Any, context: Any) -> None:
    """An application that fails after its first bytes has its connection cut."""
    context.mounts.put(build("cut", 1, cut, ()))
    with pytest.raises(RuntimeError, match="half-way"):
        await http.get("/plugins/cut/")


@pytest.mark.parametrize("path", ["/nowhere", "/plugins", "/admin", "/docs/static/none.js"])
async def test_unknown_addresses_are_problems(http: Any, path: str) -> None:
    """404 and 405 of our own routes are problem documents too."""
    response = await http.get(path)
    assert (response.status_code, response.json()["type"]) == (404, "/problems/not-found")
    wrong = await http.delete("/events")
    assert (wrong.status_code, wrong.json()["type"]) == (405, "/problems/method-not-allowed")


async def test_an_unknown_plugin_is_a_404(http: Any, context: Any) -> None:
    """Where nobody knows the plugin, the answer says so and where to look."""
    context.answers["kernel.plugin.show"] = PluginNotFound("no such plugin")
    response = await http.get("/plugins/ghost/x")
    assert (response.status_code, response.json()["type"]) == (404, "/problems/plugin-not-found")
    assert "/admin/plugins" in response.json()["fix"]


@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        ("stopped", 503, "plugin-not-started"),
        ("error", 503, "plugin-not-started"),
        ("started", 404, "no-routes"),
    ],
)
async def test_a_known_plugin_without_a_mount_says_why(
    http: Any, context: Any, status: str, answer: int, code: str
) -> None:
    """503 for a plugin that does not run now, 404 for one that has no routes; no reason for strangers."""
    context.answers["kernel.plugin.show"] = PluginDetails(
        plugin_id="alerts",
        name="Alerts",
        version="1.0.0",
        status=PluginStatus(status),
        activity="none",
        level_requested="trusted",
        level_effective="trusted",
        metadata=PluginMetadata(plugin_id="alerts", version="1.0.0"),
    )
    response = await http.get("/plugins/alerts/")
    assert (response.status_code, response.json()["type"]) == (answer, f"/problems/{code}")


async def websocket(
    app: Any, path: str, text: str, *, extensions: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """What the application sends to a client that connects, says `text` and leaves."""
    said = iter(
        [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "text": text},
            {"type": "websocket.disconnect", "code": 1000},
        ]
    )
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(said)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "websocket", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [], "subprotocols": [], "scheme": "ws", "server": ("edge", 80), "client": ("c", 1),
        "extensions": extensions or {},
    }  # fmt: skip
    await app(scope, receive, send)
    return sent


async def test_websockets_reach_their_plugin(app: Any, context: Any) -> None:
    """A websocket is found in the same table; for an unknown plugin it is closed before it is accepted."""
    context.mounts.put(build("shop", 1, router(), ()))
    sent = await websocket(app, "/plugins/shop/echo", "hello")
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert sent[1]["text"] == "hello"
    [refusal] = await websocket(app, "/plugins/ghost/echo", "hello")
    assert (refusal["type"], refusal["code"]) == ("websocket.close", 1008)


async def unwakeable(scope: Any, receive: Any, send: Any) -> None:
    raise PluginActivationFailed("no key", plugin_id="shop")


async def test_a_websocket_that_cannot_be_opened_is_refused_as_a_request_is(app: Any, context: Any) -> None:
    """With the status and the problem, where the server can; else it is closed. No error gets out."""
    context.mounts.put(build("shop", 1, unwakeable, ()))
    can = {"websocket.http.response": {}}
    start, body = await websocket(app, "/plugins/shop/echo", "hello", extensions=can)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
    assert json.loads(body["body"])["type"] == "/problems/plugin-activation-failed"
    [refusal] = await websocket(app, "/plugins/shop/echo", "hello")
    assert (refusal["type"], refusal["code"]) == ("websocket.close", 1013)
    start, _ = await websocket(app, "/plugins/ghost/echo", "hello", extensions=can)
    assert start["status"] == 404


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "index.html").write_text("<h1>shop</h1>")
    (folder / "a.txt").write_text("a")
    (tmp_path / "outside.txt").write_text("secret")
    return folder


@pytest.mark.parametrize("made", [router, lambda: hello])
async def test_folders_are_served_beside_routes(http: Any, context: Any, files: Path, made: Any) -> None:
    """Static mounts stand beside a router as beside any application, and never leave their folder."""
    static = (
        StaticMount(path="/static", directory=files),
        StaticMount(path="/site", directory=files, html=True),
    )
    context.mounts.put(build("shop", 1, made(), static))
    assert (await http.get("/plugins/shop/static/a.txt")).text == "a"
    assert (await http.get("/plugins/shop/site/")).text == "<h1>shop</h1>"
    assert "secret" not in (await http.get("/plugins/shop/static/..%2Foutside.txt")).text
    assert (await http.get("/plugins/shop/items/1")).status_code == 200
    assert context.mounts.get("shop").static == static


async def test_a_whole_site_may_stand_behind_the_routes(http: Any, context: Any, files: Path) -> None:
    """A static mount at `/` answers what no route answers."""
    context.mounts.put(build("shop", 1, router(), (StaticMount(path="/", directory=files, html=True),)))
    assert (await http.get("/plugins/shop/")).text == "<h1>shop</h1>"
    assert (await http.get("/plugins/shop")).headers["location"] == "http://edge/plugins/shop/"
    assert (await http.get("/plugins/shop/items/1")).json() == {"name": "item 1"}


def unserialisable() -> APIRouter:
    made = APIRouter()
    schema = {"requestBody": object()}

    class Odd(BaseModel):
        model_config = {"json_schema_extra": lambda schema: 1 / 0}
        name: str

    @made.get("/odd", openapi_extra=schema)
    async def odd() -> Odd:
        return Odd(name="x")

    return made


@pytest.mark.parametrize("made", [None, 5, "router", object(), Starlette, unserialisable()])
def test_what_cannot_be_built_fails_before_it_is_mounted(made: Any) -> None:
    """No router, a class instead of an application, a broken schema: PluginLoadError with its cause."""
    with pytest.raises(PluginLoadError) as failed:
        build("shop", 1, made, ())
    assert failed.value.__cause__ is not None
    assert "shop" in failed.value.where
    assert failed.value.fix


@pytest.mark.parametrize(("path", "folder"), [("/static", "missing"), ("static", "files")])
def test_a_static_mount_that_cannot_be_served_fails_too(files: Path, path: str, folder: str) -> None:
    """A folder that is not there, or a path without its slash, is found at once."""
    static = (StaticMount(path=path, directory=files.parent / folder),)
    with pytest.raises(PluginLoadError):
        build("shop", 1, router(), static)


def test_openapi_is_taken_where_there_is_one() -> None:
    """A router and a FastAPI application have a document, other applications have none."""
    own = build("shop", 4, router(), ())
    assert (own.plugin_id, own.generation) == ("shop", 4)
    assert own.openapi is not None
    assert own.openapi["paths"]["/items/{number}"]["get"]["tags"] == ["plugin:shop"]
    application = FastAPI()
    application.include_router(router())
    assert build("shop", 1, application, ()).app is application
    assert "/items/{number}" in (build("shop", 1, application, ()).openapi or {})["paths"]
    assert build("shop", 1, Starlette(routes=[Route("/", lambda r: PlainTextResponse())]), ()).openapi is None


@pytest.mark.parametrize("is_nested", [False, True])
def test_errors_are_described_as_they_are_answered(is_nested: bool) -> None:
    """As problem documents, in place of FastAPI's own shape, also where a router includes another one, and
    where it is built once more."""
    made = router()
    if is_nested:
        inner, made = made, APIRouter()
        made.include_router(inner)
    build("shop", 1, made, ())
    document = build("shop", 2, made, ()).openapi
    assert document is not None
    operation = document["paths"]["/items/{number}"]["get"]
    assert operation["tags"] == ["plugin:shop"]
    assert operation["responses"].keys() == {"200", "default"}
    assert "type" in operation["responses"]["default"]["content"][MEDIA_TYPE]["schema"]["properties"]
    assert "HTTPValidationError" not in document.get("components", {}).get("schemas", {})


async def _calls_per_second(app: Any, path: str, calls: int) -> float:
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": b"", "headers": [], "scheme": "http", "server": ("edge", 80), "client": ("c", 1),
    }  # fmt: skip

    async def nothing(*_: Any) -> None: ...

    start = time.perf_counter()
    for _ in range(calls):
        await app(dict(scope), nothing, nothing)
    return calls / (time.perf_counter() - start)


async def test_a_hundred_plugins_cost_no_more_than_one(app: Any, context: Any) -> None:
    """The way to a plugin is one look into a dict: the last of 100 is reached as fast as the only one."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    context.mounts.put(WebMount("p99", 1, answer))
    alone = max([await _calls_per_second(app, "/plugins/p99/x", 500) for _ in range(5)])
    for number in range(99):
        context.mounts.put(WebMount(f"p{number}", 1, answer))
    among_many = max([await _calls_per_second(app, "/plugins/p99/x", 500) for _ in range(5)])
    assert among_many > alone / 2  # a walk over the table would cost a hundred times
