"""The door to `tracing.py`, which loads OpenTelemetry: opened when something is traced for the first time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from contracts.tracing import unsampled_trace

if TYPE_CHECKING:
    from contracts.event import Receipt
    from contracts.message import Message

    from .measures import Measures


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


Begun = tuple[str | int, Any]
"""Of what is published: its trace, and its span where its flow is sampled. Of one that begins and is not
sampled only the id, because hardly anybody asks for the rest: see `trace_of`."""


class Tracing(Protocol):
    """What of it is asked for through this door."""

    def begin(self, client: Client, type: str) -> Begun: ...

    def ask_in_trace_of(self, message: Message) -> None: ...

    def publishing(
        self, measures: Measures, message: Message, span: Any, publish: Coroutine[Any, Any, Receipt]
    ) -> Coroutine[Any, Any, Receipt]: ...


def _first(client: Client, type: str) -> Begun:
    global begin  # noqa: PLW0603 - whoever comes later does not come by this door
    begin = _tracing().begin
    return begin(client, type)


begin: Callable[[Client, str], Begun] = _first
"""See `tracing.begin`."""


def trace_of(begun: Begun) -> str:
    """As it travels."""
    trace = begun[0]
    return unsampled_trace(trace) if isinstance(trace, int) else trace


def publishing(
    measures: Measures, message: Message, publish: Coroutine[Any, Any, Receipt], begun: Begun | None = None
) -> Coroutine[Any, Any, Receipt]:
    """What `publish` gives, in a span where its flow is sampled; `message` gets its trace here."""
    begun = begin(measures.client, message.type) if begun is None else begun
    message.trace, span = trace_of(begun), begun[1]
    if span is None:
        return measures.sending(message.type, publish)
    return _tracing().publishing(measures, message, span, publish)


def ask_in_trace_of(message: Message) -> None:
    """See `tracing.ask_in_trace_of`; only where flows are traced."""
    _tracing().ask_in_trace_of(message)


@functools.cache
def _tracing() -> Tracing:
    from . import tracing

    return tracing
