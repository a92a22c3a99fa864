"""The Redis bus: `contracts.bus.EventBus` on Redis Streams, shared by many processes, durable."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from random import Random
from types import TracebackType
from typing import Self, TypeVar

from pydantic import BaseModel

from contracts.bus import (
    DEFAULT_TIMEOUT,
    BusInfo,
    BusLimits,
    BusSubscription,
    CallReply,
    CatalogEntry,
    DeadLetter,
    DeadLetterSelection,
    Features,
    GroupInfo,
    Handler,
    Predicate,
    Provider,
    ProviderInfo,
    ProviderSpec,
    Provision,
    SubscriptionSpec,
    TopicInfo,
)
from contracts.envelope import Envelope
from contracts.errors import BusClosed, GroupConflict
from contracts.event import AnyEvent, Receipt, dump_event
from contracts.message import Message
from contracts.messages.delivery import GroupResumed
from contracts.metering import Meter
from contracts.metrics import Metric
from contracts.patterns import check_pattern, check_type_name
from contracts.tracing import TRACING

from .. import spans
from ..checks import (
    check_open,
    checked_id,
    checked_source,
    checked_text,
    checked_timeout,
    closed,
    due,
    expiry,
)
from ..clock import Ids, SystemClock
from ..codec import checked_size, encode, plans, relayed
from ..groups import Delivery, is_handling
from ..limits import check_partitions
from ..policy.causes import CURRENT, ROOT, caused_by
from ..storms import continue_chain
from .administration import cancel_replay, replay
from .caretaking import bound_dormant
from .core import Core
from .dead_letters import DeadLetters
from .errors import explained, may_pass
from .hosting import RedisHosting
from .inspection import all_of, is_quiet, look_at_group, look_at_topic
from .offers import RedisOffer
from .packing import pack_plain
from .positions import read_position, write_position
from .probing import look_at_server
from .registry import GroupRecord
from .tail import RedisTail
from .wire import Lost, Refused

log = logging.getLogger("plugbus.bus")

_TOPICS_AT_ONCE, _GROUPS_AT_ONCE = 50, 5
"""Whose figures are asked for together; a group asks about each of its topics."""

T = TypeVar("T")
PARTITIONS = 8
"""Of a topic, where nothing else is said."""
DEAD_LETTERS = 100_000
"""Of a group, where nothing else is said."""
_PATIENCE = 5.0
"""Seconds that an operator's method waits for a server that is gone."""
_FIRST_LOOK, _LONGEST_LOOK = 0.005, 0.1
"""Seconds between two looks whether everything is quiet: nobody tells across processes."""
_EVERYTHING = DeadLetterSelection()
_address = id


class RedisBus:
    """One replica's handle on a Redis server; `contracts.bus.EventBus` says what each method promises."""

    def __init__(
        self, url: str, *, namespace: str = "plugbus", replica: str | None = None,
        limits: BusLimits | None = None, clock: SystemClock | None = None, random: Random | None = None,
    ) -> None:  # fmt: skip
        ids = Ids()
        self._core = Core(
            url, namespace, replica or f"replica-{ids()}", _with_defaults(limits or BusLimits()),
            clock=clock or SystemClock(), random=random or Random(), ids=ids,  # noqa: S311 - jitter, not secrets
        )  # fmt: skip
        self._clock = self._core.clock
        self._state = "new"
        self._is_usable = False
        """Open, or closing: handlers that finish may still publish."""
        self._awake = asyncio.Event()
        self._awake.set()
        self._dead = DeadLetters(self._core)
        self._tails = self._core.tails
        self._ending: list[asyncio.Task[None]] = []
        self._closed = asyncio.Event()

    @property
    def replica(self) -> str:
        return self._core.replica

    @property
    def features(self) -> Features:
        return Features(persistent=True, shared=True)

    @property
    def dropped_answers(self) -> int:
        """Answers to calls that came late or twice."""
        return self._core.inbox.caller.pending.dropped

    # --- open and close -----------------------------------------------------------------------------

    async def open(self) -> None:
        """As in the contract; after a failure it may be called again."""
        if self._state != "new":
            raise BusClosed("a bus is opened once", fix="make a new one")
        try:
            await self._core.open()
        except Refused as error:
            raise explained(error, where=self._core.link.address) from None
        except Lost as error:
            raise self._core.link.unreachable(error) from None
        self._state, self._is_usable = "open", True

    async def close(self, grace: float = 10.0) -> None:
        self.wake()
        if self._state == "open":
            self._state = "closing"
            await self._finish(grace)
            await self._leave(grace)
        elif self._state == "closing":
            await self._closed.wait()
        elif self._state == "new":
            self._state = "closed"
            self._core.link.close()
            await self._core.link.ended()
        others = [task for task in self._ending if task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others)

    async def _finish(self, grace: float) -> None:
        """Whoever closes the bus that he runs in is not waited for. Who is cancelled here waits no longer."""
        asker = asyncio.current_task()
        ends: list[Awaitable[object]] = [hosting.stop(grace, asker) for hosting in list(self._core.hosted)]
        ends += [offer.withdraw(grace, asker) for offer in self._core.inbox.caller.offers]
        try:
            await asyncio.gather(*ends)
        except asyncio.CancelledError:
            await self.kill()
            raise

    async def _leave(self, grace: float) -> None:
        if self._state == "closed":
            return
        self._core.inbox.caller.pending.close()
        for tail in list(self._tails):
            tail.close()
        await self._core.close(grace, closed())
        self._state, self._is_usable = "closed", False
        self._closed.set()

    async def kill(self) -> None:
        """Vanish as a killed process would: nothing more is sent, settled or handed over. For tests."""
        if self._state == "closed":
            return
        self._state, self._is_usable = "closed", False
        self._awake.set()
        self._core.link.close()
        for hosting in list(self._core.hosted):
            self._ending += hosting.crash()
        self._core.hosted.clear()
        for offer in self._core.inbox.caller.offers:
            self._ending += offer.lose()
        self._core.inbox.caller.pending.close()
        for tail in list(self._tails):
            tail.close()
        await self._core.kill(closed())
        self._closed.set()

    def suspend(self) -> None:
        """Stand still as after SIGSTOP: nothing is sent or heard, nothing starts. For tests."""
        if self._state != "open" or not self._awake.is_set():
            return
        self._awake.clear()
        self._core.inbox.awake.clear()
        self._is_usable = False
        self._core.link.hold()
        for hosting in self._core.hosted:
            hosting.suspend(True)

    def wake(self) -> None:
        """Go on, as after SIGCONT."""
        if self._state != "open" or self._awake.is_set():
            return
        self._awake.set()
        self._core.inbox.awake.set()
        self._is_usable = True
        self._core.link.go_on()
        for hosting in self._core.hosted:
            hosting.suspend(False)
        self._core.members.beat_now()
        self._core.place_soon()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _be_usable(self) -> None:
        """Return when it is not suspended; raises if it is not open."""
        await self._awake.wait()
        if not self._is_usable:
            self._check_open()

    def _check_open(self) -> None:
        check_open(self._state)

    async def _do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Work on the control connection, again after it was cut; what Redis refuses is explained."""
        deadline = self._clock.monotonic() + _PATIENCE
        while True:
            try:
                await self._core.link.ready(
                    self._core.link.control, max(0.01, deadline - self._clock.monotonic())
                )
                return await work()
            except Lost as error:
                if self._state == "closed":
                    raise closed() from None
                if self._clock.monotonic() >= deadline:
                    raise self._core.link.unreachable(error) from None
            except Refused as error:
                if not may_pass(str(error)) or self._clock.monotonic() >= deadline:
                    raise explained(error, where=self._core.link.address) from None
                await asyncio.sleep(0.05)

    # --- publish ------------------------------------------------------------------------------------

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
        if not self._is_usable:
            await self._be_usable()
        begun = None
        core, current, plan = self._core, CURRENT.get(), plans.get(_address(type(event)))
        if (
            current is None and source and key is None and id is None and subject is None and delay is None
            and at is None and expires is None and timeout is DEFAULT_TIMEOUT and plan is not None
        ):  # fmt: skip
            # The way of most events is written out here: each call less is felt at every publish.
            data = checked_size(plan.name, dump_event(event))
            if TRACING.is_on:
                begun = spans.begin(core.measures.client, plan.name)
            if begun is None or begun[1] is None:
                new_id = core.ids()
                trace = None if begun is None else spans.trace_of(begun)
                fields = pack_plain(new_id, source, core.clock.time_ns(), plan.kind, data, trace)
                sent = core.publisher.send_plain(plan.topic, new_id, source, fields, timeout)
                if sent is not None:
                    return await (sent if begun is None else core.measures.sending(plan.name, sent))
        name, version, shared, encoded = encode(event)
        check_type_name(name)
        now_ns = core.clock.time_ns()
        correlationid, causationid, depth = ROOT if current is None else caused_by(current.message)
        message = Message(
            core.ids() if id is None else checked_id(id),
            checked_source(source), name, version, now_ns, shared, encoded,
            checked_text("key", key), checked_text("subject", subject),
            None if expires is None else expiry(now_ns, expires),
            correlationid, causationid, depth,
        )  # fmt: skip
        if timeout is not DEFAULT_TIMEOUT:
            self._allow(checked_timeout(timeout))
        ahead_ns = 0 if delay is None and at is None else due(now_ns, delay, at) - now_ns
        if current is not None:
            continue_chain(core, message, current, ahead_ns)
        when = ""
        if ahead_ns > 0:
            when = (
                f"{due(now_ns, None, at) // 1_000_000}" if at is not None else f"+{math.ceil(ahead_ns / 1e6)}"
            )
        receipt = await self._send(message, id is not None, is_handling(current), timeout, when, begun)
        if when and not receipt.duplicate:
            core.delayed.expect(ahead_ns / 1e9)
        return receipt

    def _allow(self, timeout: float) -> None:
        self._core.publisher.longest = max(self._core.publisher.longest, timeout)

    async def publish_many(
        self,
        events: Sequence[AnyEvent],
        *,
        source: str,
        key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Receipt]:
        until = self._clock.monotonic() + checked_timeout(timeout)
        receipts = []
        for event in events:
            left = max(1e-9, until - self._clock.monotonic())
            receipts.append(await self.publish(event, source=source, key=key, timeout=left))
        return receipts

    async def relay(
        self, envelope: Envelope, event: AnyEvent, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Receipt:
        if not self._is_usable:
            await self._be_usable()
        self._allow(checked_timeout(timeout))
        message = relayed(envelope, event)
        current = CURRENT.get()
        if current is not None:
            continue_chain(self._core, message, current)
        return await self._send(message, True, is_handling(current), timeout)

    async def _send(
        self, message: Message, repeated: bool, handling: bool, timeout: float, due: str = "",
        begun: spans.Begun | None = None,
    ) -> Receipt:  # fmt: skip
        sent = self._core.publisher.publish(
            message, repeated=repeated, handling=handling, timeout=timeout, due=due
        )
        return await (spans.publishing(self._core.measures, message, sent, begun) if TRACING.is_on else sent)

    # --- groups -------------------------------------------------------------------------------------

    async def declare_group(self, spec: SubscriptionSpec) -> None:
        """A broadcast subscription keeps no group: its options are checked, no more."""
        await self._be_usable()
        self._check_open()
        if spec.options.broadcast:
            self._core.registry.check(spec)
        else:
            await self._do(lambda: self._core.registry.declare(spec))

    async def drop_group(self, group: str, *, reason: str = "") -> None:
        await self._be_usable()
        self._check_open()
        mine = [hosting for hosting in self._core.hosted if hosting.spec.group == group]
        lanes = [task for hosting in mine for task in hosting.crash()]
        for hosting in mine:
            self._core.hosted.pop(hosting, None)
        await self._do(lambda: self._core.groups.drop(group, reason))
        self._core.members.beat_now()
        others = [task for task in lanes if task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others)

    async def pause_group(self, group: str, *, reason: str = "") -> bool:
        await self._be_usable()
        self._check_open()
        return await self._do(lambda: self._core.groups.set_paused(group, reason))

    async def resume_group(self, group: str) -> bool:
        await self._be_usable()
        self._check_open()
        await self._core.groups.paused(group)
        done = await self._do(lambda: self._core.registry.change(group, _resumed))
        if done:
            spec = self._core.registry.find(group).spec
            self._core.announcer.say(GroupResumed(group=group, plugin_id=spec.plugin_id))
        return done

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
        core = self._core
        if spec.options.broadcast:
            spec = spec.model_copy(update={"group": f"{spec.group}@{self.replica}"})
        if any(hosting.spec.group == spec.group and not hosting.is_over for hosting in core.hosted):
            raise GroupConflict(
                f"this bus handles group {spec.group!r} already", fix="remove the other subscription first"
            )
        await self._do(lambda: core.registry.declare(spec))

        async def publish(event: AnyEvent, delivery: Delivery, index: int) -> None:
            if not self._is_usable:
                await self._be_usable()
            if not await core.is_ours(delivery):
                return  # lost meanwhile, perhaps while this bus stood still: the new owner's handler decides
            # Source and key are the handler's and the delivery's: what follows from a key stays in its order.
            await self.publish(
                event, source=spec.source, key=delivery.message.key, id=delivery.derived_id(index)
            )

        hosting = RedisHosting(core, spec, handler, publish, where, meter)
        hosting.is_known = True
        core.hosted[hosting] = None
        hosting.loop.start()
        record = core.registry.view.groups.get(spec.group)
        hosting.set_paused(record is not None and record.paused is not None)

        async def begin() -> None:
            await core.members.beat()
            await core.ownership.place(hosting)
            await core.registry.tell("replicas")

        await self._do(begin)
        if hosting.is_ephemeral:
            await core.ownership.settled(hosting)
            hosting.has_begun = True
        return hosting

    async def groups(self) -> list[GroupInfo]:
        async def look() -> list[GroupInfo]:
            await self._flush()
            view = await self._core.registry.refresh()
            await bound_dormant(self._core)
            groups = [view.groups[name] for name in sorted(view.groups)]
            return await all_of((look_at_group(self._core, group) for group in groups), _GROUPS_AT_ONCE)

        return await self._do(look)

    async def topics(self) -> list[TopicInfo]:
        async def look() -> list[TopicInfo]:
            await self._flush()
            view = await self._core.registry.refresh()
            topics = sorted(view.topics.items())
            return await all_of((look_at_topic(self._core, *topic) for topic in topics), _TOPICS_AT_ONCE)

        return await self._do(look)

    async def _flush(self) -> None:
        """Whoever looks sees at least what this replica has done."""
        if self._state == "open" and self._awake.is_set():
            try:
                async with asyncio.timeout(1.0):
                    await self._core.reader.flush()
            except TimeoutError:
                log.debug("not everything is settled yet")

    async def info(self) -> BusInfo:
        return await look_at_server(self._core, is_open=self._state in ("open", "closing"))

    # --- replay -------------------------------------------------------------------------------------

    async def replay(
        self, group: str, *, start: str | datetime = "oldest", end: str | datetime | None = None
    ) -> int:
        await self._be_usable()
        self._check_open()
        return await self._do(lambda: replay(self._core, group, start, end))

    async def cancel_replay(self, group: str) -> int:
        await self._be_usable()
        self._check_open()
        return await self._do(lambda: cancel_replay(self._core, group))

    # --- calls --------------------------------------------------------------------------------------

    async def provide(self, spec: ProviderSpec, provider: Provider) -> Provision:
        await self._be_usable()
        self._check_open()
        offer = self._core.inbox.caller.provide(spec, provider)
        if spec.reach == "shared":
            await self._tell_offers()
        return RedisOffer(offer, self._tell_offers)

    async def _tell_offers(self) -> None:
        async def tell() -> None:
            await self._core.members.beat()
            await self._core.registry.tell("replicas")

        if self._state == "open":
            await self._do(tell)

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
        if not self._core.directory.knows(capability, self.replica, target):
            await self._do(self._core.registry.refresh)  # one may have come that we have not heard of
        return await self._core.inbox.caller.request(
            capability, query, source=source, timeout=timeout, target=target
        )

    def providers(self, capability: str | None = None) -> list[ProviderInfo]:
        return self._core.inbox.caller.providers(capability)

    def metrics(self) -> list[Metric]:
        return self._core.measures.metrics()

    # --- reading along, and being quiet ---------------------------------------------------------------

    def tail(self, *patterns: str, position: str | datetime | None = None) -> RedisTail:
        self._check_open()
        for pattern in patterns:
            check_pattern(pattern)
        tail = RedisTail(self._core, patterns, position, self._tail_closed)
        self._tails[tail] = None
        return tail

    def _tail_closed(self, tail: RedisTail) -> None:
        self._tails.pop(tail, None)

    def mark(self) -> str:
        """What this replica knows to have been published; what others have published lately may count too."""
        return write_position(self._core.registry.incarnation, self._core.known_ends())

    async def quiet(self, since: str | None = None) -> None:
        incarnation, cursors, _ = read_position(since) if since is not None else ("", {}, None)
        if incarnation != self._core.registry.incarnation:
            cursors = {}
        pause = _FIRST_LOOK
        while True:
            await self._flush()
            if await self._do(lambda: is_quiet(self._core, cursors)):
                return
            await asyncio.sleep(pause)
            pause = min(_LONGEST_LOOK, pause * 1.2)

    # --- dead letters ---------------------------------------------------------------------------------

    async def dead_letters(
        self, selection: DeadLetterSelection = _EVERYTHING, *, limit: int = 100, after: str | None = None
    ) -> list[DeadLetter]:
        return await self._do(lambda: self._dead.page(selection, limit, after))

    async def count_dead_letters(self, selection: DeadLetterSelection = _EVERYTHING) -> int:
        return await self._do(lambda: self._dead.count(selection))

    async def redrive(self, selection: DeadLetterSelection, *, rate: float | None = None) -> int:
        await self._be_usable()
        self._check_open()
        return await self._do(lambda: self._dead.redrive(selection, rate))

    async def discard(self, selection: DeadLetterSelection) -> int:
        await self._be_usable()
        self._check_open()
        return await self._do(lambda: self._dead.discard(selection))

    async def import_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        await self._be_usable()
        self._check_open()
        return await self._do(lambda: self._dead.add(letters))

    # --- catalogue ------------------------------------------------------------------------------------

    def add_types(self, entries: Sequence[CatalogEntry]) -> Callable[[], None]:
        return self._core.catalog.add(entries, self._core.replica)

    def types(self) -> list[CatalogEntry]:
        return self._core.catalog.entries()

    # --- the namespace --------------------------------------------------------------------------------

    async def erase(self) -> None:
        """Close it, and delete every key of its namespace: nothing of other handles on it survives."""
        await self.close(0)
        await self._core.erase()


def open_bus(
    url: str, *, namespace: str = "plugbus", replica: str | None = None, limits: BusLimits | None = None,
    partitions: int | dict[str, int] | None = None,
) -> RedisBus:  # fmt: skip
    """A bus, not yet opened, for `redis://`, `rediss://`, `unix://` and `redis+sentinel://`.

    `partitions`: short for `BusLimits(partitions=…)`; 8 where nothing is said. Raises `InvalidOption` for a
    URL that is none.
    """
    if partitions is not None:
        given = {} if limits is None else {name: getattr(limits, name) for name in limits.model_fields_set}
        limits = BusLimits(**{**given, "partitions": partitions})
    return RedisBus(url, namespace=namespace, replica=replica, limits=limits)


def _with_defaults(limits: BusLimits) -> BusLimits:
    """What is not said is as a networked backend has it."""
    given = limits.model_fields_set
    update: dict[str, int] = {}
    if "partitions" not in given:
        update["partitions"] = PARTITIONS
    if "dead_letters" not in given:
        update["dead_letters"] = DEAD_LETTERS
    return check_partitions(limits.model_copy(update=update))


def _resumed(record: GroupRecord) -> GroupRecord | None:
    return None if record.paused is None else GroupRecord(record.spec, None, record.dormant_ms)
