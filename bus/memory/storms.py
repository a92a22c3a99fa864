"""What the memory broker does about a storm: the group that would go on is paused, and named once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from contracts.errors import StormDetected
from contracts.message import Message
from contracts.messages.delivery import StormFound

from ..groups import Delivery
from ..policy.storm import SCHEDULE_NS, begin_anew, follow

if TYPE_CHECKING:
    from .broker import MemoryBroker

log = logging.getLogger("plugbus.bus")


def continue_chain(broker: MemoryBroker, message: Message, parent: Delivery, ahead_ns: int = 0) -> None:
    """`message` is published while `parent` is handled, to be visible in `ahead_ns` nanoseconds.

    Raises `StormDetected`; then the group of `parent` is paused, and that was announced.
    """
    if ahead_ns >= SCHEDULE_NS:
        begin_anew(message)
        return
    try:
        follow(message, parent, broker.limits)
    except StormDetected as storm:
        _stop(broker, message, parent, storm)
        raise


def _stop(broker: MemoryBroker, message: Message, parent: Delivery, storm: StormDetected) -> None:
    group = broker.groups.get(parent.part.group)
    if group is None or not broker.pause(group.name, f"storm: {storm.message}"):
        return  # retired, or somebody has paused it already
    log.error("%s is paused: %s", group.name, storm.message)
    if not group.is_silent:
        broker.announcer.say(
            StormFound(
                group=group.name, plugin_id=group.spec.plugin_id, event_id=parent.id, event_type=parent.type,
                depth=message.depth, path=message.path,
            )
        )  # fmt: skip
