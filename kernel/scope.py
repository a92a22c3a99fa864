"""Scopes: whatever a plugin acquires is written down where it is acquired, and undone last-in first-out.

Each generation of a plugin has two, nested: what `initialize` acquired, and within it what `start` and
the handlers acquired.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

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

    async def undo(self) -> None:
        undo, self._undo = self._undo, None
        self._scope._forget(self)
        if undo is None:
            return
        result = undo()
        if inspect.isawaitable(result):
            async with asyncio.timeout(UNDO_TIMEOUT):
                await result


class Scope:
    """An ordered list of undos. Open until `close`; closing is safe twice."""

    def __init__(self, name: str, log: logging.Logger) -> None:
        self.name = name
        self._log = log
        self._entries: list[Entry] = []
        self._closed = False

    @property
    def names(self) -> tuple[str, ...]:
        """What is acquired now, oldest first."""
        return tuple(entry.name for entry in self._entries)

    def push(self, name: str, undo: Undo) -> Entry:
        """Write down how to undo what was just acquired."""
        if self._closed:
            raise RuntimeError(f"{self.name} is closed; {name} would never be undone")
        entry = Entry(self, name, undo)
        self._entries.append(entry)
        return entry

    async def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        value = await manager.__aenter__()
        self.push(f"context manager {type(manager).__name__}", lambda: _leave(manager))
        return value

    def spawn(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """A task that the scope cancels and awaits; its failure is logged."""
        if self._closed:
            coro.close()
            raise RuntimeError(f"{self.name} is closed; task {name} cannot be started")
        task = asyncio.create_task(coro, name=name)
        entry = self.push(f"task {name}", lambda: _cancel(task))
        task.add_done_callback(lambda done: self._ended(entry, done))
        return task

    async def close(self) -> list[BaseException]:
        """Undo everything, newest first; the errors that came up. Nothing is left afterwards."""
        self._closed = True
        errors: list[BaseException] = []
        while self._entries:
            entry = self._entries[-1]
            try:
                await entry.undo()
            except Exception as error:  # noqa: BLE001 - one failing undo must not keep the others from running
                error.add_note(f"while undoing {entry.name} of {self.name}")
                errors.append(error)
        return errors

    def _forget(self, entry: Entry) -> None:
        if entry in self._entries:
            self._entries.remove(entry)

    def _ended(self, entry: Entry, task: asyncio.Task[Any]) -> None:
        self._forget(entry)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("task %s of %s failed: %s", task.get_name(), self.name, error, exc_info=error)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])  # its failure is logged by its own callback


async def _leave(manager: AbstractAsyncContextManager[Any]) -> None:
    await manager.__aexit__(None, None, None)
