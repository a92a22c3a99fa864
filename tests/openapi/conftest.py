"""Makes the helpers beside importable, and how thorough the run is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known to `pytest tests/openapi`; the whole suite runs the normal number, always the same cases."""
    parser.addoption("--examples", type=int, default=None, help="cases per operation and phase, at most")
    parser.addoption("--seed", type=int, default=None, help="other cases than the usual ones")


@pytest.fixture
def thoroughness(pytestconfig: pytest.Config) -> list[str]:
    """As options of schemathesis."""
    examples, seed = (pytestconfig.getoption(name, None) for name in ("--examples", "--seed"))
    chosen = ["--generation-deterministic"] if seed is None else ["--seed", str(seed)]
    return [*chosen, "--max-examples", str(examples or 6)]
