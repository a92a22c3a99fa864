"""One attempt: whether it may start, what stands before it, and its repetitions in place.

`DeliveryLoop` has the straight way written out; this is the way of everything else.
"""

from __future__ import annotations

import asyncio

from contracts.bus import Dead, Expired, Handler, Parked, SubscriptionSpec
from contracts.errors import ErrorInfo
from contracts.tracing import TRACING

from .clock import Clock
from .groups import Delivery, is_sure
from .policy.causes import CURRENT
from .policy.expiry import is_expired
from .policy.guard import Guard
from .policy.retry import Again
from .policy.timeout import NEVER, Lane, Sweeper
from .policy.waits import Waits
from .port import Port
from .settler import Settler


class Attempts:
    """Starts the handler of one loop, on whichever lane asks."""

    def __init__(
        self, port: Port, spec: SubscriptionSpec, handler: Handler, settler: Settler, guard: Guard | None,
        clock: Clock, sweeper: Sweeper, waits: Waits,
    ) -> None:  # fmt: skip
        self._port = port
        self._records = port.records_starts
        self._most = spec.options.retry.attempts
        self._handler = handler
        self._traced: Handler | None = None
        self._spec = spec
        self._settler = settler
        self._guard = guard
        self._clock = clock
        self._monotonic = clock.monotonic
        self._sweeper = sweeper
        self._waits = waits

    def look_again(self) -> None:
        """Whoever waits with a delivery that was handed back lets go of it."""
        self._waits.wake_all()

    def handler(self) -> Handler:
        """What is called for what starts now: where flows are traced, with a span around it."""
        if not TRACING.is_on:
            if self._traced is not None:  # what the lane that asks was in then is over
                from .tracing import forget

                forget()
            return self._handler
        if self._traced is None:
            from .tracing import traced  # loads OpenTelemetry

            self._traced = traced(self._handler, self._spec, self._port.measures)
        return self._traced

    # --- before a start ---------------------------------------------------------------------------

    def admit(self, delivery: Delivery) -> bool:
        """Whether to start it now, and then it is counted."""
        if is_sure(delivery, self._monotonic()):
            return delivery.is_open
        if not self.may_start(delivery):
            return False
        count_suspect(delivery)
        return True

    def may_start(self, delivery: Delivery) -> bool:
        """What may not is settled here, or was handed back already."""
        part, entry = delivery.part, delivery.entry
        if not delivery.is_open:
            return False
        if part.lease.until < self._monotonic():
            self._port.outlived(delivery)
            return False
        if part.is_blocked(delivery):
            self._port.settle(delivery, Parked(None))
            return False
        message = delivery.message
        if message.expires_ns is not None and is_expired(message, self._clock.time_ns()):
            self._settler.settle(delivery, Expired())
            return False
        if entry is not None and entry.suspect and entry.attempts >= self._most:
            delivery.attempt = entry.attempts  # this one is not started any more
            self._settler.settle(delivery, Dead("attempts", entry.error or _OWNER_DIED))
            return False
        return True

    async def note(self, lane: Lane, delivery: Delivery) -> bool:
        """Have what was out of line written down; whether it is still ours to start."""
        lane.deadline = NEVER  # of the attempt before: none runs meanwhile
        if not await self._port.begin(delivery):
            return False
        self._sweeper.arm_once()
        return True

    # --- attempts ---------------------------------------------------------------------------------

    async def hold_up(self, lane: Lane, delivery: Delivery, why: bool | Exception | None) -> Again | None:
        """What becomes of a delivery to which `Guard.check` said anything but True."""
        if isinstance(why, Exception):
            return self._settler.refused(lane, delivery, why)
        if why is None and await self._turn(lane, delivery):
            return await self._start(lane, delivery)
        return None

    async def repeat(self, lane: Lane, delivery: Delivery, again: Again | None) -> None:
        """Attempts in place, until one ends otherwise. The lane is held: nothing else of its key starts."""
        while again is not None:
            delivery = delivery.part.begin_again(delivery)
            if not await self._wait_in_place(lane, delivery, again.delay):
                break
            lane.waited += again.delay
            again = await self._run(lane, delivery)
        lane.waited = 0.0

    async def _run(self, lane: Lane, delivery: Delivery) -> Again | None:
        """One attempt, if nothing stands before it. What is to be started again in place it returns."""
        lane.delivery = delivery
        CURRENT.set(delivery)
        passed = self._guard is None or self._guard.check(delivery, self._monotonic())
        if passed is True:
            return await self._start(lane, delivery)
        return await self.hold_up(lane, delivery, passed)

    async def _start(self, lane: Lane, delivery: Delivery) -> Again | None:
        count_suspect(delivery)
        lane.delivery = delivery
        if self._records and delivery.entry is not None and not await self.note(lane, delivery):
            return None
        delivery.deadline = lane.deadline = self._monotonic() + lane.timeout
        try:
            result = await self.handler()(delivery)
        except BaseException as error:  # noqa: BLE001 - `raised` raises again what means the lane
            return self._settler.raised(lane, delivery, error)
        if result is None and not lane.cancels:
            self._settler.worked(delivery)
            return None
        lane.deadline = NEVER
        return await self._settler.decided(lane, delivery, result)

    # --- waiting ----------------------------------------------------------------------------------

    async def _turn(self, lane: Lane, delivery: Delivery) -> bool:
        """Wait until breaker and rate let it start. False: it is not ours to start any more."""
        lane.rest()
        try:
            is_ours = self._guard is None or await self._guard.turn(delivery, self._may_go_on)
        except asyncio.CancelledError:
            self._port.give_back(delivery)
            raise
        self._sweeper.arm_once()
        return is_ours

    async def _wait_in_place(self, lane: Lane, delivery: Delivery, delay: float) -> bool:
        """False: it is not ours to start any more. What failed so far counts in any case."""
        lane.rest()
        due, is_due = self._monotonic() + delay, False
        try:
            while self._may_go_on(delivery) and not is_due:
                is_due = await self._waits.until(due)
        except asyncio.CancelledError:
            self._port.give_back(delivery)
            raise
        self._sweeper.arm_once()
        return delivery.is_open

    def _may_go_on(self, delivery: Delivery) -> bool:
        """Before a wait and after it: whether it is still to be started here."""
        if delivery.part.leaving:
            self._port.give_back(delivery)
        return self.may_start(delivery)


_OWNER_DIED = ErrorInfo(type="OwnerDied", message="each time that this event was started, its owner died")


def count_suspect(delivery: Delivery) -> None:
    """Its owner died with it: each start is counted before it runs, for it may be what kills the process."""
    entry = delivery.entry
    if entry is not None and entry.suspect:
        entry.attempts += 1
