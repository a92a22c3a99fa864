"""The memory broker: everything that several memory buses of one process share."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Collection, Iterable, Iterator
from random import Random
from typing import TYPE_CHECKING

from contracts.bus import DEFAULT_TIMEOUT, BusLimits, SubscriptionSpec
from contracts.errors import BusFull
from contracts.event import Event, Receipt
from contracts.message import Message
from contracts.patterns import check_type_name, topic_of

from ..announce import SOURCE, Announcer
from ..catalog import Catalog
from ..clock import Clock, Ids, SystemClock
from ..codec import encode
from ..directory import Directory
from ..groups import GroupPartition
from ..limits import ROUTE_CACHE, check_partitions, merged, partitions_of
from ..overflow import Overflow
from ..policy.causes import Causes
from ..topics import PatternIndex
from .census import has_unsettled
from .delayed import Delayed
from .group import Group
from .group_table import GroupTable
from .losses import Losses
from .members import Members
from .partition import Partition
from .taken import PlainMessage, PlainReceipt
from .watch import Watch

if TYPE_CHECKING:
    from .positions import Cursors
    from .replica import Replica
    from .tail import MemoryTail


_new = object.__new__


class Route:
    """Who reads one event type: compiled when it is first published, dropped when readers change."""

    __slots__ = (
        "_by_ids",
        "_turns",
        "bounded",
        "first",
        "is_split",
        "is_watched",
        "partitions",
        "tails",
        "targets",
    )

    def __init__(
        self, partitions: tuple[Partition, ...], groups: list[Group], tails: tuple[MemoryTail, ...]
    ) -> None:
        self.partitions = partitions
        self.first = partitions[0]
        self.is_split = len(partitions) > 1
        self.targets = tuple(tuple(group.parts[partition] for group in groups) for partition in partitions)
        self.tails = tails
        self.bounded = tuple(group for group in groups if group.spec.options.max_waiting is not None)
        """Groups that drop what is too much for them."""
        self.is_watched = bool(self.tails or self.bounded)
        self._by_ids = {partition.ids: partition for partition in partitions}
        self._turns = itertools.cycle(partitions)

    def select(self, message: Message) -> Partition:
        """Which partition: by key, else by source and id. An id of ours names it; one to be made is free."""
        text = message.key
        if text is None:
            if not message.id:
                return next(self._turns)
            first, dash, _ = message.id.rpartition("-")
            if found := self._by_ids.get(first + dash):
                return found
            text = f"{message.source}\n{message.id}"
        return self.partitions[zlib.crc32(text.encode()) % len(self.partitions)]

    def spread(self) -> Partition:
        """For an event that may go anywhere: its id will tell where it went."""
        return next(self._turns)


class MemoryBroker:
    """Topics, groups and dead letters in memory, shared by several `MemoryBus`es on one event loop.

    `partitions`: short for `BusLimits(partitions=…)`. Clock, random and ids are injected; the event
    loop's `time()` must be the clock's `monotonic`.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        random: Random | None = None,
        ids: Ids | None = None,
        partitions: int | dict[str, int] | None = None,
        limits: BusLimits | None = None,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.random = random or Random()  # noqa: S311 - jitter, not secrets
        self.ids: Ids = ids or Ids()
        self.limits = check_partitions(merged(limits, partitions))
        self.incarnation = self.ids()
        """Tells positions of this broker from those of one that is gone."""
        self.catalog = Catalog()
        self.directory = Directory()
        self.table = GroupTable(self)
        self.groups = self.table.by_name
        self.buses: dict[str, Replica] = {}
        self.announcer = Announcer(self._publish_own, self.limits.announcements)
        self.members = Members(self.clock, self.limits.lease, self.announcer)
        self.losses = Losses(self.groups, self.announcer, self.clock, self.ids)
        self.overflow = Overflow(self.announcer)
        self.watch = Watch(self.all_partitions, self._grant)
        self.delayed = Delayed(self.clock, self._publish_delayed)
        self.longest_timeout = DEFAULT_TIMEOUT
        """Seconds: of all publishes so far."""
        self._topics: dict[str, tuple[Partition, ...]] = {}
        self._readers: PatternIndex[Group | MemoryTail] = PatternIndex()
        self._routes: dict[str, Route] = {}

    # --- buses ------------------------------------------------------------------------------------

    def enter(self, bus: Replica) -> None:
        """It is open. Timers die with the event loop that they are on, so they are set anew."""
        self.buses[bus.replica] = bus
        self.delayed.arm()
        self.table.dormancy.start()

    def leave(self, bus: Replica) -> None:
        self.buses.pop(bus.replica, None)
        if not self.buses:
            self.delayed.disarm()
            self.table.dormancy.stop()

    # --- publishing -------------------------------------------------------------------------------

    def publish(self, message: Message, now_ns: int, knows_id: bool, over: bool) -> Receipt | None:
        """Append, and hand to every reader; None: there is no room.

        `knows_id`: the id was given by the publisher, who may give it again; one that lacks is made here.
        `over`: made while a delivery is handled, so admitted up to twice the limit. No await from the look
        at the window to the last reader. All in one piece: each call less is felt at every publish.
        """
        route = self._routes.get(message.type) or self.route(message.type)
        partition = route.select(message) if route.is_split else route.first
        if knows_id:
            position = partition.find(message.source, message.id, self.clock.monotonic())
            if position is not None:
                return Receipt(message.id, position, duplicate=True)
        if len(partition.messages) >= partition.look_at and not self._has_room(partition, now_ns, over):
            return None
        messages = partition.messages
        message.sequence = sequence = partition.base + len(messages)
        messages.append(message)
        if not message.id:
            message.id = f"{partition.ids}{sequence}"
        if now_ns >= partition.next_stamp:
            partition.stamp(sequence, now_ns)
        for part in route.targets[partition.number]:
            part.backlog.append(message)
            if part.idle:
                part.idle = False
                part.owner.rouse(part)  # type: ignore[union-attr]  # only an owner makes it idle
        position = f"{partition.prefix}{sequence}"
        if knows_id:
            partition.window.remember(message.source, message.id, position)
        if route.is_watched or message.expires_ns is not None:
            self._tell(route, partition, message)
        return Receipt(message.id, position)

    async def look_again(self) -> None:
        """All replicas see one directory."""

    def publish_plain(self, message: PlainMessage, now_ns: int) -> Receipt | None:
        """The same for what nearly every event is: no id, no key, no expiry, caused by nothing."""
        route = self._routes.get(message.type) or self.route(message.type)
        partition = route.spread() if route.is_split else route.first
        messages = partition.messages
        if len(messages) >= partition.look_at and not self._has_room(partition, now_ns, False):
            return None
        message.partition = partition
        message.sequence = sequence = partition.base + len(messages)
        messages.append(message)
        if now_ns >= partition.next_stamp:
            partition.stamp(sequence, now_ns)
        for part in route.targets[partition.number]:
            part.backlog.append(message)
            if part.idle:
                part.idle = False
                part.owner.rouse(part)  # type: ignore[union-attr]  # only an owner makes it idle
        if route.is_watched:
            self._tell(route, partition, message)
        receipt = _new(PlainReceipt)
        receipt.message = message
        return receipt

    def _tell(self, route: Route, partition: Partition, message: Message) -> None:
        """What concerns few events: tails, bounds, and groups that must look at the clock from now on."""
        for tail in route.tails:
            tail.wake()
        for group in route.bounded:
            self.overflow.bound(group, group.parts[partition])
        if message.expires_ns is not None:
            for part in route.targets[partition.number]:
                part.expect_expiry()

    def _has_room(self, partition: Partition, now_ns: int, over: bool) -> bool:
        if over:
            return partition.has_room(now_ns, factor=2)
        return not partition.waiters and partition.has_room(now_ns)

    def partition_of(self, message: Message) -> Partition:
        route = self._routes.get(message.type) or self.route(message.type)
        return route.select(message) if route.is_split else route.first

    def _grant(self, partition: Partition) -> None:
        """Publish what waits for room, in order, as far as there is room."""
        now_ns = self.clock.time_ns()
        while partition.waiters and partition.has_room(now_ns):
            waiter = partition.waiters.popleft()
            if not waiter.future.done():
                receipt = self.publish(waiter.message, now_ns, waiter.knows_id, True)
                if receipt is not None:
                    waiter.future.set_result(receipt)
        partition.trim(now_ns)

    def full(self, partition: Partition) -> BusFull:
        """The error of a publish that found no room until its deadline."""
        holder = partition.holder()
        group = holder.group if holder else ""
        return BusFull(
            f"topic {partition.topic!r} is at its limit of {self.limits.limit:,} events"
            + (f"; group {group!r} has the oldest that is not handled" if group else ""),
            topic=partition.topic,
            group=group,
            fix=f"start its plugin, or give up what waits for it: plugbus group drop {group}"
            if group
            else "",
        )

    def _publish_own(self, event: Event, causes: Causes) -> None:
        self.watch.look_if_on()
        now_ns, (name, version, shared, data) = self.clock.time_ns(), encode(event)
        message = Message(
            "", SOURCE, name, version, now_ns, shared, data, None, None, None, *causes
        )  # fmt: skip
        if self.publish(message, now_ns, False, True) is None:
            self.announcer.lose(event)

    def _publish_delayed(self, message: Message) -> bool:
        self.watch.look_if_on()
        return self.publish(message, self.clock.time_ns(), False, True) is not None

    def allow(self, timeout: float) -> None:
        """A publish may be repeated for so long: ids are remembered at least until then."""
        if timeout > self.longest_timeout:
            self.longest_timeout = timeout
            for partition in self.all_partitions():
                partition.window.at_least = timeout

    def pause(self, group: str, reason: str) -> bool:
        """Start nothing more of a group, on all replicas; see `EventBus.pause_group`."""
        return self.table.pause(group, reason)

    def say(self, event: Event) -> None:
        """Announce it."""
        self.announcer.say(event)

    def spec_of(self, group: str) -> SubscriptionSpec | None:
        """How a group was declared; None: there is none of that name."""
        found = self.groups.get(group)
        return None if found is None else found.spec

    def part_for(self, group: str, message: Message) -> GroupPartition:
        """A group's place where a message from elsewhere belongs, whether it selects it or not."""
        found, partition = self.table.find(group), self.partition_of(message)
        message.sequence = partition.end
        return self.table.part_in(found, partition)

    # --- topics and routes ------------------------------------------------------------------------

    def all_partitions(self) -> Iterator[Partition]:
        for partitions in self._topics.values():
            yield from partitions

    def let_go(self, types: Collection[str]) -> None:
        """The classes of these types are to go: what is retained of them stays as data."""
        for name in {topic_of(type) for type in types}:
            for partition in self._topics.get(name, ()):
                partition.let_go(types)

    def topics(self) -> list[tuple[Partition, ...]]:
        return list(self._topics.values())

    def partition(self, prefix: str) -> Partition | None:
        """By the prefix of its positions."""
        return next((one for one in self.all_partitions() if one.prefix == prefix), None)

    def route(self, type_name: str) -> Route:
        partitions = self._topic(topic_of(check_type_name(type_name)))
        readers = self._readers.find(type_name)
        groups = [reader for reader in readers if isinstance(reader, Group)]
        tails = tuple(reader for reader in readers if not isinstance(reader, Group))
        if len(self._routes) >= ROUTE_CACHE:
            self._routes.clear()
        route = self._routes[type_name] = Route(partitions, groups, tails)
        return route

    def _topic(self, name: str) -> tuple[Partition, ...]:
        found = self._topics.get(name)
        if found is None:
            count = partitions_of(self.limits, name)
            found = self._topics[name] = tuple(
                Partition(name, number, self.limits, self.incarnation, self.longest_timeout)
                for number in range(count)
            )
            self.table.add_topic(found)
        return found

    def add_reader(self, patterns: Iterable[str], reader: Group | MemoryTail) -> None:
        """What one of `patterns` selects goes to `reader` too."""
        for pattern in patterns:
            self._readers.add(pattern, reader)
        self._routes.clear()

    def remove_reader(self, patterns: Iterable[str], reader: Group | MemoryTail) -> None:
        for pattern in patterns:
            self._readers.discard(pattern, reader)
        self._routes.clear()

    def is_quiet(self, since: Cursors) -> bool:
        """Whether everything from `since` on has a final outcome in every group, and nothing is to come."""
        if not (self.announcer.is_silent and self.overflow.is_silent and self.delayed.is_empty):
            return False
        return not any(
            has_unsettled(part, since.get(partition.prefix, 0))
            for partition in self.all_partitions()
            for part in partition.parts
        )
