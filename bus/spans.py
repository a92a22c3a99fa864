"""The door to `tracing.py`, which loads OpenTelemetry: opened when something is traced for the first time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contracts.message import Message

    from .tracing import Sending


class Client:
    """What all spans of one bus say of it and of its broker, by OpenTelemetry's names."""

    __slots__ = ("attributes", "sends")

    def __init__(self, system: str, replica: str, server: tuple[str, int | None] | None = None) -> None:
        """`server`: where the broker listens, a host and its port, or a socket; None: in this process."""
        self.attributes: dict[str, str | int] = {"messaging.system": system, "messaging.client.id": replica}
        if server is not None:
            self.attributes["server.address"], port = server
            if port is not None:
                self.attributes["server.port"] = port
        self.sends: dict[str, Named] = {}
        """How the span of publishing an event begins, by its type: most spans go no further."""


Named = tuple[str, dict[str, str | int]]
"""Name and attributes of a span."""


def sending(client: Client, message: Message) -> Sending | None:
    """See `tracing.sending`."""
    return _opened()(client, message)


@functools.cache
def _opened() -> Callable[[Client, Message], Sending | None]:
    from .tracing import sending

    return sending
