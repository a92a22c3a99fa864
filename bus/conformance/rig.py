"""The bench on which every test works: handles, subscriptions, publishes, all written into one history."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from contracts.bus import (
    BusSubscription,
    EventBus,
    GroupInfo,
    Predicate,
    SubscriptionOptions,
    SubscriptionSpec,
    TailItem,
)
from contracts.errors import PublishUnknown
from contracts.event import AnyEvent, Event, EventData, Receipt

from .backend import Backend
from .checker import Verdict, judge
from .history import History, digest_of
from .probe import Act, Probe

SOURCE = "/conformance"
E = TypeVar("E", bound=Event)


class Item(Event, type="orders.item"):
    """What most tests publish."""

    n: int


class Rig:
    """Opens handles, subscribes probes, publishes numbered events, waits for facts, judges at the end."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.history = History()
        self.buses: dict[str, EventBus] = {}
        """Open handles by replica."""
        self.groups: dict[str, tuple[str, ...]] = {}
        """What `judge` expects of: every group that the test subscribed, with its patterns."""
        self._ids = 0
        self._before = asyncio.all_tasks()

    @property
    def tick(self) -> float:
        return self.backend.tick

    @property
    def lateness(self) -> float:
        return self.backend.lateness

    # --- handles ---------------------------------------------------------------------------------

    async def open(self, replica: str = "a") -> EventBus:
        bus = self.buses[replica] = await self.backend.open(replica)
        return bus

    async def close(self, bus: EventBus, grace: float = 10.0) -> None:
        await bus.close(grace)
        self.buses.pop(bus.replica, None)

    async def crash(self, bus: EventBus) -> None:
        self.history.add("gone", now(), replica=bus.replica)
        self.buses.pop(bus.replica, None)
        await self.backend.crash(bus)
        self.history.add("back", now(), replica=bus.replica)  # the name may come again

    async def renew(self) -> None:
        """A hard stop of everything, with all handles open."""
        stopped, self.buses = list(self.buses), {}
        for replica in stopped:
            self.history.add("gone", now(), replica=replica)
        await self.backend.renew()
        for replica in stopped:
            self.history.add("back", now(), replica=replica)

    def suspend(self, bus: EventBus, *, briefly: bool = False) -> None:
        """`briefly`: for less than the lease, so that what runs is still its own."""
        if not briefly:
            self.history.add("gone", now(), replica=bus.replica)
        self.backend.suspend(bus)

    def wake(self, bus: EventBus) -> None:
        self.history.add("back", now(), replica=bus.replica)
        self.backend.wake(bus)

    async def end(self, *, alone: bool = True) -> None:
        """Close what is open; where no other rig is at work, no task may be left behind."""
        for bus in list(self.buses.values()):
            await bus.close(grace=0)
        left = asyncio.all_tasks() - self._before - {asyncio.current_task()}
        assert not (alone and left), f"tasks left behind: {left}"

    # --- subscribing -----------------------------------------------------------------------------

    def spec(
        self, *patterns: str, group: str = "shop.handle", version: str = "0", generation: int = 3,
        **options: Any,
    ) -> SubscriptionSpec:  # fmt: skip
        plugin_id, _, name = group.partition(".")
        return SubscriptionSpec(
            group=group, plugin_id=plugin_id, handler=name, patterns=patterns or ("orders.**",),
            options=SubscriptionOptions(**options), source=f"/plugins/{plugin_id}",
            generation=generation, plugin_version=version,
        )  # fmt: skip

    async def on(
        self, bus: EventBus, act: Act | None = None, *patterns: str, group: str = "shop.handle",
        where: Predicate | None = None, **options: Any,
    ) -> Probe:  # fmt: skip
        """Subscribe a probe that does `act`. `options`: of the subscription, or `version`, `generation`."""
        spec = self.spec(*patterns, group=group, **options)
        probe = Probe(self.history, spec.group, bus.replica, act)
        if where is None and not spec.options.broadcast:
            self.groups[spec.group] = spec.patterns
        more: dict[str, Any] = {} if where is None else {"where": where}
        probe.subscription = await bus.subscribe(spec, probe, **more)
        return probe

    async def subscribe(self, bus: EventBus, handler: Any, *patterns: str, **options: Any) -> BusSubscription:
        """Subscribe a handler that the test has written itself."""
        return await bus.subscribe(self.spec(*patterns, **options), handler)

    # --- publishing ------------------------------------------------------------------------------

    async def publish(
        self, bus: EventBus, *numbers: int, type: str = "orders.item", key: str | None = None,
        id: str | None = None, source: str = SOURCE, subject: str | None = None, text: str | None = None,
        version: int = 1, **options: Any,
    ) -> list[Receipt]:  # fmt: skip
        """One event for each number; `text`: the data instead. Each has an id, so that it can be traced."""
        receipts = []
        for n in numbers:
            data = text if text is not None else json.dumps({"n": n})
            event = EventData(type=type, version=version, data=data)
            name = {"source": source, "id": id or self.next_id(n)}
            digest = digest_of(data, key=key, subject=subject, version=version)
            self.history.add("invoked", now(), **name, type=type, key=key, digest=digest)
            try:
                receipt = await bus.publish(event, **name, key=key, subject=subject, **options)  # type: ignore[arg-type]
            except PublishUnknown:
                self.history.add("unknown", now(), **name)
                raise
            except Exception:
                self.history.add("refused", now(), **name)
                raise
            self.history.add("confirmed", now(), **name)
            receipts.append(receipt)
        return receipts

    def next_id(self, n: int) -> str:
        self._ids += 1
        return f"e{self._ids}-{n}"

    # --- waiting and looking ---------------------------------------------------------------------

    async def until(self, is_so: Callable[[], Any], what: str = "") -> None:
        """Wait until `is_so()` (or what it awaits) is true; fail after the backend's patience."""
        deadline = now() + self.backend.patience
        while True:
            answer = is_so()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return
            assert now() < deadline, f"waited in vain for: {what or inspect.getsource(is_so).strip()}"
            await asyncio.sleep(self.tick / 5)

    async def quiet(self, bus: EventBus, since: str | None = None) -> None:
        await asyncio.wait_for(bus.quiet(since), self.backend.patience)

    async def pause(self, ticks: float = 4) -> None:
        """Give what must *not* happen the time to happen."""
        await asyncio.sleep(ticks * self.tick)

    def now(self, seconds: float = 0.0) -> datetime:
        """The backend's wall clock, and so many seconds later."""
        return self.backend.now() + timedelta(seconds=seconds)

    def shift(self, seconds: float) -> bool:
        """Shift the wall clock, where the backend can be told it; whether it can."""
        if self.backend.shifts_wall_clock:
            self.backend.shift_wall_clock(seconds)
        return self.backend.shifts_wall_clock

    async def info(self, bus: EventBus, group: str = "shop.handle") -> GroupInfo:
        return {info.group: info for info in await bus.groups()}[group]

    def listen(self, bus: EventBus) -> Announcements:
        return Announcements(bus)

    # --- judging ---------------------------------------------------------------------------------

    def verdict(self, **allowed: Any) -> Verdict:
        return judge(self.history, self.groups, **allowed)

    def judge(self, **allowed: Any) -> None:
        """Fail with the verdict and the history around each finding, unless everything was as promised."""
        verdict = self.verdict(**allowed)
        assert verdict, f"\n{verdict}"

    async def given_up(self, bus: EventBus) -> None:
        """Enter the dead letters into the history: what lies there is not lost."""
        for letter in await bus.dead_letters(limit=1_000):
            self.history.add(
                "given_up", now(), source=letter.envelope.source, id=letter.envelope.id,
                group=letter.group, note=letter.reason,
            )  # fmt: skip


class Announcements:
    """What the bus says of itself from now on."""

    def __init__(self, bus: EventBus) -> None:
        self._tail = bus.tail("bus.**")
        self._items: list[TailItem] = []

    def of(self, kind: type[E]) -> list[E]:
        self._items += self._tail.read_nowait()
        return [
            kind.model_validate_json(item.data)
            for item in self._items if item.envelope.type == kind.__event_type__
        ]  # fmt: skip


async def together(actions: Sequence[Awaitable[Any]]) -> None:
    await asyncio.gather(*actions)


def payload(size: int) -> AnyEvent:
    """An event whose data are exactly `size` bytes of JSON."""
    frame = len('{"text":""}')
    return EventData(
        type="orders.large", data=json.dumps({"text": "x" * (size - frame)}, separators=(",", ":"))
    )


def now() -> float:
    return asyncio.get_running_loop().time()
