"""`kernel.plugin.explain`: why a plugin stands where it stands, and how it hangs together with the others."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.bus import Call
from contracts.messages.explain import CapabilityLink, EventLink, ExplainPlugin, PluginExplanation

from ..registry import PluginRecord
from ..ties import dependents_of, start_place
from ..traffic import ANYTHING, Speech, handlers_of, providers_of, publishers_of, requesters_of, speech_of
from .desk import CommandDesk
from .events import own_types
from .surroundings import Surroundings, look_around


class ExplainCommands:
    def __init__(self, desk: CommandDesk) -> None:
        self._desk = desk

    async def open(self) -> None:
        await self._desk.provide(ExplainPlugin, self._explain)

    async def _explain(self, query: ExplainPlugin, call: Call) -> PluginExplanation:
        kernel = self._desk.kernel
        record = kernel.registry.record(query.plugin_id)
        records = {one.plugin_id: one for one in kernel.registry}
        links = _Links(record, speech_of(record), await look_around(self._desk))
        return PluginExplanation(
            plugin_id=record.plugin_id,
            version=record.metadata.version,
            status=record.status,
            activity=record.activity.value,
            enabled=record.enabled,
            enabled_by=record.enabled_by,
            reason=record.reason,
            source=record.metadata.source,
            path=record.metadata.file_path,
            shadowed=record.shadowed,
            start=start_place(record, records, kernel.order.waves, kernel.order.rule_of(record.plugin_id)),
            needed_by=dependents_of(record.plugin_id, records.values()),
            known_from=links.speech.known_from,
            provides=links.provides(),
            requests=links.requests(),
            publishes=links.publishes(),
            handles=links.handles(),
        )


@dataclass(frozen=True)
class _Links:
    """What one plugin says and hears, with the other side of each."""

    record: PluginRecord
    speech: Speech
    around: Surroundings

    def provides(self) -> tuple[CapabilityLink, ...]:
        found = []
        for name in self.speech.provides:
            askers = requesters_of(name, self.around.speeches)
            rivals = set(providers_of(name, self.around.providers)) - {self.speech.plugin_id}
            found.append(CapabilityLink(capability=name, others=self._others(askers), is_only=not rivals))
        return tuple(found)

    def requests(self) -> tuple[CapabilityLink, ...]:
        return tuple(
            CapabilityLink(capability=name, others=self._others(providers_of(name, self.around.providers)))
            for name in self.speech.requests
        )

    def publishes(self) -> tuple[EventLink, ...]:
        found = []
        for name in self.speech.publishes:
            groups = tuple(sorted(one.group for one in handlers_of(name, self.around.handlings)))
            rivals = set(self._publishers(name)) - {self.speech.plugin_id}
            found.append(EventLink(pattern=name, others=groups, is_only=name != ANYTHING and not rivals))
        return tuple(found)

    def handles(self) -> tuple[EventLink, ...]:
        return tuple(
            EventLink(pattern=pattern, group=group, others=tuple(self._publishers(pattern)))
            for group, patterns in self._handlers()
            for pattern in patterns
        )

    def _handlers(self) -> list[tuple[str, tuple[str, ...]]]:
        """Groups and their patterns; where nothing is loaded, what the manifest says."""
        own = [one for one in self.around.handlings if one.plugin_id == self.speech.plugin_id]
        if own or self.speech.known_from == "code":
            return sorted((one.group, one.patterns) for one in own)
        said = self.record.metadata.subscribes
        if isinstance(said, dict):
            return sorted((f"{self.speech.plugin_id}.{name}", patterns) for name, patterns in said.items())
        return [("", said)] if said else []

    def _publishers(self, pattern: str) -> list[str]:
        return publishers_of(pattern, self.around.speeches, own_types())

    def _others(self, ids: list[str]) -> tuple[str, ...]:
        return tuple(id for id in ids if id != self.speech.plugin_id)
