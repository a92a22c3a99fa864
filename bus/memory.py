"""The memory bus: the reference implementation of `contracts.bus.EventBus`.

`MemoryBroker` is what several buses of one process share; `MemoryBus` is one replica's handle on it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel

from contracts.bus import (
    DEFAULT_TIMEOUT,
    BusSubscription,
    Call,
    CallReply,
    CatalogEntry,
    DeadLetter,
    DeadLetterSelection,
    Features,
    GroupInfo,
    Handler,
    Provider,
    ProviderInfo,
    ProviderSpec,
    Subscription,
    SubscriptionSpec,
)
from contracts.envelope import Envelope
from contracts.errors import BusClosed, BusError, CallError, GroupConflict, InvalidOption
from contracts.event import AnyEvent, Receipt, dump_event
from contracts.message import Message, PluginEvent
from contracts.patterns import check_pattern, check_type_name

from .broker import MemoryBroker
from .calls import Answer, Offer, PendingCalls, timed_out
from .codec import encode
from .groups import Delivery
from .hosting import Hosting
from .partition import Limits
from .policy.causes import CURRENT, ROOT, caused_by
from .policy.timeout import Sweeper
from .tail import MemoryTail, ends, read_position, write_position
from .watch import RoomWaiter

__all__ = ["Limits", "MemoryBroker", "MemoryBus", "open_bus"]

_BREATH = 128
"""After so many publishes in a row a publisher lets the event loop turn, so that consumers keep up."""
_EVERYTHING = DeadLetterSelection()


class MemoryBus:
    """One replica's handle on a `MemoryBroker`; `contracts.bus.EventBus` says what each method promises."""

    def __init__(self, broker: MemoryBroker | None = None, *, replica: str | None = None) -> None:
        self.broker = broker or MemoryBroker()
        self._replica = replica or f"replica-{self.broker.ids()}"
        self._state = "new"
        self._is_usable = False
        """Open, or closing: handlers that finish may still publish."""
        self._sweeper = Sweeper(self.broker.clock)
        self._hosted: set[Hosting] = set()
        self._offers: list[Offer] = []
        self._pending = PendingCalls()
        self._tails: set[MemoryTail] = set()
        self._waiting: set[asyncio.Future[Receipt]] = set()
        self._ending: list[asyncio.Task[None]] = []
        self._closed = asyncio.Event()
        self._breath = _BREATH

    @property
    def replica(self) -> str:
        return self._replica

    @property
    def features(self) -> Features:
        return Features(persistent=False, shared=False)

    @property
    def dropped_answers(self) -> int:
        """Answers to calls that came late or twice."""
        return self._pending.dropped

    # --- open and close ---------------------------------------------------------------------------

    async def open(self) -> None:
        if self._state != "new":
            raise BusClosed("a bus is opened once", fix="make a new one")
        if self._replica in self.broker.buses:
            raise BusError(
                f"replica {self._replica!r} is on this broker already", fix="give each bus its own name"
            )
        self._state, self._is_usable = "open", True
        self.broker.buses[self._replica] = self
        self.broker.delayed.arm()

    async def close(self, grace: float = 10.0) -> None:
        """Calls under way and handlers that run get `grace` seconds together; nothing new is begun."""
        if self._state == "open":
            self._state = "closing"
            ends = [hosting.drain(grace) for hosting in self._hosted]
            ends += [offer.withdraw(grace) for offer in self._offers]  # type: ignore[misc]
            await asyncio.gather(*ends)
            self._leave()
        elif self._state == "closing":
            await self._closed.wait()
        others = [task for task in self._ending if task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others)

    def kill(self) -> None:
        """Vanish as a crashed process would: nothing is settled, finished or handed over.

        Its tasks are cancelled; `close` waits for them to be gone.
        """
        if self._state == "closed":
            return
        self._leave()
        for hosting in list(self._hosted):
            self._ending += hosting.crash()
        for offer in self._offers:
            self._ending += offer.lose()

    def _leave(self) -> None:
        """No await in here: from the outside, the bus is there or it is gone."""
        self._state, self._is_usable = "closed", False
        self._sweeper.close()
        self._pending.close()
        for tail in list(self._tails):
            tail.close()
        for future in self._waiting:
            if not future.done():
                future.set_exception(_closed())
        self.broker.buses.pop(self._replica, None)
        if not self.broker.buses:
            self.broker.delayed.disarm()
        self._closed.set()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # --- publish ----------------------------------------------------------------------------------

    async def publish(
        self,
        event: AnyEvent,
        *,
        source: str,
        key: str | None = None,
        id: str | None = None,
        subject: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        expires: datetime | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Receipt:
        # The way of most events is written out here: each call less is felt at every publish.
        if not self._is_usable:
            self._check_open()
        broker, current = self.broker, CURRENT.get()
        ids = broker.ids
        name, version, shared, data = encode(event)
        now_ns = broker.clock.time_ns()
        correlationid, causationid, depth = ROOT if current is None else caused_by(current.message)
        message = Message(
            f"{ids.prefix}{ids.number()}" if id is None else _checked_id(id),
            source, name, version, now_ns, shared, data, key, subject,
            None if expires is None else _nanoseconds(expires, "expires"),
            correlationid, causationid, depth,
        )  # fmt: skip
        if delay is not None or at is not None:
            return self._delay(message, _due(now_ns, delay, at), id is not None)
        over = current is not None and _is_handling(current)
        receipt = broker.publish(message, now_ns, id is not None, over)
        if receipt is None:
            receipt = await self._wait_for_room(message, id is not None, over, timeout)
        self._breath -= 1
        if not self._breath:
            self._breath = _BREATH
            await asyncio.sleep(0)
        return receipt

    async def _wait_for_room(self, message: Message, knows_id: bool, over: bool, timeout: float) -> Receipt:
        loop = asyncio.get_running_loop()
        partition = self.broker.partition_of(message)
        if over:  # it is a handler that publishes: what it waited for might be itself
            raise self.broker.full(partition)
        waiter = RoomWaiter(message, knows_id, loop.create_future())

        def give_up() -> None:
            if not waiter.future.done():
                waiter.future.set_exception(self.broker.full(partition))

        timer = loop.call_later(timeout, give_up)
        self._waiting.add(waiter.future)
        self.broker.watch.wait_for_room(partition, waiter)
        try:
            return await waiter.future
        finally:
            timer.cancel()
            self._waiting.discard(waiter.future)
            if waiter in partition.waiters:
                partition.waiters.remove(waiter)

    def _delay(self, message: Message, due_ns: int, knows_id: bool) -> Receipt:
        partition, now = self.broker.partition_of(message), self.broker.clock.monotonic()
        if knows_id:
            position = partition.window.find(message.source, message.id, now)
            if position is not None:
                return Receipt(message.id, position, duplicate=True)
            partition.window.remember(message.source, message.id, "delayed")
        self.broker.delayed.add(message, due_ns)
        return Receipt(message.id, "delayed")

    async def publish_many(
        self,
        events: Sequence[AnyEvent],
        *,
        source: str,
        key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Receipt]:
        until = self.broker.clock.monotonic() + timeout
        receipts = []
        for event in events:
            left = max(0.0, until - self.broker.clock.monotonic())
            receipts.append(await self.publish(event, source=source, key=key, timeout=left))
        return receipts

    async def relay(
        self, envelope: Envelope, event: AnyEvent, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Receipt:
        if not self._is_usable:
            self._check_open()
        name, version, shared, data = encode(event)
        if name != envelope.type:
            raise InvalidOption(
                f"the envelope says {envelope.type!r}, the event is {name!r}",
                fix="relay the event of the envelope",
            )
        _checked_id(envelope.id)
        message = Message.from_envelope(envelope, data or b"", version=version)
        if shared is not None:
            message.event, message._data = shared, None
        current = CURRENT.get()
        over = current is not None and _is_handling(current)
        receipt = self.broker.publish(message, self.broker.clock.time_ns(), True, over)
        return receipt or await self._wait_for_room(message, True, over, timeout)

    # --- groups -----------------------------------------------------------------------------------

    async def declare_group(self, spec: SubscriptionSpec) -> None:
        self._check_open()
        self.broker.declare(spec)

    async def drop_group(self, group: str) -> None:
        others = [task for task in self.broker.drop(group) if task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others)

    async def subscribe(self, spec: SubscriptionSpec, handler: Handler) -> BusSubscription:
        self._check_open()
        group = self.broker.declare(spec)
        if self._replica in group.hosts:
            raise GroupConflict(
                f"this bus handles group {spec.group!r} already", fix="remove the other subscription first"
            )

        async def publish(event: AnyEvent, delivery: Delivery, index: int) -> None:
            # Source and key are the handler's and the delivery's: what follows from a key stays in its order.
            await self.publish(
                event, source=spec.source, key=delivery.message.key, id=delivery.derived_id(index)
            )

        hosting = Hosting(
            self.broker,
            group,
            spec,
            handler,
            replica=self._replica,
            publish=publish,
            sweeper=self._sweeper,
            ended=self._hosted.discard,
        )
        group.hosts[self._replica] = hosting
        self._hosted.add(hosting)
        hosting.loop.start()
        group.place_all()
        return hosting

    async def groups(self) -> list[GroupInfo]:
        return [self.broker.groups[name].info() for name in sorted(self.broker.groups)]

    # --- calls ------------------------------------------------------------------------------------

    async def provide(self, spec: ProviderSpec, provider: Provider) -> Subscription:
        self._check_open()
        check_type_name(spec.capability)
        broker = self.broker
        offer = Offer(broker.ids(), spec, provider, self._replica, broker.directory, broker.clock)
        broker.directory.add(offer)
        self._offers = [*(known for known in self._offers if known.is_live), offer]
        return offer

    async def request(
        self,
        capability: str,
        query: BaseModel | str,
        *,
        source: str,
        timeout: float = DEFAULT_TIMEOUT,
        target: str = "any",
    ) -> list[CallReply]:
        self._check_open()
        offers = self.broker.directory.choose(capability, self._replica, target)
        deadline = self.broker.clock.monotonic() + timeout
        data = query if isinstance(query, str) else dump_event(query).decode()
        pending = [self._ask(offer, data, source, timeout, deadline) for offer in offers]
        try:
            await asyncio.wait(pending, timeout=max(0.0, timeout))
        finally:
            for future in pending:
                future.cancel()  # an answer that comes now is late
        return _replies(
            capability, timeout, [future.result() for future in pending if not future.cancelled()]
        )

    def _ask(
        self, offer: Offer, data: str, source: str, timeout: float, deadline: float
    ) -> asyncio.Future[Answer]:
        spec = offer.spec
        call = Call(
            id=self.broker.ids(), capability=spec.capability, provider=spec.provider,
            source=source, data=data, timeout=timeout,
        )  # fmt: skip
        future = self._pending.expect(call.id)
        offer.serve(call, deadline, self._pending.answer)
        return future

    def providers(self) -> list[ProviderInfo]:
        return [offer.info for offer in self.broker.directory.reachable(self._replica)]

    # --- reading along, and being quiet -----------------------------------------------------------

    def tail(self, *patterns: str, position: str | None = None) -> MemoryTail:
        self._check_open()
        for pattern in patterns:
            check_pattern(pattern)
        tail = MemoryTail(self.broker, patterns, position, self._tail_closed)
        self._tails.add(tail)
        self.broker.open_tail(tail)
        return tail

    def _tail_closed(self, tail: MemoryTail) -> None:
        self._tails.discard(tail)
        self.broker.close_tail(tail)

    def mark(self) -> str:
        return write_position(self.broker.incarnation, ends(self.broker.all_partitions()))

    async def quiet(self, since: str | None = None) -> None:
        incarnation, cursors = read_position(since) if since is not None else ("", {})
        if incarnation != self.broker.incarnation:
            cursors = {}
        await self.broker.watch.until(lambda: self.broker.is_quiet(cursors))

    # --- dead letters, catalogue ------------------------------------------------------------------

    async def dead_letters(
        self, selection: DeadLetterSelection = _EVERYTHING, *, limit: int = 100
    ) -> list[DeadLetter]:
        return self.broker.losses.list(selection, limit)

    async def redrive(self, selection: DeadLetterSelection) -> int:
        return self.broker.losses.redrive(selection)

    async def discard(self, selection: DeadLetterSelection) -> int:
        return self.broker.losses.discard(selection)

    def add_types(self, entries: Sequence[CatalogEntry]) -> Callable[[], None]:
        return self.broker.catalog.add(entries)

    def types(self) -> list[CatalogEntry]:
        return self.broker.catalog.list()

    def _check_open(self) -> None:
        if self._state == "new":
            raise BusError("the bus is not open", fix="await bus.open()")
        if self._state != "open":
            raise _closed()


# --- opening by URL ------------------------------------------------------------------------------

_shared: weakref.WeakValueDictionary[tuple[str, str], MemoryBroker] = weakref.WeakValueDictionary()


def open_bus(url: str, *, namespace: str, replica: str | None = None, **options: Any) -> MemoryBus:
    """A bus, not yet opened. `memory://` has a broker of its own; `memory://NAME` shares one by namespace.

    `options` are those of `MemoryBroker`.
    """
    name = urlsplit(url).netloc
    if not name:
        return MemoryBus(MemoryBroker(**options), replica=replica)
    broker = _shared.get((namespace, name))
    if broker is None:
        broker = _shared[namespace, name] = MemoryBroker(**options)
    return MemoryBus(broker, replica=replica)


# --- small helpers -------------------------------------------------------------------------------


def _closed() -> BusClosed:
    return BusClosed("the bus is closed", fix="open a new one")


def _is_handling(current: PluginEvent) -> bool:
    """Whether this is code of a handler that runs (not of something that it left behind)."""
    return isinstance(current, Delivery) and current.is_open


def _checked_id(id: str) -> str:
    if not id:
        raise InvalidOption("an event's id must not be empty", fix="leave it out, and the bus makes one")
    return id


def _due(now_ns: int, delay: float | None, at: datetime | None) -> int:
    if at is not None:
        if delay is not None:
            raise InvalidOption("both delay and at are given", fix="give one of them")
        return _nanoseconds(at, "at")
    if delay is None or not 0 <= delay < float("inf"):
        raise InvalidOption(f"delay is {delay!r}", fix="seconds, from 0")
    return now_ns + int(delay * 1e9)


def _nanoseconds(moment: datetime, name: str) -> int:
    if moment.tzinfo is None:
        raise InvalidOption(f"{name} has no time zone", fix="datetime.now(UTC) + timedelta(...)")
    return int(moment.timestamp() * 1e9)


def _replies(capability: str, timeout: float, answers: list[Answer]) -> list[CallReply]:
    """The replies that came; what went wrong only where there is none."""
    replies = [answer for answer in answers if isinstance(answer, CallReply)]
    if replies:
        return replies
    raise next(
        (answer for answer in answers if isinstance(answer, CallError | BusClosed)), None
    ) or timed_out(capability, timeout)
