"""The Redis bus passes the suite, on every server that is found."""

from __future__ import annotations

import pytest
from fault_tools.backend import RedisBackend
from fault_tools.servers import Server

from bus.conformance import Backend, BusConformance, limits_for


class TestRedis(BusConformance):
    @pytest.fixture
    async def backend(self, request: pytest.FixtureRequest, server: Server) -> Backend:
        return RedisBackend(limits_for(request), server)
