"""The plugin itself: where it listens, what it leaves in the state folder, how it stops."""

import asyncio
import json
import os
import signal
import socket
import stat
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

import plugins.gateway
from contracts.errors import AddressInUse, SettingsError
from contracts.metadata import PluginMetadata
from contracts.web import WebMount
from plugins.gateway.config import GatewayConfig

FOLDER = Path(plugins.gateway.__file__).parent


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_it_answers_where_it_says(start_gateway: Any, client: Any, tmp_path: Path) -> None:
    """Port 0 takes a free port; endpoint.json, readable by its owner only, tells where until the end."""
    gateway = await start_gateway()
    endpoint = tmp_path / "endpoint.json"
    assert json.loads(endpoint.read_text()) == {"url": gateway.url, "pid": os.getpid()}
    assert stat.S_IMODE(endpoint.stat().st_mode) == 0o600
    assert files(tmp_path) == ["endpoint.json"]
    assert (await client.get(f"{gateway.url}/livez")).json() == {"status": "alive"}


async def test_it_leaves_nothing_behind(start_gateway: Any, client: Any, stop: Any, tmp_path: Path) -> None:
    """After stop the port is free, the endpoint file gone, no task left, and signals untouched."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    before = asyncio.all_tasks()
    gateway = await start_gateway()
    await client.get(f"{gateway.url}/livez")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    await stop(gateway)
    assert files(tmp_path) == []
    assert asyncio.all_tasks() == before
    port = int(gateway.url.rpartition(":")[2])
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


async def test_requests_under_way_are_finished(start_gateway: Any, client: Any, stop: Any) -> None:
    """A request that is being answered when the gateway stops gets its answer."""
    gateway = await start_gateway()
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await go_on.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    gateway.context.mounts.put(WebMount("slow", 1, slow))
    asking = asyncio.create_task(client.get(f"{gateway.url}/plugins/slow/"))
    await entered.wait()
    stopping = asyncio.create_task(stop(gateway))
    go_on.set()
    assert (await asking).status_code == 204
    await stopping


async def test_what_does_not_finish_is_cut_after_the_grace(
    start_gateway: Any, client: Any, stop: Any
) -> None:
    """A plugin that never answers cannot hold up shutdown longer than the grace time."""
    gateway = await start_gateway(grace_seconds=1)
    entered = asyncio.Event()

    async def stuck(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    gateway.context.mounts.put(WebMount("stuck", 1, stuck))
    asking = asyncio.create_task(client.get(f"{gateway.url}/plugins/stuck/"))
    await entered.wait()
    began = time.monotonic()
    await stop(gateway)
    assert time.monotonic() - began < 3
    await asyncio.wait({asking})
    assert asking.exception() is not None or asking.result().status_code == 500


async def test_being_cancelled_closes_everything_too(start_gateway: Any, client: Any) -> None:
    """Where the scope is undone without `stop`, the server's socket and connections are closed as well."""
    gateway = await start_gateway()
    await client.get(f"{gateway.url}/livez")
    await gateway.context.close()
    host, port = gateway.url.removeprefix("http://").split(":")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))


async def test_a_taken_port_is_named_with_its_fix(start_gateway: Any, tmp_path: Path) -> None:
    """A port in use is an AddressInUse that names it and the way out; nothing is left behind."""
    first = await start_gateway()
    port = int(first.url.rpartition(":")[2])
    with pytest.raises(AddressInUse, match=str(port)) as taken:
        await start_gateway(port=port)
    assert "--port 0" in taken.value.fix


async def test_a_taken_port_may_be_replaced(start_gateway: Any, client: Any) -> None:
    """With `port_fallback` any free port does."""
    first = await start_gateway()
    second = await start_gateway(port=int(first.url.rpartition(":")[2]), port_fallback=True)
    assert second.url != first.url
    assert (await client.get(f"{second.url}/livez")).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])  # noqa: S104 - refused here
def test_other_machines_are_let_in_only_on_purpose(host: str) -> None:
    """A host that is not loopback is refused, with the fix, unless `allow_remote` is set."""
    with pytest.raises(SettingsError, match="allow_remote"):
        GatewayConfig.read({"host": host})
    assert GatewayConfig.read({"host": host, "allow_remote": True}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_has_many_names(host: str) -> None:
    """Every name of this machine alone is taken."""
    assert GatewayConfig.read({"host": host}).host == host


async def test_on_all_addresses_the_endpoint_names_a_reachable_one(start_gateway: Any, client: Any) -> None:
    """endpoint.json of a gateway that listens everywhere leads to loopback."""
    gateway = await start_gateway(host="0.0.0.0", allow_remote=True)  # noqa: S104 - what is tested
    assert gateway.url.startswith("http://127.0.0.1:")
    assert (await client.get(f"{gateway.url}/livez")).status_code == 200


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"prot": 80}, "prot"),
        ({"port": 70_000}, "port"),
        ({"port": "high"}, "port"),
        ({"log_level": "loud"}, "log_level"),
    ],
)
def test_a_bad_setting_is_named(config: dict[str, JsonValue], key: str) -> None:
    """An unknown key or a value out of range is a SettingsError that names the key."""
    with pytest.raises(SettingsError, match=key) as refused:
        GatewayConfig.read(config)
    assert refused.value.fix


async def test_an_address_that_is_not_ours_is_named(start_gateway: Any) -> None:
    """An address that this machine does not have is an error with a fix, not a traceback."""
    with pytest.raises(SettingsError, match=r"203\.0\.113\.1"):
        await start_gateway(host="203.0.113.1", allow_remote=True)


def test_the_manifest_says_the_defaults() -> None:
    """The manifest is valid, and its default configuration is that of the code, key by key."""
    manifest = PluginMetadata.model_validate(tomllib.loads((FOLDER / "plugin.toml").read_text()))
    assert manifest.default_configuration == GatewayConfig().model_dump()
    assert (manifest.plugin_id, manifest.security_level.value, manifest.reload) == (
        "gateway",
        "unrestricted",
        "stop-start",
    )


@pytest.mark.parametrize("size", [2_000_000, 20_000_000])
async def test_a_client_with_too_much_to_say_hears_so(start_gateway: Any, client: Any, size: int) -> None:
    """On a real connection the 413 arrives, though most of the body was never taken."""
    gateway = await start_gateway()
    headers = {"Content-Type": "application/cloudevents+json"}
    refused = await client.post(f"{gateway.url}/events", content=b" " * size, headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (413, "/problems/payload-too-large")
    assert (await client.get(f"{gateway.url}/livez")).status_code == 200
