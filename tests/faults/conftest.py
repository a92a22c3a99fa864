"""Makes the fault tools and the naive bus importable; the servers, and a rig on one of them.

The shared servers are up before a test begins: the test kit counts a process that appears during one as left
behind.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1] / "bus" / "conformance"))

from fault_tools.servers import Server, binaries, shared_server
from fault_tools.storage_systems import Store, backend_on

from bus.conformance import Backend, limits_for
from bus.conformance.rig import Rig


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


@pytest.fixture
def backend(request: pytest.FixtureRequest, server: Server) -> Backend:
    return backend_on(server, limits_for(request))


@pytest.fixture
async def rig(backend: Backend) -> AsyncIterator[Rig]:
    rig = Rig(backend)
    yield rig
    await rig.end()
    await backend.close()


@pytest.fixture
def store(backend: Backend, server: Server) -> Store:
    return Store(backend, server)
