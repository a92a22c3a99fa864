"""What a backend provides so that the suite can run on it. This is all that has to be written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

import pytest

from contracts.bus import BusLimits, EventBus, Features

NOTICED = 90.0
"""Seconds after which a shift of the wall clock has been noticed by what waits for a time of it."""
F = TypeVar("F", bound=Callable[..., Any])


class Backend(ABC):
    """One backend (server, database, shared memory …), empty at first, with the given limits.

    Every handle that `open` gives is one replica. The suite closes or crashes each of them, and then calls
    `close`. Nothing that one backend holds may be seen by another that exists at the same time.
    """

    features: ClassVar[Features]
    """What it promises beyond the common suite. Tests expect the one or the other; none is skipped."""
    tick: float = 0.05
    """Seconds in which what is published reaches an idle handler, with room to spare. The suite's pauses
    and timeouts are small multiples of it."""
    lateness: float = 0.0
    """Seconds by which a busy machine, not the bus, may make late what is due: 0 in virtual time. Upper
    bounds of times leave so much more room, and what must not happen meanwhile so much more time."""
    patience: float = 30.0
    """Seconds after which the suite gives up waiting for what must come."""
    shifts_wall_clock: ClassVar[bool] = False
    """Whether it can be told its wall clock: then `shift_wall_clock` does it, and `now` follows. Without it
    the tests that shift see that nothing happens which only a shift could bring about."""

    def __init__(self, limits: BusLimits) -> None:
        self.limits = limits

    @abstractmethod
    async def open(self, replica: str) -> EventBus:
        """A new handle of that name, opened. The name of one that was closed or crashed may come again."""

    @abstractmethod
    async def crash(self, bus: EventBus) -> None:
        """The handle vanishes as by `kill -9`: nothing more is sent, nothing settled or handed over.

        Its handlers are cancelled and gone when this returns (what they do while they are cancelled must
        not reach the backend). Others notice at once, or when its lease has run out. What it had settled
        within the last ticks may be delivered again.
        """

    @abstractmethod
    def suspend(self, bus: EventBus) -> None:
        """The handle stands still as by SIGSTOP: no beat, nothing taken, settled or started.

        Handlers that run are held by the test; what they do is sent after `wake`.
        """

    @abstractmethod
    def wake(self, bus: EventBus) -> None:
        """It goes on where it was, as by SIGCONT, and does not know that time has passed."""

    @abstractmethod
    async def restart(self) -> None:
        """The backend is interrupted and comes back; open handles live on, and connect again.

        A persistent one is stopped and started. Of any other all connections are cut once; the state stays.
        """

    @abstractmethod
    async def renew(self) -> None:
        """A hard stop: everything ends at once, as by `kill -9` of all processes, the backend's own too, and
        the backend is started anew. Handles that are open are gone, as by `crash`; nobody closes them.

        Where it is persistent, all of this is there again: what was confirmed to its caller, at once (events,
        delayed ones, ids, groups and their places, pauses), and what became of deliveries, after a few ticks
        (settled, parked, dead, and started, which is suspect now). Where it is not, it is empty.
        """

    @abstractmethod
    async def close(self) -> None:
        """Remove it with everything in it."""

    @abstractmethod
    async def sibling(self, limits: BusLimits) -> Backend:
        """Another one beside it, empty, with these limits: a namespace of its own is enough."""

    def now(self) -> datetime:
        """The wall clock that it goes by. Where it has a clock of its own, it must be overridden."""
        return datetime.now(UTC)

    def shift_wall_clock(self, seconds: float) -> None:
        """From now on the wall clock, of all replicas and of `now`, is so much later (or earlier).

        The monotonic clock goes on as if nothing had happened. What waits for a time of the wall clock must
        notice within `NOTICED` seconds. Called only where `shifts_wall_clock` is set.
        """
        raise NotImplementedError("shifts_wall_clock is set; say how")


def needs(**limits: Any) -> Callable[[F], F]:
    """The limits (fields of `BusLimits`) with which a test wants its backend to be made."""

    def mark(test: F) -> F:
        test.bus_limits = BusLimits(**limits)  # type: ignore[attr-defined]
        return test

    return mark


def limits_for(request: pytest.FixtureRequest) -> BusLimits:
    """The limits with which the fixture `backend` makes the backend of the test that asks for it."""
    return limits_of(request.function)


def limits_of(test: Any) -> BusLimits:
    limits = getattr(test, "bus_limits", None)
    return limits if isinstance(limits, BusLimits) else BusLimits()
