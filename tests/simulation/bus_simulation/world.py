"""One run: from a seed to a history. Buses, groups and publishers; the faults are in `adversary.py`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

from pydantic import BaseModel

from bus.clock import Ids
from bus.memory import MemoryBroker, MemoryBus
from contracts.bus import BusSubscription, DeadLetter, GroupInfo, Handler, Tail
from contracts.errors import BusClosed, BusError, GroupConflict
from contracts.event import Event, EventResult
from contracts.message import Message, PluginEvent

from . import history as h
from .adversary import disturb
from .crash_points import AIMS, Point, points_of
from .handlers import Attempt
from .loop import SimulatedLoop, name_of, task_of
from .plan import KEYS, PAUSES, Plan, is_wanted, make_plan
from .verdict import Ending

VERSIONS = ("1", "2")
WALL = 1_700_000_000.0
"""Seconds since the epoch at which every world begins."""
BOUND = 3_000.0
"""Seconds of virtual time in which everything must be over when the faults have stopped."""


class Work(Event):
    """What is published. `name` is the event's identity in the history."""

    name: str


class AlphaItem(Work, type="alpha.item"):
    """Of the first topic."""


class AlphaMore(Work, type="alpha.more"):
    """Of the first topic, too: order goes across types."""


class BetaItem(Work, type="beta.item"):
    """Of another topic."""


def _dice(what: str, seed: int) -> Random:
    return Random(f"{what} {seed}")  # noqa: S311 - to be repeatable


class Said(BaseModel):
    """What all announcements of one delivery have in common."""

    group: str = ""
    event_source: str = ""
    event_id: str = ""
    reason: str = ""


TYPES = (AlphaItem, AlphaItem, AlphaMore, BetaItem)


def wanted(event: PluginEvent) -> bool:
    """The predicate of choosy groups."""
    return is_wanted(event.message.event.name)  # type: ignore[union-attr]


class SimulatedClock:
    """The two clocks; `jump` (seconds) moves the wall clock alone."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.jump = 0.0
        self.monotonic = loop.time

    def time_ns(self) -> int:
        return round(self.wall() * 1e9)

    def wall(self) -> float:
        return WALL + self.monotonic() + self.jump


class ObservedBus(MemoryBus):
    """Notes when the others give it up, and when it comes back."""

    note: Callable[[Any], None]

    def lose(self) -> int:
        self.note(h.Lost(self.replica))
        return super().lose()

    def rejoin(self) -> None:
        self.note(h.Rejoined(self.replica))
        super().rejoin()


class Replica:
    """A bus and what it handles."""

    def __init__(self, bus: ObservedBus, version: str) -> None:
        self.bus = bus
        self.version = version
        self.name = bus.replica
        self.subscriptions: dict[str, tuple[str, BusSubscription]] = {}
        """Group → host and subscription."""
        self.is_up = True
        """Open: not closing, not gone."""
        self.is_gone = False
        self.is_suspended = False


class World:
    """Everything of one run. `history` is what remains of it."""

    def __init__(self, seed: int, *, survey: bool = False) -> None:
        self.seed = seed
        self.random = _dice("world", seed)
        self.plan: Plan = make_plan(self.random)
        self.history = h.History()
        self.loop = SimulatedLoop(  # type: ignore[abstract]  # what nobody calls is not there
            _dice("loop", seed), in_turn=self.plan.in_turn, before_step=self._before_step
        )
        self.clock = SimulatedClock(self.loop)
        self.broker = MemoryBroker(
            clock=self.clock,
            random=_dice("bus", seed),
            ids=Ids("id"),
            limits=self.plan.limits,
        )
        self.replicas: list[Replica] = []
        self.specs = {spec.group: spec for spec in self.plan.specs}
        self.publishers: list[asyncio.Task[None]] = []
        self.infos: list[GroupInfo] = []
        self.letters: list[DeadLetter] = []
        self.replayed: set[str] = set()
        """Groups with a replay."""
        self.crash_points: set[Point] = set()
        """Where the code of the bus stood at crashes."""
        self.waits: set[Point] = set()
        self._survey = survey
        self.is_calm = False
        self._lives = dict.fromkeys(self.specs, 0)
        self.numbers = itertools.count(1)
        self.acts = list(self.plan.weather.acts)
        self.weights = list(itertools.accumulate(self.plan.weather.acts.values()))
        self._aims = set(self.random.sample(AIMS, 3) if self.plan.weather.crashes else ())
        """Some crashes are aimed at places where the bus seldom stands."""
        self._last: asyncio.Task[Any] | None = None
        self._crashes = {self.random.randrange(20, 600) for _ in range(self.plan.weather.crashes)}

    def run(self) -> None:
        self.loop.run(self._main())

    @property
    def ending(self) -> Ending:
        """What the judge asks for beside the history. Call it when the run is over."""
        left = [f"task {task.get_name()} is left behind" for task in self.loop.unfinished]
        left += [f"timer {timer!r} is left behind" for timer in self.loop.timers]
        left += [f"an error that nobody saw: {context}" for context in self.loop.errors]
        return Ending(
            self.plan.limits, self.infos, [(self.name_of(letter), letter) for letter in self.letters], left
        )

    # --- the run ----------------------------------------------------------------------------------

    async def _main(self) -> None:
        watcher = MemoryBus(self.broker, replica="watcher")
        await watcher.open()
        reading = self._task("reader", self._read(watcher.tail("bus.**")))
        for _ in range(self.plan.buses):
            await self.join()
        self.publishers = [
            self._task(f"publisher {number}", self._publish(number)) for number in range(self.plan.publishers)
        ]
        adversary = self._task("adversary", disturb(self))
        await adversary
        self._wake_all()  # a publisher may wait for it
        await asyncio.wait(self.publishers)
        await self._calm(watcher)
        await reading

    def _wake_all(self) -> None:
        for replica in self.replicas:
            if replica.is_suspended:
                self.wake(replica)

    async def _calm(self, watcher: MemoryBus) -> None:
        """The faults stop: everything must come to its end."""
        self.is_calm = True
        last = await self.join(everything=True)
        for info in await watcher.groups():
            if info.paused is not None:
                self.note(h.Resumed(info.group))
                await watcher.resume_group(info.group)
        try:
            async with asyncio.timeout(BOUND):
                await watcher.quiet()
        except TimeoutError:
            self.note(h.Wrong(f"not quiet after {BOUND:,.0f} s"))
        self.infos = await last.bus.groups()
        self.letters = await watcher.dead_letters(limit=1_000_000)
        for replica in self.replicas:
            await self.close(replica, 10.0)
        await watcher.close()

    def note(self, fact: Any) -> None:
        self.history.add(self.loop.time(), fact)

    def _before_step(self, handle: asyncio.Handle) -> None:
        if not self.is_calm and (self.loop.steps in self._crashes or self._is_at_aim()):
            there = [replica for replica in self.replicas if not replica.is_gone]
            if there:
                self.kill(self.random.choice(there))
        if self._survey and not self.is_calm:
            self.waits.update(points_of(self.loop.unfinished))
        self.note(h.Step(name_of(handle)))
        self._last = task_of(handle)

    def _is_at_aim(self) -> bool:
        """Whether the task that ran last waits where the crash of this world is to happen."""
        if self._last is None or self._last.done():
            return False
        at = self._aims.intersection(points_of([self._last]))
        self._aims -= at
        return bool(at)

    def _task(self, name: str, coro: Any) -> asyncio.Task[Any]:
        return self.loop.create_task(coro, name=name)

    async def _read(self, tail: Tail) -> None:
        """Write down what the bus says of itself."""
        async for item in tail:
            said = Said.model_validate_json(item.data)
            if item.missed:
                self.note(h.Missed(item.missed))
            identity = f"{said.event_source} {said.event_id}"
            self.note(h.Announced(item.envelope.type, said.group, identity, said.reason))

    # --- buses and groups ---------------------------------------------------------------------------

    async def join(self, *, everything: bool = False) -> Replica:
        """A new bus, which handles some of the groups."""
        bus = ObservedBus(self.broker, replica=f"r{len(self.replicas) + 1}")
        bus.note = self.note
        replica = Replica(bus, self.random.choice(VERSIONS) if self.plan.has_upgrade else VERSIONS[0])
        replica.bus._breath = self.random.choice((1, 3, 128))  # how soon a publish lets others go first
        await replica.bus.open()
        self.replicas.append(replica)
        for group in self.specs:
            if everything or self.random.random() < 0.8:
                await self.subscribe(replica, group)
        return replica

    async def subscribe(self, replica: Replica, group: str) -> None:
        spec = self.specs[group].model_copy(update={"plugin_version": replica.version})
        host = f"{group}@{replica.name}.{next(self.numbers)}"
        if group not in self.broker.groups:
            self._lives[group] += 1
            self.note(h.Declared(group, self._lives[group], spec, group in self.plan.choosy))
        self.note(h.Subscribed(group, host, replica.name, replica.version))
        where = wanted if group in self.plan.choosy else None
        try:
            subscription = await replica.bus.subscribe(spec, self._handler(replica, host), where=where)
        except (BusClosed, GroupConflict) as error:
            self.note(h.Refused(host, type(error).__name__))
        else:
            replica.subscriptions[group] = host, subscription

    def _handler(self, replica: Replica, host: str) -> Handler:
        async def handle(event: PluginEvent) -> EventResult | None:
            return await Attempt(self, replica, host, event).run()

        return handle

    def forget(self, group: str) -> None:
        """The group is about to be dropped."""
        self.note(h.Dropped(group))
        self.replayed.discard(group)
        for replica in self.replicas:
            replica.subscriptions.pop(group, None)

    def suspend(self, replica: Replica) -> None:
        replica.is_suspended = True
        self.note(h.Suspended(replica.name))
        replica.bus.suspend()

    def wake(self, replica: Replica) -> None:
        replica.is_suspended = False
        self.note(h.Woken(replica.name))
        replica.bus.wake()

    def kill(self, replica: Replica) -> None:
        replica.is_up, replica.is_gone, replica.is_suspended = False, True, False
        self.crash_points.update(points_of(self.loop.unfinished))
        self.note(h.Gone(replica.name, "killed"))
        replica.bus.kill()

    async def close(self, replica: Replica, grace: float) -> None:
        replica.is_up = replica.is_suspended = False
        self.note(h.Closing(replica.name))
        await replica.bus.close(grace)
        replica.is_gone = True
        self.note(h.Gone(replica.name, "closed"))

    # --- publishers -------------------------------------------------------------------------------

    async def _publish(self, number: int) -> None:
        random = self.random
        for _ in range(self.plan.events):
            await asyncio.sleep(random.choice(PAUSES))
            up = [replica for replica in self.replicas if replica.is_up]
            if not up:
                continue
            event = self.make_event(f"e{next(self.numbers)}", random.randrange(len(TYPES)))
            options: dict[str, Any] = {"key": random.choice(KEYS), "timeout": random.choice((1.0, 5.0))}
            luck = random.random()
            if luck < 0.3:
                options["id"] = f"known-{event.name}"
            elif luck < 0.4:
                options["delay"] = random.choice(PAUSES)
            elif luck < 0.5:
                options["expires"] = self.clock.wall() + random.choice(PAUSES) + 0.5
            for _ in range(2 if luck < 0.2 else 1):
                await self.publish(random.choice(up).bus, event, f"/publisher/{number}", **options)

    @staticmethod
    def make_event(name: str, kind: int) -> Work:
        return TYPES[kind % len(TYPES)](name=name)

    def partition_of(self, message: Message) -> int:
        return self.broker.partition_of(message).number

    @staticmethod
    def name_of(letter: DeadLetter) -> str:
        return Work.model_validate_json(letter.data).name

    async def publish(self, bus: MemoryBus, event: Work, source: str, **options: Any) -> None:
        expires = options.get("expires")
        if expires is not None:
            options["expires"] = datetime.fromtimestamp(expires, UTC)
        kind = event.__event_type__
        self.note(h.Published(event.name, kind, options.get("key"), expires))
        try:
            receipt = await bus.publish(event, source=source, **options)
        except BusError as error:
            self.note(h.Unconfirmed(event.name, type(error).__name__))
        except asyncio.CancelledError:
            self.note(h.Unconfirmed(event.name, "cancelled"))
            raise
        else:
            identity = f"{source} {receipt.id}"
            self.note(h.Confirmed(event.name, identity, receipt.position, receipt.duplicate))
