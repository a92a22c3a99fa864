"""The control on Redis: a bus on redis-py as many people would write it, on which the tests must fail.

XADD and XREADGROUP with the client as it comes, a consumer for each replica, retries in place, claims by
idle time, `MAXLEN ~`, calls over pub/sub. Nothing is fenced, no key is in order beside another reader, a
write whose reply is lost is sent again, what is trimmed is gone, and what fails midway stays half done.

`naive_redis_suite.py` is the suite on it. The fault tests open `NaiveRedisBus(url, namespace=…)` where they
would open a real one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
from pydantic import BaseModel, TypeAdapter

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "faults"))

from fault_tools.servers import Server

from bus.codec import encode
from bus.conformance import Backend
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
from contracts.errors import BusClosed, CallTimeout, ErrorInfo, GroupNotFound, NoProvider, ProviderFailed
from contracts.event import AnyEvent, EventResult, Receipt, dump_event
from contracts.message import Message, PluginEvent
from contracts.metrics import Metric
from contracts.patterns import RESERVED_TOPICS, matches, topic_of

_log = logging.getLogger("naive")
_EVERYTHING = DeadLetterSelection()
_ENVELOPE = TypeAdapter(Envelope)
_SOON = 0.01
_AGAIN = 0.1
"""Seconds after which what failed is tried again."""
_BATCH = 100
PATIENCE = 2.0


class Answer(BaseModel):
    """What comes back over the channel of a call."""

    data: str = ""
    replica: str = ""
    error: ErrorInfo | None = None


def packed(message: Message) -> dict[str, Any]:
    envelope = _ENVELOPE.dump_json(message.envelope)
    return {"envelope": envelope, "version": message.version, "data": message.data}


def unpacked(fields: dict[bytes, bytes]) -> Message:
    envelope = _ENVELOPE.validate_json(fields[b"envelope"])
    return Message.from_envelope(envelope, fields[b"data"], version=int(fields[b"version"]))


class Tasks:
    """The tasks of one owner; gone when `cancel` returns."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel(self) -> None:
        while tasks := self._tasks - {asyncio.current_task()}:  # more than once: the client swallows some
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_AGAIN)


async def for_ever(step: Callable[[], Awaitable[None]]) -> None:
    """Again and again; what goes wrong is logged and tried again."""
    while True:
        try:
            await step()
        except Exception:  # noqa: BLE001 - as many people would
            _log.exception("it failed, and is tried again")
            await asyncio.sleep(_AGAIN)


class NaiveSubscription:
    """Reads for one group in the name of its replica, and claims what others have left lying."""

    def __init__(self, bus: NaiveRedisBus, spec: SubscriptionSpec, handler: Handler, where: Any) -> None:
        self.bus, self.spec, self.handler, self.where = bus, spec, handler, where
        self.id = f"{spec.group}@{bus.replica}"
        self.redis = bus.redis
        self.lanes = asyncio.Semaphore(spec.options.concurrency)
        self.is_active = True
        self.running = self.handled = self.failed = 0
        self.tasks = Tasks()
        self.tasks.start(for_ever(self.read))
        self.tasks.start(for_ever(self.claim))

    async def read(self) -> None:
        await self.bus.awake.wait()
        streams = await self.bus.join(self.spec)
        if not streams or await self.redis.hexists(self.bus.key("paused"), self.spec.group):
            await asyncio.sleep(_SOON)
            return
        try:
            found = await self.redis.xreadgroup(
                self.spec.group, self.bus.replica, dict.fromkeys(streams, ">"),
                count=self.spec.options.concurrency, block=self.bus.block,
            )  # fmt: skip
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.bus.join(self.spec, start="$", is_known=False)
            return
        for stream, entries in found:
            await self.start_all(stream, entries)

    async def claim(self) -> None:
        lease = self.bus.limits.lease
        await asyncio.sleep(lease / 3)
        await self.bus.awake.wait()
        for stream in await self.bus.join(self.spec):
            found = await self.redis.xautoclaim(
                stream, self.spec.group, self.bus.replica, round(lease * 1_000), count=_BATCH
            )
            await self.start_all(stream, found[1])

    async def start_all(self, stream: Any, entries: Any) -> None:
        for entry, fields in entries:
            await self.lanes.acquire()
            self.tasks.start(self.handle(stream, entry, fields))

    async def handle(self, stream: Any, entry: Any, fields: Any) -> None:
        self.running += 1
        try:
            await self.bus.awake.wait()
            message = unpacked(fields)
            if any(matches(pattern, message.type) for pattern in self.spec.patterns):
                await self.attempts(message)
            await self.bus.awake.wait()
            await self.redis.xack(stream, self.spec.group, entry)
            self.handled += 1
        except Exception:  # noqa: BLE001 - as many people would
            _log.exception("it failed, and stays pending")
        finally:
            self.running -= 1
            self.lanes.release()

    async def attempts(self, message: Message) -> None:
        policy = self.spec.options.retry
        for attempt in itertools.count(1):
            event = PluginEvent(message, self.spec.handler, attempt)
            error, after = await self.attempt(event)
            if error is None:
                return
            self.failed += 1
            if attempt >= policy.attempts:
                await self.bury(event, error, "attempts")
                return
            pause = policy.first_delay * policy.factor ** (attempt - 1) if after is None else after
            await asyncio.sleep(min(pause, policy.max_delay))

    async def attempt(self, event: PluginEvent) -> tuple[Exception | None, float | None]:
        """What went wrong, and when to try again."""
        try:
            if self.where is not None and not self.where(event):
                return None, None
            result = await asyncio.wait_for(self.handler(event), self.spec.options.timeout)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises
            return error, None
        result = result or EventResult.ok()
        for returned in result.events:
            await self.bus.publish(returned, source=self.spec.source)
        if result.action == "retry":
            return RuntimeError(result.reason), result.after
        if result.action == "dead_letter":
            await self.bury(event, RuntimeError(result.reason), "asked")
        return None, None

    async def bury(self, event: PluginEvent, error: Exception, reason: str) -> None:
        spec = self.spec
        letter = DeadLetter(
            id=uuid.uuid4().hex, group=spec.group, plugin_id=spec.plugin_id, generation=spec.generation,
            reason=reason, error=ErrorInfo.of(error), attempts=event.attempt, first_at=event.envelope.time,
            last_at=datetime.now(UTC), envelope=event.envelope, version=event.message.version,
            data=event.message.data.decode(),
        )  # fmt: skip
        await self.redis.hset(self.bus.key("dead"), letter.id, letter.model_dump_json())

    async def remove(self) -> None:
        if self.is_active:
            self.is_active = False
            self.bus.subscriptions.remove(self)
            await self.tasks.cancel()

    async def drain(self, grace: float) -> bool:
        await self.remove()
        return True


class NaiveTail:
    """Reads along from the streams that there are when it is opened."""

    def __init__(self, bus: NaiveRedisBus, patterns: tuple[str, ...], position: Any) -> None:
        self.bus, self.patterns = bus, patterns
        self.start = "$" if position is None else "0" if position == "oldest" else position
        if isinstance(position, datetime):
            self.start = f"{round(position.timestamp() * 1_000)}-0"
        self.places: dict[str, str] = {}
        self.items: asyncio.Queue[TailItem | None] = asyncio.Queue()
        self.is_open = True
        self.tasks = Tasks()
        self.tasks.start(for_ever(self.read))
        bus.tails.append(self)

    async def read(self) -> None:
        for topic in await self.bus.topics_of(self.patterns):
            self.places.setdefault(self.bus.stream(topic), self.start)
        if not self.places:
            await asyncio.sleep(_SOON)
            return
        for stream, entries in await self.bus.redis.xread(
            dict(self.places), count=_BATCH, block=self.bus.block
        ):
            for entry, fields in entries:
                self.places[stream.decode()] = entry.decode()
                self.offer(unpacked(fields), entry.decode())

    def offer(self, message: Message, position: str) -> None:
        if any(matches(pattern, message.type) for pattern in self.patterns):
            item = TailItem(
                envelope=message.envelope, version=message.version, data=message.data.decode(),
                position=position,
            )  # fmt: skip
            self.items.put_nowait(item)

    def __aiter__(self) -> NaiveTail:
        return self

    async def __anext__(self) -> TailItem:
        item = await self.items.get() if self.is_open else None
        if item is None:
            self.items.put_nowait(None)  # for others who wait
            raise StopAsyncIteration
        return item

    def read_nowait(self) -> list[TailItem]:
        items = []
        while self.is_open and not self.items.empty():
            if (item := self.items.get_nowait()) is not None:
                items.append(item)
        return items

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.items.put_nowait(None)
            self.bus.tails.remove(self)
            self.bus.tasks.start(self.tasks.cancel())


class NaiveOffer:
    """A provider that listens to the channels of its capability."""

    def __init__(self, bus: NaiveRedisBus, spec: ProviderSpec, provider: Provider) -> None:
        self.bus, self.spec, self.provider = bus, spec, provider
        self.id = f"{spec.capability}@{bus.replica}"
        self.channels = bus.redis.pubsub(ignore_subscribe_messages=True)
        self.tasks = Tasks()
        self.is_active = True

    async def open(self) -> None:
        info = ProviderInfo(
            capability=self.spec.capability, plugin_id=self.spec.plugin_id, replica=self.bus.replica,
            reach=self.spec.reach,
        )  # fmt: skip
        await self.channels.subscribe(*(self.bus.channel(self.id), self.bus.channel(self.spec.capability)))
        await self.bus.redis.hset(self.bus.key("providers"), self.id, info.model_dump_json())
        self.tasks.start(for_ever(self.listen))

    async def listen(self) -> None:
        async for message in self.channels.listen():
            await self.bus.awake.wait()
            self.tasks.start(self.answer(message["data"]))

    async def answer(self, data: bytes) -> None:
        call = Call.model_validate_json(data).model_copy(update={"provider": self.spec.provider})
        try:
            reply = await asyncio.wait_for(self.provider(call), self.spec.timeout)
            answer = Answer(data=reply.data, replica=self.bus.replica)
        except Exception as error:  # noqa: BLE001 - whatever a provider raises
            answer = Answer(error=ErrorInfo.of(error))
        await self.bus.redis.publish(self.bus.channel(call.id), answer.model_dump_json())

    async def remove(self) -> None:
        if self.is_active:
            await self.stop()
            await self.bus.redis.hdel(self.bus.key("providers"), self.id)

    async def stop(self) -> None:
        self.is_active = False
        await self.tasks.cancel()
        await self.channels.aclose()


class NaiveRedisBus:
    """One replica's handle."""

    def __init__(
        self, url: str, *, namespace: str = "naive", replica: str = "a", limits: BusLimits | None = None,
        block: int = 1_000,
    ) -> None:  # fmt: skip
        """`block`: milliseconds for which a read waits."""
        self.url, self.namespace, self.replica, self.block = url, namespace, replica, block
        self.limits = limits or BusLimits()
        self.features = Features(persistent=True, shared=True)
        # Not `from_url`: only the constructor gives a client that tries again, which is what most have.
        self.redis: Any = redis.asyncio.Redis(**redis.asyncio.connection.parse_url(url))
        self.awake = asyncio.Event()
        self.awake.set()
        self.subscriptions: list[NaiveSubscription] = []
        self.tails: list[NaiveTail] = []
        self.offers: list[NaiveOffer] = []
        self.tasks = Tasks()
        self.joined: set[tuple[str, str]] = set()
        self.known: list[ProviderInfo] = []
        self.catalogue: list[CatalogEntry] = []
        self.later = 0
        self.is_open = False

    def key(self, name: str) -> str:
        return f"{self.namespace}:{name}"

    def stream(self, topic: str) -> str:
        return self.key(f"stream:{topic}")

    def channel(self, name: str) -> str:
        return self.key(f"call:{name}")

    # --- its life ---------------------------------------------------------------------------------------

    async def open(self) -> None:
        await self.redis.ping()
        self.is_open = True
        self.tasks.start(for_ever(self.look_around))

    async def look_around(self) -> None:
        found = await self.redis.hvals(self.key("providers"))
        self.known = [ProviderInfo.model_validate_json(one) for one in found]
        await asyncio.sleep(_AGAIN)

    async def close(self, grace: float = 10.0) -> None:
        if self.is_open:
            self.is_open = False
            for subscription in list(self.subscriptions):
                await subscription.drain(grace)
            for offer in self.offers:
                await offer.remove()
            await self.vanish()

    async def vanish(self) -> None:
        """Everything ends where it is, and nothing is sent any more."""
        self.is_open = False
        for tail in list(self.tails):
            tail.close()
        for subscription in self.subscriptions:
            await subscription.tasks.cancel()
        for offer in self.offers:
            await offer.stop()
        await asyncio.sleep(0)
        await self.tasks.cancel()
        await self.redis.aclose()

    # --- publishing -------------------------------------------------------------------------------------

    async def publish(
        self, event: AnyEvent, *, source: str, key: str | None = None, id: str | None = None,
        subject: str | None = None, delay: float | None = None, at: datetime | None = None,
        expires: datetime | None = None, timeout: float = 5.0,
    ) -> Receipt:  # fmt: skip
        if not self.is_open:
            raise BusClosed("closed")
        name, version, shared, data = encode(event)
        now = datetime.now(UTC)
        event_id, now_ns = id or uuid.uuid4().hex, round(now.timestamp() * 1e9)
        message = Message(event_id, source, name, version, now_ns, shared, data, key, subject)
        if at is not None:
            delay = max(0.0, (at - now).total_seconds())
        if delay:
            self.tasks.start(self.release(message, delay))
            return Receipt(event_id, "delayed")
        return Receipt(event_id, await self.append(message))

    async def release(self, message: Message, delay: float) -> None:
        self.later += 1
        try:
            await asyncio.sleep(delay)
            await self.append(message)
        finally:
            self.later -= 1

    async def append(self, message: Message) -> str:
        await self.awake.wait()
        topic = topic_of(message.type)
        await self.redis.sadd(self.key("topics"), topic)
        position = await self.redis.xadd(
            self.stream(topic), packed(message), maxlen=self.limits.retain, approximate=True
        )
        return str(position.decode())

    async def publish_many(
        self, events: Sequence[AnyEvent], *, source: str, key: str | None = None, timeout: float = 5.0
    ) -> list[Receipt]:
        return [await self.publish(event, source=source, key=key) for event in events]

    async def relay(self, envelope: Envelope, event: AnyEvent, *, timeout: float = 5.0) -> Receipt:
        return await self.publish(event, source=envelope.source, id=envelope.id, key=envelope.partitionkey)

    # --- groups -----------------------------------------------------------------------------------------

    async def topics_of(self, patterns: Sequence[str]) -> list[str]:
        """The topics that these patterns select now."""
        topics = {topic_of(pattern) for pattern in patterns if pattern != "**"}
        if "**" in patterns:
            found = await self.redis.smembers(self.key("topics"))
            topics |= {topic.decode() for topic in found} - RESERVED_TOPICS
        return sorted(topics)

    async def join(
        self, spec: SubscriptionSpec, *, start: str | None = None, is_known: bool = True
    ) -> list[str]:
        """Make the group on all of its streams; those streams."""
        streams = [self.stream(topic) for topic in await self.topics_of(spec.patterns)]
        begin = start or ("$" if spec.options.start == "new" else "0")
        for stream in streams:
            if is_known and (spec.group, stream) in self.joined:
                continue
            try:
                await self.redis.xgroup_create(stream, spec.group, begin, mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            self.joined.add((spec.group, stream))
        return streams

    async def declare_group(self, spec: SubscriptionSpec) -> None:
        await self.redis.hset(self.key("groups"), spec.group, spec.model_dump_json())
        await self.join(spec)

    async def specs(self) -> dict[str, SubscriptionSpec]:
        found = await self.redis.hgetall(self.key("groups"))
        return {name.decode(): SubscriptionSpec.model_validate_json(spec) for name, spec in found.items()}

    async def spec(self, group: str) -> SubscriptionSpec:
        try:
            return (await self.specs())[group]
        except KeyError:
            raise GroupNotFound(f"no group {group}") from None

    async def drop_group(self, group: str, *, reason: str = "") -> None:
        await self.redis.hdel(self.key("groups"), group)

    async def pause_group(self, group: str, *, reason: str = "") -> bool:
        await self.spec(group)
        return bool(await self.redis.hset(self.key("paused"), group, reason))

    async def resume_group(self, group: str) -> bool:
        await self.spec(group)
        return bool(await self.redis.hdel(self.key("paused"), group))

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
        await self.declare_group(spec)
        subscription = NaiveSubscription(self, spec, handler, where)
        self.subscriptions.append(subscription)
        return subscription

    async def replay(self, group: str, *, start: Any = "oldest", end: Any = None) -> int:
        count = 0
        for stream in await self.join(await self.spec(group)):
            await self.redis.xgroup_setid(stream, group, "0" if start == "oldest" else start)
            count += await self.redis.xlen(stream)
        return count

    async def cancel_replay(self, group: str) -> int:
        return 0

    # --- calls ------------------------------------------------------------------------------------------

    async def provide(self, spec: ProviderSpec, provider: Provider) -> NaiveOffer:
        offer = NaiveOffer(self, spec, provider)
        await offer.open()
        self.offers.append(offer)
        return offer

    async def request(
        self, capability: str, query: Any, *, source: str, timeout: float = 5.0, target: str = "any"
    ) -> list[CallReply]:
        data = query if isinstance(query, str) else dump_event(query).decode()
        call = Call(id=uuid.uuid4().hex, capability=capability, source=source, data=data, timeout=timeout)
        to = capability if target in {"any", "all"} else f"{capability}@{target}"
        async with self.redis.pubsub() as replies:
            await replies.subscribe(self.channel(call.id))
            await replies.get_message(timeout=timeout)
            asked = await self.redis.publish(self.channel(to), call.model_dump_json())
            if not asked:
                raise NoProvider(f"nobody provides {capability}", capability=capability)
            return await self.collect(replies, capability, asked if target == "all" else 1, timeout)

    async def collect(self, replies: Any, capability: str, count: int, timeout: float) -> list[CallReply]:
        found: list[CallReply] = []
        try:
            async with asyncio.timeout(timeout):
                async for message in replies.listen():
                    answer = Answer.model_validate_json(message["data"])
                    if answer.error is not None:
                        raise ProviderFailed("it failed", info=answer.error)
                    found.append(CallReply(data=answer.data, replica=answer.replica))
                    if len(found) == count:
                        break
        except TimeoutError:
            if not found:
                raise CallTimeout("too late", capability=capability) from None
        return found

    def providers(self) -> list[ProviderInfo]:
        return self.known

    # --- looking ----------------------------------------------------------------------------------------

    def tail(self, *patterns: str, position: Any = None) -> NaiveTail:
        return NaiveTail(self, patterns, position)

    def mark(self) -> str:
        return ""

    async def quiet(self, since: str | None = None) -> None:
        while not await self.is_quiet():  # noqa: ASYNC110 - as many people would
            await asyncio.sleep(_SOON)

    async def is_quiet(self) -> bool:
        return not self.later and all([await self.is_done(spec) for spec in (await self.specs()).values()])

    async def is_done(self, spec: SubscriptionSpec) -> bool:
        waiting, pending, _ = await self.count(spec)
        return not waiting and not pending

    async def count(self, spec: SubscriptionSpec) -> tuple[int, int, int]:
        """Entries that wait, that are pending, and that the group's streams hold."""
        waiting = pending = length = 0
        for stream in await self.join(spec):
            length += await self.redis.xlen(stream)
            for group in await self.redis.xinfo_groups(stream):
                if group["name"].decode() == spec.group:
                    after = "(" + group["last-delivered-id"].decode()
                    waiting += len(await self.redis.xrange(stream, after, "+", count=_BATCH))
                    pending += group["pending"]
        return waiting, pending, length

    async def groups(self) -> list[GroupInfo]:
        specs = await self.specs()
        return [await self.group(spec) for _, spec in sorted(specs.items())]

    async def group(self, spec: SubscriptionSpec) -> GroupInfo:
        waiting, pending, _ = await self.count(spec)
        paused = await self.redis.hget(self.key("paused"), spec.group)
        mine = [one for one in self.subscriptions if one.spec.group == spec.group]
        running = sum(one.running for one in mine)
        return GroupInfo(
            group=spec.group, plugin_id=spec.plugin_id, patterns=spec.patterns,
            state="active" if mine else "dormant", paused=None if paused is None else paused.decode(),
            waiting=waiting, peak=0, in_flight=running, parked=pending - running,
            dead=await self.count_dead_letters(DeadLetterSelection(group=spec.group)),
            handled=sum(one.handled for one in mine), failed=sum(one.failed for one in mine), stale=0,
        )  # fmt: skip

    async def topics(self) -> list[TopicInfo]:
        names = sorted(topic.decode() for topic in await self.redis.smembers(self.key("topics")))
        return [await self.topic(name) for name in names]

    async def topic(self, name: str) -> TopicInfo:
        count = await self.redis.xlen(self.stream(name))
        return TopicInfo(
            topic=name, partitions=1, events=count, peak=count, limit=self.limits.limit, published=count
        )

    async def info(self) -> BusInfo:
        return BusInfo(
            backend="naive", address=self.url, namespace=self.namespace, connected=True, durability="weak"
        )

    def add_types(self, entries: Sequence[CatalogEntry]) -> Callable[[], None]:
        self.catalogue += entries
        return self.catalogue.clear

    def metrics(self) -> list[Metric]:
        return []

    def types(self) -> list[CatalogEntry]:
        return self.catalogue

    # --- dead letters -----------------------------------------------------------------------------------

    async def letters(self, selection: DeadLetterSelection) -> list[DeadLetter]:
        """The oldest first."""
        now = datetime.now(UTC)
        found = [
            DeadLetter.model_validate_json(letter) for letter in await self.redis.hvals(self.key("dead"))
        ]
        chosen = [letter for letter in found if selection.fits(letter, now)]
        return sorted(chosen, key=lambda letter: letter.last_at)

    async def dead_letters(
        self, selection: DeadLetterSelection = _EVERYTHING, *, limit: int = 100, after: str | None = None
    ) -> list[DeadLetter]:
        return (await self.letters(selection))[::-1][:limit] if after is None else []

    async def count_dead_letters(self, selection: DeadLetterSelection = _EVERYTHING) -> int:
        return len(await self.letters(selection))

    async def redrive(self, selection: DeadLetterSelection, *, rate: float | None = None) -> int:
        for letter in await self.letters(selection):
            await self.append(Message.from_envelope(letter.envelope, letter.raw, version=letter.version))
        return await self.discard(selection)

    async def discard(self, selection: DeadLetterSelection) -> int:
        chosen = await self.letters(selection)
        for letter in chosen:
            await self.redis.hdel(self.key("dead"), letter.id)
        return len(chosen)

    async def import_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        for letter in letters:
            await self.redis.hset(self.key("dead"), letter.id, letter.model_dump_json())
        return len(letters)


class NaiveRedisBackend(Backend):
    """A namespace on a server that the test has for itself: it is stopped and killed."""

    features = Features(persistent=True, shared=True)
    patience = PATIENCE

    def __init__(self, limits: BusLimits, server: Server, namespace: str = "naive") -> None:
        super().__init__(limits)
        self.server, self.namespace = server, namespace
        self.buses: list[NaiveRedisBus] = []

    async def open(self, replica: str) -> EventBus:
        bus = NaiveRedisBus(
            self.server.url, namespace=self.namespace, replica=replica, limits=self.limits, block=100
        )
        await bus.open()
        self.buses.append(bus)
        return bus

    async def crash(self, bus: EventBus) -> None:
        await next(one for one in self.buses if one is bus).vanish()

    def suspend(self, bus: EventBus) -> None:
        next(one for one in self.buses if one is bus).awake.clear()

    def wake(self, bus: EventBus) -> None:
        next(one for one in self.buses if one is bus).awake.set()

    async def restart(self) -> None:
        await self.server.restart_async()

    async def renew(self) -> None:
        for bus in self.buses:
            await bus.vanish()
        self.server.kill()
        await self.server.start_async()

    async def close(self) -> None:
        """The server goes, with everything in it."""

    async def sibling(self, limits: BusLimits) -> Backend:
        return NaiveRedisBackend(limits, self.server, f"{self.namespace}-{uuid.uuid4().hex}")
