"""What is there beside plugins and groups: the bus, capabilities, readiness."""

from __future__ import annotations

from typing import Any

from contracts.bus import Call, TopicInfo
from contracts.messages import (
    BusDetails,
    CapabilityInfo,
    GetReadiness,
    ListCapabilities,
    ListTopics,
    MetricsRecord,
    Readiness,
    ShowBus,
    ShowMetrics,
)

from ..hosts import ProviderDeclaration
from .desk import CommandDesk


class SystemCommands:
    def __init__(self, desk: CommandDesk) -> None:
        self._desk = desk

    async def open(self) -> None:
        await self._desk.provide(ShowBus, self._bus)
        await self._desk.provide(ListTopics, self._topics)
        await self._desk.provide(ListCapabilities, self._capabilities)
        await self._desk.provide(GetReadiness, self._readiness)
        await self._desk.provide(ShowMetrics, self._metrics, lasts=True)  # whoever stops last tells the end

    async def _bus(self, query: ShowBus, call: Call) -> BusDetails:
        """Of a bus that is not connected as much as can be told without its backend."""
        bus = self._desk.bus
        info = await bus.info()
        topics = tuple(await bus.topics()) if info.connected else ()
        return BusDetails(**dict(info), replica=bus.replica, features=bus.features, topics=topics)

    async def _topics(self, query: ListTopics, call: Call) -> tuple[TopicInfo, ...]:
        return tuple(await self._desk.bus.topics())

    async def _capabilities(self, query: ListCapabilities, call: Call) -> tuple[CapabilityInfo, ...]:
        by_name: dict[str, list[Any]] = {}
        for info in self._desk.bus.providers():
            if query.name in (None, info.capability):
                by_name.setdefault(info.capability, []).append(info)
        declared = self._declared_providers()
        return tuple(
            CapabilityInfo(
                name=name,
                description=known.description if (known := declared.get(name)) else "",
                providers=tuple(infos),
                query_schema=known.query_schema if known else None,
                answer_schema=known.answer_schema if known else None,
            )
            for name, infos in sorted(by_name.items())
        )

    def _declared_providers(self) -> dict[str, ProviderDeclaration]:
        return {
            provider.capability: provider
            for record in self._desk.kernel.registry
            if record.current is not None
            for provider in record.current.declaration.providers
        }

    async def _metrics(self, query: ShowMetrics, call: Call) -> MetricsRecord:
        return await self._desk.kernel.metrics.look()

    async def _readiness(self, query: GetReadiness, call: Call) -> Readiness:
        return await self._desk.kernel.readiness()
