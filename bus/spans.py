"""The door to `tracing.py`, which loads OpenTelemetry: opened when something is traced for the first time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contracts.message import Message

    from .tracing import Sending


def sending(system: str, message: Message) -> Sending | None:
    """See `tracing.sending`."""
    return _opened()(system, message)


@functools.cache
def _opened() -> Callable[[str, Message], Sending | None]:
    from .tracing import sending

    return sending
