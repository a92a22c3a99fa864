"""Plugins that see requests before they are routed."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from pydantic import ValidationError

from contracts.base import BasePlugin
from contracts.errors import InvalidOption, PluginStepFailed
from contracts.web import RequestInfo, ResponseInfo, StaticMount
from kernel.manager import PluginManager
from kernel.recent_log import RecentLog
from kernel.settings import load_settings

QUIET = ("audit", "webhooks", "alerts", "host_monitor", "telemetry")


class Shop(BasePlugin, plugin_id="shop", version="1.0.0", security_level="trusted"):
    """Whom the requests are for."""

    async def get_api_router(self) -> Any:
        router = APIRouter()

        @router.get("/items/{number}")
        async def item(number: int) -> int:
            return number

        return router

    async def get_static_mounts(self) -> list[StaticMount]:
        return []


seen: list[tuple[str, RequestInfo]] = []
answers: dict[str, Any] = {}


class _Guard(BasePlugin):
    async def handle_request(self, request: RequestInfo) -> ResponseInfo | None:
        seen.append((self.plugin_id, request))
        answer = answers.get(self.plugin_id)
        if isinstance(answer, Exception):
            raise answer
        if answer == "slow":
            await asyncio.Event().wait()
        return answer


class Late(_Guard, plugin_id="a_late", version="1.0.0", security_level="trusted"):
    request_order = 20


class First(_Guard, plugin_id="z_first", version="1.0.0", security_level="trusted"):
    request_order = -5


class Plain(_Guard, plugin_id="plain", version="1.0.0", security_level="trusted"):
    pass


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    app.add_api_route("/own", lambda: "the application")
    app.add_api_route("/plugged", lambda: "the application")
    app.add_api_websocket_route("/socket", greet)
    return app


async def greet(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close()


@pytest.fixture
def requests() -> Literal["plugins", "all"]:
    """Which requests plugins see."""
    return "plugins"


@pytest.fixture
async def manager(
    app: FastAPI, tmp_path: Path, requests: Literal["plugins", "all"]
) -> AsyncIterator[PluginManager]:
    seen.clear()
    answers.clear()
    off = {name: {"enabled": False} for name in QUIET}
    overrides = {"state_dir": tmp_path / "state", "plugins": off, "deadlines": {"request": 0.05}}
    made = PluginManager(
        app, settings=load_settings(overrides=overrides, environ={}), serve=("/events", "/admin", "/livez"),
        requests=requests,
    )  # fmt: skip
    for plugin in (Shop, Late, Plain, First):
        await made.register_plugin(plugin)
    async with app.router.lifespan_context(app):
        yield made


@pytest.fixture
async def http(app: FastAPI, manager: PluginManager) -> AsyncIterator[httpx.AsyncClient]:
    assert manager.state_dir is not None
    token = (manager.state_dir / "token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app, client=("10.0.0.7", 1)), base_url="http://app", headers=headers
    ) as client:
        yield client


async def test_each_is_asked_in_its_declared_order(http: httpx.AsyncClient) -> None:
    """By `request_order`, whatever their ids; each sees the request as data, and None lets it pass."""
    answer = await http.get("/plugins/shop/items/7?colour=red", headers={"X-Kind": "a"})
    assert answer.json() == 7
    assert [plugin_id for plugin_id, _ in seen] == ["z_first", "plain", "a_late"]
    request = seen[0][1]
    assert (request.method, request.path, request.query) == ("GET", "/plugins/shop/items/7", "colour=red")
    assert (request.client, dict(request.headers)["x-kind"]) == ("10.0.0.7", "a")
    assert "authorization" in dict(request.headers)


async def test_the_first_answer_ends_it(http: httpx.AsyncClient) -> None:
    """Nobody behind it is asked, and neither is whom the request was for."""
    answers["plain"] = ResponseInfo(status=429, headers=(("Retry-After", "5"),), body="später")
    answer = await http.get("/plugins/shop/items/7")
    assert (answer.status_code, answer.text, answer.headers["retry-after"]) == (429, "später", "5")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert [plugin_id for plugin_id, _ in seen] == ["z_first", "plain"]


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_an_answer_that_has_no_content_is_sent_without(http: httpx.AsyncClient, status: int) -> None:
    """By its status (RFC 9110), whatever the plugin has put into the body."""
    answers["plain"] = ResponseInfo(status=status, body="x")
    answer = await http.get("/plugins/shop/items/1")
    assert (answer.status_code, answer.content) == (status, b"")
    assert answer.headers.get("content-length", "0") == "0"


@pytest.mark.parametrize(
    ("answer", "says"),
    [(RuntimeError("broken"), "failed"), ("slow", "took longer than 0.05 s"), (17, "failed")],
)
async def test_one_that_fails_is_logged_and_passed(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, answer: Any, says: str
) -> None:
    """Also one that hangs, or answers with something else; the next is asked."""
    answers["z_first"] = answer
    assert (await http.get("/plugins/shop/items/7")).json() == 7
    assert [plugin_id for plugin_id, _ in seen] == ["z_first", "plain", "a_late"]
    assert any(
        "z_first: handle_request of GET /plugins/shop/items/7" in m and says in m for m in caplog.messages
    )


async def test_what_is_kept_of_the_log_has_no_address(http: httpx.AsyncClient) -> None:
    """It may be anybody's data; the line of the log itself has it."""
    recent = RecentLog()
    logging.getLogger("plugbus").addHandler(recent)
    try:
        answers["z_first"] = RuntimeError("broken")
        assert (await http.get("/plugins/shop/items/4711")).json() == 4711
    finally:
        logging.getLogger("plugbus").removeHandler(recent)
    [line] = [line for line in recent.lines() if "handle_request" in line.text]
    assert line.text == "z_first: handle_request of … … failed; passed"


async def test_operators_are_not_locked_out(manager: PluginManager, http: httpx.AsyncClient) -> None:
    """What operates the kernel passes no plugin, and the token that publishes is shown to none."""
    answers["plain"] = ResponseInfo(status=503)
    assert (await http.get("/livez")).status_code == 200
    assert (await http.get("/admin/plugins")).status_code == 200
    assert seen == []
    assert (await http.post("/events", json={})).status_code == 503
    assert "authorization" not in dict(seen[0][1].headers)
    assert (await http.post("/admin/plugins/plain/stop")).status_code == 200
    assert (await http.get("/plugins/shop/items/7")).json() == 7


async def test_the_routes_of_the_application_are_its_own(http: httpx.AsyncClient) -> None:
    """No plugin sees or answers a request to them."""
    answers["plain"] = ResponseInfo(status=503)
    for path in ("/own", "/plugged", "/nowhere"):
        assert (await http.get(path)).status_code == (404 if path == "/nowhere" else 200)
    assert seen == []


@pytest.mark.parametrize("requests", ["all"])
async def test_an_application_may_have_plugins_see_all_of_its_requests(
    manager: PluginManager, http: httpx.AsyncClient
) -> None:
    """Each once, also without a route, but not how its users log in. What operators need passes nobody."""
    answers["plain"] = ResponseInfo(status=429, body="slowly")
    for path in ("/own", "/nowhere", "/plugins/shop/items/7"):
        answer = await http.get(path, headers={"Cookie": "session=1", "X-Kind": "a"})
        assert (answer.status_code, answer.text) == (429, "slowly")
    assert [(plugin_id, request.path) for plugin_id, request in seen if plugin_id == "plain"] == [
        ("plain", "/own"), ("plain", "/nowhere"), ("plain", "/plugins/shop/items/7"),
    ]  # fmt: skip
    headers = dict(seen[0][1].headers)
    assert (headers["x-kind"], "authorization" in headers, "cookie" in headers) == ("a", False, False)
    assert (await http.get("/livez")).status_code == 200
    answers.clear()
    assert (await http.get("/own")).json() == "the application"
    await manager.stop_plugin("gateway")
    seen.clear()
    assert (await http.get("/own")).json() == "the application"
    assert seen == [], "without the gateway nobody asks them"


@pytest.mark.parametrize("requests", ["all"])
async def test_a_websocket_of_the_application_is_refused_by_any_answer(
    app: FastAPI, manager: PluginManager
) -> None:
    """As one of a plugin is."""
    for answer, said in ((ResponseInfo(status=403), "websocket.close"), (None, "websocket.accept")):
        answers["plain"] = answer
        sent: list[Any] = []
        scope = {"type": "websocket", "path": "/socket", "headers": [], "query_string": b"", "state": {}}

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        async def receive() -> dict[str, str]:
            return {"type": "websocket.connect"}

        await app(scope, receive, send)
        assert sent[0]["type"] == said


def test_which_requests_plugins_see_is_one_of_two() -> None:
    """Anything else is refused, and the application stays as it was."""
    app = FastAPI()
    with pytest.raises(InvalidOption, match="'some' is neither"):
        PluginManager(app, requests="some")  # type: ignore[arg-type]
    assert app.user_middleware == []


async def test_who_is_stopped_is_asked_no_more(manager: PluginManager, http: httpx.AsyncClient) -> None:
    """And from the next start on again."""
    for plugin_id in ("z_first", "plain", "a_late"):
        await manager.stop_plugin(plugin_id)
    await http.get("/plugins/shop/items/7")
    assert seen == []
    await manager.start_plugin("plain")
    await http.get("/plugins/shop/items/7")
    assert [plugin_id for plugin_id, _ in seen] == ["plain"]


async def test_the_order_is_told(manager: PluginManager, http: httpx.AsyncClient) -> None:
    """To operators, by `plugin show`."""
    orders = {
        plugin_id: (await http.get(f"/admin/plugins/{plugin_id}")).json()["request_order"]
        for plugin_id in ("shop", "plain", "z_first")
    }
    assert orders == {"shop": None, "plain": 0, "z_first": -5}


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"handle_request": lambda self, request: None}, "is not async"),
        ({"handle_request": _Guard.handle_request, "request_order": "first"}, "request_order = 'first'"),
    ],
)
async def test_one_that_cannot_work_is_refused(manager: PluginManager, members: Any, says: str) -> None:
    """When it is loaded, with its place."""
    kind = type("Bad", (BasePlugin,), members, plugin_id="bad", version="1.0.0", security_level="trusted")
    await manager.register_plugin(kind)
    with pytest.raises(PluginStepFailed, match=says):
        await manager.start_plugin("bad")


@pytest.mark.parametrize(
    "bad",
    [{"status": 99}, {"headers": (("X: y", "z"),)}, {"headers": (("X", "a\r\nb"),)}, {"body": "\ud800"}],
)
def test_an_answer_that_http_cannot_carry_cannot_be_made(bad: Any) -> None:
    """A header cannot bring another one with it."""
    with pytest.raises(ValidationError):
        ResponseInfo(**bad)
