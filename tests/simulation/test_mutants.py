"""The simulation finds what it is for: mistakes planted in the bus."""

from __future__ import annotations

import pytest
from bus_simulation.mutants import MUTANTS, planted
from bus_simulation.runs import failures

SEEDS = 1_000


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_planted_mistake_is_found(name: str) -> None:
    """Within the normal number of seeds."""
    with planted(name):
        found = next(failures(range(SEEDS)), None)
    assert found is not None
