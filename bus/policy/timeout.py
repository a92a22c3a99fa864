"""One sweeper for all lanes of a bus: no timer per message.

A lane writes down when its attempt must end; the sweeper looks at all lanes, cancels what is over, and
sleeps until the earliest deadline that it saw, but never longer than the smallest timeout in force: so
an attempt that began behind its back is seen before it can be over.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from ..clock import Clock

NEVER = math.inf
_INSIST = 1.0
"""Seconds after which a handler that went on in spite of being cancelled is cancelled again."""


class Lane:
    """One worker of a subscription, and the attempt that it is at."""

    __slots__ = ("cancels", "deadline", "delivery", "task", "timeout", "waited")

    task: asyncio.Task[None]

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.deadline = NEVER
        """When the running attempt must end (monotonic); `NEVER` while no handler runs."""
        self.delivery: Any = None
        """None while there is nothing to do."""
        self.cancels = 0
        """How often the sweeper cancelled the running attempt."""
        self.waited = 0.0
        """Seconds that the delivery at hand has waited in place, between attempts."""

    @property
    def is_started(self) -> bool:
        return hasattr(self, "task")

    @property
    def is_timed_out(self) -> bool:
        return self.cancels > 0

    def rest(self) -> None:
        """No attempt runs."""
        self.deadline, self.delivery = NEVER, None

    def interrupt(self, now: float) -> None:
        """Cancel the running attempt."""
        self.cancels += 1
        self.deadline = now + _INSIST
        self.task.cancel()

    def recover(self) -> None:
        """Take the sweeper's cancellations back, and only those: others mean the lane itself."""
        for _ in range(self.cancels):
            self.task.uncancel()
        self.cancels = 0


class Sweeper:
    """Cancels attempts that are over. Has a timer only while a lane is at work."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lanes: dict[Lane, None] = {}  # not a set: lanes are looked at in the order in which they came
        self._timer: asyncio.TimerHandle | None = None
        self.is_armed = False

    def add(self, lane: Lane) -> None:
        self._lanes[lane] = None
        if self.is_armed:  # its timeout may be the smallest
            self._sweep(self._clock.monotonic())

    def remove(self, lane: Lane) -> None:
        self._lanes.pop(lane, None)

    def arm_once(self) -> None:
        """Watch, if not watching yet; lanes call it when they begin a batch."""
        if not self.is_armed:
            self._wait(self._clock.monotonic() + self._smallest())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.is_armed = None, False

    def _sweep(self, until: float) -> None:
        now = max(until, self._clock.monotonic())  # timers may fire a tick early
        for lane in self._lanes:
            if lane.deadline <= now:
                lane.interrupt(now)
        if any(lane.delivery is not None for lane in self._lanes):
            earliest = min(lane.deadline for lane in self._lanes)
            self._wait(min(earliest, now + self._smallest()))
        else:
            self.close()

    def _smallest(self) -> float:
        return min((lane.timeout for lane in self._lanes), default=NEVER)

    def _wait(self, until: float) -> None:
        self.close()
        if until < NEVER:
            self._timer = asyncio.get_running_loop().call_at(until, self._sweep, until)
            self.is_armed = True
