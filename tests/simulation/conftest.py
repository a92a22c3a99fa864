"""Makes the simulation importable, and runs its seeds once for all tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

if TYPE_CHECKING:
    from bus_simulation.runs import Result

SEEDS = 1_000


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known to `pytest tests/simulation`; the whole suite runs the normal number."""
    parser.addoption("--seeds", type=int, default=SEEDS, help="how many worlds are simulated")


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config) -> list[Result]:
    from bus_simulation.runs import run

    return [run(seed).without_trace() for seed in range(pytestconfig.getoption("--seeds", SEEDS))]
