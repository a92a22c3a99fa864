"""What the server is, and what is really in force in it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Literal

import hiredis
from pydantic import JsonValue

from contracts.bus import BusInfo

from .layout import LAYOUT
from .scripts import names, script
from .wire import Wire

if TYPE_CHECKING:
    from .core import Core

OLDEST_SERVER = (6, 2)
_WITHIN = 2.0


async def look_at_server(core: Core) -> BusInfo:
    """Never raises because the server is gone."""
    try:
        async with asyncio.timeout(_WITHIN):
            await core.link.ready(core.link.control, _WITHIN)
            return await _look(core)
    except Exception as error:  # noqa: BLE001 - whatever keeps us from it is what there is to tell
        return BusInfo(
            backend="redis", address=core.link.address, namespace=core.keys.namespace, connected=False,
            durability="none", replicas=tuple(sorted(core.registry.view.replicas)),
            warnings=(f"Redis does not answer ({error}): start it; what was confirmed is safe there",),
        )  # fmt: skip


async def _look(core: Core) -> BusInfo:
    wire = core.link.control
    began = time.perf_counter()
    await wire.ask("PING")
    latency = time.perf_counter() - began
    [info] = await wire.send(("INFO",))
    facts = parse_info(info) if isinstance(info, bytes) else {}
    config = await configuration(wire, "appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "save")
    durability = durability_of(facts, config)
    clients = [
        dict(pair.split("=", 1) for pair in line.split() if "=" in pair)
        for line in (await _or_nothing(wire, "CLIENT", "LIST")).decode().splitlines()
    ]
    loaded = await wire.ask("SCRIPT", "EXISTS", *(script(name).sha for name in names()))
    view = await core.registry.refresh()
    details: dict[str, JsonValue] = {
        "latency_ms": round(latency * 1e3, 3),
        "layout": LAYOUT,
        "appendonly": config.get("appendonly"),
        "appendfsync": config.get("appendfsync"),
        "maxmemory": int(config.get("maxmemory") or facts.get("maxmemory") or 0),
        "maxmemory_policy": config.get("maxmemory-policy") or facts.get("maxmemory_policy"),
        "used_memory": int(facts.get("used_memory", 0)),
        "connections": sum(client.get("name") == "plugbus" for client in clients) if clients else None,
        "scripts": f"{sum(loaded)} of {len(loaded)} loaded",
        "topics": len(view.topics),
        "groups": len(view.groups),
        "lost_connections": core.link.losses,
    }
    return BusInfo(
        backend="redis", server=f"Redis {facts.get('redis_version', '?')}", address=core.link.address,
        namespace=core.keys.namespace, connected=True, durability=durability,
        replicas=tuple(sorted(view.replicas)), warnings=tuple(warnings_of(facts, config, durability)),
        details=details,
    )  # fmt: skip


def durability_of(facts: dict[str, str], config: dict[str, str]) -> Literal["weak", "strong"]:
    """Strong: what was confirmed is on disk. What cannot be read is not taken for granted."""
    is_logged = config.get("appendonly", "yes" if facts.get("aof_enabled") == "1" else "no") == "yes"
    return "strong" if is_logged and config.get("appendfsync") == "always" else "weak"


def warnings_of(facts: dict[str, str], config: dict[str, str], durability: str) -> list[str]:
    found = []
    if durability == "weak":
        what = (
            f"appendfsync is {config.get('appendfsync', 'not to be read')}"
            if config.get("appendonly") == "yes"
            else "there is no append-only file"
        )
        found.append(
            f"durability is weak: {what}, so a crash may lose what was confirmed last;"
            " set appendonly yes and appendfsync always"
        )
    policy = config.get("maxmemory-policy") or facts.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        found.append(
            f"maxmemory-policy is {policy}: Redis may throw events away when its memory is full; set noeviction"
        )
    if facts.get("aof_last_write_status", "ok") != "ok":
        found.append("the append-only file cannot be written: free space on the disk of Redis")
    if facts.get("role") == "slave":
        found.append("this server is a replica: point PLUGBUS_BUS__URL at its master")
    return found


def version_of(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


async def configuration(wire: Wire, *wanted: str) -> dict[str, str]:
    """What may be read of the server's configuration: managed ones do not show it."""
    found: dict[str, str] = {}
    for reply in await wire.send(*(("CONFIG", "GET", name) for name in wanted)):
        if isinstance(reply, list):
            found |= {
                name.decode(): value.decode() for name, value in zip(reply[::2], reply[1::2], strict=True)
            }
    return found


def parse_info(raw: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in raw.decode(errors="replace").splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in lines}


async def _or_nothing(wire: Wire, *command: Any) -> bytes:
    [reply] = await wire.send(command)
    return b"" if isinstance(reply, hiredis.ReplyError) else reply
