"""What a backend does about a storm: the group that would go on is paused, and named once."""

from __future__ import annotations

import logging
from typing import Protocol

from contracts.bus import BusLimits, SubscriptionSpec
from contracts.errors import StormDetected
from contracts.event import Event
from contracts.message import Message
from contracts.messages.delivery import StormFound

from .groups import Delivery, is_silent
from .policy.storm import SCHEDULE_NS, begin_anew, follow

log = logging.getLogger("plugbus.bus")


class Stopping(Protocol):
    """What a backend can do about it."""

    limits: BusLimits

    def spec_of(self, group: str) -> SubscriptionSpec | None:
        """How a group was declared; None: it is retired."""

    def pause(self, group: str, reason: str) -> bool:
        """Start nothing more of it, on all replicas; False: it was paused already."""

    def say(self, event: Event) -> None:
        """Announce it."""


def continue_chain(broker: Stopping, message: Message, parent: Delivery, ahead_ns: int = 0) -> None:
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


def _stop(broker: Stopping, message: Message, parent: Delivery, storm: StormDetected) -> None:
    spec = broker.spec_of(parent.part.group)
    if spec is None or not broker.pause(spec.group, f"storm: {storm.message}"):
        return  # retired, or somebody has paused it already
    log.error("%s is paused: %s", spec.group, storm.message)
    if not is_silent(spec):
        broker.say(
            StormFound(
                group=spec.group, plugin_id=spec.plugin_id, event_id=parent.id, event_type=parent.type,
                depth=message.depth, path=message.path,
            )
        )  # fmt: skip
