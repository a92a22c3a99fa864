"""Whether starting and stopping plugins leaves anything behind: `python tests/benchmarks/cycles.py`.

All built-in plugins and one that does everything (routes, a WebSocket, static files, tasks, timers, handlers,
a capability, a logger, a thread of its own) are stopped in the reverse order, started and asked over HTTP and
WebSocket, 200 times in one kernel. What there is afterwards is held against what there was before: tasks,
threads, descriptors, modules, loggers and finders must be as many; objects and memory may grow by what the
table says for each cycle. Exit code 1 if something grows. The first cycles do not count: caches fill, and the
bus, which is told to retain little, is full by then.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import httpx
import psutil
from rounds import table
from websockets.asyncio.client import connect

from kernel import PluginManager
from kernel.settings import load_settings

BUILT_IN = ("audit", "telemetry", "host_monitor", "alerts", "webhooks")
EDGE = "gateway"
WARM_UP, CYCLES = 50, 200
MAY_GROW = {"objects": 20.0, "memory": 4_096.0}
"""Each cycle: objects that the collector sees, and bytes of resident memory."""

WHOLE = '''
import asyncio
import logging
import threading

from fastapi import APIRouter, WebSocket

from plugbus import BasePlugin, Event, IWebPlugin, Query, StaticMount, on, provides


class Told(Event, type="whole.told"):
    """Something was said."""
    number: int


class Double(Query[int], capability="whole.double"):
    number: int


class Whole(
    BasePlugin,
    IWebPlugin,
    plugin_id="whole",
    version="1.0.0",
    security_level="unrestricted",
    required_permissions=["read_data", "write_data"],
):
    async def initialize(self):
        (self.context.data_dir / "state").write_text("here")
        self.file = (self.context.data_dir / "state").open()
        self.context.on_close(self.file.close)

    async def start(self):
        logging.getLogger(__name__).debug("started")
        self.thread = threading.Thread(target=self.context.stopping.is_set, name="whole")
        self.thread.start()
        self.context.spawn(asyncio.sleep(3600), name="forever")
        self.context.every(0.01, self.tick)
        self.heard = asyncio.Event()
        await self.context.publish(Told(number=1))

    async def stop(self):
        self.thread.join()

    async def tick(self):
        self.ticked = True

    @on
    async def told(self, event: Told) -> None:
        self.heard.set()

    @provides
    async def double(self, query: Double) -> int:
        return 2 * query.number

    async def get_api_router(self):
        router = APIRouter()

        @router.get("/heard")
        async def heard() -> dict[str, bool]:
            await self.heard.wait()
            return {"heard": True}

        @router.websocket("/echo")
        async def echo(socket: WebSocket) -> None:
            await socket.accept()
            await socket.send_text(await socket.receive_text())
            await socket.close()

        return router

    async def get_static_mounts(self):
        return [StaticMount(path="/files", directory="files")]
'''


def make(folder: Path) -> None:
    (folder / "whole/files").mkdir(parents=True)
    (folder / "whole/plugin.py").write_text(WHOLE)
    (folder / "whole/files/a.txt").write_text("static")


def environment(place: Path) -> dict[str, str]:
    return {
        "PLUGBUS_STATE_DIR": str(place / "state"),
        "PLUGBUS_PLUGIN_PATHS": json.dumps([str(place / "plugins")]),
        "PLUGBUS_PLUGINS__GATEWAY__CONFIG__PORT": "0",
        "PLUGBUS_PLUGINS__WEBHOOKS__CONFIG__SECRET": "of the measurement",
        "PLUGBUS_BUS__LIMITS__RETAIN": "10",
        "PLUGBUS_BUS__LIMITS__YOUNG_SECONDS": "0",
        "PLUGBUS_BUS__LIMITS__WINDOW": "50",
        "PLUGBUS_BUS__LIMITS__WINDOW_SECONDS": "5",
        **{f"PLUGBUS_PLUGINS__{id.upper()}__ENABLED": "true" for id in (*BUILT_IN, EDGE)},
    }


async def cycle(manager: PluginManager) -> None:
    """Stop all that is started, start it again, and ask it. The kernel has it all started at first."""
    ids = [info.plugin_id for info in manager.plugins() if info.status.value == "started"]
    if len(ids) != len(BUILT_IN) + 2:
        raise SystemExit(f"started are only {ids}")
    for plugin_id in reversed(ids):
        await manager.stop_plugin(plugin_id)
    for plugin_id in ids:
        await manager.start_plugin(plugin_id)
    url = manager.url
    assert url
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        assert (await client.get("/plugins/whole/heard")).json() == {"heard": True}
        assert (await client.get("/plugins/whole/files/a.txt")).text == "static"
        assert "/plugins/whole/heard" in (await client.get("/openapi.json")).json()["paths"]
    async with connect(f"{url.replace('http', 'ws', 1)}/plugins/whole/echo") as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"


async def what_there_is(manager: PluginManager) -> dict[str, int]:
    await manager.kernel.settle()
    for _ in range(3):
        gc.collect()
        await asyncio.sleep(0)
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "descriptors": _descriptors(),
        "modules": len(sys.modules),
        "loggers": len(logging.Logger.manager.loggerDict),
        "finders": len(sys.meta_path),
        "objects": len(gc.get_objects()),
        "memory": psutil.Process().memory_info().rss,
    }


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


async def measure(warm_up: int, cycles: int) -> tuple[dict[str, int], dict[str, int]]:
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary, "plugins"))
        settings = load_settings(environ=environment(Path(temporary)))
        async with PluginManager(settings, profile="run") as manager:
            for _ in range(warm_up):
                await cycle(manager)
            before = await what_there_is(manager)
            for _ in range(cycles):
                await cycle(manager)
            after = await what_there_is(manager)
            told = manager.bus.tail("plugin.leaked", position="oldest")
            leaks = told.read_nowait()
            told.close()
        if leaks:
            raise SystemExit(f"the kernel found what was left: {leaks[0]}")
    return before, after


def growing(before: dict[str, int], after: dict[str, int], cycles: int) -> list[str]:
    return [name for name in before if (after[name] - before[name]) / cycles > MAY_GROW.get(name, 0)]


def report(before: dict[str, int], after: dict[str, int], cycles: int) -> str:
    rows = [
        [
            name,
            str(before[name]),
            str(after[name]),
            f"{(after[name] - before[name]) / cycles:+.1f}",
            f"{MAY_GROW.get(name, 0):g}",
        ]
        for name in before
    ]
    return table(["of the process", "before", "after", "each cycle", "at most"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="cycles that do not count")
    parser.add_argument("--cycles", type=int, default=CYCLES)
    parser.add_argument("--json", action="store_true", help="the figures as JSON, unjudged")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    before, after = asyncio.run(measure(chosen.warm_up, chosen.cycles))
    if chosen.json:
        print(json.dumps({"before": before, "after": after}))
        return
    print(report(before, after, chosen.cycles))
    if grown := growing(before, after, chosen.cycles):
        raise SystemExit(f"grows: {', '.join(grown)}")


if __name__ == "__main__":
    main()
