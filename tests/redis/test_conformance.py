"""The Redis bus passes the suite, on every server that is found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fault_tools.backend import RedisBackend
from fault_tools.servers import Server, binaries, binary

from bus.conformance import Backend, BusConformance, Stress, limits_for


@pytest.fixture(params=[label for label, _ in binaries()])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of the test's own, which keeps what it confirms."""
    with Server(binary(request.param), {"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


class TestRedis(BusConformance):
    @pytest.fixture
    async def backend(self, request: pytest.FixtureRequest, server: Server) -> Backend:
        return RedisBackend(limits_for(request), server)


class TestStress(Stress):
    @pytest.fixture
    async def backend(self, request: pytest.FixtureRequest, server: Server) -> Backend:
        return RedisBackend(limits_for(request), server)
