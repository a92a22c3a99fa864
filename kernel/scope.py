"""Scopes: whatever a plugin acquires is written down where it is acquired, and undone last-in first-out.

Each generation of a plugin has two, nested: what `initialize` acquired, and within it what `start` and
the handlers acquired.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from contracts.errors import PluginStateError

from .contain import CANCEL_GRACE, contained, outward, run_apart

T = TypeVar("T")
Undo = Callable[[], Awaitable[None] | None]

UNDO_TIMEOUT = 10.0
"""Seconds that one undo may take before it is given up and reported."""


class Entry:
    """One acquired thing. `undo` is safe twice, and may be called before the scope is closed."""

    __slots__ = ("_scope", "_undo", "name")

    def __init__(self, scope: Scope, name: str, undo: Undo) -> None:
        self._scope = scope
        self._undo: Undo | None = undo
        self.name = name

    async def undo(self, timeout: float = UNDO_TIMEOUT) -> None:
        """Raises what the undo raised, or `TimeoutError` after `timeout` seconds."""
        undo, self._undo = self._undo, None
        self._scope._forget(self)
        if undo is None:
            return
        what = f"undoing {self.name} of {self._scope.name}"
        try:
            result = undo()
        except BaseException as error:
            if (told := outward(error, what)) is error:
                raise
            raise told from error
        if inspect.isawaitable(result):
            async with asyncio.timeout(timeout):
                await run_apart(_awaited(result), what)


class Scope:
    """An ordered list of undos. Open until `close`; closing is safe twice."""

    def __init__(self, name: str, log: logging.Logger) -> None:
        self.name = name
        self._log = log
        self._entries: dict[Entry, None] = {}  # ordered, and left from anywhere at no cost
        self._closed = False
        self._tasks = 0

    @property
    def tasks(self) -> int:
        """How many tasks it has spawned that are still there."""
        return self._tasks

    @property
    def names(self) -> tuple[str, ...]:
        """What is acquired now, oldest first."""
        return tuple(entry.name for entry in self._entries)

    def push(self, name: str, undo: Undo) -> Entry:
        """Write down how to undo what was just acquired. Raises `PluginStateError` once it is closed."""
        self.check_open(name)
        entry = Entry(self, name, undo)
        self._entries[entry] = None
        return entry

    def check_open(self, name: str) -> None:
        """Raise `PluginStateError` if `name` would never be undone."""
        if self._closed:
            raise PluginStateError(
                f"{name} cannot be acquired: {self.name} is closed, nobody would undo it",
                fix="acquire it in initialize(), in start() or in a handler",
            )

    async def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        name = f"context manager {type(manager).__name__}"
        self.check_open(name)
        value = await manager.__aenter__()
        try:
            self.push(name, lambda: _leave(manager))
        except PluginStateError:  # closed meanwhile
            await _leave(manager)
            raise
        return value

    def spawn(
        self, coro: Coroutine[Any, Any, T], *, name: str, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        """A task that the scope cancels and awaits; its failure is logged."""
        try:
            self.check_open(f"task {name}")
        except PluginStateError:
            coro.close()
            raise
        self._tasks += 1
        task = asyncio.create_task(contained(coro, f"task {name}"), name=name, context=context)
        entry = self.push(f"task {name}", lambda: _cancel(task))
        task.add_done_callback(lambda done: self._ended(entry, coro, done))
        return task

    async def close(self) -> list[Exception]:
        """Undo everything, newest first; the errors that came up. Nothing is left afterwards.

        A cancellation does not cut it short, it only makes the rest hurry, and is raised at the end.
        """
        self._closed = True
        errors: list[Exception] = []
        cancelled: asyncio.CancelledError | None = None
        while self._entries:
            entry = next(reversed(self._entries))
            try:
                await entry.undo(CANCEL_GRACE if cancelled else UNDO_TIMEOUT)
            except asyncio.CancelledError as error:
                cancelled = error
            except Exception as error:  # noqa: BLE001 - one failing undo must not keep the others from running
                error.add_note(f"while undoing {entry.name} of {self.name}")
                errors.append(error)
        if cancelled is None:
            return errors
        for one in errors:
            self._log.error("undo failed: %s", one, exc_info=one)
        raise cancelled

    def _forget(self, entry: Entry) -> None:
        self._entries.pop(entry, None)

    def _ended(self, entry: Entry, coro: Coroutine[Any, Any, Any], task: asyncio.Task[Any]) -> None:
        self._forget(entry)
        self._tasks -= 1
        coro.close()  # cancelled before its first step, it never ran
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("task %s of %s failed: %s", task.get_name(), self.name, error, exc_info=error)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])  # its failure is logged by its own callback


async def _leave(manager: AbstractAsyncContextManager[Any]) -> None:
    await manager.__aexit__(None, None, None)


async def _awaited(awaitable: Awaitable[None]) -> None:
    await awaitable
