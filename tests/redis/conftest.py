"""The Redis bus on real servers. Servers and proxy are those of the fault tests, which know the naive bus."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "bus" / "conformance"))

from fault_tools.servers import Server, binaries, binary


@pytest.fixture(params=[label for label, _ in binaries()])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of the test's own, which keeps what it confirms: it may be stopped and killed."""
    with Server(binary(request.param), {"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server
