"""What is told of deliveries that were given up: a log line, and what is announced of it."""

from __future__ import annotations

import logging

from contracts.bus import SubscriptionSpec
from contracts.errors import ErrorInfo
from contracts.logs import Quoted
from contracts.messages.delivery import DeadLettered, DeadLettersDropped, DeliveryDiscarded

from .announce import Announcer
from .groups import Delivery, is_silent
from .policy.causes import caused_by

log = logging.getLogger("plugbus.bus")


def tell_dead(
    announcer: Announcer, spec: SubscriptionSpec, delivery: Delivery, reason: str, error: ErrorInfo | None,
    *, letter_id: str, generation: int,
) -> None:  # fmt: skip
    """It is a dead letter."""
    message = delivery.message
    log.error(
        "%s: %s (id %s) is a dead letter (%s) after %d attempts: %s",
        spec.group, message.type, message.id, reason, delivery.attempt, error,
    )  # fmt: skip
    if not is_silent(spec):
        announcer.say(
            DeadLettered(
                group=spec.group, plugin_id=spec.plugin_id, event_id=message.id, event_type=message.type,
                event_source=message.source, dead_letter_id=letter_id, generation=generation, reason=reason,
                error=str(error) if error else "", attempts=delivery.attempt,
            ),
            caused_by(message),
        )  # fmt: skip


def tell_given_up(announcer: Announcer, spec: SubscriptionSpec, delivery: Delivery, reason: str) -> None:
    """Its handler discarded it, or it had expired."""
    message = delivery.message
    log.info("%s: %s (id %s) is discarded: %s", spec.group, message.type, message.id, Quoted(reason))
    if not is_silent(spec):
        announcer.say(
            DeliveryDiscarded(
                group=spec.group, plugin_id=spec.plugin_id, event_id=message.id, event_type=message.type,
                event_source=message.source, reason=reason,
            ),
            caused_by(message),
        )  # fmt: skip


def tell_dropped(announcer: Announcer, spec: SubscriptionSpec, count: int) -> None:
    """The oldest dead letters had to go."""
    if count and not is_silent(spec):
        announcer.say(DeadLettersDropped(group=spec.group, count=count))
