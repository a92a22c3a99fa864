"""What lanes take of the event loop, measured once for each step and not for each event."""

from __future__ import annotations

from collections.abc import Coroutine
from time import perf_counter
from typing import Any

from contracts.metering import Meter, Steps

from .policy.timeout import Lane


class LaneSteps(Steps[None]):
    """A lane's coroutine. Its handler counts as at work from the step in which the lane gets something to do
    until the one in which it has nothing."""

    __slots__ = ("_is_busy", "_lane", "_left")

    def __init__(self, run: Coroutine[Any, Any, None], meter: Meter, lane: Lane) -> None:
        super().__init__(run, meter)
        self._lane = lane
        self._is_busy = False
        self._left = 0.0

    def __next__(self) -> Any:
        began = perf_counter()
        try:
            return self._send(None)
        finally:  # `_count`, written out: the way of nearly all steps
            now, meter = perf_counter(), self._meter
            meter.loop_seconds += now - began
            meter.handler_seconds += now - (self._left if self._is_busy else began)
            self._left, self._is_busy = now, self._lane.delivery is not None

    def throw(self, *error: Any) -> Any:
        began = perf_counter()
        try:
            return self._inner.throw(*error)
        finally:
            self._count(began)

    def _count(self, began: float) -> None:
        now, meter = perf_counter(), self._meter
        meter.loop_seconds += now - began
        meter.handler_seconds += now - (self._left if self._is_busy else began)
        self._left, self._is_busy = now, self._lane.delivery is not None
