"""What led to what: events published while a delivery is handled carry it as their cause."""

from __future__ import annotations

from contextvars import Context as Variables
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, cast

from contracts.message import HANDLING, Message
from contracts.tracing import TRACING

if TYPE_CHECKING:
    from ..groups import Delivery

CURRENT = cast("ContextVar[Delivery | None]", HANDLING)
"""The delivery that is being handled in this context."""

Causes = tuple[str | None, str | None, int]
"""correlationid, causationid, depth. A root has no correlation id of its own: it is its id."""
ROOT: Causes = (None, None, 0)


def caused_by(message: Message) -> Causes:
    return message.correlationid or message.id, message.id, message.depth + 1


def without_cause() -> Variables:
    """A context for a long-lived task: what it does later is not caused by who started it."""
    context = copy_context()
    context.run(CURRENT.set, None)
    if TRACING.is_on:
        from ..tracing import forget  # loads OpenTelemetry

        context.run(forget)
    return context
