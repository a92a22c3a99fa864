"""Lifecycle operations: one at a time for each plugin, each in a task of the kernel's."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from contracts.errors import PluginBusy, PluginStateError

from .registry import Activity, PluginRecord

T = TypeVar("T")


class Operations:
    """What is under way. A caller that gives up waiting does not cut an operation in half.

    Operations run in the context in which this was made, not in that of whoever commands one: what a
    plugin starts outlives the command.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._context = contextvars.copy_context()
        self._running: dict[str, tuple[PluginRecord, asyncio.Task[None]]] = {}
        self._whole: dict[str, asyncio.Task[Any]] = {}

    def __contains__(self, plugin_id: object) -> bool:
        return plugin_id in self._running

    @property
    def context(self) -> contextvars.Context:
        """A fresh copy of the context that operations run in."""
        return self._context.copy()

    async def run(
        self, record: PluginRecord, activity: Activity, operation: Coroutine[Any, Any, None]
    ) -> None:
        """Run and wait. Raises what it raises, `PluginBusy` if another one is under way, and
        `PluginStateError` if it was cut off by `end`."""
        try:
            self.require_idle(record)
        except PluginBusy:
            operation.close()
            raise
        record.activity = activity
        name = f"{activity.value} {record.plugin_id}"
        task = asyncio.create_task(operation, name=name, context=self.context)
        self._running[record.plugin_id] = (record, task)
        task.add_done_callback(lambda _: self._ended(record, operation))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise stopping(record) from None
            raise

    async def wholly(self, record: PluginRecord, doing: Coroutine[Any, Any, T], name: str) -> T:
        """Do what consists of an operation and more, such as writing down what is decided; the answer.

        All of it is done, whoever gives up waiting, and `end` waits for it. Nothing else begins with this
        plugin from now on until it is done. Raises what it raises, and `PluginBusy`.
        """
        try:
            self.require_idle(record)
        except PluginBusy:
            doing.close()
            raise
        task = asyncio.create_task(doing, name=f"{name} {record.plugin_id}", context=self.context)
        self._whole[record.plugin_id] = task
        task.add_done_callback(lambda _: self._whole_ended(record.plugin_id, task))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._unheard)
            raise

    def _whole_ended(self, plugin_id: str, task: asyncio.Task[Any]) -> None:
        if self._whole.get(plugin_id) is task:  # else the next one has begun
            del self._whole[plugin_id]

    def _unheard(self, task: asyncio.Task[Any]) -> None:
        """Nobody waits any more who could be told."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("%s: %s", task.get_name(), error)

    def _ended(self, record: PluginRecord, operation: Coroutine[Any, Any, None]) -> None:
        operation.close()  # cancelled before its first step, it never ran
        del self._running[record.plugin_id]
        if record.activity is not Activity.WAITING:
            record.activity = Activity.NONE

    def require_idle(self, record: PluginRecord) -> None:
        """Raise `PluginBusy` if an operation of this plugin is under way: it is refused, not queued."""
        if record.plugin_id in self._running:
            raise busy(record, record.activity.value)
        whole = self._whole.get(record.plugin_id)
        if whole is None or whole.done() or whole is asyncio.current_task():
            return
        raise busy(record, whole.get_name())  # it may not have come to its operation

    async def idle(self, plugin_id: str) -> None:
        """Return when no operation of this plugin is under way."""
        while (running := self._running.get(plugin_id)) is not None:
            await asyncio.wait([running[1]])

    async def end(self) -> None:
        """What is being started is cut off and undone; what is being stopped may finish."""
        running = list(self._running.values())
        for record, task in running:
            if not record.activity.goes_down:
                task.cancel()
        if running:
            await asyncio.wait([task for _, task in running])
        if self._whole:
            await asyncio.wait(self._whole.values())


def busy(record: PluginRecord, doing: str) -> PluginBusy:
    return PluginBusy(
        f"plugin {record.plugin_id!r} is busy: {doing}",
        plugin_id=record.plugin_id,
        fix="wait until it has finished, then try again",
    )


def stopping(record: PluginRecord) -> PluginStateError:
    return PluginStateError(
        f"plugin {record.plugin_id!r} cannot be started: the kernel is stopping", plugin_id=record.plugin_id
    )
