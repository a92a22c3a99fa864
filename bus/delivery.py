"""The one loop: fetch → expired? → lane → policies → handler → outcome → settle.

Every backend shares it. A backend gives it a `Port` to one group; the loop runs a fixed set of lanes and
makes no task and no timer for a message.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from random import Random
from typing import Any

from contracts.bus import Handler, Predicate, SubscriptionSpec
from contracts.metering import Meter

from .attempt import Attempts, count_suspect
from .clock import Clock
from .groups import Delivery, GroupPartition, StraightDelivery
from .metered_lane import LaneSteps
from .policy.causes import CURRENT, without_cause
from .policy.guard import Guard
from .policy.timeout import NEVER, Lane, Sweeper
from .policy.waits import Waits
from .port import Port, Publish
from .settler import Settler

log = logging.getLogger("plugbus.bus")

BATCH = 256
"""Deliveries that are taken at once."""
WINDOW = 1_000
"""Deliveries that several lanes may hold back because their keys are running."""
_PATIENCE = 20
"""How often a handler that swallows its cancellation is cancelled at the end before it is left alone."""

Followers = deque[Delivery]
LaneKey = tuple[GroupPartition, str]
Batch = Sequence[Delivery]
Admit = Callable[[Delivery], bool]


class DeliveryLoop:
    """Runs one handler over one port."""

    def __init__(
        self, port: Port, spec: SubscriptionSpec, handler: Handler, publish: Publish,
        *, clock: Clock, random: Random, sweeper: Sweeper, where: Predicate | None = None,
        meter: Meter | None = None,
    ) -> None:  # fmt: skip
        self._port = port
        self._spec = spec
        self._handler = handler
        self._clock = clock
        self._sweeper = sweeper
        self._meter = meter
        waits = Waits()
        self._guard = Guard.of(port, spec, where, clock, waits)
        self._settler = Settler(port, spec, publish, clock, random, self._guard, meter)
        self._attempts = Attempts(port, spec, handler, self._settler, self._guard, clock, sweeper, waits)
        self._note = self._attempts.note if port.records_starts else None
        self._lanes = [Lane(spec.options.timeout) for _ in range(spec.options.concurrency)]
        self._idle: list[asyncio.Future[None]] = []
        self._stopping = False
        self.outlives = False
        """A lane has asked for its own end, and runs on behind it."""
        self._queue: deque[Delivery] = deque()
        """Taken, not yet started."""
        # With several lanes: who waits behind a running key.
        self._running: dict[LaneKey, Followers] = {}
        self._following = 0

    def start(self) -> None:
        loop, guard = asyncio.get_running_loop(), self._guard
        for number, lane in enumerate(self._lanes):
            self._sweeper.add(lane)
            run: Coroutine[Any, Any, None] = (
                self._run_plain(lane) if guard is None else self._run_guarded(lane, guard)
            )
            if self._meter is not None:
                run = LaneSteps(run, self._meter, lane)
            name = f"plugbus:{self._spec.group}:{number}"
            lane.task = loop.create_task(run, name=name, context=without_cause())
            lane.task.add_done_callback(self._ended)

    def wake(self) -> None:
        """There is something to take."""
        while self._idle:
            sleeper = self._idle.pop()
            if not sleeper.done():
                sleeper.set_result(None)
                return

    @property
    def is_broken(self) -> bool:
        """Whether its circuit breaker is open."""
        return self._guard is not None and self._guard.is_broken

    @property
    def is_over(self) -> bool:
        """No lane is left."""
        return all(lane.task.done() for lane in self._lanes if lane.is_started)

    async def stop(self, grace: float | None, asker: asyncio.Task[Any] | None) -> bool:
        """Start nothing more and wait for what runs; all partitions must be leaving or gone.

        After `grace` seconds (None: no limit but the handler's timeout) it is cancelled and handed back.
        Returns whether everything finished. A lane that asks for its own end is not waited for; the time
        that its attempt may take stays in force.
        """
        self._stopping = True
        self._attempts.look_again()
        self._wake_all()
        lanes = self._other_lanes(asker)
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
        self._forget(lanes)
        return not interrupted

    def kill(self) -> list[asyncio.Task[None]]:
        """End without settling anything, as if the process had died. The tasks end soon."""
        self._stopping = True
        lanes = self._other_lanes(asyncio.current_task())
        for lane in lanes:
            lane.task.cancel()
        self._forget(lanes)
        return [lane.task for lane in lanes]

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
        self.wake()

    # --- lanes ------------------------------------------------------------------------------------

    async def _run_plain(self, lane: Lane) -> None:  # noqa: C901, PLR0912 - each call less is felt
        """No policy stands before a start: the way of most deliveries.

        Every name in this loop is local and every step inline, because it runs once for each message and
        group. It goes by batches: a generator of deliveries alone would cost a tenth of each.
        """
        timeout, acknowledge = lane.timeout, self._port.acknowledge
        monotonic, begin, note = self._clock.monotonic, CURRENT.set, self._note
        batches, admit = self._batches(self._attempts.admit)
        for batch in batches:
            if batch is None:
                await self._sleep(lane)
                continue
            handler = self._attempts.handler()
            for delivery in batch:
                part = delivery.part
                if not delivery.is_open:
                    continue
                now = monotonic()
                if part.irregular and (  # `is_sure`, written out
                    type(delivery) is not StraightDelivery or part.held_back or part.lease.until < now
                ):
                    if not admit(delivery):
                        continue
                    if note is not None and type(delivery) is not StraightDelivery:
                        if not await note(lane, delivery):
                            continue
                        now = monotonic()
                lane.delivery = delivery
                begin(delivery)
                delivery.deadline = lane.deadline = now + timeout
                try:
                    result = await handler(delivery)
                except BaseException as error:  # noqa: BLE001 - `raised` raises again what means the lane
                    again = self._settler.raised(lane, delivery, error)
                else:
                    if result is None and not lane.cancels:
                        if delivery.is_open and not part.irregular:
                            delivery.is_open = False  # all that acknowledging takes where nothing waits
                        else:
                            acknowledge(delivery)
                        continue
                    lane.deadline = NEVER
                    again = await self._settler.decided(lane, delivery, result)
                if again is not None:
                    await self._attempts.repeat(lane, delivery, again)

    async def _run_guarded(self, lane: Lane, guard: Guard) -> None:  # noqa: C901, PLR0912 - one loop, as above
        """The same for a subscription with policies."""
        timeout, settler, attempts = lane.timeout, self._settler, self._attempts
        monotonic, begin, check, note = self._clock.monotonic, CURRENT.set, guard.check, self._note
        worked = settler.worked if guard.hears else self._port.acknowledge
        batches, admit = self._batches(attempts.may_start)
        for batch in batches:
            if batch is None:
                await self._sleep(lane)
                continue
            handler = self._attempts.handler()
            for delivery in batch:
                part = delivery.part
                if not delivery.is_open or (part.irregular and not admit(delivery)):
                    continue
                lane.delivery = delivery
                begin(delivery)
                now = monotonic()
                passed = check(delivery, now)
                if passed is not True:
                    if passed is not False:
                        await attempts.repeat(lane, delivery, await attempts.hold_up(lane, delivery, passed))
                    continue
                if part.irregular:
                    count_suspect(delivery)
                    if note is not None and type(delivery) is not StraightDelivery:
                        if not await note(lane, delivery):
                            continue
                        now = monotonic()
                delivery.deadline = lane.deadline = now + timeout
                try:
                    result = await handler(delivery)
                except BaseException as error:  # noqa: BLE001 - `raised` raises again what means the lane
                    again = settler.raised(lane, delivery, error)
                else:
                    if result is None and not lane.cancels:
                        worked(delivery)
                        continue
                    lane.deadline = NEVER
                    again = await settler.decided(lane, delivery, result)
                if again is not None:
                    await attempts.repeat(lane, delivery, again)

    async def _sleep(self, lane: Lane) -> None:
        lane.rest()
        CURRENT.set(None)
        sleeper = asyncio.get_running_loop().create_future()
        self._idle.append(sleeper)
        await sleeper

    def _batches(self, admit: Admit) -> tuple[Iterator[Batch | None], Admit]:
        """What to start next (None: nothing, sleep), and whom to ask before each that is irregular."""
        if len(self._lanes) == 1:
            return self._in_order(), admit
        return self._by_key(admit), _asked_already

    def _in_order(self) -> Iterator[Batch | None]:
        """One lane: deliveries as they were taken."""
        take = self._port.take
        while not self._stopping:
            batch = take(BATCH)
            if batch:
                self._sweeper.arm_once()
            yield batch or None

    def _by_key(self, admit: Admit) -> Iterator[Batch | None]:  # noqa: C901 - each call less is felt
        """Several lanes: whatever is next and whose key nobody runs, then what came of that key meanwhile.

        Whoever fetches a batch, or wakes up and finds work, wakes one more lane if there is more: so all
        are at work where handlers wait for something, and few are disturbed where they do not.
        """
        queue, running, take, wakes_one = self._queue, self._running, self._port.take, True
        while not self._stopping:
            if not queue and self._following < WINDOW and (batch := take(BATCH)):
                queue.extend(batch)
                self._sweeper.arm_once()
                wakes_one = True
            if not queue:
                yield None
                wakes_one = True
                continue
            delivery = queue.popleft()
            key = self._lane_key(delivery)
            if key is not None and (followers := running.get(key)) is not None:
                followers.append(delivery)
                self._following += 1
                continue
            if delivery.part.irregular and not admit(delivery):
                continue
            if wakes_one:
                wakes_one = False
                if queue:
                    self.wake()
            if key is None:
                yield (delivery,)
                continue
            followers = running[key] = Followers()
            yield (delivery,)
            while followers:
                self._following -= 1
                if self._following == WINDOW - 1:
                    self.wake()  # others may take again
                delivery = followers.popleft()
                if not delivery.part.irregular or admit(delivery):
                    yield (delivery,)
            del running[key]

    def _lane_key(self, delivery: Delivery) -> LaneKey | None:
        key = delivery.message.key
        return (delivery.part, key) if key is not None and delivery.part.ordered else None

    # --- ending -----------------------------------------------------------------------------------

    def _wake_all(self) -> None:
        while self._idle:
            self.wake()

    def _other_lanes(self, asker: asyncio.Task[Any] | None) -> list[Lane]:
        """All lanes but the one that asks: nobody waits for himself."""
        lanes = [lane for lane in self._lanes if lane.is_started]
        others = [lane for lane in lanes if lane.task is not asker]
        self.outlives = len(others) < len(lanes) and asker is not None and not asker.done()
        return others

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("%s: a lane broke", self._spec.group, exc_info=task.exception())
        self._forget([lane for lane in self._lanes if lane.task is task])
        self._port.lane_ended()

    def _forget(self, lanes: list[Lane]) -> None:
        for lane in lanes:
            self._sweeper.remove(lane)


def _asked_already(delivery: Delivery) -> bool:
    return True


def _drop_closed(deliveries: deque[Delivery]) -> None:
    left = [delivery for delivery in deliveries if delivery.is_open]
    deliveries.clear()
    deliveries.extend(left)


async def _finish(lanes: list[Lane], grace: float | None) -> list[Lane]:
    """Wait for the lanes to end; those that did not."""
    tasks = [lane.task for lane in lanes]
    if tasks:
        await asyncio.wait(tasks, timeout=grace)
    return [lane for lane in lanes if not lane.task.done()]
