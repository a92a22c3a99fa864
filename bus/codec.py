"""What of an event goes into its message: the object itself, or its bytes.

An event whose class is deeply immutable is handed over as it is; its bytes are made only if somebody
needs them. Of any other the bytes are made at publish: a snapshot that later changes cannot reach.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from contracts.bus import MAX_PAYLOAD
from contracts.envelope import Envelope
from contracts.errors import InvalidEvent, InvalidOption, PayloadTooLarge
from contracts.event import AnyEvent, Event, EventData, dump_event
from contracts.message import Message
from contracts.patterns import topic_of

from .checks import check_unicode, checked_id

Encoded = tuple[str, int, Event | None, bytes | None]
"""Type, version, the object where it may be shared, the bytes where they were made."""

_SMALL = (int, float, bool, type(None))
SURELY_FITS = MAX_PAYLOAD // 8  # a character takes at most 6 bytes of JSON; the rest is for names


def encode(event: AnyEvent) -> Encoded:
    """Raises `PayloadTooLarge`, and `InvalidOption` for a class without a type."""
    if type(event) is EventData:
        return event.type, event.version, None, checked_size(event.type, _utf8(event))
    plan = plans.get(id(type(event))) or Plan(type(event))  # type: ignore[arg-type]  # not EventData
    if not plan.is_shared:
        return plan.name, plan.version, None, checked_size(plan.name, dump_event(event))
    if plan.weigh(event.__dict__) >= SURELY_FITS:
        checked_size(plan.name, dump_event(event))
    return plan.name, plan.version, event, None  # type: ignore[return-value]  # not EventData


def relayed(envelope: Envelope, event: AnyEvent) -> Message:
    """The event as somebody else published it. Raises `InvalidOption` where the two do not match."""
    name, version, shared, data = encode(event)
    if name != envelope.type:
        raise InvalidOption(
            f"the envelope says {envelope.type!r}, the event is {name!r}",
            fix="relay the event of the envelope",
        )
    checked_id(envelope.id)
    for attribute, value in envelope.attributes().items():
        check_unicode("attribute", attribute)
        check_unicode(attribute, str(value))
    message = Message.from_envelope(envelope, data or b"", version=version)
    if shared is not None:
        message.event, message._data = shared, None
    return message


class Plan:
    """What publishing needs to know of an event class; attributes of pydantic classes are slow to read."""

    __slots__ = ("_kind", "is_shared", "kind", "name", "topic", "version", "weigh")

    def __init__(self, kind: type[Event]) -> None:
        if not kind.__event_type__:
            raise InvalidOption(
                f"{kind.__qualname__} has no event type",
                where=f"{kind.__module__}.{kind.__qualname__}",
                fix=f"class {kind.__qualname__}(Event, type='orders.placed')",
            )
        self.name = kind.__event_type__
        self.version = kind.__event_version__
        self.topic = topic_of(self.name)
        self.kind = f"{self.name}@{self.version}".encode()
        """Type and version, as they travel."""
        self.is_shared = kind.__event_immutable__
        fields = {name: info.annotation for name, info in kind.model_fields.items()}
        texts = tuple(name for name, annotation in fields.items() if annotation is str)
        others = tuple(name for name, kind in fields.items() if kind is not str and kind not in _SMALL)
        self.weigh = _weigher(texts, others)
        # Kept by the class's address until the class goes: a plan must not keep an old generation alive.
        address = id(kind)
        self._kind = weakref.ref(kind, lambda _: plans.pop(address, None))
        plans[address] = self


plans: dict[int, Plan] = {}
"""By the address of the class: looking a class up by itself would keep an old generation alive."""


def _weigher(texts: tuple[str, ...], others: tuple[str, ...]) -> Callable[[dict[str, Any]], int]:
    """A function from fields to a lower bound of how many characters of text they hold.

    A bound instead of a dump: to look at the text fields costs a tenth of writing everything. Few text fields
    and nothing else is what most events are; spelled out, that is twice as fast as the loop.
    """
    if others or len(texts) > 2:

        def weigh(fields: dict[str, Any]) -> int:
            weight = 0
            for name in texts:
                weight += len(fields[name])
            for name in others:
                weight += _weight(fields[name])
            return weight

        return weigh
    if not texts:
        return lambda fields: 0
    first, last = texts[0], texts[-1]
    return lambda fields: len(fields[first]) + len(fields[last])


def _weight(value: Any) -> int:
    """At least the number of characters in `value`."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, tuple | frozenset):
        return sum(map(_weight, value)) + 8 * len(value)
    if isinstance(value, BaseModel):
        return sum(len(name) + _weight(field) for name, field in value.__dict__.items())
    return 8


def _utf8(event: EventData) -> bytes:
    try:
        return event.data.encode()
    except UnicodeEncodeError as error:
        raise InvalidEvent(
            f"the data of {event.type} are not Unicode text: {error.reason} at {error.start}",
            fix="send JSON in UTF-8",
        ) from None


def checked_size(name: str, data: bytes) -> bytes:
    """Raises `PayloadTooLarge`."""
    if len(data) > MAX_PAYLOAD:
        raise PayloadTooLarge(
            f"{name} carries {len(data):,} bytes of data; the bus takes {MAX_PAYLOAD:,}",
            fix="put the content where others can fetch it, and publish where that is",
        )
    return data
