"""Counting what one plugin takes of the event loop, step by step.

A step is what runs between two waits: nobody else runs meanwhile. What is wrapped is a whole task where
that can be, not each event: a lane that handles a hundred events in one step is measured once.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")


class Meter:
    """What has been counted so far. For one event loop; whoever counts adds to it."""

    __slots__ = ("calls", "failed", "handled", "handler_seconds", "loop_seconds", "published")

    def __init__(self) -> None:
        self.loop_seconds = 0.0
        """In which its steps occupied the event loop."""
        self.handler_seconds = 0.0
        """In which its handlers had a delivery at hand, waiting included."""
        self.handled = 0
        """Events that were handed to a handler, each attempt once."""
        self.failed = 0
        """Attempts that failed, of these."""
        self.published = 0
        self.calls = 0

    def steps(self, coro: Coroutine[Any, Any, T]) -> Steps[T]:
        """`coro`, with the time of its steps counted. To be awaited, or made a task."""
        return Steps(coro, self)


class Steps(Coroutine[Any, Any, T]):
    """A coroutine that runs another one and measures each of its steps.

    A class and not an `async def` with a generator in it: half as dear for each step.
    """

    __slots__ = ("_inner", "_meter", "_send")

    def __init__(self, inner: Coroutine[Any, Any, T], meter: Meter) -> None:
        self._inner = inner
        self._send = inner.send
        self._meter = meter

    def __next__(self) -> Any:
        began = perf_counter()
        try:
            return self._send(None)
        finally:
            self._meter.loop_seconds += perf_counter() - began

    def __await__(self) -> Generator[Any, Any, T]:
        return self

    def __iter__(self) -> Steps[T]:
        return self

    def send(self, value: Any) -> Any:
        return next(self)  # an event loop sends None and nothing else

    def throw(self, *error: Any) -> Any:
        began = perf_counter()
        try:
            return self._inner.throw(*error)
        finally:
            self._meter.loop_seconds += perf_counter() - began

    def close(self) -> None:
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        # Whoever looks at a task's coroutine (its name, its stack, the search for leaks) sees the inner one.
        return getattr(self._inner, name)
