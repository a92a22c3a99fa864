"""Makes the fault tools and the naive bus importable; has the shared servers up before a test begins.

The test kit counts a process that appears during a test as left behind.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1] / "bus" / "conformance"))

from fault_tools.servers import Server, binaries, shared_server


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
