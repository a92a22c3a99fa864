"""The universal tests many times at once, in one event loop: each on a backend (or namespace) of its own."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from .backend import Backend, limits_of
from .rig import Rig
from .suite import Suite
from .universal import UNIVERSAL, Universal


class Stress(Suite):
    """Subclass it beside `BusConformance`, with the same fixture `backend`."""

    parallel: ClassVar[int] = 10
    """How many of each at once."""

    @pytest.mark.parametrize("name", UNIVERSAL)
    async def test_many_at_once(self, backend: Backend, name: str) -> None:
        """Side by side, they disturb each other no more than one disturbs itself."""
        test = getattr(Universal(), name)
        siblings = [await backend.sibling(limits_of(test)) for _ in range(self.parallel)]
        rigs = [Rig(sibling) for sibling in siblings]
        try:
            async with asyncio.TaskGroup() as group:  # who fails ends the others
                for rig in rigs:
                    group.create_task(test(rig))
        finally:
            for rig in rigs:
                await rig.end(alone=False)
            for sibling in siblings:
                await sibling.close()
