"""What the server is, and what is really in force in it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import hiredis
from pydantic import JsonValue

from contracts.bus import BusInfo

from .layout import LAYOUT
from .scripts import names, script
from .server import durability_of, parse_info, warnings_of
from .wire import Wire

if TYPE_CHECKING:
    from .core import Core

_WITHIN = 2.0


async def look_at_server(core: Core, *, is_open: bool) -> BusInfo:
    """Never raises because the server is gone."""
    if not is_open:
        return _unseen(core, "the bus is not open, so nothing is known of its server")
    try:
        async with asyncio.timeout(_WITHIN):
            await core.link.ready(core.link.control, _WITHIN)
            return await _look(core)
    except Exception as error:  # noqa: BLE001 - whatever keeps us from it is what there is to tell
        return _unseen(core, f"Redis does not answer ({error}): start it; work goes on by itself then")


def _unseen(core: Core, why: str) -> BusInfo:
    """What is not known is not promised: the durability is weak."""
    return BusInfo(
        backend="redis", address=core.link.address, namespace=core.keys.namespace, connected=False,
        durability="weak", warnings=(why,),
    )  # fmt: skip


async def _look(core: Core) -> BusInfo:
    wire = core.link.control
    began = time.perf_counter()
    await wire.send(("PING",))  # refused where the disk is full, and yet an answer
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


async def configuration(wire: Wire, *wanted: str) -> dict[str, str]:
    """What may be read of the server's configuration: managed ones do not show it."""
    found: dict[str, str] = {}
    for reply in await wire.send(*(("CONFIG", "GET", name) for name in wanted)):
        if isinstance(reply, list):
            found |= {
                name.decode(): value.decode() for name, value in zip(reply[::2], reply[1::2], strict=True)
            }
    return found


async def _or_nothing(wire: Wire, *command: Any) -> bytes:
    [reply] = await wire.send(command)
    return b"" if isinstance(reply, hiredis.ReplyError) else reply
