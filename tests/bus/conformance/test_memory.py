"""The memory bus passes the suite."""

from __future__ import annotations

import pytest

from bus.conformance import Backend, BusConformance, Stress


class TestMemory(BusConformance):
    @pytest.fixture
    async def backend(self, memory: Backend) -> Backend:
        return memory


class TestStress(Stress):
    """The short form; the full one is `pytest tests/bus/conformance/stress.py`."""

    parallel = 2

    @pytest.fixture
    async def backend(self, memory: Backend) -> Backend:
        return memory
