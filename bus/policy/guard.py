"""What stands before the start of an attempt: predicate, dedupe, breaker, rate, in this order.

Made only for a subscription that has one of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from contracts.bus import Predicate, SubscriptionSpec
from contracts.messages.delivery import BreakerClosed, BreakerOpened
from contracts.tracing import TRACING

from ..clock import Clock
from ..spans import ask_in_trace_of
from .breaker import Breaker, Turn
from .rate import Rate
from .waits import Waits

if TYPE_CHECKING:
    from ..groups import Delivery
    from ..port import Port

log = logging.getLogger("plugbus.bus")


class Guard:
    """The policies of one subscription on one replica."""

    def __init__(
        self, port: Port, spec: SubscriptionSpec, where: Predicate | None, clock: Clock, waits: Waits
    ) -> None:
        options = spec.options
        self._port = port
        self._spec = spec
        self._where = where
        self._settled = port.settled
        self._monotonic = clock.monotonic
        self._waits = waits
        self._rate = None if options.rate is None else Rate(options.rate)
        self._breaker = None if options.breaker is None else Breaker(options.breaker)
        self._line = asyncio.Lock()
        """Who holds it is the first that waits for its turn; the others wait behind."""
        self._queued = 0
        """How many wait for theirs."""
        self.has_breaker = self._breaker is not None
        self.hears = self.has_breaker or self._settled is not None
        """How attempts end matters to it."""

    @classmethod
    def of(
        cls, port: Port, spec: SubscriptionSpec, where: Predicate | None, clock: Clock, waits: Waits
    ) -> Guard | None:
        """None: there is nothing to guard."""
        options = spec.options
        if where is None and port.settled is None and options.rate is None and options.breaker is None:
            return None
        return cls(port, spec, where, clock, waits)

    @property
    def is_broken(self) -> bool:
        return self._breaker is not None and self._breaker.is_open

    # --- before the attempt -----------------------------------------------------------------------

    def check(self, delivery: Delivery, now: float) -> bool | Exception | None:
        """Asked with the delivery as the current one: what a predicate logs is about it.

        True: start it, its turn is taken. None: it must await `turn`. False: it is acknowledged here.

        An error: the predicate raised it.
        """
        where, breaker, rate, message = self._where, self._breaker, self._rate, delivery.message
        if where is not None:
            delivery.deadline = None  # the attempt has none yet
            if TRACING.is_on:
                ask_in_trace_of(message)
            try:
                is_refused = not where(delivery)
            except Exception as error:  # noqa: BLE001 - the retry policy judges it
                return error
            if is_refused:
                delivery.part.filtered += self._port.acknowledge(delivery)
                return False
        settled = self._settled
        known = settled is not None and settled.contains(message.source, message.id, now)
        if known and not self._is_new(delivery, now):
            return False
        # `_take_turn`, written out for what nothing holds back.
        if breaker is not None and breaker.is_open:
            return None
        if rate is not None:
            return True if not self._queued and rate.take(now) is None else None
        return True

    async def turn(self, delivery: Delivery, may_start: Callable[[Delivery], bool]) -> bool:
        """Wait for the turn, and take it. False: meanwhile `may_start` has said no."""
        self._queued += 1
        try:
            async with self._line:
                return await self._wait(delivery, may_start)
        finally:
            self._queued -= 1

    async def _wait(self, delivery: Delivery, may_start: Callable[[Delivery], bool]) -> bool:
        now = self._monotonic()
        while may_start(delivery) and self._is_new(delivery, now):
            due = self._take_turn(delivery, now)
            if due is None:
                return True
            is_due = await self._waits.until(due)
            now = self._monotonic()
            if is_due:
                now = max(now, due)  # timers may fire a tick early
        return False

    def _is_new(self, delivery: Delivery, now: float) -> bool:
        """Dedupe: what the group has settled is acknowledged, but where an operator asked for it again."""
        settled, message = self._settled, delivery.message
        if settled is None or not settled.contains(message.source, message.id, now):
            return True
        if delivery.replayed or (delivery.entry is not None and delivery.entry.redriven):
            return True
        delivery.part.repeated += self._port.acknowledge(delivery)
        return False

    def _take_turn(self, delivery: Delivery, now: float) -> float | None:
        """None: taken; else when to ask again."""
        breaker, rate = self._breaker, self._rate
        due = None if breaker is None else breaker.due(now)
        if due is None and rate is not None:
            due = rate.take(now)
        if due is None and breaker is not None:
            breaker.start(delivery)
        return due

    # --- after it ---------------------------------------------------------------------------------

    def ended(self, delivery: Delivery, has_failed: bool | None, /) -> None:
        """An attempt ended; None: without telling anything of the handler."""
        breaker = self._breaker
        if breaker is None:
            return
        now, was_open = self._monotonic(), breaker.is_open
        if has_failed is None:
            breaker.give_up(delivery)
        elif (turn := breaker.end(delivery, has_failed, now)) is not None:
            self._tell(turn, breaker, now)
        if was_open:
            self._waits.wake_all()

    def _tell(self, turn: Turn, breaker: Breaker, now: float) -> None:
        spec, replica, pause = self._spec, self._port.replica, breaker.pause
        group, plugin_id = spec.group, spec.plugin_id
        if turn is Turn.CLOSED:
            log.info("%s: the breaker is closed on %s", group, replica)
            self._port.announce(BreakerClosed(group=group, plugin_id=plugin_id, replica=replica))
            return
        attempts, failed = breaker.count(now)
        log.warning(
            "%s: %d of %d attempts failed on %s: nothing is started for %g s",
            group, failed, attempts, replica, pause,
        )  # fmt: skip
        self._port.announce(
            BreakerOpened(
                group=group,
                plugin_id=plugin_id,
                replica=replica,
                failed=failed,
                attempts=attempts,
                pause=pause,
            )
        )
