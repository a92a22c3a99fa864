"""The suite on the naive bus on Redis, in real time: `pytest --noconftest` with the path of this file.

What it passes and what it must fail is in `naive_redis_judged.py`, which runs it in shares.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "faults"))

from fault_tools.servers import Server
from naive_redis import NaiveRedisBackend

from bus.conformance import Backend, BusConformance, limits_for
from bus.conformance.backend import needs

LIMIT = 8.0
"""Seconds that one test may take."""


@pytest.fixture
def durable_server() -> Iterator[Server]:
    """Of this test alone."""
    with Server(config={"appendonly": "yes", "appendfsync": "everysec"}) as server:
        yield server


class TestNaiveRedis(BusConformance):
    @pytest.fixture
    async def backend(self, request: pytest.FixtureRequest, durable_server: Server) -> Backend:
        return NaiveRedisBackend(limits_for(request), durable_server)

    @needs(lease=0.5, partitions=2)
    async def test_order_through_the_lot(self, backend: Backend) -> None:  # type: ignore[override]
        """One plan of those that the suite makes up: to simplify one that fails takes long in real time."""
        suites: Any = BusConformance.test_order_through_the_lot
        plan = [("publish", 0), ("publish", 0), ("join", 0), ("publish", 0)]
        await suites.hypothesis.inner_test(self, backend, plan=plan, failures={0: 1}, lanes=2)


def limited(test: Any) -> Any:
    """`test`, but not for longer than `LIMIT`, whatever it waits for."""

    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(LIMIT):
            await test(*args, **kwargs)

    return run


def share_of(names: list[str]) -> list[str]:
    """Those that are run: all, or with `PLUGBUS_TEST_SHARE=2/4` every fourth from the second on."""
    number, _, count = os.environ.get("PLUGBUS_TEST_SHARE", "1/1").partition("/")
    return names[int(number) - 1 :: int(count)]


_names = sorted(name for name in dir(TestNaiveRedis) if name.startswith("test_"))
for _name in _names:
    _test = limited(getattr(TestNaiveRedis, _name)) if _name in share_of(_names) else None
    setattr(TestNaiveRedis, _name, _test)
