"""The short forms that most events take: made at each publish, so made of as little as possible.

An event that its publisher gave no id, no key and no options, and that nothing caused, needs six values
of the fourteen that a `Message` has. The rest are constants of its class, and its id and position are
spelled out when somebody asks for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from contracts.event import Event, Receipt, dump_event
from contracts.message import Message
from contracts.tracing import unsampled_trace

if TYPE_CHECKING:
    from .partition import Partition

SYSTEM = "inmemory"
"""What `messaging.system` says."""


class PlainMessage(Message):
    """A message of a shared object with nothing but its source; only `MemoryBus.publish` makes them."""

    __slots__ = ("_bytes", "_id", "partition")

    _bytes: bytes
    _id: str
    partition: Partition

    key = None
    subject = None
    expires_ns = None
    correlationid = None
    causationid = None
    depth = 0
    extra = None
    path = ()
    trace: str | None = None

    @property
    def id(self) -> str:  # type: ignore[override]  # read-only: nobody writes it
        found = getattr(self, "_id", None)
        if found is None:
            found = self._id = f"{self.partition.ids}{self.sequence}"
        return found

    def spelled_out(self) -> Message:
        """The same as a `Message` of the usual form, without an id yet."""
        message = Message("", self.source, self.type, self.version, self.time_ns, self.event, None)
        message.trace = self.trace
        return message

    @property
    def data(self) -> bytes:
        found = getattr(self, "_bytes", None)
        if found is None:
            found = self._bytes = dump_event(cast(Event, self.event))
        return found


class TracedMessage(PlainMessage):
    """One of a flow that is not sampled: it hands its trace on, no more. Where the flow begins with it, that
    is made when somebody asks for it."""

    __slots__ = ("_trace",)

    _trace: str | int
    """An int: the id of a trace that begins here."""

    is_unsampled = True

    @property
    def trace(self) -> str:  # type: ignore[override]  # read-only: nobody writes it
        """As it travels, made when it is asked for."""
        found = self._trace
        if isinstance(found, int):
            found = self._trace = unsampled_trace(found)
        return found


class PlainReceipt(Receipt):
    """The receipt of a `PlainMessage`."""

    __slots__ = ("message",)

    message: PlainMessage

    duplicate = False

    @property
    def id(self) -> str:  # type: ignore[override]
        return self.message.id

    @property
    def position(self) -> str:  # type: ignore[override]
        message = self.message
        return f"{message.partition.prefix}{message.sequence}"
