"""A thread that sees when the event loop stands still, and where, while it does."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

MOST_FRAMES = 40
"""Innermost frames of a stack that are looked at."""
_TICKS = 4
"""How often the loop is asked to answer, within the time after which it counts as standing still."""
_DEBUGGERS = frozenset({"bdb", "pdb", "pydevd", "_pydevd_bundle", "debugpy"})


@dataclass(frozen=True, slots=True)
class Frame:
    """One call on a stack."""

    module: str
    function: str
    place: str

    def __str__(self) -> str:
        return f"{self.function} ({self.place})"


Stack = tuple[Frame, ...]
"""The innermost first."""
Began = Callable[[Stack], None]
Ended = Callable[[float], None]


class StallWatch:
    """Asks the loop for a sign of life. `began` is told of each stall once, in the thread, while it lasts;
    `ended` with its seconds afterwards, in the loop.

    A process that is stopped (SIGSTOP, a laptop that sleeps, a machine that has no time for it) does not
    stall: the thread stands still with it, and time in which the process did not compute does not count.
    """

    def __init__(self, after: float, began: Began, ended: Ended) -> None:
        """`after`: seconds without an answer that are a stall."""
        self._after = after
        self._tick = after / _TICKS
        self._began = began
        self._ended = ended
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._asked_at = 0.0
        self._answered_at: float | None = None

    def start(self) -> None:
        """Watch the running loop, in whose thread this is called."""
        loop, ident = asyncio.get_running_loop(), threading.get_ident()
        self._thread = threading.Thread(
            target=self._run, args=(loop, ident), name="plugbus stall watch", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """The thread ends at once. Safe twice, and if it was never started."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(1.0)
            self._thread = None

    # --- in the thread ----------------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop, ident: int) -> None:
        try:
            self._watch(loop, ident)
        except RuntimeError:
            if not loop.is_closed():
                raise

    def _watch(self, loop: asyncio.AbstractEventLoop, ident: int) -> None:
        self._ask(loop, time.monotonic())
        waited, is_stalled, seen = 0.0, False, _Clocks()
        while not self._over.wait(self._tick):
            passed = seen.passed(most=2 * self._tick)
            waited += passed
            if (answered_at := self._answered_at) is not None:
                if is_stalled:
                    loop.call_soon_threadsafe(self._ended, answered_at - self._asked_at)
                # Kept from looking for so long by the process itself: it may stand still since it answered.
                is_late, is_stalled = passed >= self._after, False
                waited = passed if is_late else 0.0
                self._ask(loop, answered_at if is_late else time.monotonic())
            if waited >= self._after and not is_stalled:
                stack = stack_of(ident)
                if _is_waiting(stack):
                    continue  # it is about to answer
                if _is_debugged(stack):
                    waited = 0.0
                    continue
                is_stalled = True
                self._began(stack)

    def _ask(self, loop: asyncio.AbstractEventLoop, since: float) -> None:
        """`since`: from when on no answer counts as standing still."""
        self._answered_at, self._asked_at = None, since
        loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        """In the loop."""
        self._answered_at = time.monotonic()


class _Clocks:
    """How much time has passed in which this process could have run."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def passed(self, *, most: float) -> float:
        """Since it was asked last. Of more than `most` what the process computed meanwhile: then it was kept
        waiting from within, by code that does not let go of the interpreter; the rest it did not run."""
        wall, cpu = time.monotonic(), time.process_time()
        passed, used = wall - self._wall, cpu - self._cpu
        self._wall, self._cpu = wall, cpu
        return min(passed, max(most, used))


def stack_of(ident: int) -> Stack:
    """What a thread is doing now."""
    frame: FrameType | None = sys._current_frames().get(ident)
    found: list[Frame] = []
    while frame is not None and len(found) < MOST_FRAMES:
        code = frame.f_code
        place = f"{code.co_filename}:{frame.f_lineno}"
        found.append(Frame(str(frame.f_globals.get("__name__", "")), code.co_qualname, place))
        frame = frame.f_back
    return tuple(found)


def _is_waiting(stack: Stack) -> bool:
    return bool(stack) and stack[0].module == "selectors" and stack[0].function.endswith(".select")


def _is_debugged(stack: Stack) -> bool:
    return any(frame.module.partition(".")[0] in _DEBUGGERS for frame in stack)
