"""What all parts of the suite share: the fixture to be given, and the rig made on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .backend import Backend
from .rig import Rig


class Suite:
    """Base of every part. A subclass gives the fixture `backend`."""

    @pytest.fixture
    async def backend(self, request: pytest.FixtureRequest) -> Backend:
        """A new, empty backend with `limits_for(request)`. The suite closes it."""
        raise NotImplementedError("give the fixture `backend`: see bus/conformance/README.md")

    @pytest.fixture
    async def rig(self, backend: Backend) -> AsyncIterator[Rig]:
        rig = Rig(backend)
        yield rig
        await rig.end()
        await backend.close()
