"""The memory bus: the reference implementation of `contracts.bus.EventBus`.

`MemoryBroker` is what several buses of one process share; `MemoryBus` is one replica's handle on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from contracts.bus import (
    DEFAULT_TIMEOUT,
    BusInfo,
    BusSubscription,
    CallReply,
    Features,
    Handler,
    Predicate,
    Provider,
    ProviderInfo,
    ProviderSpec,
    Provision,
    SubscriptionSpec,
)
from contracts.envelope import Envelope
from contracts.errors import GroupConflict
from contracts.event import AnyEvent, Receipt
from contracts.message import Message
from contracts.metering import Meter
from contracts.metrics import Metric
from contracts.patterns import check_pattern
from contracts.tracing import TRACING

from .. import spans
from ..checks import checked_id, checked_source, checked_text, checked_timeout, due, expiry
from ..codec import SURELY_FITS, Plan, encode, plans, relayed
from ..groups import Delivery, is_handling
from ..policy.causes import CURRENT, ROOT, caused_by
from ..storms import continue_chain
from .administration import Administration
from .broker import MemoryBroker
from .hosting import Hosting
from .positions import ends, read_position, write_position
from .shared import shared_broker
from .tail import MemoryTail
from .taken import PlainMessage, TracedMessage
from .watch import RoomWaiter

__all__ = ["MemoryBroker", "MemoryBus", "open_bus"]

_BREATH = 128
"""After so many publishes in a row a publisher lets the event loop turn, so that consumers keep up."""
_new, _address = object.__new__, id
_AT_ONCE = 1e-9
"""Seconds of a publish that may not wait."""


class MemoryBus(Administration):
    """One replica's handle on a `MemoryBroker`; `contracts.bus.EventBus` says what each method promises."""

    def __init__(
        self,
        broker: MemoryBroker | None = None,
        *,
        replica: str | None = None,
        address: str = "memory://",
        namespace: str = "plugbus",
    ) -> None:
        """`address`, `namespace`: what `info` tells of where it came from."""
        super().__init__(broker or MemoryBroker(), replica)
        self._address, self._namespace = address, namespace
        self._breath = _BREATH

    @property
    def features(self) -> Features:
        return Features(persistent=False, shared=False)

    async def info(self) -> BusInfo:
        """It warns of nothing: that everything ends with the process is what was asked for."""
        return BusInfo(
            backend="memory",
            address=self._address,
            namespace=self._namespace,
            connected=self._state in ("open", "closing"),
            durability="none",
            replicas=tuple(sorted(self.broker.buses)),
            details={"limits": self.broker.limits.model_dump(mode="json")},
        )

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
            await self._be_usable()
        broker, current, plan = self.broker, CURRENT.get(), plans.get(_address(type(event)))
        if (
            current is None and source and key is None and id is None and subject is None and delay is None
            and at is None and expires is None and timeout is DEFAULT_TIMEOUT
            and plan is not None and plan.is_shared and plan.weigh(event.__dict__) < SURELY_FITS
        ):  # fmt: skip
            if not TRACING.is_on:
                plain = _new(PlainMessage)
                plain.source, plain.type, plain.version = source, plan.name, plan.version
                plain.event = event  # type: ignore[assignment]  # with a plan it is an Event
                plain.time_ns = now_ns = broker.clock.time_ns()
                receipt = broker.publish_plain(plain, now_ns)
                if receipt is None:
                    receipt = await self._wait_for_room(plain.spelled_out(), False, False, timeout)
                self._breath -= 1
                if not self._breath:
                    await self._take_breath()
                return receipt
            begun = spans.begin(self._measures.client, plan.name)
            if begun[1] is None:
                return await self._publish_unsampled(event, plan, source, begun[0])
        else:
            begun = None
        name, version, shared, data = encode(event)
        now_ns = broker.clock.time_ns()
        correlationid, causationid, depth = ROOT if current is None else caused_by(current.message)
        message = Message(
            "" if id is None else checked_id(id),
            checked_source(source), name, version, now_ns, shared, data,
            checked_text("key", key), checked_text("subject", subject),
            None if expires is None else expiry(now_ns, expires),
            correlationid, causationid, depth,
        )  # fmt: skip
        if timeout != DEFAULT_TIMEOUT:
            broker.allow(checked_timeout(timeout))
        if current is not None:
            ahead_ns = 0 if delay is None and at is None else due(now_ns, delay, at) - now_ns
            continue_chain(broker, message, current, ahead_ns)
        due_ns = due(now_ns, delay, at) if delay is not None or at is not None else 0
        taken = self._take(message, now_ns, due_ns, id is not None, is_handling(current), timeout)
        if not TRACING.is_on:
            return await taken
        return await spans.publishing(self._measures, message, taken, begun)

    async def _publish_unsampled(self, event: AnyEvent, plan: Plan, source: str, trace: str | int) -> Receipt:
        """The same for what belongs to a flow that is not sampled; how long it took is measured."""
        measures = self._measures
        began = measures.monotonic()
        plain = _new(TracedMessage)
        plain._trace = trace
        plain.source, plain.type, plain.version = source, plan.name, plan.version
        plain.event = event  # type: ignore[assignment]  # with a plan it is an Event
        plain.time_ns = now_ns = self.broker.clock.time_ns()
        receipt = self.broker.publish_plain(plain, now_ns)
        if receipt is None:
            waiting = self._wait_for_room(plain.spelled_out(), False, False, DEFAULT_TIMEOUT)
            return await measures.sending(plan.name, waiting)
        measures.sent_well[plan.name].record(measures.monotonic() - began)
        self._breath -= 1
        if not self._breath:
            await self._take_breath()
        return receipt

    async def _take(
        self, message: Message, now_ns: int, due_ns: int, knows_id: bool, over: bool, timeout: float
    ) -> Receipt:
        if due_ns > now_ns:
            return self._delay(message, due_ns)
        receipt = self.broker.publish(message, now_ns, knows_id, over)
        if receipt is None:
            receipt = await self._wait_for_room(message, knows_id, over, timeout)
        self._breath -= 1
        if not self._breath:
            await self._take_breath()
        return receipt

    async def _take_breath(self) -> None:
        self._breath = _BREATH
        await asyncio.sleep(0)

    async def _wait_for_room(self, message: Message, knows_id: bool, over: bool, timeout: float) -> Receipt:
        loop = asyncio.get_running_loop()
        knows_id = self._name(message) or knows_id  # it must be the same partition when its turn comes
        partition = self.broker.partition_of(message)
        if over:  # it is a handler that publishes: what it waited for might be itself
            raise self.broker.full(partition)
        waiter = RoomWaiter(message, knows_id, loop.create_future())

        def give_up() -> None:
            if not waiter.future.done():
                waiter.future.set_exception(self.broker.full(partition))

        timer = loop.call_later(timeout, give_up)
        self._waiting[waiter] = partition
        self.broker.watch.wait_for_room(partition, waiter)
        try:
            return await waiter.future
        finally:
            timer.cancel()
            del self._waiting[waiter]
            if waiter in partition.waiters:
                partition.waiters.remove(waiter)

    def _name(self, message: Message) -> bool:
        """Give it an id before the log does; whether it had none."""
        if message.id:
            return False
        message.id = self.broker.ids()
        return True

    def _delay(self, message: Message, due_ns: int) -> Receipt:
        self._name(message)
        partition, now = self.broker.partition_of(message), self.broker.clock.monotonic()
        position = partition.find(message.source, message.id, now)
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
        until = self.broker.clock.monotonic() + checked_timeout(timeout)
        receipts = []
        for event in events:
            left = max(_AT_ONCE, until - self.broker.clock.monotonic())
            receipts.append(await self.publish(event, source=source, key=key, timeout=left))
        return receipts

    async def relay(
        self, envelope: Envelope, event: AnyEvent, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Receipt:
        if not self._is_usable:
            await self._be_usable()
        self.broker.allow(checked_timeout(timeout))
        message = relayed(envelope, event)
        current = CURRENT.get()
        if current is not None:
            continue_chain(self.broker, message, current)
        now_ns = self.broker.clock.time_ns()
        taken = self._take(message, now_ns, 0, True, is_handling(current), timeout)
        return await (spans.publishing(self._measures, message, taken) if TRACING.is_on else taken)

    # --- groups -----------------------------------------------------------------------------------

    async def subscribe(
        self,
        spec: SubscriptionSpec,
        handler: Handler,
        *,
        where: Predicate | None = None,
        meter: Meter | None = None,
    ) -> BusSubscription:
        await self._be_usable()
        self._check_open()
        if spec.options.broadcast:
            spec = spec.model_copy(update={"group": f"{spec.group}@{self._replica}"})
        table = self.broker.table
        table.check(spec)
        if spec.group in table.by_name and self._replica in table.by_name[spec.group].hosts:
            raise GroupConflict(
                f"this bus handles group {spec.group!r} already", fix="remove the other subscription first"
            )
        group = table.declare(spec)

        async def publish(event: AnyEvent, delivery: Delivery, index: int) -> None:
            if not self._is_usable:
                await self._be_usable()
            if not delivery.is_open:
                return  # lost meanwhile, perhaps while this bus stood still: the new owner's handler decides
            # Source and key are the handler's and the delivery's: what follows from a key stays in its order.
            await self.publish(
                event, source=spec.source, key=delivery.message.key, id=delivery.derived_id(index)
            )

        hosting = Hosting(
            self.broker, group, spec, handler, replica=self._replica, publish=publish,
            sweeper=self._sweeper, measures=self._measures, ended=self._forget, where=where, meter=meter,
        )  # fmt: skip
        self._hosted[hosting] = None
        hosting.loop.start()
        table.add_host(group, hosting)
        return hosting

    def _forget(self, hosting: Hosting) -> None:
        self._hosted.pop(hosting, None)

    # --- calls ------------------------------------------------------------------------------------

    async def provide(self, spec: ProviderSpec, provider: Provider) -> Provision:
        self._check_open()
        return self._caller.provide(spec, provider)

    async def request(
        self,
        capability: str,
        query: BaseModel | str,
        *,
        source: str,
        timeout: float = DEFAULT_TIMEOUT,
        target: str = "any",
    ) -> list[CallReply]:
        await self._be_usable()
        self._check_open()
        return await self._caller.request(capability, query, source=source, timeout=timeout, target=target)

    def providers(self, capability: str | None = None) -> list[ProviderInfo]:
        return self._caller.providers(capability)

    def metrics(self) -> list[Metric]:
        return self._measures.metrics()

    # --- reading along, and being quiet -----------------------------------------------------------

    def tail(self, *patterns: str, position: str | datetime | None = None) -> MemoryTail:
        self._check_open()
        for pattern in patterns:
            check_pattern(pattern)
        tail = MemoryTail(self.broker, patterns, position, self._tail_closed)
        self._tails[tail] = None
        self.broker.add_reader(patterns, tail)
        return tail

    def _tail_closed(self, tail: MemoryTail) -> None:
        self._tails.pop(tail, None)
        self.broker.remove_reader(tail.patterns, tail)

    def mark(self) -> str:
        return write_position(self.broker.incarnation, ends(self.broker.all_partitions()))

    async def quiet(self, since: str | None = None) -> None:
        incarnation, cursors = read_position(since) if since is not None else ("", {})
        if incarnation != self.broker.incarnation:
            cursors = {}
        await self.broker.watch.until(lambda: self.broker.is_quiet(cursors))


def open_bus(url: str, *, namespace: str, replica: str | None = None, **options: Any) -> MemoryBus:
    """A bus, not yet opened. `memory://` has a broker of its own; `memory://NAME` shares one by namespace.

    `options` are those of `MemoryBroker`. Raises `InvalidOption` where a shared one has other limits.
    """
    name = urlsplit(url).netloc
    broker = shared_broker(namespace, name, **options) if name else MemoryBroker(**options)
    return MemoryBus(broker, replica=replica, address=f"memory://{name}", namespace=namespace)
