"""Plugbus inside a FastAPI application that has a lifespan, middleware and routes of its own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import httpx
import pytest
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from contracts.base import BasePlugin
from contracts.errors import InvalidOption, PlugbusError, PluginNotReady, SettingsError
from contracts.plugin import PluginHandle, PluginStatus
from contracts.web import StaticMount
from kernel.embed import PluginMiddleware, get_plugin, get_plugin_manager
from kernel.manager import PluginManager
from kernel.settings import Settings, load_settings

QUIET = ("audit", "webhooks", "alerts", "host_monitor", "telemetry")


class Shop(BasePlugin, plugin_id="shop", version="1.2.0", security_level="trusted"):
    """A plugin with one page, and one that waits."""

    entered: ClassVar[asyncio.Event]
    go_on: ClassVar[asyncio.Event]

    async def get_api_router(self) -> Any:
        router = APIRouter()

        @router.get("/items/{number}")
        async def item(number: int, request: Request) -> dict[str, Any]:
            return {"number": number, "url": str(request.url_for("item", number=number))}

        @router.get("/slow")
        async def slow() -> str:
            self.entered.set()
            await self.go_on.wait()
            return "finished"

        return router

    async def get_static_mounts(self) -> list[StaticMount]:
        return []


def settings_in(folder: Path) -> Settings:
    off = {name: {"enabled": False} for name in QUIET}
    return load_settings(overrides={"state_dir": folder, "plugins": off}, environ={})


@pytest.fixture(autouse=True)
async def fresh() -> None:
    Shop.entered, Shop.go_on = asyncio.Event(), asyncio.Event()


@pytest.fixture
def steps() -> list[str]:
    """What the application has gone through."""
    return []


@pytest.fixture
def app(steps: list[str]) -> FastAPI:
    """An application as others have it: a lifespan with state, middleware, routes."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        steps.append("own begins")
        yield {"database": "open"}
        manager: PluginManager | None = getattr(app.state, "plugin_manager", None)
        shops = manager.registry.get_plugins_by_status(PluginStatus.STARTED) if manager else []
        steps.append(f"own ends with {len(shops)} plugins started")

    made = FastAPI(lifespan=lifespan)

    async def stamp(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["X-Own"] = "yes"
        return response

    made.add_middleware(BaseHTTPMiddleware, dispatch=stamp)

    @made.get("/own/{name}")
    async def own(name: str, request: Request) -> dict[str, str]:
        return {"name": name, "url": str(request.url_for("own", name=name))}

    @made.get("/shop")
    async def shop(plugin: Annotated[PluginHandle, Depends(get_plugin("shop"))]) -> dict[str, str]:
        return {"id": plugin.id, "version": plugin.version, "status": plugin.status.value}

    @made.get("/count")
    async def count(manager: Annotated[PluginManager, Depends(get_plugin_manager)]) -> int:
        return len(manager.plugins())

    return made


@pytest.fixture
def embed(app: FastAPI, tmp_path: Path) -> Callable[..., PluginManager]:
    def make(**options: Any) -> PluginManager:
        return PluginManager(app, settings=settings_in(tmp_path / "state"), **options)

    return make


@asynccontextmanager
async def running(app: Any, root_path: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """The application with its lifespan, as a server runs it."""
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client


async def test_plugins_answer_beside_the_routes_of_the_application(
    app: FastAPI, embed: Any, steps: list[str]
) -> None:
    """Its own routes stay as they were, its middleware sees the requests of plugins as well, and its
    lifespan begins before the kernel and ends after it."""
    manager = embed()
    await manager.register_plugin(Shop)
    async with running(app) as client:
        steps.append(f"shop is {manager.get_plugin('shop').status.value}")
        own, plugin = await client.get("/own/x"), await client.get("/plugins/shop/items/3")
        assert own.json() == {"name": "x", "url": "http://app/own/x"}
        assert plugin.json() == {"number": 3, "url": "http://app/plugins/shop/items/3"}
        assert (own.headers["x-own"], plugin.headers["x-own"]) == ("yes", "yes")
        assert (await client.get("/plugins/nobody/x")).json()["type"] == "/problems/plugin-not-found"
        assert (await client.get("/nowhere")).json() == {"detail": "Not Found"}
        assert manager.url is None  # nothing listens
    assert steps == ["own begins", "shop is started", "own ends with 0 plugins started"]


async def test_a_route_is_given_the_plugin_or_refused(app: FastAPI, embed: Any) -> None:
    """`get_plugin` gives the handle of a started plugin; 404 unknown and 503 not started are problems."""
    manager = embed()
    async with running(app) as client:
        unknown = await client.get("/shop")
        assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems/plugin-not-found")
        assert unknown.headers["content-type"] == "application/problem+json"
        await manager.register_plugin(Shop)
        idle = await client.get("/shop")
        assert (idle.status_code, idle.json()["type"]) == (503, "/problems/plugin-not-started")
        assert (idle.json()["instance"], idle.headers["retry-after"]) == ("/shop", "1")
        await manager.start_plugin("shop")
        assert (await client.get("/shop")).json() == {"id": "shop", "version": "1.2.0", "status": "started"}
        assert (await client.get("/count")).json() == len(manager.plugins())


async def test_the_openapi_document_has_the_plugins(app: FastAPI, embed: Any) -> None:
    """It follows them, keeps the application's own, and shows of the gateway what is served."""
    manager = embed(serve=("/events",))
    assert "/own/{name}" in app.openapi()["paths"]
    async with running(app) as client:
        before = (await client.get("/openapi.json")).json()["paths"]
        await manager.register_plugin(Shop)
        await manager.start_plugin("shop")
        after = (await client.get("/openapi.json")).json()
        assert set(after["paths"]) - set(before) == {"/plugins/shop/items/{number}", "/plugins/shop/slow"}
        assert {"/own/{name}", "/events", "/events/stream"} < set(before)
        assert not any(path.startswith("/admin") for path in before)
        [scheme] = after["paths"]["/events"]["post"]["security"]
        assert set(scheme) <= set(after["components"]["securitySchemes"])
        assert app.openapi() is app.openapi()


async def test_addresses_of_the_gateway_are_served_where_asked_for(
    app: FastAPI, embed: Any, tmp_path: Path
) -> None:
    """With their token, and not at all where `serve` does not name them."""
    embed(serve=("/events", "/livez"), prefix="/bus")
    async with running(app) as client:
        token = (tmp_path / "state" / "token").read_text().strip()
        event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "orders.placed", "data": {}}
        kind = {"Content-Type": "application/cloudevents+json"}
        assert (await client.post("/bus/events", json=event, headers=kind)).status_code == 401
        kind["Authorization"] = f"Bearer {token}"
        assert (await client.post("/bus/events", json=event, headers=kind)).status_code == 202
        assert (await client.get("/bus/livez")).json() == {"status": "alive"}
        assert (await client.get("/bus/plugins/nobody/")).status_code == 404
        statuses = [
            (await client.get(path)).status_code for path in ("/events", "/bus/admin/plugins", "/livez")
        ]
        assert statuses == [404, 404, 404]


@pytest.mark.parametrize("told", ["/api/plugins/shop/items/3", "/plugins/shop/items/3"])
async def test_the_application_may_stand_below_a_path(steps: list[str], tmp_path: Path, told: str) -> None:
    """Whether the proxy in front takes the path away or not."""
    app = FastAPI()
    manager = PluginManager(app, settings=settings_in(tmp_path))
    await manager.register_plugin(Shop)
    async with running(app, root_path="/api") as client:
        assert (await client.get(told)).json()["url"] == "http://app/api/plugins/shop/items/3"


async def test_a_kernel_that_does_not_start_ends_the_application(
    app: FastAPI, embed: Any, steps: list[str]
) -> None:
    """The error comes out of the lifespan, after the application's own has ended; nothing stays open."""
    manager = embed()
    manager.settings = manager.settings.model_copy(
        update={"bus": manager.settings.bus.model_copy(update={"url": "redis://127.0.0.1:1/0"})}
    )
    with pytest.raises(PlugbusError, match=r"127\.0\.0\.1:1"):
        async with running(app):
            pytest.fail("it must not start")
    assert steps == ["own begins"]  # an exception went through its `yield`


async def test_an_application_may_start_again(app: FastAPI, embed: Any) -> None:
    """As test clients do it: what it registered is there again, in the same place."""
    manager = embed()
    await manager.register_plugin(Shop)
    for _ in range(3):
        async with running(app) as client:
            assert (await client.get("/plugins/shop/items/3")).status_code == 200
            assert app.state.plugin_manager is manager
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        refused = await client.get("/plugins/shop/items/3")
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/plugin-not-started")


async def test_a_plugin_that_was_not_ready_is_tried_again_at_the_next_start(app: FastAPI, embed: Any) -> None:
    """It waited for another try when the application ended."""

    class Late(BasePlugin, plugin_id="late", version="1.0.0", security_level="trusted"):
        tries = 0

        async def initialize(self) -> None:
            Late.tries += 1
            if Late.tries == 1:
                raise PluginNotReady(retry_after=60)

    manager = embed()
    await manager.register_plugin(Late)
    for status in (PluginStatus.ERROR, PluginStatus.STARTED):
        async with running(app):
            assert manager.get_plugin("late").status is status


async def test_two_applications_in_one_process_have_two_kernels(tmp_path: Path) -> None:
    """Each has its own plugins."""
    apps = [FastAPI(), FastAPI()]
    managers = [PluginManager(app, settings=settings_in(tmp_path / str(n))) for n, app in enumerate(apps)]
    await managers[0].register_plugin(Shop)
    async with running(apps[0]) as one, running(apps[1]) as two:
        assert (await one.get("/plugins/shop/items/3")).status_code == 200
        assert (await two.get("/plugins/shop/items/3")).status_code == 404


async def test_a_request_that_is_open_at_the_end_is_answered(app: FastAPI, embed: Any) -> None:
    """The kernel stops when what its plugins are asked is answered; then the application's lifespan ends."""
    manager = embed()
    await manager.register_plugin(Shop)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    sock = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve([sock]))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}") as client:
        asking = asyncio.create_task(client.get("/plugins/shop/slow"))
        await Shop.entered.wait()
        server.should_exit = True
        Shop.go_on.set()
        assert (await asking).json() == "finished"
        await serving
    assert manager.get_plugin("shop").status is PluginStatus.UNLOADED


async def test_the_lifespan_waits_for_open_requests_by_itself(app: FastAPI, embed: Any) -> None:
    """Also where the server does not."""
    await embed().register_plugin(Shop)
    async with running(app) as client:
        asking = asyncio.create_task(client.get("/plugins/shop/slow"))
        await Shop.entered.wait()
        asyncio.get_running_loop().call_later(0.01, Shop.go_on.set)
    assert (await asking).json() == "finished"


async def test_any_starlette_application_can_embed(tmp_path: Path) -> None:
    """It has no OpenAPI document, and needs none."""
    app = Starlette(routes=[Route("/own", PlainTextResponse("own"))])
    await PluginManager(app, settings=settings_in(tmp_path)).register_plugin(Shop)
    async with running(app) as client:
        assert (await client.get("/own")).text == "own"
        assert (await client.get("/plugins/shop/items/3")).status_code == 200


async def test_the_middleware_alone_gives_the_manager_to_requests(tmp_path: Path) -> None:
    """For an application that runs its manager by hand."""
    app = FastAPI()

    @app.get("/replica")
    async def replica(manager: Annotated[PluginManager, Depends(get_plugin_manager)]) -> str:
        return manager.replica

    async with PluginManager(settings_in(tmp_path), profile="embedded") as manager:
        app.add_middleware(PluginMiddleware, manager=manager)
        async with running(app) as client:
            assert (await client.get("/replica")).json() == manager.replica
    with pytest.raises(RuntimeError, match=r"PluginManager\(app\)"):
        async with running(FastAPI()) as _:
            await get_plugin_manager(Request({"type": "http"}))


@pytest.mark.parametrize("path", ["/plugins/{name}", "/events", "/events/{number}"])
async def test_an_address_that_the_application_has_is_not_taken(app: FastAPI, embed: Any, path: str) -> None:
    """It is refused at start with both ways out: neither of the two is hidden."""
    router = APIRouter()
    router.add_api_route(path, lambda: None)
    app.include_router(router)
    embed(serve=("/events",))
    with pytest.raises(SettingsError, match="of its own") as refused:
        async with running(app):
            pytest.fail("it must not start")
    assert "prefix=" in refused.value.fix


async def test_a_mount_where_plugins_would_answer_is_not_hidden(app: FastAPI, embed: Any) -> None:
    """One at the root is only what is left over, as a page of its own often is."""
    app.mount("/plugins", Starlette())
    embed()
    with pytest.raises(SettingsError, match="'/plugins/' of its own"):
        async with running(app):
            pytest.fail("it must not start")
    app.router.routes.pop()
    app.mount("/", Starlette())
    async with running(app) as client:
        assert (await client.get("/plugins/nobody/x")).json()["type"] == "/problems/plugin-not-found"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"serve": ("/event",)}, "serve=('/events',)"),
        ({"serve": "/events"}, "serve=('/events',)"),
        ({"serve": ("/nothing",)}, "/livez"),
        ({"serve": (3,)}, "/livez"),
        ({"serve": None}, "/events"),
        ({"prefix": 3}, "/plugbus"),
        ({"prefix": None}, "/plugbus"),
        ({"prefix": "bus"}, "/plugbus"),
        ({"prefix": "/bus/"}, "/plugbus"),
        ({"prefix": "/{tenant}"}, "/plugbus"),
        ({"prefix": "//bus"}, "/plugbus"),
        ({"prefix": "/a/../bus"}, "/plugbus"),
    ],
)
def test_a_wrong_option_is_refused_at_once(app: FastAPI, embed: Any, options: Any, says: str) -> None:
    """With what was meant, and with the application as it was."""
    routes = list(app.routes)
    with pytest.raises(InvalidOption) as refused:
        embed(**options)
    assert says in refused.value.fix
    assert app.routes == routes


def test_what_is_no_application_is_refused(app: FastAPI, embed: Any) -> None:
    embed()
    with pytest.raises(InvalidOption, match="already"):
        embed()
    with pytest.raises(TypeError, match="neither an application nor settings"):
        PluginManager("app")  # type: ignore[arg-type]
