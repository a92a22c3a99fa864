"""An event loop whose time is a number and whose order is a seed.

Nothing is waited for: when no callback is ready, time jumps to the next timer. Nothing is read from the
outside: no socket, no thread, no clock.

Of the callbacks that are ready, one runs at a time, and chance chooses which, as far as asyncio's word goes:

- The callbacks of one future keep the order in which they were added.
- What was handed to `call_soon` by hand (no step of a task, no callback of a future) keeps its order.
- A timer never fires before another whose time came earlier. Of timers at one moment any may be the first.
- Everything else may be overtaken: which of several tasks that can go on goes on first is decided, in a real
  process, by sockets and by other tasks; code that depends on it is wrong.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Coroutine
from contextvars import Context
from random import Random
from typing import Any

Watcher = Callable[[asyncio.Handle], None]

ENOUGH = 50_000
"""Steps after which a run is given up."""


class Stuck(Exception):
    """The run can not come to an end."""


class Deadlock(Stuck):
    """Everybody waits for something that will never happen."""


class Endless(Stuck):
    """It goes on and on."""


class SimulatedFuture(asyncio.Future[Any]):
    """Hashed by birth, not by address: a set of these has the same order in each run."""

    def __init__(self, number: int, loop: SimulatedLoop) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class SimulatedTask(asyncio.Task[Any]):
    """Hashed by birth, too."""

    def __init__(self, number: int, coro: Any, **options: Any) -> None:
        self.number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number


class SimulatedLoop(asyncio.AbstractEventLoop):
    """`random` chooses the order. `in_turn` is the chance that the oldest callback goes first: 1 is asyncio.

    `before_step` is called with each callback before it runs: the place to watch, and to crash.
    """

    def __init__(self, random: Random, *, in_turn: float = 0.0, before_step: Watcher | None = None) -> None:
        self.tasks: list[SimulatedTask] = []
        """All that ever were."""
        self.errors: list[dict[str, Any]] = []
        """What callbacks raised, and what nobody retrieved."""
        self.steps = 0
        self._before_step = before_step
        self._random, self._in_turn = random, in_turn
        self._now = 1_000.0
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count(1)

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run until `main` is done; raises what it raises, `Deadlock` or `Endless`."""
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(main, name="main")
            while not task.done():
                self._step()
            task.result()
        finally:
            asyncio._set_running_loop(None)

    @property
    def unfinished(self) -> list[SimulatedTask]:
        return [task for task in self.tasks if not task.done()]

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """Those that would still fire."""
        return [timer for *_, timer in self._timers if not timer.cancelled()]

    # --- one step ---------------------------------------------------------------------------------

    def _step(self) -> None:
        if not self._ready:
            self._jump()
        handle = self._choose()
        if handle.cancelled():
            return
        self.steps += 1
        if self.steps > ENOUGH:
            raise Endless(f"{ENOUGH:,} steps, at {self._now:.3f} s")
        if self._before_step is not None:
            self._before_step(handle)
        if not handle.cancelled():  # what is watched may have crashed
            handle._run()

    def _choose(self) -> asyncio.Handle:
        ready = self._ready
        if len(ready) == 1 or self._random.random() < self._in_turn:
            return ready.pop(0)
        chain = _chain(ready[int(self._random.random() * len(ready))])
        return ready.pop(next(index for index, other in enumerate(ready) if _chain(other) is chain))

    def _jump(self) -> None:
        """To the next moment at which something happens."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise Deadlock("deadlock: " + ", ".join(task.get_name() for task in self.unfinished))
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[2])

    # --- what asyncio asks of a loop ----------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]  # the callback's types are of no interest
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]  # the callback's types are of no interest
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]  # the callback's types are of no interest
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def create_future(self) -> SimulatedFuture:
        return SimulatedFuture(next(self._numbers), self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None
    ) -> SimulatedTask:
        number = next(self._numbers)
        task = SimulatedTask(number, coro, loop=self, name=name or f"task-{number}", context=context)
        self.tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """asyncio tells of it; a cancelled timer is passed over when its time comes."""


_BY_HAND = object()


def _chain(handle: asyncio.Handle) -> object:
    """What `handle` may not overtake: earlier callbacks of the same chain."""
    if isinstance(handle, asyncio.TimerHandle):
        return handle
    if handle._args and isinstance(handle._args[0], asyncio.Future):
        return handle._args[0]
    return task_of(handle) or _BY_HAND


def _callback(handle: asyncio.Handle) -> Any:
    return handle._callback  # type: ignore[attr-defined]  # the only way to know a task's step


def task_of(handle: asyncio.Handle) -> asyncio.Task[Any] | None:
    """The task that makes a step, if it is one that does."""
    owner = getattr(_callback(handle), "__self__", None)
    return owner if isinstance(owner, asyncio.Task) else None


def name_of(handle: asyncio.Handle) -> str:
    """For the trace."""
    task = task_of(handle)
    return task.get_name() if task else getattr(_callback(handle), "__qualname__", "callback")
