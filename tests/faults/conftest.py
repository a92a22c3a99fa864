"""Makes the fault tools and the naive bus importable; the servers, a rig on one of them, workers beside it.

The shared servers are up before a test begins: the test kit counts a process that appears during one as left
behind.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1] / "bus" / "conformance"))

from fault_tools.backend import RedisBackend
from fault_tools.faults import Refuse
from fault_tools.form import IS_LONG, LONGEST
from fault_tools.network import backend_for, load_scripts
from fault_tools.proxy import FaultProxy
from fault_tools.servers import Server, binaries, binary, shared_server
from fault_tools.storage_systems import Store, backend_on
from fault_tools.workers import Bench, Nursery

from bus.conformance import Backend, limits_for
from bus.conformance.rig import Rig
from bus.redis_streams import bell, link, publisher


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long form takes its time."""
    for item in items if IS_LONG else ():
        item.add_marker(pytest.mark.timeout(LONGEST))


@pytest.fixture(scope="session")
def shared_servers() -> dict[str, Server]:
    """One server of each version, up for the whole session."""
    return {label: shared_server(label) for label, _ in binaries()}


@pytest.fixture(params=[label for label, _ in binaries()])
def server(request: pytest.FixtureRequest, shared_servers: dict[str, Server]) -> Server:
    """A shared server, as new; the test runs once on each version."""
    found = shared_servers[request.param]
    found.reset()
    return found


@pytest.fixture(params=[label for label, _ in binaries()])
def own(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that only this test has; not started."""
    server = Server(binary(request.param), {"appendonly": "yes", "appendfsync": "always"}, unix_socket=True)
    yield server
    server.close()


# --- a bus on it, or behind the proxy -----------------------------------------------------------------------


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[FaultProxy]:
    load_scripts(server)
    async with FaultProxy(server) as proxy:
        yield proxy


@pytest.fixture
def former(request: pytest.FixtureRequest, proxy: FaultProxy) -> str:
    """What becomes of connections that were lost: a bus that reconnects has the server end them, "ended", or
    has not the right to do so, "left"."""
    former = str(getattr(request, "param", "ended"))
    if former == "left":
        proxy.on("CLIENT", Refuse("NOPERM this user may not"), containing="KILL", times=None)
    return former


@pytest.fixture
def late_bell(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bell listens so late that what only it could bring does not come in time."""
    monkeypatch.setattr(bell, "_LATER", 3_600.0)


@pytest.fixture
def fetches_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is given what he publishes in the call that publishes it: each fetch is one of its own."""
    monkeypatch.setattr(publisher, "_LITTLE", -1)


@pytest.fixture
def system(request: pytest.FixtureRequest) -> str:
    """Whose bus is behind the proxy; see `fails_on_naive`."""
    return str(getattr(request, "param", "plugbus"))


@pytest.fixture
def backend(request: pytest.FixtureRequest, system: str, server: Server) -> Backend:
    """Behind the proxy, where the test asks for one."""
    limits = limits_for(request)
    if "proxy" in request.fixturenames:
        return backend_for(system, limits, server, request.getfixturevalue("proxy"))
    return backend_on(server, limits)


@pytest.fixture
async def rig(backend: Backend) -> AsyncIterator[Rig]:
    rig = Rig(backend)
    yield rig
    proxy: FaultProxy | None = getattr(backend, "proxy", None)
    if proxy is not None:
        proxy.clear()
        proxy.release()
        await proxy.accept()
    await rig.end(alone=proxy is None)  # a proxy is at work; that no task is left is checked behind it
    await backend.close()


@pytest.fixture
def fast_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stalled connection is noticed sooner, so that a test need not wait for it as long as a user would."""
    monkeypatch.setattr(link, "STALL", 0.5)
    monkeypatch.setattr(link, "BLOCK", 1.0)
    monkeypatch.setattr(bell, "BLOCK", 1.0)


@pytest.fixture
def store(backend: Backend, server: Server) -> Store:
    return Store(backend, server)


# --- processes beside it ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture
async def work(
    request: pytest.FixtureRequest, server: Server, nursery: Nursery, tmp_path: Path
) -> AsyncIterator[Bench]:
    rig = Rig(RedisBackend(limits_for(request), server))
    async with Bench(rig, nursery, tmp_path, server) as work:
        yield work
