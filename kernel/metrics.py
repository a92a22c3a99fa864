"""All figures of a kernel in one record: its own, its replica's, and those of the bus as a whole.

The names are told in README.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from contracts.bus import EventBus, GroupInfo, TopicInfo
from contracts.errors import BusError
from contracts.health import HEALTH
from contracts.messages import MetricsRecord
from contracts.metrics import MOST_POINTS, Attributes, Metric, Point
from contracts.plugin import PluginStatus

from .attribution import figures_of, pending_of
from .health import health_of
from .loop_lag import LoopLag
from .registry import PluginRecord
from .stalls import Stalls

PATIENCE = 3.0
"""Seconds after which a bus that does not answer is left out: whoever scrapes waits for ten."""


class _Figure(NamedTuple):
    """One figure of everything of a kind. None: it has none."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    description: str
    of: Callable[..., float | None]


Named = tuple[Attributes, object]
_MESSAGE = "{message}"
_GROUP_FIGURES = (
    _Figure("waiting", "gauge", _MESSAGE, "Events that nobody has taken yet: the lag.", lambda g: g.waiting),
    _Figure("waiting.peak", "gauge", _MESSAGE, "The most that ever waited.", lambda g: g.peak),
    _Figure("oldest_age", "gauge", "s", "Since the oldest event without an outcome was published.",
            lambda g: g.oldest_age),
    _Figure("in_flight", "gauge", _MESSAGE, "Taken, and not settled.", lambda g: g.in_flight),
    _Figure("parked", "gauge", _MESSAGE, "Waiting for another attempt, or behind one that does.",
            lambda g: g.parked),
    _Figure("dead_letters", "gauge", _MESSAGE, "Dead letters that it holds.", lambda g: g.dead),
    _Figure("paused", "gauge", "{group}", "1 while it is paused.", lambda g: float(g.paused is not None)),
    _Figure("open_breakers", "gauge", "{replica}", "Replicas whose circuit breaker is open.",
            lambda g: len(g.open_breakers)),
    _Figure("handled", "counter", _MESSAGE, "Acknowledged, with or without a start.", lambda g: g.handled),
    _Figure("failed", "counter", "{attempt}", "Attempts that failed.", lambda g: g.failed),
    _Figure("discarded", "counter", _MESSAGE, "Given up without a dead letter.", lambda g: g.discarded),
    _Figure("expired", "counter", _MESSAGE, "Too late to be handled.", lambda g: g.expired),
    _Figure("filtered", "counter", _MESSAGE, "Not wanted by the handler's predicate.", lambda g: g.filtered),
    _Figure("repeated", "counter", _MESSAGE, "Suppressed because handled before.", lambda g: g.repeated),
    _Figure("dropped", "counter", _MESSAGE, "Given up because too many waited.", lambda g: g.dropped),
    _Figure("stale", "counter", "{settlement}", "Settlements of former owners that were refused.",
            lambda g: g.stale),
)  # fmt: skip
_TOPIC_FIGURES = (
    _Figure("events", "gauge", _MESSAGE, "Events that it keeps: the depth.", lambda t: t.events),
    _Figure("events.peak", "gauge", _MESSAGE, "The most that it ever kept.", lambda t: t.peak),
    _Figure("limit", "gauge", _MESSAGE, "Events for which it has room: then publishing waits.",
            lambda t: t.limit * t.partitions),
    _Figure("oldest_age", "gauge", "s", "Since the oldest that it keeps was published.",
            lambda t: t.oldest_age),
    _Figure("published", "counter", _MESSAGE, "Events taken since it was made.", lambda t: t.published),
)  # fmt: skip


_PLUGIN_FIGURES = (
    _Figure("loop.time", "counter", "s", "Time in which its steps occupied the event loop.",
            lambda p: p.loop_seconds),
    _Figure("handler.time", "counter", "s", "Time that its handlers ran, waiting included.",
            lambda p: p.handler_seconds),
    _Figure("handled", "counter", "{attempt}", "Events that were handed to a handler, each attempt once.",
            lambda p: p.handled),
    _Figure("failed", "counter", "{attempt}", "Attempts that failed.", lambda p: p.failed),
    _Figure("published", "counter", _MESSAGE, "Events that it published.", lambda p: p.published),
    _Figure("calls", "counter", "{call}", "Calls of its capabilities.", lambda p: p.calls),
    _Figure("stalls", "counter", "{stall}", "How often it blocked the event loop for long.",
            lambda p: p.stalls),
    _Figure("tasks", "gauge", "{task}", "Tasks that it has spawned and that are still there.",
            lambda p: p.tasks),
)  # fmt: skip
_PENDING = _Figure("pending", "gauge", _MESSAGE, "Events without an outcome in its groups.", lambda n: n)


class Metrics:
    """Of one kernel."""

    def __init__(self, bus: EventBus, plugins: Iterable[PluginRecord], stalls: Stalls | None = None) -> None:
        """`plugins`: the registry, looked through anew each time."""
        self._stalls = stalls
        self._bus = bus
        self._plugins = plugins
        self._since = datetime.now(UTC)
        self.loop = LoopLag()
        self._looking: asyncio.Future[MetricsRecord] | None = None

    async def look(self) -> MetricsRecord:
        """As it is now. What only a bus that does not answer knows is left out.

        Who asks while somebody is asking hears the same.
        """
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())
            self._looking.add_done_callback(self._looked)
        return await asyncio.shield(self._looking)

    def _looked(self, looking: asyncio.Future[MetricsRecord]) -> None:
        self._looking = None

    async def _look(self) -> MetricsRecord:
        is_connected = await self._is_connected()
        shared = await self._shared() if is_connected else []
        metrics = (*self._bus.metrics(), *self._own(is_connected=is_connected), *shared)
        return MetricsRecord(replica=self._bus.replica, since=self._since, metrics=metrics)

    async def _is_connected(self) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                return (await self._bus.info()).connected
        except (TimeoutError, BusError):
            return False

    async def _shared(self) -> list[Metric]:
        """Of a bus that is too big to be looked at in time: nothing."""
        try:
            async with asyncio.timeout(PATIENCE):
                groups, topics = await self._bus.groups(), await self._bus.topics()
        except (TimeoutError, BusError):
            return []
        started = [plugin.plugin_id for plugin in self._plugins if health_of(plugin) is not None]
        pending = pending_of(groups)
        return [
            *_of_groups(groups[:MOST_POINTS]),
            *_of_topics(topics[:MOST_POINTS]),
            _metric("plugbus.plugin", _PENDING, [(_plugin(id), pending.get(id, 0)) for id in started]),
        ]

    def _own(self, *, is_connected: bool) -> list[Metric]:
        figures: list[Named] = [
            (_plugin(plugin.plugin_id), found)
            for plugin in self._plugins
            if (found := figures_of(plugin)) is not None
        ]
        return [
            *(_metric("plugbus.plugin", figure, figures, is_shared=False) for figure in _PLUGIN_FIGURES),
            Metric(
                name="plugbus.bus.connected", kind="gauge", unit="{bus}",
                description="1 while the bus answers.", points=(Point(value=float(is_connected)),),
            ),
            _one_of(
                "status", "1 for the status that each plugin has, 0 for the others.",
                {plugin.plugin_id: plugin.status.value for plugin in self._plugins},
                [status.value for status in PluginStatus],
            ),
            _one_of(
                "health", "1 for what each started plugin's health counts as, 0 for the others.",
                {
                    report.plugin_id: report.counts_as
                    for plugin in self._plugins
                    if (report := health_of(plugin)) is not None
                },
                HEALTH,
            ),
            Metric(
                name="plugbus.loop.stalls", kind="counter", unit="{stall}",
                description="How often anything blocked the event loop for long, plugins included.",
                points=(Point(value=self._stalls.count if self._stalls else 0),),
            ),
            Metric(
                name="plugbus.loop.lag", kind="histogram", unit="s",
                description="By how much timers of the event loop are late.",
                points=(self.loop.lag.point({}),),
            ),
        ]  # fmt: skip


def _one_of(name: str, description: str, found: Mapping[str, str], choices: Sequence[str]) -> Metric:
    """Which of the choices holds for each plugin."""
    points = (
        Point(
            attributes={"plugbus.plugin.id": plugin_id, f"plugbus.plugin.{name}": choice},
            value=float(choice == chosen),
        )
        for plugin_id, chosen in found.items()
        for choice in choices
    )
    return Metric(
        name=f"plugbus.plugin.{name}", kind="gauge", unit="{plugin}",
        description=description, points=tuple(points),
    )  # fmt: skip


def _of_groups(groups: Sequence[GroupInfo]) -> list[Metric]:
    named: list[Named] = [({"messaging.consumer.group.name": group.group}, group) for group in groups]
    return [_metric("plugbus.group", figure, named) for figure in _GROUP_FIGURES]


def _of_topics(topics: Sequence[TopicInfo]) -> list[Metric]:
    named: list[Named] = [({"messaging.destination.name": topic.topic}, topic) for topic in topics]
    return [_metric("plugbus.topic", figure, named) for figure in _TOPIC_FIGURES]


def _plugin(plugin_id: str) -> Attributes:
    return {"plugbus.plugin.id": plugin_id}


def _metric(prefix: str, figure: _Figure, named: Iterable[Named], *, is_shared: bool = True) -> Metric:
    values = ((attributes, figure.of(what)) for attributes, what in named)
    return Metric(
        name=f"{prefix}.{figure.name}", kind=figure.kind, unit=figure.unit,
        description=figure.description, is_shared=is_shared,
        points=tuple(Point(attributes=attributes, value=v) for attributes, v in values if v is not None),
    )  # fmt: skip
