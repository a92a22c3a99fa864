"""What the way through the gateway costs a request: `python tests/benchmarks/web.py`.

The same route (a path parameter, a pydantic model as answer) four times, each on uvicorn with the same
settings, asked over 32 kept connections from another process:

- `bare`: the only route of a FastAPI application, without Plugbus;
- `one`: the only plugin's;
- `last`: the last of five routes of the last of a hundred plugins;
- `embedded`: the same in a FastAPI application that embeds the kernel.

The server and its client share the machine. Nothing is traced, by FastAPI itself neither; no plugin sees
requests first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import psutil
import uvicorn
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from rounds import Result, all_rounds, medians, percentile, table

from contracts.base import BasePlugin
from contracts.web import StaticMount
from kernel import PluginManager, load_settings

PLUGINS, ROUTES, CONNECTIONS = 100, 5, 32
UNTRACED: Any = {"tracing": False, "metrics": False, "logs": False}
"""Newer FastAPIs make spans and metrics by themselves."""
FLOORS = {"last": 0.7}
"""Least share of the requests a second of `bare`."""


# --- what is asked ----------------------------------------------------------------------------------------


class Item(BaseModel):
    number: int
    name: str


async def item(number: int) -> Item:
    return Item(number=number, name="a thing")


def routes(count: int) -> APIRouter:
    router = APIRouter()
    for number in range(count):
        router.add_api_route(f"/r{number}/{{number}}", item)
    return router


class Site(BasePlugin):
    count = ROUTES

    async def get_api_router(self) -> Any:
        return routes(self.count)

    async def get_static_mounts(self) -> list[StaticMount]:
        return []


def plugin(number: int, count: int) -> type:
    metadata = {"plugin_id": f"p{number}", "version": "1.0.0", "security_level": "trusted"}
    return type(f"Site{number}", (Site,), {"count": count}, **metadata)


# --- serving it -------------------------------------------------------------------------------------------


def bare() -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, telemetry=UNTRACED)
    app.include_router(routes(1))
    return app


async def manager_of(folder: Path, plugins: int, count: int, app: FastAPI | None = None) -> PluginManager:
    off = {name: {"enabled": False} for name in ("audit", "webhooks", "alerts", "host_monitor", "telemetry")}
    plugins_on: dict[str, Any] = {**off, "gateway": {"config": {"port": 0}}}
    overrides = {"state_dir": folder, "plugin_paths": (), "plugins": plugins_on}
    settings = load_settings(overrides=overrides, environ={})
    manager = PluginManager(settings) if app is None else PluginManager(app, settings=settings)
    for number in range(plugins):
        await manager.register_plugin(plugin(number, count))
    return manager


@asynccontextmanager
async def uvicorn_on(app: Any, *, lifespan: Any) -> AsyncIterator[str]:
    """As the gateway sets it up."""
    config = uvicorn.Config(
        app,
        port=0,
        lifespan=lifespan,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield "http://{}:{}".format(*server.servers[0].sockets[0].getsockname())
    server.should_exit = True
    await serving


@asynccontextmanager
async def served(case: str, folder: Path) -> AsyncIterator[str]:
    """The address of the route of `case`."""
    if case == "bare":
        async with uvicorn_on(bare(), lifespan="off") as url:
            yield f"{url}/r0/7"
    elif case == "embedded":
        app = FastAPI(telemetry=UNTRACED)
        await manager_of(folder, PLUGINS, ROUTES, app)
        async with uvicorn_on(app, lifespan="on") as url:
            yield f"{url}/plugins/p{PLUGINS - 1}/r{ROUTES - 1}/7"
    else:
        plugins, count = (1, 1) if case == "one" else (PLUGINS, ROUTES)
        async with await manager_of(folder, plugins, count) as manager:
            yield f"{manager.url}/plugins/p{plugins - 1}/r{count - 1}/7"


async def serve(case: str) -> None:
    """Until the input ends; the address is the first line of the output."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        async with served(case, Path(folder)) as url:
            print(url, flush=True)
            await asyncio.to_thread(sys.stdin.read)


# --- asking -----------------------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """One kept connection that asks again as soon as it is answered."""

    def __init__(self, request: bytes, waits: list[float]) -> None:
        self._request = request
        self._waits = waits
        self._got = b""
        self._asked = 0.0
        self.failed = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._asked = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        got = self._got = self._got + data
        if not got.endswith(b'{"number":7,"name":"a thing"}'):
            return
        if not got.startswith(b"HTTP/1.1 200 "):
            self.failed = got.decode(errors="replace")
            self._transport.abort()
            return
        self._waits.append(time.perf_counter() - self._asked)
        self._got = b""
        self._ask()

    def close(self) -> None:
        self._transport.abort()


async def load(url: str, seconds: float, server: psutil.Process) -> Result:
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    request = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n".encode()
    waits = list[float]()
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: Client(request, waits), name, int(port)))[1]
        for _ in range(CONNECTIONS)
    ]
    await asyncio.sleep(min(0.5, seconds))  # warm
    waits.clear()
    began, worked = time.perf_counter(), sum(server.cpu_times()[:2])
    await asyncio.sleep(seconds)
    elapsed, answered = time.perf_counter() - began, list(waits)
    worked = sum(server.cpu_times()[:2]) - worked
    for client in clients:
        client.close()
    if failed := [client.failed for client in clients if client.failed]:
        raise SystemExit(failed[0])
    return {
        "per_second": len(answered) / elapsed,
        "micros": worked / len(answered) * 1e6,
        "p50_ms": statistics.median(answered) * 1e3,
        "p99_ms": percentile(answered, 0.99) * 1e3,
    }


def measure(case: str, seconds: float) -> Result:
    command = [sys.executable, __file__, "--serve", case]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603 - ourselves
        assert server.stdout is not None
        assert server.stdin is not None
        url = server.stdout.readline().strip()
        try:
            return asyncio.run(load(url, seconds, psutil.Process(server.pid)))
        finally:
            server.stdin.close()


def report(rounds: dict[str, list[Result]]) -> str:
    """Shares are of the same round: the machine drifts between rounds more than within one.

    On a machine that is busy with other things too, the share by processor time is the one to trust: a server
    that is asked all the time answers as many requests a second as it has time for.
    """
    rows = []
    for case, found in rounds.items():
        pairs = list(zip(found, rounds["bare"], strict=True))
        by_rate = statistics.median(mine["per_second"] / bare["per_second"] for mine, bare in pairs)
        by_work = statistics.median(bare["micros"] / mine["micros"] for mine, bare in pairs)
        figures = medians(found)
        rows.append(
            [
                case, f"{figures['per_second']:,.0f}", f"{by_rate:.2f}",
                f"{figures['micros']:.0f} µs", f"{by_work:.2f}",
                f"{FLOORS[case]:g}" if case in FLOORS else "",
                f"{figures['p50_ms']:.1f}", f"{figures['p99_ms']:.1f}",
            ]
        )  # fmt: skip
    head = ["case", "requests/s", "share", "processor time", "share", "at least", "p50 ms", "p99 ms"]
    return table(head, rows)


CASES = ("bare", "one", "last", "embedded")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--serve", choices=CASES, help="only serve it, until the input ends")
    parser.add_argument("--case", choices=CASES, help="one case, one round, as JSON")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    chosen = parser.parse_args()
    if chosen.serve:
        asyncio.run(serve(chosen.serve))
    elif chosen.case:
        print(json.dumps(measure(chosen.case, chosen.seconds)))
    else:
        print(report(all_rounds(Path(__file__), CASES, chosen.rounds, chosen.seconds)))


if __name__ == "__main__":
    main()
