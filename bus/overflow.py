"""Groups that drop what is too much for them: `overflow` and `max_waiting` of their subscriptions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from contracts.bus import SubscriptionSpec
from contracts.message import Message
from contracts.messages.delivery import GroupOverflowed

from .announce import Announcer
from .groups import GroupPartition

log = logging.getLogger("plugbus.bus")


class Bounded(Protocol):
    """A group, as far as it matters here."""

    @property
    def spec(self) -> SubscriptionSpec: ...

    @property
    def is_silent(self) -> bool:
        """What the bus says of it would come back to it: nothing is said."""


class Overflow:
    """Drops for one group alone; tells of it once for each turn of the event loop and partition.

    `position`: how the backend spells where an event stood.
    """

    def __init__(
        self, announcer: Announcer, position: Callable[[GroupPartition, int], str] | None = None
    ) -> None:
        self._announcer = announcer
        self._position = position or _position
        self._dropped: dict[GroupPartition, tuple[Bounded, list[int]]] = {}

    def bound(self, group: Bounded, part: GroupPartition) -> None:
        """Give up what waits beyond the group's bound."""
        options = group.spec.options
        if options.max_waiting is None:
            return
        while part.waiting > options.max_waiting and (part.backlog or part.returned):
            self._count(group, part, part.drop(oldest=options.overflow == "drop_oldest"))

    @property
    def is_silent(self) -> bool:
        """Whether everything that was dropped was told."""
        return not self._dropped

    def _count(self, group: Bounded, part: GroupPartition, message: Message) -> None:
        part.dropped += 1
        if not self._dropped:
            asyncio.get_running_loop().call_soon(self._tell)
        self._dropped.setdefault(part, (group, []))[1].append(message.sequence)

    def _tell(self) -> None:
        dropped, self._dropped = self._dropped, {}
        for part, (group, numbers) in dropped.items():
            policy, name = group.spec.options.overflow, group.spec.group
            first, last = self._position(part, min(numbers)), self._position(part, max(numbers))
            log.warning("%s: %d dropped (%s), %s to %s", name, len(numbers), policy, first, last)
            if not group.is_silent:
                self._announcer.say(
                    GroupOverflowed(
                        group=name, plugin_id=group.spec.plugin_id, topic=part.topic,
                        partition=part.number, policy=policy, count=len(numbers),
                        first_position=first, last_position=last,
                    )
                )  # fmt: skip


def _position(part: GroupPartition, sequence: int) -> str:
    return f"{part.topic}/{part.number}:{sequence}"
