"""Plugins are imported beside the event loop, few at a time.

An import holds the interpreter's lock nearly all the time. A hundred threads that want it pass it on among
themselves, and the loop, whose turn it is once in a hundred, answers nobody for half a second and more.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

MOST = 2
"""Imports at once, in the whole process: it has one lock."""
PATIENCE = 0.25
"""Seconds after which an import counts no longer: it may hang, or wait for something, and others go on."""


class _Import:
    """One function to run, and who waits for it."""

    def __init__(self, function: Callable[[], type]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[type] = self._loop.create_future()

    def run(self) -> None:
        try:
            outcome = (self.outcome.set_result, self._function())
        except BaseException as error:  # noqa: BLE001 - handed to the one who waits
            outcome = (self.outcome.set_exception, error)  # type: ignore[assignment]
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, *outcome)

    def _deliver(self, setter: Callable[[Any], None], value: Any) -> None:
        if not self.outcome.done():
            setter(value)


class Importers:
    """Threads that import: made when there is something to do, gone when there is nothing.

    Daemons: one that hangs must not hold up the exit. Used from any number of event loops.
    """

    def __init__(self, most: int = MOST, patience: float = PATIENCE) -> None:
        self._most = most
        self._patience = patience
        self._lock = threading.Lock()
        self._waiting: deque[_Import] = deque()
        self._began: dict[threading.Thread, float] = {}
        """Those that count, and when each has begun with what it does."""

    async def run(self, function: Callable[[], type]) -> type:
        """The result of `function`, or what it raises. Cancelled, it is not begun, or goes on unheard."""
        one = _Import(function)
        with self._lock:
            self._waiting.append(one)
        try:
            while not one.outcome.done():
                self._see_to_it()
                await asyncio.wait([one.outcome], timeout=self._patience)
            return one.outcome.result()
        finally:
            one.outcome.cancel()

    def _see_to_it(self) -> None:
        """Have as many threads as there may be, without those that have been at one import for too long."""
        with self._lock:
            late = time.monotonic() - self._patience
            self._began = {thread: began for thread, began in self._began.items() if began > late}
            for _ in range(min(self._most - len(self._began), len(self._waiting))):
                thread = threading.Thread(target=self._work, name="plugbus import", daemon=True)
                thread.start()
                self._began[thread] = time.monotonic()

    def _work(self) -> None:
        while (one := self._next()) is not None:
            one.run()
            del one  # it holds the plugin's class

    def _next(self) -> _Import | None:
        """What comes next; None where there is nothing, or this thread has been replaced."""
        me = threading.current_thread()
        with self._lock:
            while me in self._began and self._waiting:
                one = self._waiting.popleft()
                if not one.outcome.cancelled():
                    self._began[me] = time.monotonic()
                    return one
            self._began.pop(me, None)
            return None


importers = Importers()
