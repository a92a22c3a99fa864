"""The stress form on memory, ten of each universal test at once: `pytest tests/bus/conformance/stress.py`.

Its name keeps it out of the normal run.
"""

from __future__ import annotations

import pytest

from bus.conformance import Backend, Stress


class TestStress(Stress):
    parallel = 10

    @pytest.fixture
    async def backend(self, memory: Backend) -> Backend:
        return memory
