"""What starting and stopping 100 plugins costs: `python tests/benchmarks/start.py`.

Each is a folder with a manifest and code: two event classes, five routes, three subscriptions. They run
on the memory bus beside the gateway and the audit log, which listen and write as ever. Each round is a
fresh process; *imports* are ours (`plugbus run` pays for them too), *started* is `PluginManager.start`, the
plugins' imports included; an empty kernel with the same built-ins stands beside it. Afterwards the last
plugin is asked. On a machine that is busy with other things the processor's time tells more than the clock:
both are shown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rounds import Result, interleave, table

CASES = {"none": 0, "ten": 10, "hundred": 100}
STEPS = ("imports", "started", "stopped")
GOALS = {"imports and started": 2_000, "stopped": 1_000}
"""Milliseconds for a hundred plugins."""

MANIFEST = """\
plugin_id = "shop_{0}"
name = "Shop {0}"
version = "1.0.0"
entry_point = "shop:Shop"
security_level = "trusted"
"""
CODE = '''
from fastapi import APIRouter
from pydantic import BaseModel

from plugbus import BasePlugin, Event, IWebPlugin, StaticMount, on


class Ordered(Event, type="shop_{0}.ordered"):
    """Somebody ordered."""
    number: int


class Shipped(Event, type="shop_{0}.shipped"):
    """It was sent."""
    number: int


class Item(BaseModel):
    name: str
    price: float


class Shop(BasePlugin, IWebPlugin):
    @on
    async def ordered(self, event: Ordered) -> Shipped:
        return Shipped(number=event.number)

    @on
    async def shipped(self, event: Shipped) -> None:
        self.seen = event.number

    @on("shop_{0}.ordered", name="count")
    async def count(self, event: Ordered) -> None:
        self.counted = event.number

    async def get_api_router(self) -> APIRouter:
        router = APIRouter()

        @router.get("/items")
        async def items() -> list[Item]:
            return [Item(name="a", price=1)]

        @router.get("/items/{{number}}")
        async def item(number: int) -> Item:
            return Item(name=str(number), price=number)

        @router.post("/items")
        async def add(item: Item) -> Item:
            return item

        @router.delete("/items/{{number}}")
        async def remove(number: int) -> None:
            return None

        @router.get("/about")
        async def about() -> dict[str, str]:
            return {{"id": "shop_{0}"}}

        return router

    async def get_static_mounts(self) -> list[StaticMount]:
        return []
'''


def make(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        place = folder / f"shop_{number}"
        place.mkdir()
        (place / "plugin.toml").write_text(MANIFEST.format(number))
        (place / "shop.py").write_text(CODE.format(number))


async def measure(count: int) -> Result:
    lap = _Laps()
    import fastapi
    import uvicorn

    from kernel import PluginManager
    from kernel.settings import load_settings

    del fastapi, uvicorn  # the gateway brings them along in any case
    lap.end("imports")
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary, "plugins"), count)
        environ = {
            "PLUGBUS_STATE_DIR": f"{temporary}/state",
            "PLUGBUS_PLUGIN_PATHS": json.dumps([f"{temporary}/plugins"]),
            "PLUGBUS_PLUGINS__GATEWAY__CONFIG__PORT": "0",
        }
        lap.begin()
        manager = PluginManager(load_settings(environ=environ), profile="run")
        await manager.start()
        lap.end("started")
        await _ask_last(manager, count)
        lap.begin()
        await manager.stop()
        lap.end("stopped")
    return lap.taken


class _Laps:
    """Milliseconds by the clock, and of the processor."""

    def __init__(self) -> None:
        self.taken: Result = {}
        self.begin()

    def begin(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def end(self, name: str) -> None:
        clock, processor = self._began
        self.taken[name] = (time.perf_counter() - clock) * 1_000
        self.taken[f"{name} processor"] = (time.process_time() - processor) * 1_000


async def _ask_last(manager: Any, count: int) -> None:
    """That they are all there, by the last one's answer."""
    import httpx

    ids = {info.plugin_id for info in manager.plugins() if info.status.value == "started"}
    missing = {f"shop_{number}" for number in range(count)} - ids
    if missing:
        raise SystemExit(f"not started: {sorted(missing)[:3]}")
    async with httpx.AsyncClient(base_url=manager.url) as client:
        if count:
            answer = await client.get(f"/plugins/shop_{count - 1}/items/7")
            assert answer.json() == {"name": "7", "price": 7.0}, answer.text


def report(found: dict[str, Result]) -> str:
    rows = []
    for case, result in found.items():
        figures = [[result[f"{step}{what}"] for what in ("", " processor")] for step in STEPS]
        both = [sum(pair) for pair in zip(*figures[:2], strict=True)]
        shown = [f"{clock:.0f} ms ({processor:.0f})" for clock, processor in (*figures[:2], both, figures[2])]
        rows.append([str(CASES[case]), *shown])
    rows.append(["100, at most", "", "", *(f"{goal} ms" for goal in GOALS.values())])
    return table(["plugins", "imports", "started", "both", "stopped"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--case", choices=CASES, help="one case, one round, as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.case:
        print(json.dumps(asyncio.run(measure(CASES[chosen.case]))))
    else:
        print(report(interleave(Path(__file__), list(CASES), chosen.rounds, chosen.seconds)))


if __name__ == "__main__":
    main()
