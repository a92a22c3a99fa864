"""The gateway as the kernel runs it: found by its manifest, on a real bus and a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from contracts.base import BasePlugin, on
from contracts.event import Event
from contracts.web import StaticMount
from kernel.manager import PluginManager
from kernel.settings import load_settings

STRUCTURED = {"Content-Type": "application/cloudevents+json"}
ORDER = {
    "specversion": "1.0",
    "id": "1",
    "source": "/shop",
    "type": "orders.placed",
    "data": {"order_id": "17"},
}


class OrderPlaced(Event, type="orders.placed"):
    order_id: str


class Billed(Event, type="billing.billed"):
    order_id: str


class Billing(BasePlugin, plugin_id="billing", version="1.0.0", security_level="trusted"):
    """Answers an event with an event, and has a page."""

    @on
    async def bill(self, event: OrderPlaced) -> Billed:
        return Billed(order_id=event.order_id)

    async def get_api_router(self) -> Any:
        router = APIRouter()

        @router.get("/invoices/{number}")
        async def invoice(number: int) -> dict[str, int]:
            return {"number": number}

        return router

    async def get_static_mounts(self) -> list[StaticMount]:
        return []


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[PluginManager]:
    plugins = {
        "gateway": {"config": {"port": 0}},
        **{name: {"enabled": False} for name in ("audit", "webhooks", "alerts", "host_monitor")},
    }
    settings = load_settings(overrides={"state_dir": tmp_path / "state", "plugins": plugins})
    async with PluginManager(settings, profile="run") as running:
        yield running


@pytest.fixture
async def kernel(manager: PluginManager) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the token that was made at first start."""
    assert manager.state_dir is not None
    token = (manager.state_dir / "token").read_text().strip()
    assert manager.url is not None
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=manager.url, headers=headers) as client:
        yield client


async def data(lines: AsyncIterator[str]) -> dict[str, Any]:
    """The next event of a stream."""
    async for line in lines:
        if line.startswith("data:"):
            event: dict[str, Any] = json.loads(line.removeprefix("data:"))
            return event
    raise AssertionError("the stream ended")


async def test_an_event_goes_in_and_what_it_causes_comes_out(
    manager: PluginManager, kernel: httpx.AsyncClient
) -> None:
    """An event posted from outside is handled, and the stream shows it with what it caused."""
    await manager.register_plugin(Billing)
    await manager.start_plugin("billing")
    async with kernel.stream("GET", "/events/stream?pattern=orders.*&pattern=billing.*") as stream:
        assert (await kernel.post("/events", json=ORDER, headers=STRUCTURED)).json()["duplicate"] is False
        assert (await kernel.post("/events", json=ORDER, headers=STRUCTURED)).json()["duplicate"] is True
        lines = stream.aiter_lines()
        placed, billed = await data(lines), await data(lines)
    assert (placed["id"], placed["source"], placed["data"]) == ("1", "/shop", {"order_id": "17"})
    assert (billed["type"], billed["source"]) == ("billing.billed", "/plugins/billing")
    assert billed["causationid"] == "1"


async def test_routes_follow_the_life_of_their_plugin(
    manager: PluginManager, kernel: httpx.AsyncClient
) -> None:
    """404 before a plugin is known, its answer while it is started, 503 once it is stopped; the API
    document follows."""
    assert (await kernel.get("/plugins/billing/invoices/3")).status_code == 404
    await manager.register_plugin(Billing)
    await kernel.post("/admin/plugins/billing/start")
    assert (await kernel.get("/plugins/billing/invoices/3")).json() == {"number": 3}
    assert "/plugins/billing/invoices/{number}" in (await kernel.get("/openapi.json")).json()["paths"]
    stopped = await kernel.post("/admin/plugins/billing/stop")
    assert (stopped.status_code, stopped.json()["outcome"]) == (200, "done")
    assert (await kernel.get("/plugins/billing/invoices/3")).status_code == 503
    assert "/plugins/billing/invoices/{number}" not in (await kernel.get("/openapi.json")).json()["paths"]


@pytest.mark.parametrize("change", [{"type": "kernel.started"}, {"source": "/plugins/billing"}])
async def test_nobody_outside_can_pretend_to_be_inside(kernel: httpx.AsyncClient, change: Any) -> None:
    """A reserved type, or a plugin's source, is forbidden."""
    refused = await kernel.post("/events", json={**ORDER, **change}, headers=STRUCTURED)
    assert (refused.status_code, refused.json()["type"]) == (403, "/problems/permission-denied")


async def test_too_much_data_for_an_event_is_a_413(kernel: httpx.AsyncClient) -> None:
    """Data that the gateway can read but the bus does not take are refused by the bus's limit."""
    large = {**ORDER, "data": {"order_id": "x" * 1_048_576}}
    refused = await kernel.post("/events", json=large, headers=STRUCTURED)
    assert (refused.status_code, refused.json()["type"]) == (413, "/problems/payload-too-large")


@pytest.mark.parametrize("command", ["stop", "disable", "quarantine"])
async def test_nobody_cuts_off_the_way_on_which_commands_come_in(
    manager: PluginManager, kernel: httpx.AsyncClient, command: str
) -> None:
    """Refused with what to do instead; nothing has changed."""
    answer = await kernel.post(f"/admin/plugins/gateway/{command}")
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (409, "/problems/plugin-state")
    assert "is the way on which commands come in" in problem["detail"]
    assert "[plugins.gateway] enabled = false in plugbus.toml" in problem["fix"]
    assert manager.get_plugin("gateway").status == "started"
    assert (await kernel.get("/readyz")).status_code == 200


async def test_the_application_may_stop_the_gateway(
    manager: PluginManager, kernel: httpx.AsyncClient
) -> None:
    """Open streams say good-bye, and the kernel goes on without it, and with it again."""
    async with kernel.stream("GET", "/events/stream") as stream:
        stopping = asyncio.create_task(manager.stop_plugin("gateway"))
        assert "event: bye" in [line async for line in stream.aiter_lines()]
        await stopping
    assert manager.get_plugin("gateway").status == "unloaded"
    await manager.start_plugin("gateway")


class Chat(BasePlugin, plugin_id="chat", version="1.0.0", security_level="trusted"):
    """Has a WebSocket, and says when it was stopped."""

    async def get_api_router(self) -> Any:
        router = APIRouter()

        @router.websocket("/room")
        async def room(socket: WebSocket) -> None:
            await socket.accept()
            while True:  # as in many a tutorial: the end is an exception
                await socket.send_text(await socket.receive_text())

        return router

    async def get_static_mounts(self) -> list[StaticMount]:
        return []


async def test_a_stop_closes_the_websockets_of_the_plugin(
    manager: PluginManager, kernel: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """With 1001, at once; afterwards the address refuses, and works again after a start.

    The server logs no failure, neither when the plugin goes nor when the client does.
    """
    await manager.register_plugin(Chat)
    await manager.start_plugin("chat")
    address = f"{manager.url}/plugins/chat/room".replace("http", "ws", 1)
    async with connect(address) as client:
        await client.send("hello")
        assert await client.recv() == "hello"
        assert (await kernel.post("/admin/plugins/chat/stop")).json()["outcome"] == "done"
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    with pytest.raises(InvalidStatus):
        await connect(address)
    await manager.start_plugin("chat")
    async with connect(address) as client:
        await client.send("again")
        assert await client.recv() == "again"
    await manager.stop_plugin("chat")  # waits for the end of what is open
    assert [record for record in caplog.records if "Exception in ASGI" in record.message] == []


BAD_SITES = {
    "a router that is none": ("return 17", "return []", "get_api_router returned int"),
    "a router that raises": ("raise OSError('no templates')", "return []", "no templates"),
    "a router that cannot be built": ("return APIRouter", "return []", "is not an ASGI application"),
    "a folder outside": (
        "return APIRouter()",
        "return [StaticMount(path='/files', directory='../outside')]",
        "is not a folder inside the plugin's own",
    ),
    "a link that leads outside": (
        "return APIRouter()",
        "return [StaticMount(path='/files', directory='link')]",
        "is not a folder inside the plugin's own",
    ),
    "a folder that is none": (
        "return APIRouter()",
        "return [StaticMount(path='/files', directory='nothing')]",
        "is not a folder inside the plugin's own",
    ),
    "a path that is none": (
        "return APIRouter()",
        "return [StaticMount(path='files', directory='inside')]",
        "does not begin with '/'",
    ),
}


@pytest.mark.parametrize("how", BAD_SITES)
async def test_a_site_that_cannot_be_served_is_refused_in_initialize(
    manager: PluginManager, kernel: httpx.AsyncClient, tmp_path: Path, how: str
) -> None:
    """The plugin's reason says what is wrong; nothing of it is served, and the others go on."""
    router, mounts, says = BAD_SITES[how]
    folder = tmp_path / "site"
    (folder / "inside").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "plugin.toml").write_text(
        'plugin_id = "site"\nname = "Site"\nversion = "1.0.0"\nentry_point = "site:Site"\n'
        'security_level = "trusted"\n'
    )
    (folder / "site.py").write_text(
        "from fastapi import APIRouter\nfrom plugbus import BasePlugin, StaticMount\n"
        "class Site(BasePlugin):\n"
        f"    async def get_api_router(self):\n        {router}\n"
        f"    async def get_static_mounts(self):\n        {mounts}\n"
    )
    await manager.register_plugin(folder)
    started = await kernel.post("/admin/plugins/site/start")
    assert started.status_code == 502
    shown = (await kernel.get("/admin/plugins/site")).json()
    assert shown["status"] == "error"
    assert says in shown["reason"]["text"]
    assert (await kernel.get("/plugins/site/files/x")).status_code == 503
    assert (await kernel.get("/livez")).status_code == 200


async def test_a_plugin_that_somebody_else_has_changed_is_left_alone(
    manager: PluginManager, kernel: httpx.AsyncClient
) -> None:
    """`If-Match` with the ETag of what was seen: 412 once it is another state, and nothing happens."""
    await manager.register_plugin(Billing)
    seen = (await kernel.get("/admin/plugins/billing")).headers["etag"]
    started = await kernel.post("/admin/plugins/billing/start", headers={"If-Match": seen})
    assert started.status_code == 200
    assert started.headers["etag"] == (await kernel.get("/admin/plugins/billing")).headers["etag"] != seen
    late = await kernel.post("/admin/plugins/billing/stop", headers={"If-Match": seen})
    assert (late.status_code, late.json()["type"]) == (412, "/problems/state-changed")
    assert manager.get_plugin("billing").status.value == "started"
    for match in ("*", f'"x", {started.headers["etag"]}'):
        done = await kernel.post("/admin/plugins/billing/start", headers={"If-Match": match})
        assert (done.status_code, done.json()["outcome"]) == (200, "unchanged")


async def test_quarantine_too_is_for_the_plugin_that_was_seen(
    manager: PluginManager, kernel: httpx.AsyncClient
) -> None:
    """Putting it there, and letting it out: 412 once that is another; who is gone has none."""
    await manager.register_plugin(Billing)
    shows, add = "/admin/plugins/billing", "/admin/plugins/billing/quarantine"
    free = (await kernel.get(shows)).headers["etag"]
    assert (await kernel.post(add, headers={"If-Match": '"x"'})).status_code == 412
    assert (await kernel.post(add, headers={"If-Match": free})).json()["outcome"] == "done"
    held = (await kernel.get(shows)).headers["etag"]
    assert (await kernel.post(f"{add}/release", headers={"If-Match": free})).status_code == 412
    assert len((await kernel.get("/admin/quarantine")).json()) == 1
    gone = await kernel.post("/admin/plugins/gone/quarantine/release", headers={"If-Match": held})
    assert (gone.status_code, gone.json()["type"]) == (412, "/problems/state-changed")
    assert (await kernel.post(f"{add}/release", headers={"If-Match": held})).json()["outcome"] == "done"


async def test_of_two_that_have_seen_the_same_one_is_refused(
    manager: PluginManager, kernel: httpx.AsyncClient
) -> None:
    """Whichever comes second, also while the first is at work."""
    await manager.register_plugin(Billing)
    seen = {"If-Match": (await kernel.get("/admin/plugins/billing")).headers["etag"]}
    answers = await asyncio.gather(
        *(kernel.post("/admin/plugins/billing/start", headers=seen) for _ in range(5))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412, 412]


async def test_a_group_that_somebody_else_has_changed_is_left_alone(
    manager: PluginManager, kernel: httpx.AsyncClient
) -> None:
    """The ETag stays while events come and go, and is another one when it is paused or nobody handles it."""
    await manager.register_plugin(Billing)
    await manager.start_plugin("billing")
    address = "/admin/groups/billing.bill"
    seen = {"If-Match": (await kernel.get(address)).headers["etag"]}
    await kernel.post("/events", json=ORDER, headers=STRUCTURED)
    paused = await kernel.post(f"{address}/pause", headers=seen)
    assert paused.json()["paused"]
    for command in ("pause", "resume", "drop"):
        refused = await kernel.post(f"{address}/{command}", headers=seen)
        assert (refused.status_code, refused.json()["type"]) == (412, "/problems/state-changed")
    now = {"If-Match": paused.headers["etag"]}
    assert (await kernel.post(f"{address}/resume", headers=now)).json()["paused"] is None
    await manager.stop_plugin("billing")
    assert (await kernel.post(f"{address}/drop", headers=seen)).status_code == 412
    dormant = {"If-Match": (await kernel.get(address)).headers["etag"]}
    assert (await kernel.post(f"{address}/drop", headers=dormant)).status_code == 200


async def test_a_plugin_in_quarantine_is_listed_and_released(
    kernel: httpx.AsyncClient, manager: PluginManager
) -> None:
    """Added with its reason, refused with 409 and the fix, released, started."""
    await manager.register_plugin(Billing)
    added = await kernel.post("/admin/plugins/billing/quarantine", json={"reason": "it sends too much"})
    assert (added.status_code, added.json()["outcome"]) == (200, "done")
    [entry] = (await kernel.get("/admin/quarantine")).json()
    assert (entry["plugin_id"], entry["reason"]) == ("billing", "it sends too much")
    refused = await kernel.post("/admin/plugins/billing/start")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/plugin-quarantined")
    assert "plugbus plugin quarantine release billing" in refused.json()["fix"]
    bad = await kernel.post("/admin/plugins/billing/quarantine", json={"why": "x"})
    assert bad.status_code == 422
    assert (await kernel.post("/admin/plugins/billing/quarantine/release")).json()["outcome"] == "done"
    assert (await kernel.post("/admin/plugins/billing/start")).status_code == 200


async def test_a_plugin_is_disabled_and_enabled_and_wakes_for_a_request(
    kernel: httpx.AsyncClient, manager: PluginManager
) -> None:
    """The admin API decides; the way on which it comes in stays; who is lazy and cannot start is a 503."""
    await manager.register_plugin(Billing)
    assert (await kernel.post("/admin/plugins/billing/enable")).json()["plugin"]["status"] == "started"
    disabled = await kernel.post("/admin/plugins/billing/disable?with_dependents=true")
    assert disabled.json()["plugin"]["reason"]["code"] == "disabled"
    assert (await kernel.post("/admin/plugins/gateway/disable")).status_code == 409

    class Sleeper(Billing, plugin_id="sleeper", version="1.0.0", security_level="trusted", activation="lazy",
                  subscribes={"bill": ["orders.placed"]}):  # fmt: skip
        broken = True

        async def start(self) -> None:
            if self.broken:
                raise RuntimeError("no ink")

    await manager.register_plugin(Sleeper)
    await manager.kernel.activation.arm(manager.registry.record("sleeper"))
    refused = await kernel.get("/plugins/sleeper/invoices/3")
    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/plugin-activation-failed")
    assert "no ink" in refused.json()["detail"]
    Sleeper.broken = False
    await manager.activate("sleeper")
    assert (await kernel.get("/plugins/sleeper/invoices/3")).json() == {"number": 3}
