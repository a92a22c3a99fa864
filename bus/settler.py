"""How an attempt ended: what the handler raised or returned becomes an outcome, and is settled."""

from __future__ import annotations

import asyncio
import logging
import math
from random import Random

from contracts.bus import Dead, Discarded, Outcome, Parked, RetryPolicy, SubscriptionSpec
from contracts.errors import ErrorInfo, HandlerTimeout
from contracts.event import EventResult
from contracts.metering import Meter

from .clock import Clock
from .faults import described, wrong_with
from .groups import Delivery
from .policy.dedupe import Settled
from .policy.guard import Guard
from .policy.retry import Again, Decision, Pause, judge
from .policy.timeout import Lane
from .port import Port, Publish

log = logging.getLogger("plugbus.bus")


class Settler:
    """Settles the deliveries of one loop. What is to be started again in place, it hands back as `Again`."""

    def __init__(
        self, port: Port, spec: SubscriptionSpec, publish: Publish, clock: Clock, random: Random,
        guard: Guard | None, meter: Meter | None = None,
    ) -> None:  # fmt: skip
        self._port = port
        self._spec = spec
        self._policy = spec.options.retry
        self._unruled = self._policy.model_copy(update={"rules": ()}) if self._policy.rules else self._policy
        self._publish = publish
        self._monotonic = clock.monotonic
        self._random = random
        self._guard = guard if guard is not None and guard.has_breaker else None
        self._meter = meter
        self._settled = port.settled
        self._acknowledge = port.acknowledge

    # --- settling ---------------------------------------------------------------------------------

    def worked(self, delivery: Delivery) -> None:
        """The handler has returned, and what it returned is published."""
        if self._guard is not None:
            self._guard.ended(delivery, False)
        if self._acknowledge(delivery) and (settled := self._settled) is not None:
            message = delivery.message  # `_remember`, written out: it is the way of nearly all
            settled.add(message.source, message.id, self._monotonic())

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        is_ours = self._port.settle(delivery, outcome)
        if is_ours and self._settled is not None and not isinstance(outcome, Parked):
            self._remember(self._settled, delivery)

    def _remember(self, settled: Settled, delivery: Delivery) -> None:
        message = delivery.message
        settled.add(message.source, message.id, self._monotonic())

    # --- what ended it ----------------------------------------------------------------------------

    def raised(self, lane: Lane, delivery: Delivery, error: BaseException) -> Again | None:
        """Settle what raised; raise again what means the lane, with the delivery handed back."""
        timed_out = lane.is_timed_out
        lane.recover()
        if isinstance(error, KeyboardInterrupt | GeneratorExit) or _is_cancelled(lane, error):
            _end_span(delivery, "cancelled")
            self._port.give_back(delivery)
            raise error
        return self.failed(lane, delivery, self._too_long(error) if timed_out else error)

    async def decided(self, lane: Lane, delivery: Delivery, result: object) -> Again | None:
        """Carry out what the handler returned."""
        if lane.is_timed_out:  # it swallowed its cancellation: the attempt was over all the same
            lane.recover()
            return self.failed(lane, delivery, self._too_long(None))
        what = wrong_with(result)
        if what is not None or not isinstance(result, EventResult):
            return self.failed(lane, delivery, TypeError(what))
        if result.action == "ok":
            return await self._publish_returned(lane, delivery, result)
        if result.action == "retry":
            self._asked_again(lane, delivery, result)
            return None
        if self._guard is not None:
            self._guard.ended(delivery, False)
        if result.action == "discard":
            self.settle(delivery, Discarded(_asked(result).message))
            _end_span(delivery, "discard", _asked(result))
        else:
            self.settle(delivery, Dead("asked", _asked(result)))
            _end_span(delivery, "dead_letter", _asked(result), is_last=True)
        return None

    async def _publish_returned(self, lane: Lane, delivery: Delivery, result: EventResult) -> Again | None:
        try:
            if delivery.is_open:  # else the settlement will be refused and counted: another owner has it
                for index, event in enumerate(result.events):
                    await self._publish(event, delivery, index)
        except BaseException as error:  # noqa: BLE001 - `raised` raises again what means the lane
            return self.raised(lane, delivery, error)
        self.worked(delivery)
        _end_span(delivery, "")
        return None

    # --- failures ---------------------------------------------------------------------------------

    def failed(self, lane: Lane, delivery: Delivery, error: BaseException) -> Again | None:
        """An attempt has failed; the retry policy judges."""
        info = described(error)
        decision = self._judge(self._policy, info, lane, delivery)
        if self._guard is not None:
            is_storm = isinstance(decision, Pause) and decision.is_storm
            self._guard.ended(delivery, None if is_storm else True)
        return self._carry_out(delivery, info, decision)

    def refused(self, lane: Lane, delivery: Delivery, error: Exception) -> Again | None:
        """The predicate raised: a failed attempt that tells nothing of the handler."""
        info = described(error)
        return self._carry_out(delivery, info, self._judge(self._policy, info, lane, delivery))

    def _asked_again(self, lane: Lane, delivery: Delivery, result: EventResult) -> None:
        """It has decided itself: no rule is asked."""
        info = _asked(result)
        if self._guard is not None:
            self._guard.ended(delivery, True)
        self._carry_out(delivery, info, self._judge(self._unruled, info, lane, delivery, result.after))

    def _judge(
        self, policy: RetryPolicy, error: ErrorInfo, lane: Lane, delivery: Delivery,
        after: float | None = None,
    ) -> Decision:  # fmt: skip
        return judge(
            policy, error, delivery.attempt,
            now=self._monotonic(), random=self._random, after=after, waited=lane.waited,
        )  # fmt: skip

    def _carry_out(self, delivery: Delivery, error: ErrorInfo, decision: Decision) -> Again | None:
        delivery.part.failed += delivery.is_open
        if self._meter is not None:
            self._meter.failed += delivery.is_open
        log.warning(
            "%s: attempt %d of %d of %s (id %s) failed, %s: %s",
            self._spec.group, delivery.attempt, self._policy.attempts, delivery.type, delivery.id,
            self._next_step(decision), error,
        )  # fmt: skip
        outcome = _outcome(decision)
        self._port.measures.failed.of(self._spec.group, outcome).value += delivery.is_open
        _end_span(delivery, outcome, error, is_last=isinstance(decision, Dead))
        if not delivery.is_open:
            self._port.settle(delivery, Parked(None, error))  # refused and counted: another owner has it
        elif isinstance(decision, Again):
            return decision
        elif isinstance(decision, Pause):
            delivery.attempt -= decision.is_storm
            self._port.pause(str(error))
            self.settle(delivery, Parked(math.inf, error))
        else:
            self.settle(delivery, decision)
        return None

    def _next_step(self, decision: Decision) -> str:
        match decision:
            case Parked(due=float(due)):
                return f"again in {due - self._monotonic():.3g} s"
            case Again(delay=delay):
                return f"again in place in {delay:.3g} s"
            case Pause():
                return "its group is paused"
            case Discarded():
                return "discarded"
            case _:
                return "dead letter"

    def _too_long(self, interrupted: BaseException | None) -> HandlerTimeout:
        error = HandlerTimeout(
            f"{self._spec.group} ran longer than its timeout of {self._spec.options.timeout:g} s",
            fix="make the handler faster, or give it a longer timeout",
        )
        error.__cause__ = interrupted  # its traceback shows what the handler was waiting for
        return error


def _asked(result: EventResult) -> ErrorInfo:
    """What the handler itself said of the event, where an error would stand."""
    return ErrorInfo(type=f"EventResult.{result.action}", message=result.reason)


def _is_cancelled(lane: Lane, error: BaseException) -> bool:
    """Whether the lane itself is meant, not something that the handler waited for."""
    return isinstance(error, asyncio.CancelledError) and lane.task.cancelling() > 0


def _end_span(
    delivery: Delivery, outcome: str, error: ErrorInfo | None = None, *, is_last: bool = False
) -> None:
    if delivery.span is not None:
        from .tracing import ended  # loaded already: there is a span

        ended(delivery.span, outcome, error, is_last=is_last)


def _outcome(decision: Decision) -> str:
    """How a failed attempt ends, in a word."""
    match decision:
        case Parked() | Again():
            return "retry"
        case Pause():
            return "pause"
        case Discarded():
            return "discard"
        case _:
            return "dead_letter"
