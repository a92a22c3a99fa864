"""The control: tests of failure modes run on the naive bus too, where they must fail, each for its reason.

A test marked with `fails_on_naive` is run once more by the last test of its file, on the bus that many people
would write (`tests/bus/conformance/naive_redis.py`). It must come as far as the line that the mark names, and
fail there because a promise is broken: what fails elsewhere, or because something is missing in the naive
bus, judges nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import linecache
import traceback
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import pytest
from redis import RedisError

from bus.conformance.backend import limits_of
from bus.conformance.rig import Rig
from contracts.errors import BusError

from .own_servers import DURABLE, Behind
from .proxy import FaultProxy
from .servers import Server
from .storage_systems import Store, backend_on, naive_bus

TIME = 10.0
"""Seconds after which a test on the naive bus has failed where it is, whatever it waits for: redis-py
swallows some of the cancellations by which its patience would end."""
BROKEN = (AssertionError, TimeoutError, BusError, RedisError, pytest.fail.Exception)
"""How a promise is broken: what was to be so is not, never comes, or is refused. That something is missing
(`NotImplementedError`, `AttributeError`) is none of it."""

Body = Callable[..., Coroutine[Any, Any, None]]
T = TypeVar("T", bound=Body)


class Control(NamedTuple):
    body: Body
    at: tuple[str, ...]
    because: str
    patience: float
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return self.body.__name__.removeprefix("test_")

    async def check(self, caplog: pytest.LogCaptureFixture) -> None:
        """Run it on the naive bus, on a server of its own; fails unless it fails as it should."""
        before = asyncio.all_tasks()
        with Server(config=DURABLE) as server:
            try:
                async with naive_bus(self.patience):
                    await self._run(server, caplog)
            except BROKEN as error:
                line = _line_in(self.body, error)
                is_it = any(at in line for at in self.at)
                assert is_it, f"it fails elsewhere than for its reason, {self.because}: {line}"
            else:
                pytest.fail(f"it passes on the naive bus, so it does not judge that {self.because}")
            finally:
                await end(asyncio.all_tasks() - before)

    async def _run(self, server: Server, caplog: pytest.LogCaptureFixture) -> None:
        wanted = inspect.signature(self.body).parameters
        async with AsyncExitStack() as stack, asyncio.timeout(TIME):
            backend: Any = backend_on(server, limits_of(self.body))
            given = {
                "rig": Rig(backend), "store": Store(backend, server), "server": server, "own_server": server,
                "request": SimpleNamespace(function=self.body), "caplog": caplog, **self.arguments,
            }  # fmt: skip
            if "proxied" in wanted:
                proxy = await stack.enter_async_context(FaultProxy(server))
                backend.server = Behind(proxy)
                given["proxied"] = given["rig"], proxy
            await self.body(**{name: given[name] for name in wanted})


def fails_on_naive(
    controls: list[Control], *, at: str | tuple[str, ...], because: str, patience: float = 3.0,
    **arguments: Any,
) -> Callable[[T], T]:  # fmt: skip
    """Add the test to the `controls` of its file. On the naive bus it fails at a line that contains `at`,
    `because` of what the naive bus does. `patience`: seconds that this has for what must come. `arguments`:
    those that the test is parametrized with."""

    def mark(body: T) -> T:
        places = (at,) if isinstance(at, str) else at
        controls.append(Control(body, places, because, patience, arguments))
        return body

    return mark


def _line_in(body: Body, error: BaseException | None) -> str:
    """The line of the test at which it was raised, or at which its time was over; empty: none."""
    found = ""
    while error is not None and not found:
        for frame, line in traceback.walk_tb(error.__traceback__):
            if frame.f_code is body.__code__:
                found = linecache.getline(frame.f_code.co_filename, line).strip()
        error = error.__cause__
    return found


async def end(tasks: set[asyncio.Task[Any]]) -> None:
    """What a test would have awaited, had it not failed. More than once: redis-py swallows some."""
    while tasks := {task for task in tasks if not task.done()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.1)
