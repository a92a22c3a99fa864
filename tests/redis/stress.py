"""The stress form on Redis, ten of each universal test at once: `pytest tests/redis/stress.py`.

Its name keeps it out of the normal run.
"""

from __future__ import annotations

import pytest
from fault_tools.backend import RedisBackend
from fault_tools.servers import Server

from bus.conformance import Backend, Stress, limits_for


class TestStress(Stress):
    parallel = 10

    @pytest.fixture
    async def backend(self, request: pytest.FixtureRequest, server: Server) -> Backend:
        return RedisBackend(limits_for(request), server)
