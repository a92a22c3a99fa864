"""The groups of a broker: how they come to be, change, pause and go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from contracts.bus import SubscriptionSpec
from contracts.errors import GroupConflict, GroupNotFound
from contracts.message import Message
from contracts.messages.delivery import GroupPaused, GroupResumed, GroupRetired
from contracts.patterns import check_pattern, matches

from ..groups import GroupPartition
from ..limits import check_order
from ..policy.dedupe import Settled
from ..topics import may_select
from .dead_letters import DeadLetters
from .dormancy import Dormancy
from .group import Group
from .partition import Partition

if TYPE_CHECKING:
    from .broker import MemoryBroker
    from .hosting import Hosting


class GroupTable:
    """All groups of one broker, by name. Nothing here waits."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.by_name: dict[str, Group] = {}
        self._broker = broker
        self.dormancy = Dormancy(broker.clock, self._retire)

    def find(self, name: str) -> Group:
        """Raises `GroupNotFound`."""
        group = self.by_name.get(name)
        if group is None:
            raise GroupNotFound(f"there is no group {name!r}", fix="plugbus group list")
        return group

    # --- coming and changing ----------------------------------------------------------------------

    def declare(self, spec: SubscriptionSpec) -> Group:
        """The group of that name, made if it is new, with the patterns and options of `spec`.

        Patterns that an existing group did not have select from now on. While somebody handles it, an older
        version of its plugin changes nothing. Raises `GroupConflict`, `InvalidOption`, `InvalidPattern`.
        """
        self.check(spec)
        group = self.by_name.get(spec.group)
        if group is None:
            return self._make(spec)
        if group.spec != spec and not (group.hosts and _is_older(spec, group.spec)):
            self._change(group, spec)
        return group

    def check(self, spec: SubscriptionSpec) -> None:
        """Whether `declare` would do; raises what it raises."""
        for pattern in spec.patterns:
            check_pattern(pattern)
        check_order(spec, self._broker.limits)
        group = self.by_name.get(spec.group)
        if group is not None and group.spec.plugin_id != spec.plugin_id:
            raise GroupConflict(
                f"group {spec.group!r} belongs to plugin {group.spec.plugin_id!r}, not to {spec.plugin_id!r}",
                fix="name the group <plugin_id>.<handler>",
            )

    def add_topic(self, partitions: tuple[Partition, ...]) -> None:
        """A topic is new: the groups that may read it get their places."""
        for group in self.by_name.values():
            self._join(group, partitions)

    def part_in(self, group: Group, partition: Partition) -> GroupPartition:
        """The group's place in that partition, made if there is none."""
        part = group.parts.get(partition)
        if part is None:
            part = group.parts[partition] = self._make_part(group, partition)
            partition.parts.append(part)
            group.place(part)
        return part

    def _make(self, spec: SubscriptionSpec) -> Group:
        group = self.by_name[spec.group] = Group(spec, DeadLetters(self._broker.limits.dead_letters))
        self._remember_settled(group)
        self._read(group)
        if spec.options.start == "oldest" and not group.is_ephemeral:
            now_ns = self._broker.clock.time_ns()
            for partition, part in group.parts.items():
                partition.trim(now_ns)
                part.add_retained(message for message in partition.messages if _selects(spec, message))
                if any(message.expires_ns is not None for message in part.backlog):
                    part.expect_expiry()
                self._broker.overflow.bound(group, part)
        if not group.is_ephemeral:
            self.dormancy.add(group.name, spec.options.keep)
        return group

    def _read(self, group: Group) -> None:
        self._broker.add_reader(group.spec.patterns, group)
        for partitions in self._broker.topics():
            self._join(group, partitions)

    def _change(self, group: Group, spec: SubscriptionSpec) -> None:
        self._broker.remove_reader(group.spec.patterns, group)
        group.spec = spec
        self._read(group)
        self._remember_settled(group)
        for part in group.parts.values():
            part.handler = spec.handler
            part.order_by(spec.options.order)
        if not group.hosts:
            self.dormancy.add(group.name, spec.options.keep)

    def _remember_settled(self, group: Group) -> None:
        """What `dedupe` needs, kept through changes of other options."""
        limits = self._broker.limits
        if not group.spec.options.dedupe:
            group.settled = None
        elif group.settled is None:
            group.settled = Settled(limits.dedupe_seconds, limits.dedupe)

    def _join(self, group: Group, partitions: tuple[Partition, ...]) -> None:
        """Give the group its place in a topic that it may read."""
        if any(may_select(pattern, partitions[0].topic) for pattern in group.spec.patterns):
            for partition in partitions:
                self.part_in(group, partition)

    def _make_part(self, group: Group, partition: Partition) -> GroupPartition:
        part = GroupPartition(
            group.name, partition.topic, partition.number, group.spec.handler, order=group.spec.options.order,
            lot_limit=self._broker.limits.lot, is_ephemeral=group.is_ephemeral,
        )  # fmt: skip
        part.is_paused = group.paused is not None
        return part

    # --- who handles ------------------------------------------------------------------------------

    def add_host(self, group: Group, hosting: Hosting) -> None:
        """Somebody handles it; partitions move as soon as nothing of them runs."""
        group.hosts[hosting.replica] = hosting
        self.dormancy.discard(group.name)
        group.place_all()

    def remove_host(self, group: Group, hosting: Hosting) -> None:
        """It handles the group no longer. Its partitions are still to be placed."""
        if group.hosts.get(hosting.replica) is hosting:
            del group.hosts[hosting.replica]
            if not (group.hosts or group.is_ephemeral) and self.by_name.get(group.name) is group:
                self.dormancy.add(group.name, group.spec.options.keep)

    # --- pausing ----------------------------------------------------------------------------------

    def pause(self, name: str, reason: str) -> bool:
        """Start nothing more of it; False: it was paused already. Raises `GroupNotFound`."""
        group = self.find(name)
        if group.paused is not None:
            return False
        group.paused = reason
        for part in group.parts.values():
            part.pause(True)
        for hosting in list(group.hosts.values()):
            hosting.make_way()
        self._broker.announcer.say(GroupPaused(group=name, plugin_id=group.spec.plugin_id, reason=reason))
        return True

    def resume(self, name: str) -> bool:
        """Go on; False: it was not paused. Raises `GroupNotFound`."""
        group = self.find(name)
        if group.paused is None:
            return False
        group.paused = None
        for part in group.parts.values():
            part.pause(False)
            part.release_held()
        self._broker.announcer.say(GroupResumed(group=name, plugin_id=group.spec.plugin_id))
        return True

    def end_replay(self, group: Group) -> int:
        """How many events it had still to go through."""
        return sum(part.end_replay() for part in group.parts.values())

    # --- going ------------------------------------------------------------------------------------

    def drop(self, name: str, reason: str) -> list[asyncio.Task[None]]:
        """Retire a group; the tasks of handlers that ran are on their way out."""
        group = self.by_name.get(name)
        if group is None:
            return []
        given_up = group.given_up
        tasks = self.forget(group)
        self._broker.announcer.say(
            GroupRetired(group=name, plugin_id=group.spec.plugin_id, reason=reason, **given_up)
        )
        return tasks

    def forget(self, group: Group) -> list[asyncio.Task[None]]:
        """The same without a word."""
        if self.by_name.get(group.name) is not group:
            return []
        del self.by_name[group.name]
        self.dormancy.discard(group.name)
        self._broker.remove_reader(group.spec.patterns, group)
        tasks = [task for hosting in list(group.hosts.values()) for task in hosting.crash()]
        for partition, part in group.parts.items():
            partition.parts.remove(part)
        self._broker.watch.look_if_on()
        return tasks

    def _retire(self, name: str) -> None:
        group = self.by_name[name]
        self.drop(name, f"nobody handled it for {group.spec.options.keep:g} s")


def _selects(spec: SubscriptionSpec, message: Message) -> bool:
    return any(matches(pattern, message.type) for pattern in spec.patterns)


def _is_older(spec: SubscriptionSpec, than: SubscriptionSpec) -> bool:
    return spec.precedence < than.precedence
