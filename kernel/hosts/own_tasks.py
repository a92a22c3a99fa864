"""Tasks that a plugin's code starts with asyncio itself, such as by `gather`, count as the plugin's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from contracts.metering import Meter

from ..generations import ROOT

_DEPTH = 3
"""Words in the name of a generation's package: `_plugins.billing.g7`."""


class OwnTasks:
    """Measures the steps of a task whose coroutine is a plugin's; whose it is, is told by its module.

    A task is looked at when it is made, a step costs nobody else anything. What a library makes for a plugin
    is not known as that plugin's, and neither is what a class does that an application has registered.
    """

    def __init__(self) -> None:
        self._meters: dict[str, Meter] = {}

    def count(self, package: str, meter: Meter) -> None:
        """From now on what the code of `package` starts counts there; an empty one is nobody's."""
        if package:
            self._meters[package] = meter

    def forget(self, package: str) -> None:
        """Safe twice."""
        self._meters.pop(package, None)

    def follow(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Look at the tasks of a loop, unless somebody else makes them; returns what ends that."""
        if loop.get_task_factory() is not None:
            return lambda: None
        loop.set_task_factory(self._make)

        def leave() -> None:
            if loop.get_task_factory() == self._make:
                loop.set_task_factory(None)

        return leave

    def _make(self, loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
        frame = getattr(coro, "cr_frame", None)
        if frame is not None and (name := frame.f_globals.get("__name__", "")).startswith(ROOT):
            meter = self._meters.get(".".join(name.split(".", _DEPTH)[:_DEPTH]))
            if meter is not None:
                coro = meter.steps(coro)
        return asyncio.Task(coro, loop=loop, **more)


OWN_TASKS = OwnTasks()
