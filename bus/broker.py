"""The memory broker: everything that several memory buses of one process share."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING

from contracts.bus import SubscriptionSpec
from contracts.errors import BusFull, GroupConflict
from contracts.event import Event, Receipt
from contracts.message import Message
from contracts.patterns import RESERVED_TOPICS, check_pattern, check_type_name, matches, topic_of

from .announce import SOURCE, Announcer
from .calls import Directory
from .catalog import Catalog
from .clock import Clock, Ids, SystemClock
from .codec import encode
from .dead_letters import DeadLetters
from .delayed import Delayed
from .group import Group
from .groups import GroupPartition
from .losses import Losses
from .partition import Limits, Partition
from .policy.causes import Causes
from .topics import PatternIndex, may_select
from .watch import Watch

if TYPE_CHECKING:
    from .memory import MemoryBus
    from .tail import Cursors, MemoryTail


class Route:
    """Who reads one event type: compiled when it is first published, dropped when readers change."""

    __slots__ = ("first", "is_split", "partitions", "tails", "targets")

    def __init__(
        self, partitions: tuple[Partition, ...], groups: list[Group], tails: tuple[MemoryTail, ...]
    ) -> None:
        self.partitions = partitions
        self.first = partitions[0]
        self.is_split = len(partitions) > 1
        self.targets = tuple(tuple(group.parts[partition] for group in groups) for partition in partitions)
        self.tails = tails

    def select(self, message: Message) -> Partition:
        """Which partition: by key, else by source and id."""
        text = message.key if message.key is not None else f"{message.source}\n{message.id}"
        return self.partitions[zlib.crc32(text.encode()) % len(self.partitions)]


class MemoryBroker:
    """Topics, groups and dead letters in memory, shared by several `MemoryBus`es on one event loop.

    `partitions`: of each topic that is not reserved. Clock, random and ids are injected; the event
    loop's `time()` must be the clock's `monotonic`.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        random: Random | None = None,
        ids: Ids | None = None,
        partitions: int = 1,
        limits: Limits | None = None,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.random = random or Random()  # noqa: S311 - jitter, not secrets
        self.ids: Ids = ids or Ids()
        self.limits = limits or Limits()
        self.incarnation = self.ids()
        """Tells positions of this broker from those of one that is gone."""
        self.catalog = Catalog()
        self.directory = Directory()
        self.groups: dict[str, Group] = {}
        self.buses: dict[str, MemoryBus] = {}
        self.announcer = Announcer(self._publish_own, self.limits.announcements)
        self.losses = Losses(self.groups, self.announcer, self.clock, self.ids)
        self.watch = Watch(self.all_partitions, self._grant)
        self.delayed = Delayed(self.clock, self._publish_delayed)
        self._own_prefix = self.ids.prefix
        self._count = partitions
        self._topics: dict[str, tuple[Partition, ...]] = {}
        self._readers: PatternIndex[Group | MemoryTail] = PatternIndex()
        self._routes: dict[str, Route] = {}

    # --- publishing -------------------------------------------------------------------------------

    def publish(self, message: Message, now_ns: int, knows_id: bool, over: bool) -> Receipt | None:
        """Append, and hand to every reader; None: there is no room.

        `knows_id`: the id was given by the publisher, who may give it again. `over`: made while a
        delivery is handled, so admitted up to twice the limit. No await from the look at the window to
        the last reader. All in one piece: each call less is felt at every publish.
        """
        route = self._routes.get(message.type) or self.route(message.type)
        partition = route.select(message) if route.is_split else route.first
        if knows_id:
            position = partition.find(message.source, message.id, self._own_prefix, self.clock.monotonic())
            if position is not None:
                return Receipt(message.id, position, duplicate=True)
        if len(partition.messages) >= partition.look_at and not self._has_room(partition, now_ns, over):
            return None
        messages = partition.messages
        message.sequence = sequence = partition.base + len(messages)
        messages.append(message)
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
        if route.tails or message.expires_ns is not None:
            self._tell(route, partition, message)
        return Receipt(message.id, position)

    def _tell(self, route: Route, partition: Partition, message: Message) -> None:
        """What concerns few events: tails, and groups that must look at the clock from now on."""
        for tail in route.tails:
            tail.wake()
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
        now_ns, (name, version, shared, data) = self.clock.time_ns(), encode(event)
        message = Message(
            self.ids(), SOURCE, name, version, now_ns, shared, data, None, None, None, *causes
        )  # fmt: skip
        if self.publish(message, now_ns, False, True) is None:
            self.announcer.lose(event)
        self.watch.look_if_on()

    def _publish_delayed(self, message: Message) -> bool:
        self.watch.look_if_on()
        return self.publish(message, self.clock.time_ns(), False, True) is not None

    # --- topics and routes ------------------------------------------------------------------------

    def all_partitions(self) -> Iterator[Partition]:
        for partitions in self._topics.values():
            yield from partitions

    def route(self, type_name: str) -> Route:
        partitions = self._topic(topic_of(check_type_name(type_name)))
        readers = self._readers.find(type_name)
        groups = [reader for reader in readers if isinstance(reader, Group)]
        tails = tuple(reader for reader in readers if not isinstance(reader, Group))
        if len(self._routes) >= self.limits.route_cache:
            self._routes.clear()
        route = self._routes[type_name] = Route(partitions, groups, tails)
        return route

    def _topic(self, name: str) -> tuple[Partition, ...]:
        found = self._topics.get(name)
        if found is None:
            count = 1 if name in RESERVED_TOPICS else self._count
            found = tuple(Partition(name, number, self.limits) for number in range(count))
            self._topics[name] = found
            for group in self.groups.values():
                self._join(group, found)
        return found

    def open_tail(self, tail: MemoryTail) -> None:
        for pattern in tail.patterns:
            self._readers.add(pattern, tail)
        self._routes.clear()

    def close_tail(self, tail: MemoryTail) -> None:
        for pattern in tail.patterns:
            self._readers.discard(pattern, tail)
        self._routes.clear()

    def is_quiet(self, since: Cursors) -> bool:
        """Whether everything from `since` on has a final outcome in every group, and nothing is to come."""
        if not (self.announcer.is_silent and self.delayed.is_empty):
            return False
        return not any(
            part.has_unsettled(since.get(partition.prefix, 0))
            for partition in self.all_partitions()
            for part in partition.parts
        )

    # --- groups -----------------------------------------------------------------------------------

    def declare(self, spec: SubscriptionSpec) -> Group:
        """The group of that name, made if it is new, with the patterns and options of `spec`.

        Patterns that an existing group did not have select from now on. Raises `GroupConflict`.
        """
        group = self.groups.get(spec.group)
        if group is None:
            return self._make_group(spec)
        if group.spec.plugin_id != spec.plugin_id:
            raise GroupConflict(
                f"group {spec.group!r} belongs to plugin {group.spec.plugin_id!r}, not to {spec.plugin_id!r}",
                fix="name the group <plugin_id>.<handler>",
            )
        if group.spec != spec:
            self._change(group, spec)
        return group

    def _make_group(self, spec: SubscriptionSpec) -> Group:
        for pattern in spec.patterns:
            check_pattern(pattern)
        group = self.groups[spec.group] = Group(spec, DeadLetters(self.limits.dead_letters))
        self._read(group)
        if spec.options.start == "oldest":
            now_ns = self.clock.time_ns()
            for partition, part in group.parts.items():
                partition.trim(now_ns)
                part.backlog.extend(message for message in partition.messages if _selects(spec, message))
        return group

    def _read(self, group: Group) -> None:
        for pattern in group.spec.patterns:
            self._readers.add(pattern, group)
        self._routes.clear()
        for partitions in list(self._topics.values()):
            self._join(group, partitions)

    def _change(self, group: Group, spec: SubscriptionSpec) -> None:
        for pattern in spec.patterns:
            check_pattern(pattern)
        for pattern in group.spec.patterns:
            self._readers.discard(pattern, group)
        group.spec = spec
        self._read(group)
        for part in group.parts.values():
            part.handler, part.ordered = spec.handler, spec.options.order == "key"

    def _join(self, group: Group, partitions: tuple[Partition, ...]) -> None:
        """Give the group its place in a topic that it may read."""
        if not any(may_select(pattern, partitions[0].topic) for pattern in group.spec.patterns):
            return
        for partition in partitions:
            if partition not in group.parts:
                part = group.parts[partition] = self._make_part(group.spec, partition)
                partition.parts.append(part)
                group.place(part)

    def _make_part(self, spec: SubscriptionSpec, partition: Partition) -> GroupPartition:
        return GroupPartition(
            spec.group, partition.topic, partition.number, spec.handler,
            ordered=spec.options.order == "key", lot_limit=self.limits.lot,
        )  # fmt: skip

    def drop(self, name: str) -> list[asyncio.Task[None]]:
        """Forget a group; the tasks of handlers that ran are on their way out."""
        group = self.groups.pop(name, None)
        if group is None:
            return []
        for pattern in group.spec.patterns:
            self._readers.discard(pattern, group)
        self._routes.clear()
        tasks = [task for hosting in list(group.hosts.values()) for task in hosting.crash()]
        for partition, part in group.parts.items():
            partition.parts.remove(part)
        self.watch.look_if_on()
        return tasks


def _selects(spec: SubscriptionSpec, message: Message) -> bool:
    return any(matches(pattern, message.type) for pattern in spec.patterns)
