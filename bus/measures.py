"""What one replica sends, handles and gives up, counted for `EventBus.metrics`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from contracts.event import Receipt
from contracts.metrics import MOST_POINTS, Attributes, Histogram, HistogramPoint, Metric, Point
from contracts.patterns import topic_of

from .clock import Clock
from .faults import kind_of
from .spans import Client

T = TypeVar("T")

_GROUP, _TOPIC = "messaging.consumer.group.name", "messaging.destination.name"
_OF_BROKER = ("messaging.system", "server.address", "server.port")
_OVERFLOW = ("",)


class Count:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def point(self, attributes: Attributes) -> Point:
        return Point(attributes=attributes, value=self.value)


class Family(Generic[T]):
    """One of a kind for each set of values; bounded, whatever the values are."""

    def __init__(self, make: Callable[[], T], *names: str, most: int = MOST_POINTS) -> None:
        self._make = make
        self._names = names
        self._most = most
        self._kept: dict[tuple[str, ...], T] = {}

    def of(self, *values: str) -> T:
        """For the values of its names; an empty one stands for an attribute that is not there."""
        found = self._kept.get(values)
        return self._new(values) if found is None else found

    def _new(self, values: tuple[str, ...]) -> T:
        if len(self._kept) >= self._most - 1:
            values = _OVERFLOW
        return self._kept.setdefault(values, self._make())

    def items(self) -> list[tuple[Attributes, T]]:
        return [(self._attributes(values), kept) for values, kept in self._kept.items()]

    def _attributes(self, values: tuple[str, ...]) -> Attributes:
        if values is _OVERFLOW:
            return {"otel.metric.overflow": True}
        return {name: value for name, value in zip(self._names, values, strict=True) if value}


class ByType(dict[str, Histogram]):
    """Of what worked, by event type: a type's topic need not be looked for each time."""

    def __init__(self, of: Callable[[str], Histogram]) -> None:
        super().__init__()
        self._of = of

    def __missing__(self, type: str) -> Histogram:
        if len(self) >= MOST_POINTS:
            self.clear()
        found = self[type] = self._of(topic_of(type))
        return found


class Measures:
    """Of one replica, in one event loop."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self.client = client
        """What spans say of the bus; the figures say as much of it, but for the name of the replica."""
        self.monotonic = clock.monotonic
        self.sent = Family(Histogram, _TOPIC, "error.type")
        """How long publishing took, by topic and error."""
        self.sent_well = ByType(lambda topic: self.sent.of(topic, ""))
        self.handled = Family(Histogram, _GROUP, _TOPIC, "error.type")
        """How long handlers ran, one attempt each, by group, topic and error."""
        self.failed = Family(Count, _GROUP, "plugbus.outcome")
        """Attempts that failed, by group and what became of the delivery."""

    async def sending(self, type: str, publish: Awaitable[Receipt]) -> Receipt:
        """What `publish` gives; how long that took is measured."""
        began = self.monotonic()
        try:
            receipt = await publish
        except BaseException as error:
            self.sent.of(topic_of(type), kind_of(error)).record(self.monotonic() - began)
            raise
        self.sent_well[type].record(self.monotonic() - began)
        return receipt

    def handled_well(self, group: str) -> ByType:
        return ByType(lambda topic: self.handled.of(group, topic, ""))

    def metrics(self) -> list[Metric]:
        sent = [(self._sending(more), found) for more, found in self.sent.items()]
        handled = [(self._handling(more), found) for more, found in self.handled.items()]
        return [
            Metric(
                name="messaging.client.sent.messages", kind="counter", unit="{message}",
                description="Messages that were published, or tried to be.",
                points=tuple(_counted(sent)),
            ),
            Metric(
                name="messaging.client.operation.duration", kind="histogram", unit="s",
                description="Time from a publish to its confirmation.",
                points=tuple(_timed(sent, {"messaging.operation.type": "send"})),
            ),
            Metric(
                name="messaging.client.consumed.messages", kind="counter", unit="{message}",
                description="Messages that were handed to a handler, each attempt once.",
                points=tuple(_counted(handled)),
            ),
            Metric(
                name="messaging.process.duration", kind="histogram", unit="s",
                description="Time that a handler ran, one attempt.",
                points=tuple(_timed(handled, {})),
            ),
            Metric(
                name="plugbus.attempts.failed", kind="counter", unit="{attempt}",
                description="Attempts that failed, by what became of the delivery.",
                points=tuple(count.point(more) for more, count in self.failed.items()),
            ),
        ]  # fmt: skip

    def _sending(self, more: Attributes) -> Attributes:
        return {"messaging.operation.name": "publish", **self._broker(), **more}

    def _handling(self, more: Attributes) -> Attributes:
        return {"messaging.operation.name": "process", **self._broker(), **more}

    def _broker(self) -> Attributes:
        known = self.client.attributes
        return {name: known[name] for name in _OF_BROKER if name in known}


Found = list[tuple[Attributes, Histogram]]


def _counted(found: Found) -> list[Point]:
    return [Point(attributes=attributes, value=histogram.count) for attributes, histogram in found]


def _timed(found: Found, more: Attributes) -> list[HistogramPoint]:
    return [histogram.point({**attributes, **more}) for attributes, histogram in found]
