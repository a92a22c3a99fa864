"""The control: a small bus as many people would write it, on which the suite must fail.

A queue for each group, workers that take from it, a retry that puts back at the end. What is taken is gone:
nothing is owned, fenced, bounded or trimmed, no key is in order beside another worker, no id is remembered.
`test_naive.py` runs the suite on `TestNaive` and knows which tests even this passes.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from bus.codec import encode
from bus.conformance import Backend, BusConformance, limits_for
from contracts.bus import (
    BusInfo,
    BusLimits,
    Call,
    CallReply,
    CatalogEntry,
    DeadLetter,
    DeadLetterSelection,
    EventBus,
    Features,
    GroupInfo,
    Handler,
    Predicate,
    Provider,
    ProviderInfo,
    ProviderSpec,
    SubscriptionSpec,
    TailItem,
    TopicInfo,
)
from contracts.envelope import Envelope
from contracts.errors import BusClosed, CallTimeout, ErrorInfo, NoProvider, ProviderFailed
from contracts.event import AnyEvent, EventResult, Receipt, dump_event
from contracts.message import Message, PluginEvent
from contracts.metrics import Metric
from contracts.patterns import matches

_EVERYTHING = DeadLetterSelection()
_SOON = 0.01


@dataclass
class Group:
    spec: SubscriptionSpec
    queue: asyncio.Queue[tuple[Message, int]] = field(default_factory=asyncio.Queue)
    dead: list[DeadLetter] = field(default_factory=list)
    hosts: int = 0
    running: int = 0
    later: int = 0
    handled: int = 0
    failed: int = 0
    paused: str | None = None

    def selects(self, type_name: str) -> bool:
        return any(matches(pattern, type_name) for pattern in self.spec.patterns)

    def put_back(self, message: Message, attempt: int) -> None:
        self.later -= 1
        self.queue.put_nowait((message, attempt))

    @property
    def is_done(self) -> bool:
        return self.queue.empty() and not self.running and not self.later

    def info(self) -> GroupInfo:
        spec = self.spec
        return GroupInfo(
            group=spec.group, plugin_id=spec.plugin_id, patterns=spec.patterns,
            state="active" if self.hosts else "dormant", paused=self.paused, waiting=self.queue.qsize(),
            peak=0, in_flight=self.running, parked=self.later, dead=len(self.dead), handled=self.handled,
            failed=self.failed, stale=0,
        )  # fmt: skip


class Server:
    """What the buses share."""

    def __init__(self) -> None:
        self.log: list[Message] = []
        self.groups: dict[str, Group] = {}
        self.tails: list[NaiveTail] = []
        self.providers: dict[str, list[tuple[str, ProviderSpec, Provider]]] = {}
        self.types: list[CatalogEntry] = []
        self.number = itertools.count(1)
        self.delayed = 0

    def declare(self, spec: SubscriptionSpec) -> Group:
        group = self.groups.get(spec.group)
        if group is None:
            group = self.groups[spec.group] = Group(spec)
            for message in self.log if spec.options.start == "oldest" else ():
                if group.selects(message.type):
                    group.queue.put_nowait((message, 1))
        return group

    def append(self, message: Message) -> str:
        message.sequence = len(self.log)
        self.log.append(message)
        for group in self.groups.values():
            if group.selects(message.type):
                group.queue.put_nowait((message, 1))
        for tail in self.tails:
            tail.offer(message)
        return str(message.sequence)

    @property
    def is_done(self) -> bool:
        return not self.delayed and all(group.is_done for group in self.groups.values())


class NaiveTail:
    def __init__(self, server: Server, patterns: tuple[str, ...], start: int) -> None:
        self.server, self.patterns = server, patterns
        self.queue: asyncio.Queue[TailItem | None] = asyncio.Queue()
        self.is_open = True
        server.tails.append(self)
        for message in server.log[start:]:
            self.offer(message)

    def offer(self, message: Message) -> None:
        if any(matches(pattern, message.type) for pattern in self.patterns):
            item = TailItem(
                envelope=message.envelope, version=message.version, data=message.data.decode(),
                position=str(message.sequence + 1),
            )  # fmt: skip
            self.queue.put_nowait(item)

    def __aiter__(self) -> NaiveTail:
        return self

    async def __anext__(self) -> TailItem:
        item = await self.queue.get() if self.is_open else None
        if item is None:
            raise StopAsyncIteration
        return item

    def read_nowait(self) -> list[TailItem]:
        items = []
        while self.is_open and not self.queue.empty():
            if (item := self.queue.get_nowait()) is not None:
                items.append(item)
        return items

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.server.tails.remove(self)
            self.queue.put_nowait(None)


class NaiveSubscription:
    def __init__(self, bus: NaiveBus, group: Group, handler: Handler, where: Predicate | None) -> None:
        self.bus, self.group, self.handler, self.where = bus, group, handler, where
        self.id = f"{group.spec.group}@{bus.replica}"
        group.hosts += 1
        self.is_active = True
        self.tasks = [asyncio.ensure_future(self.work()) for _ in range(group.spec.options.concurrency)]

    async def work(self) -> None:
        group = self.group
        while True:
            message, attempt = await group.queue.get()
            group.running += 1
            try:
                await self.bus.awake.wait()
                while group.paused is not None:  # noqa: ASYNC110 - as many people would
                    await asyncio.sleep(_SOON)
                await self.attempt(message, attempt)
            finally:
                group.running -= 1

    async def attempt(self, message: Message, attempt: int) -> None:
        spec, group = self.group.spec, self.group
        event = PluginEvent(message, spec.handler, attempt)
        try:
            if self.where is not None and not self.where(event):
                return
            result = await asyncio.wait_for(self.handler(event), spec.options.timeout)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises
            self.retry(event, error, None)
        else:
            await self.decide(event, result or EventResult.ok())
            group.handled += 1

    async def decide(self, event: PluginEvent, result: EventResult) -> None:
        for returned in result.events:
            await self.bus.publish(returned, source=self.group.spec.source)
        if result.action == "retry":
            self.retry(event, RuntimeError(result.reason), result.after)
        elif result.action == "dead_letter":
            self.bury(event, RuntimeError(result.reason), "asked")

    def retry(self, event: PluginEvent, error: Exception, after: float | None) -> None:
        policy, group = self.group.spec.options.retry, self.group
        group.failed += 1
        if event.attempt >= policy.attempts:
            self.bury(event, error, "attempts")
            return
        pause = policy.first_delay * policy.factor ** (event.attempt - 1) if after is None else after
        group.later += 1
        loop = asyncio.get_running_loop()
        loop.call_later(min(pause, policy.max_delay), group.put_back, event.message, event.attempt + 1)

    def bury(self, event: PluginEvent, error: Exception, reason: str) -> None:
        spec, now = self.group.spec, datetime.now(UTC)
        letter = DeadLetter(
            id=f"d{next(self.bus.server.number)}", group=spec.group, plugin_id=spec.plugin_id,
            generation=spec.generation, reason=reason, error=ErrorInfo.of(error), attempts=event.attempt,
            first_at=event.envelope.time, last_at=now, envelope=event.envelope,
            data=event.message.data.decode(),
        )  # fmt: skip
        self.group.dead.append(letter)

    async def remove(self) -> None:
        if self.is_active:
            self.is_active = False
            self.group.hosts -= 1
            for task in self.tasks:
                task.cancel()
            await asyncio.wait(self.tasks)

    async def drain(self, grace: float) -> bool:
        await self.remove()
        return True


class NaiveOffer:
    def __init__(self, offers: list[Any], entry: Any) -> None:
        self.id, self.offers, self.entry = "offer", offers, entry

    async def remove(self) -> None:
        if self.entry in self.offers:
            self.offers.remove(self.entry)


class NaiveBus:
    def __init__(self, server: Server, replica: str) -> None:
        self.server, self.replica = server, replica
        self.features = Features(persistent=False, shared=False)
        self.awake = asyncio.Event()
        self.awake.set()
        self.subscriptions: list[NaiveSubscription] = []
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def close(self, grace: float = 10.0) -> None:
        self.is_open = False
        for subscription in self.subscriptions:
            await subscription.remove()
        for offers in self.server.providers.values():
            offers[:] = [entry for entry in offers if entry[0] != self.replica]

    async def publish(
        self, event: AnyEvent, *, source: str, key: str | None = None, id: str | None = None,
        subject: str | None = None, delay: float | None = None, at: datetime | None = None,
        expires: datetime | None = None, timeout: float = 5.0,
    ) -> Receipt:  # fmt: skip
        if not self.is_open:
            raise BusClosed("closed")
        name, version, shared, data = encode(event)
        event_id = id or f"naive-{next(self.server.number)}"
        now_ns = round(datetime.now(UTC).timestamp() * 1e9)
        message = Message(event_id, source, name, version, now_ns, shared, data, key, subject)
        if delay:
            self.server.delayed += 1
            asyncio.get_running_loop().call_later(delay, self.release, message)
            return Receipt(event_id, "delayed")
        return Receipt(event_id, self.server.append(message))

    def release(self, message: Message) -> None:
        self.server.delayed -= 1
        self.server.append(message)

    async def publish_many(
        self, events: Sequence[AnyEvent], *, source: str, key: str | None = None, timeout: float = 5.0
    ) -> list[Receipt]:
        return [await self.publish(event, source=source, key=key) for event in events]

    async def relay(self, envelope: Envelope, event: AnyEvent, *, timeout: float = 5.0) -> Receipt:
        return await self.publish(event, source=envelope.source, id=envelope.id, key=envelope.partitionkey)

    async def declare_group(self, spec: SubscriptionSpec) -> None:
        self.server.declare(spec)

    async def drop_group(self, group: str, *, reason: str = "") -> None:
        self.server.groups.pop(group, None)

    async def pause_group(self, group: str, *, reason: str = "") -> bool:
        was, self.server.groups[group].paused = self.server.groups[group].paused, reason
        return was is None

    async def resume_group(self, group: str) -> bool:
        was, self.server.groups[group].paused = self.server.groups[group].paused, None
        return was is not None

    async def subscribe(
        self,
        spec: SubscriptionSpec,
        handler: Handler,
        *,
        where: Predicate | None = None,
        meter: object = None,
    ) -> NaiveSubscription:
        if not self.is_open:
            raise BusClosed("closed")
        subscription = NaiveSubscription(self, self.server.declare(spec), handler, where)
        self.subscriptions.append(subscription)
        return subscription

    async def replay(self, group: str, *, start: Any = "oldest", end: Any = None) -> int:
        found = self.server.groups[group]
        wanted = [message for message in self.server.log if found.selects(message.type)]
        for message in wanted:
            found.queue.put_nowait((message, 1))
        return len(wanted)

    async def cancel_replay(self, group: str) -> int:
        return 0

    async def provide(self, spec: ProviderSpec, provider: Provider) -> NaiveOffer:
        offers = self.server.providers.setdefault(spec.capability, [])
        entry = (self.replica, spec, provider)
        offers.append(entry)
        return NaiveOffer(offers, entry)

    async def request(
        self, capability: str, query: Any, *, source: str, timeout: float = 5.0, target: str = "any"
    ) -> list[CallReply]:
        offers = self.server.providers.get(capability) or []
        if not offers:
            raise NoProvider(f"nobody provides {capability}", capability=capability)
        data = query if isinstance(query, str) else dump_event(query).decode()
        chosen = offers if target == "all" else offers[:1]
        return [await self.ask(entry, data, source, timeout) for entry in chosen]

    async def ask(self, entry: Any, data: str, source: str, timeout: float) -> CallReply:
        replica, spec, provider = entry
        call = Call(
            id=f"c{next(self.server.number)}", capability=spec.capability, provider=spec.provider,
            source=source, data=data, timeout=timeout,
        )  # fmt: skip
        try:
            reply: CallReply = await asyncio.wait_for(provider(call), timeout)
        except TimeoutError:
            raise CallTimeout("too late", capability=spec.capability) from None
        except Exception as error:
            raise ProviderFailed("it failed", info=ErrorInfo.of(error)) from error
        return reply.model_copy(update={"replica": replica})

    def tail(self, *patterns: str, position: Any = None) -> NaiveTail:
        start = len(self.server.log) if position is None else 0 if position == "oldest" else int(position)
        return NaiveTail(self.server, patterns, start)

    def mark(self) -> str:
        return str(len(self.server.log))

    async def quiet(self, since: str | None = None) -> None:
        while not self.server.is_done:  # noqa: ASYNC110 - as many people would
            await asyncio.sleep(_SOON)

    def letters(self, selection: DeadLetterSelection) -> list[DeadLetter]:
        now = datetime.now(UTC)
        found = [one for group in self.server.groups.values() for one in group.dead]
        return [letter for letter in found if selection.fits(letter, now)]

    async def dead_letters(
        self, selection: DeadLetterSelection = _EVERYTHING, *, limit: int = 100, after: str | None = None
    ) -> list[DeadLetter]:
        return self.letters(selection)[::-1][:limit] if after is None else []

    async def count_dead_letters(self, selection: DeadLetterSelection = _EVERYTHING) -> int:
        return len(self.letters(selection))

    async def redrive(self, selection: DeadLetterSelection, *, rate: float | None = None) -> int:
        chosen = self.letters(selection)
        for letter in chosen:
            message = Message.from_envelope(letter.envelope, letter.raw, version=letter.version)
            self.server.append(message)
        return await self.discard(selection)

    async def discard(self, selection: DeadLetterSelection) -> int:
        chosen = self.letters(selection)
        for letter in chosen:
            self.server.groups[letter.group].dead.remove(letter)
        return len(chosen)

    async def import_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        for letter in letters:
            self.server.groups[letter.group].dead.append(letter)
        return len(letters)

    async def info(self) -> BusInfo:
        return BusInfo(
            backend="naive", address="naive://", namespace="plugbus", connected=True, durability="none"
        )

    async def groups(self) -> list[GroupInfo]:
        return [group.info() for _, group in sorted(self.server.groups.items())]

    async def topics(self) -> list[TopicInfo]:
        names = sorted({message.type.partition(".")[0] for message in self.server.log})
        return [self.topic(name) for name in names]

    def topic(self, name: str) -> TopicInfo:
        count = sum(message.type.partition(".")[0] == name for message in self.server.log)
        return TopicInfo(topic=name, partitions=1, events=count, peak=count, limit=1_000_000, published=count)

    def providers(self) -> list[ProviderInfo]:
        return [
            ProviderInfo(capability=name, plugin_id=spec.plugin_id, replica=replica, reach=spec.reach)
            for name, offers in self.server.providers.items() for replica, spec, _ in offers
        ]  # fmt: skip

    def add_types(self, entries: Sequence[CatalogEntry]) -> Callable[[], None]:
        self.server.types += entries
        return lambda: [self.server.types.remove(entry) for entry in entries] and None

    def metrics(self) -> list[Metric]:
        return []

    def types(self) -> list[CatalogEntry]:
        return self.server.types


class NaiveBackend(Backend):
    features = Features(persistent=False, shared=False)

    def __init__(self, limits: BusLimits) -> None:
        super().__init__(limits)
        self.server = Server()
        self.buses: list[NaiveBus] = []

    async def open(self, replica: str) -> EventBus:
        bus = NaiveBus(self.server, replica)
        await bus.open()
        self.buses.append(bus)
        return bus

    async def crash(self, bus: EventBus) -> None:
        await bus.close()

    def suspend(self, bus: EventBus) -> None:
        bus.awake.clear()  # type: ignore[attr-defined]

    def wake(self, bus: EventBus) -> None:
        bus.awake.set()  # type: ignore[attr-defined]

    async def restart(self) -> None:
        """Nobody notices: it has no connections. What is in the queues is lost, as with any server."""
        for group in self.server.groups.values():
            while not group.queue.empty():
                group.queue.get_nowait()

    async def renew(self) -> None:
        for bus in self.buses:
            await bus.close()
        self.server = Server()

    async def close(self) -> None:
        """Nothing to remove."""

    async def sibling(self, limits: BusLimits) -> Backend:
        return NaiveBackend(limits)


class TestNaive(BusConformance):
    @pytest.fixture
    async def backend(self, request: pytest.FixtureRequest) -> Backend:
        return NaiveBackend(limits_for(request))
