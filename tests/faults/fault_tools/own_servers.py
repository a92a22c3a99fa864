"""A server of one test alone, which it may fill, configure and kill; and what stands on it.

A file that imports the fixtures has `backend`, `rig` and `store` on a server of its own, in place of those on
the shared one.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bus.conformance import Backend, limits_for
from bus.conformance.rig import Rig

from .proxy import FaultProxy
from .servers import Server, binaries, binary
from .storage_systems import Store, backend_on

VERSIONS = [label for label, _ in binaries()]
DURABLE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "repl-diskless-sync-delay": "0",  # who waits for another replica to come waits in vain here
}


@pytest.fixture(name="own_server", params=VERSIONS)
def server_of_its_own(request: pytest.FixtureRequest) -> Iterator[Server]:
    """It keeps what it confirms; the test runs once on each version."""
    with Server(binary(request.param), DURABLE) as server:
        yield server


@pytest.fixture(name="backend")
def own_backend(request: pytest.FixtureRequest, own_server: Server) -> Backend:
    return backend_on(own_server, limits_for(request))


@pytest.fixture(name="rig")
async def own_rig(backend: Backend, own_server: Server) -> AsyncIterator[Rig]:
    rig = Rig(backend)
    yield rig
    await mend(own_server)
    await rig.end()
    await backend.close()


@pytest.fixture(name="store")
def own_store(backend: Backend, own_server: Server) -> Store:
    return Store(backend, own_server)


@asynccontextmanager
async def rig_on(server: Server, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """The same on a server that the test has made itself."""
    backend = backend_on(server, limits_for(request))
    rig = Rig(backend)
    try:
        yield rig
    finally:
        await mend(server)
        await rig.end(alone=False)
        await backend.close()


class Behind:
    """The server as a backend sees it through a proxy."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self.url = proxy.url

    def command(self, *args: Any) -> Any:
        return self._proxy.server.command(*args)


@pytest.fixture(name="proxied")
async def rig_and_proxy(
    request: pytest.FixtureRequest, server: Server
) -> AsyncIterator[tuple[Rig, FaultProxy]]:
    """A rig whose way to the shared server leads through the proxy."""
    async with FaultProxy(server) as proxy:
        backend: Any = backend_on(server, limits_for(request))
        backend.server = Behind(proxy)
        rig = Rig(backend)
        yield rig, proxy
        await rig.end(alone=False)
        await backend.close()


# --- what was done to it, undone ----------------------------------------------------------------------------


async def mend(server: Server) -> None:
    """Whatever a test has done to it, it is up and takes writes."""
    if not server.is_running:
        await server.start_async()
    limit_files(server, resource.RLIM_INFINITY)
    server.command("CONFIG", "SET", "maxmemory", 0)
    while not _writes(server):  # noqa: ASYNC110 - it looks at its disk once a second
        await asyncio.sleep(0.05)


def limit_files(server: Server, size: int) -> None:
    """None of its files may grow beyond that."""
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _writes(server: Server) -> bool:
    with server.client() as client:
        return str(client.info("persistence")["aof_last_write_status"]) == "ok"
