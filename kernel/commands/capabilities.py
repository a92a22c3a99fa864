"""`kernel.capability.*`: who provides what, who is asked, and who could be."""

from __future__ import annotations

from collections.abc import Iterable

from contracts.bus import Call, ProviderInfo
from contracts.errors import NoProvider
from contracts.messages import CapabilityInfo, ListCapabilities, ShowCapability
from contracts.plugin import PluginStatus

from ..hosts import ProviderDeclaration
from ..registry import PluginRecord
from ..selection import would_provide
from .desk import CommandDesk, did_you_mean


class CapabilityCommands:
    def __init__(self, desk: CommandDesk) -> None:
        self._desk = desk

    async def open(self) -> None:
        await self._desk.provide(ListCapabilities, self._list)
        await self._desk.provide(ShowCapability, self._show)

    async def _list(self, query: ListCapabilities, call: Call) -> tuple[CapabilityInfo, ...]:
        by_name: dict[str, list[ProviderInfo]] = {}
        for info in self._desk.bus.providers(query.name):
            by_name.setdefault(info.capability, []).append(info)
        records = list(self._desk.kernel.registry)
        declared = _declared(records)
        return tuple(
            _capability(name, by_name[name], declared.get(name), _idle(records, name))
            for name in sorted(by_name)
        )

    async def _show(self, query: ShowCapability, call: Call) -> CapabilityInfo:
        found = await self._list(ListCapabilities(name=query.name), call)
        if not found:
            raise self._nobody(query.name)
        return found[0]

    def _nobody(self, name: str) -> NoProvider:
        idle = _idle(self._desk.kernel.registry, name)
        known = {info.capability for info in self._desk.bus.providers()}
        fix = did_you_mean(name, known, "plugbus capability list")
        return NoProvider(
            f"nobody provides {name!r}",
            capability=name,
            fix=f"{idle[0]!r} would: plugbus plugin start {idle[0]}" if idle else fix,
        )


def _capability(
    name: str, providers: list[ProviderInfo], known: ProviderDeclaration | None, idle: tuple[str, ...]
) -> CapabilityInfo:
    return CapabilityInfo(
        name=name,
        description=known.description if known else "",
        providers=tuple(providers),
        idle=idle,
        query_schema=known.query_schema if known else None,
        answer_schema=known.answer_schema if known else None,
    )


def _idle(records: Iterable[PluginRecord], name: str) -> tuple[str, ...]:
    return tuple(
        record.plugin_id
        for record in records
        if record.status is not PluginStatus.STARTED and would_provide(record, name)
    )


def _declared(records: Iterable[PluginRecord]) -> dict[str, ProviderDeclaration]:
    """What the code of this kernel's plugins says; of several the one with the highest rank."""
    declared = (
        provider
        for record in records
        if record.current is not None
        for provider in record.current.declaration.providers
    )
    return {
        provider.capability: provider for provider in sorted(declared, key=lambda provider: provider.rank)
    }
