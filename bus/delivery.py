"""The one loop: fetch → expired? → lane → policies → handler → outcome → settle.

Every backend shares it. A backend gives it a `Port` to one group; the loop runs a fixed set of lanes and
makes no task and no timer for a message.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Protocol

from contracts.bus import Dead, Discarded, Expired, Handler, Outcome, Parked, SubscriptionSpec
from contracts.errors import ErrorInfo, HandlerTimeout
from contracts.event import AnyEvent, EventResult

from .clock import Clock
from .groups import Delivery, GroupPartition
from .policy.causes import CURRENT, without_cause
from .policy.expiry import is_expired
from .policy.retry import judge
from .policy.timeout import NEVER, Lane, Sweeper

log = logging.getLogger("plugbus.bus")

BATCH = 256
"""Deliveries that are taken at once."""
WINDOW = 1_000
"""Deliveries that several lanes may hold back because their keys are running."""
_PATIENCE = 20
"""How often a handler that swallows its cancellation is cancelled at the end before it is left alone."""

Followers = deque[Delivery]
LaneKey = tuple[GroupPartition, str]


class Port(Protocol):
    """What a backend gives the loop of one group on one bus. Nothing here waits."""

    def take(self, limit: int) -> list[Delivery]:
        """Deliveries to start, in order; empty: sleep until `DeliveryLoop.wake`."""

    def acknowledge(self, delivery: Delivery) -> bool:
        """Settle the straight way. False: it was no longer ours."""

    def settle(self, delivery: Delivery, outcome: Outcome) -> bool:
        """Settle with any outcome. False: it was no longer ours."""

    def give_back(self, delivery: Delivery) -> None:
        """No outcome: to be taken again, in its place."""

    def in_flight(self) -> list[Delivery]:
        """What was taken and is not settled."""

    def lane_ended(self) -> None:
        """A lane has ended; what was in flight on it is settled or handed back."""


Publish = Callable[[AnyEvent, Delivery, int], Awaitable[None]]
"""Publishes the n-th event that a handler returned."""


class DeliveryLoop:
    """Runs one handler over one port."""

    def __init__(
        self, port: Port, spec: SubscriptionSpec, handler: Handler, publish: Publish,
        *, clock: Clock, random: Random, sweeper: Sweeper,
    ) -> None:  # fmt: skip
        self._port = port
        self._spec = spec
        self._handler = handler
        self._publish = publish
        self._clock = clock
        self._random = random
        self._sweeper = sweeper
        self._lanes = [Lane(spec.options.timeout) for _ in range(spec.options.concurrency)]
        self._idle: list[asyncio.Future[None]] = []
        self._stopping = False
        self._queue: deque[Delivery] = deque()
        """Taken, not yet started."""
        # With several lanes: who waits behind a running key.
        self._running: dict[LaneKey, Followers] = {}
        self._following = 0

    def start(self) -> None:
        loop, several = asyncio.get_running_loop(), len(self._lanes) > 1
        for number, lane in enumerate(self._lanes):
            self._sweeper.add(lane)
            source = self._by_key() if several else self._in_order()
            name = f"plugbus:{self._spec.group}:{number}"
            lane.task = loop.create_task(self._run(lane, source), name=name, context=without_cause())
            lane.task.add_done_callback(self._ended)

    def wake(self) -> None:
        """There is something to take."""
        while self._idle:
            sleeper = self._idle.pop()
            if not sleeper.done():
                sleeper.set_result(None)
                return

    async def stop(self, grace: float | None) -> bool:
        """Start nothing more and wait for what runs; all partitions must be leaving or gone.

        After `grace` seconds (None: no limit but the handler's timeout) it is cancelled and handed back.
        Returns whether everything finished. A lane that asks for its own end is not waited for.
        """
        self._stopping = True
        self._wake_all()
        lanes = self._other_lanes()
        pending = await _finish(lanes, grace)
        interrupted = any(lane.delivery is not None for lane in pending)
        for _ in range(_PATIENCE):
            if not pending:
                break
            for lane in pending:
                lane.task.cancel()
            pending = await _finish(pending, 0.05)
        for lane in pending:
            log.error("%s: a handler goes on although it was cancelled; it is left alone", self._spec.group)
            self._port.give_back(lane.delivery)
        self._forget_lanes()
        return not interrupted

    def kill(self) -> list[asyncio.Task[None]]:
        """End without settling anything, as if the process had died. The tasks end soon."""
        self._stopping = True
        tasks = [lane.task for lane in self._other_lanes()]
        for task in tasks:
            task.cancel()
        self._forget_lanes()
        return tasks

    def give_back_unstarted(self) -> None:
        """Hand back what was taken, has not started, and belongs to a partition that is to leave."""
        started = {id(lane.delivery) for lane in self._lanes}
        for delivery in self._port.in_flight():
            if delivery.part.leaving and id(delivery) not in started:
                self._port.give_back(delivery)
        _drop_closed(self._queue)
        for followers in self._running.values():
            _drop_closed(followers)
        self._following = sum(map(len, self._running.values()))

    # --- lanes ------------------------------------------------------------------------------------

    async def _run(self, lane: Lane, source: Iterator[Delivery | None]) -> None:
        # Every name in this loop is local and every step inline: it runs once for each message and group.
        handler, timeout, acknowledge = self._handler, lane.timeout, self._port.acknowledge
        monotonic, begin = self._clock.monotonic, CURRENT.set
        for delivery in source:
            if delivery is None:
                await self._sleep(lane)
                continue
            lane.delivery = delivery
            begin(delivery)
            delivery.deadline = lane.deadline = monotonic() + timeout
            try:
                result = await handler(delivery)
            except BaseException as error:  # noqa: BLE001 - `_raised` raises again what means the lane
                self._raised(lane, delivery, error)
            else:
                if result is None and not lane.cancels:
                    acknowledge(delivery)
                else:
                    lane.deadline = NEVER
                    await self._decided(lane, delivery, result)

    async def _sleep(self, lane: Lane) -> None:
        lane.deadline, lane.delivery = NEVER, None
        CURRENT.set(None)
        sleeper = asyncio.get_running_loop().create_future()
        self._idle.append(sleeper)
        await sleeper

    def _in_order(self) -> Iterator[Delivery | None]:
        """One lane: deliveries as they were taken."""
        take, queue, following = self._port.take, self._queue, self._queue.popleft
        while not self._stopping:
            queue.extend(take(BATCH))
            if not queue:
                yield None
                continue
            self._sweeper.arm_once()
            while queue:
                delivery = following()
                if not delivery.part.irregular or self._admit(delivery):
                    yield delivery

    def _by_key(self) -> Iterator[Delivery | None]:
        """Several lanes: whatever is next and whose key nobody runs."""
        while not self._stopping:
            delivery = self._assign()
            yield delivery
            while delivery is not None:
                delivery = self._next_of_key(delivery)
                if delivery is not None:
                    yield delivery

    def _assign(self) -> Delivery | None:
        queue = self._queue
        while True:
            if not queue and self._following < WINDOW:
                queue.extend(self._port.take(BATCH))
            if not queue:
                return None
            delivery = queue.popleft()
            key = self._lane_key(delivery)
            followers = None if key is None else self._running.get(key)
            if followers is not None:
                followers.append(delivery)
                self._following += 1
            elif not delivery.part.irregular or self._admit(delivery):
                if key is not None:
                    self._running[key] = deque()
                if queue:
                    self.wake()
                self._sweeper.arm_once()
                return delivery

    def _next_of_key(self, done: Delivery) -> Delivery | None:
        """The next delivery of the key that this lane has just finished; frees the key at the end."""
        key = self._lane_key(done)
        if key is None:
            return None
        followers = self._running[key]
        while followers:
            self._following -= 1
            delivery = followers.popleft()
            if not delivery.part.irregular or self._admit(delivery):
                return delivery
        del self._running[key]
        return None

    def _lane_key(self, delivery: Delivery) -> LaneKey | None:
        key = delivery.message.key
        return (delivery.part, key) if key is not None and delivery.part.ordered else None

    def _admit(self, delivery: Delivery) -> bool:
        """Whether to start it now; what may not is settled here, or was handed back already."""
        part, entry = delivery.part, delivery.entry
        if not delivery.is_open:
            return False
        if part.is_blocked(delivery):
            self._port.settle(delivery, Parked(None))
            return False
        if is_expired(delivery.message, self._clock.time_ns()):
            self._port.settle(delivery, Expired())
            return False
        if entry is not None and entry.suspect:
            if entry.attempts >= self._spec.options.retry.attempts:
                self._port.settle(delivery, Dead("attempts", entry.error or _OWNER_DIED))
                return False
            entry.attempts += 1  # counted before it runs: it may be what kills the process
        return True

    # --- how an attempt ended ---------------------------------------------------------------------

    def _raised(self, lane: Lane, delivery: Delivery, error: BaseException) -> None:
        """Settle what raised; raise again what means the lane, with the delivery handed back."""
        timed_out = lane.is_timed_out
        lane.recover()
        if isinstance(error, KeyboardInterrupt | GeneratorExit) or _is_cancelled(lane, error):
            self._port.give_back(delivery)
            raise error
        self._failed(delivery, self._too_long(error) if timed_out else error)

    async def _decided(self, lane: Lane, delivery: Delivery, result: object) -> None:
        """Carry out what the handler returned."""
        if lane.is_timed_out:  # it swallowed its cancellation: the attempt was over all the same
            lane.recover()
            self._failed(delivery, self._too_long(None))
        elif result is None or not isinstance(result, EventResult):
            self._failed(
                delivery, TypeError(f"the handler returned {type(result).__name__}, not an EventResult")
            )
        elif result.action == "ok":
            await self._publish_returned(lane, delivery, result)
        elif result.action == "retry":
            self._failed(delivery, _asked(result), after=result.after)
        elif result.action == "discard":
            self._port.settle(delivery, Discarded(result.reason))
        else:
            self._port.settle(delivery, Dead("asked", _asked(result)))

    async def _publish_returned(self, lane: Lane, delivery: Delivery, result: EventResult) -> None:
        if not delivery.is_open:
            self._port.acknowledge(delivery)  # refused and counted: another owner has it
            return
        try:
            for index, event in enumerate(result.events):
                await self._publish(event, delivery, index)
        except BaseException as error:  # noqa: BLE001 - `_raised` raises again what means the lane
            self._raised(lane, delivery, error)
        else:
            self._port.acknowledge(delivery)

    def _failed(
        self, delivery: Delivery, error: BaseException | ErrorInfo, after: float | None = None
    ) -> None:
        info = error if isinstance(error, ErrorInfo) else ErrorInfo.of(error)
        policy, now = self._spec.options.retry, self._clock.monotonic()
        outcome = judge(policy, info, delivery.attempt, now=now, random=self._random, after=after)
        delivery.part.failed += delivery.is_open
        if isinstance(outcome, Parked) and outcome.due is not None:
            next_step = f"again in {outcome.due - now:.3g} s"
        else:
            next_step = "dead letter"
        log.warning(
            "%s: attempt %d of %d of %s (id %s) failed, %s: %s",
            self._spec.group, delivery.attempt, policy.attempts, delivery.type, delivery.id, next_step, info,
        )  # fmt: skip
        self._port.settle(delivery, outcome)

    def _too_long(self, interrupted: BaseException | None) -> HandlerTimeout:
        error = HandlerTimeout(
            f"{self._spec.group} ran longer than its timeout of {self._spec.options.timeout:g} s",
            fix="make the handler faster, or give it a longer timeout",
        )
        error.__cause__ = interrupted  # its traceback shows what the handler was waiting for
        return error

    # --- ending -----------------------------------------------------------------------------------

    def _wake_all(self) -> None:
        while self._idle:
            self.wake()

    def _other_lanes(self) -> list[Lane]:
        """All lanes but the one that asks: nobody waits for himself."""
        current = asyncio.current_task()
        return [lane for lane in self._lanes if lane.is_started and lane.task is not current]

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("%s: a lane broke", self._spec.group, exc_info=task.exception())
        self._port.lane_ended()

    def _forget_lanes(self) -> None:
        for lane in self._lanes:
            self._sweeper.remove(lane)


_OWNER_DIED = ErrorInfo(type="OwnerDied", message="each time that this event was started, its owner died")


def _drop_closed(deliveries: deque[Delivery]) -> None:
    left = [delivery for delivery in deliveries if delivery.is_open]
    deliveries.clear()
    deliveries.extend(left)


def _asked(result: EventResult) -> ErrorInfo:
    """What the handler itself said of the event, where an error would stand."""
    return ErrorInfo(type=f"EventResult.{result.action}", message=result.reason)


def _is_cancelled(lane: Lane, error: BaseException) -> bool:
    """Whether the lane itself is meant, not something that the handler waited for."""
    return isinstance(error, asyncio.CancelledError) and lane.task.cancelling() > 0


async def _finish(lanes: list[Lane], grace: float | None) -> list[Lane]:
    """Wait for the lanes to end; those that did not."""
    tasks = [lane.task for lane in lanes]
    if tasks:
        await asyncio.wait(tasks, timeout=grace)
    return [lane for lane in lanes if not lane.task.done()]
