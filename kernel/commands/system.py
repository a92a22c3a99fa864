"""What is there beside plugins, groups and capabilities: the bus, readiness, figures, the log."""

from __future__ import annotations

from contracts.bus import Call, TopicInfo
from contracts.messages import (
    BusDetails,
    GetReadiness,
    ListTopics,
    LogLines,
    MetricsRecord,
    Readiness,
    ShowBus,
    ShowLog,
    ShowMetrics,
)

from ..recent_log import recent_log
from .desk import CommandDesk


class SystemCommands:
    def __init__(self, desk: CommandDesk) -> None:
        self._desk = desk

    async def open(self) -> None:
        await self._desk.provide(ShowBus, self._bus)
        await self._desk.provide(ListTopics, self._topics)
        await self._desk.provide(GetReadiness, self._readiness)
        await self._desk.provide(ShowLog, self._log)
        await self._desk.provide(ShowMetrics, self._metrics, lasts=True)  # whoever stops last tells the end

    async def _bus(self, query: ShowBus, call: Call) -> BusDetails:
        """Of a bus that is not connected as much as can be told without its backend."""
        bus = self._desk.bus
        info = await bus.info()
        topics = tuple(await bus.topics()) if info.connected else ()
        return BusDetails(**dict(info), replica=bus.replica, features=bus.features, topics=topics)

    async def _topics(self, query: ListTopics, call: Call) -> tuple[TopicInfo, ...]:
        return tuple(await self._desk.bus.topics())

    async def _metrics(self, query: ShowMetrics, call: Call) -> MetricsRecord:
        return await self._desk.kernel.metrics.look()

    async def _log(self, query: ShowLog, call: Call) -> LogLines:
        replica, recent = self._desk.bus.replica, recent_log()
        if recent is None:
            return LogLines(replica=replica)
        return LogLines(replica=replica, lines=recent.lines(), most=recent.most, dropped=recent.dropped)

    async def _readiness(self, query: GetReadiness, call: Call) -> Readiness:
        return await self._desk.kernel.readiness()
