"""Which of the plugins that are there can start, and in which order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from contracts.bus import Features
from contracts.errors import DependencyError
from contracts.metadata import PluginMetadata
from contracts.patterns import RESERVED_TOPICS, topic_of
from contracts.plugin import PluginStatus

from .dependents import needed_by
from .discovered import Discovered
from .registry import PluginRecord, PluginRegistry
from .requirements import unmet_requirements
from .resolver import DependencyResolver, Resolution

S = PluginStatus

OBSERVERS_FIRST = "it handles only what the kernel and the bus say; such plugins see the others start"
EDGE_LAST = "it is the web edge, which starts last: nothing comes in before it can be handled"


class RegistryResolver:
    """Asks `DependencyResolver` about records."""

    def __init__(self, registry: PluginRegistry, *, version: str, bus_features: Features) -> None:
        self._registry = registry
        self._version = version
        self._bus_features = bus_features

    def resolve(self) -> Resolution:
        """Who can start, in which order, and what is wrong with the others."""
        return self._among([one for one in self._registry if one.enabled and one.status is not S.ERROR])

    def problems_of(self, record: PluginRecord) -> tuple[DependencyError, ...]:
        """What is wrong with one plugin among those that are there, whatever state they are in."""
        present = [other for other in self._registry if other.found is not None]
        return self._among(present).problems.get(record.plugin_id, ())

    def _among(self, records: Sequence[PluginRecord]) -> Resolution:
        chosen = set(records)
        others = [record for record in self._registry if record not in chosen]
        return DependencyResolver().resolve(
            [record.metadata for record in records],
            plugbus_version=self._version,
            bus_features=self._bus_features,
            disabled=[record.plugin_id for record in others if not record.enabled],
            refused=[record.plugin_id for record in others if record.enabled],
            unmet=unmet_requirements(r.found for r in records if isinstance(r.found, Discovered)),
        )


@dataclass(frozen=True)
class StartOrder:
    """Plugins start wave after wave, those of one side by side; stopping is the reverse."""

    waves: tuple[tuple[str, ...], ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)

    def rule_of(self, plugin_id: str) -> str:
        """Why a plugin comes first or last; empty where only those decide that it starts after."""
        return self.rules.get(plugin_id, "")

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(id for wave in self.waves for id in wave)


def arranged(resolution: Resolution, registry: PluginRegistry, edge_plugins: Collection[str]) -> StartOrder:
    """Observers first, the edge last.

    So the audit log sees every start and stop, and nothing comes in from outside before it can be
    handled. Both move only as far as their dependencies allow: neither has any among the built-ins.
    """
    free = {id for wave in resolution.waves[:1] for id in wave}
    observers = [id for id in resolution.order if id in free and _observes(registry.record(id).metadata)]
    edge = [id for id in resolution.order if id in edge_plugins and not needed_by(id, registry)]
    middle = (tuple(id for id in wave if id not in observers and id not in edge) for wave in resolution.waves)
    return StartOrder(
        waves=tuple(wave for wave in (tuple(observers), *middle, tuple(edge)) if wave),
        rules=dict.fromkeys(observers, OBSERVERS_FIRST) | dict.fromkeys(edge, EDGE_LAST),
    )


def lazy_among(order: Sequence[str], registry: PluginRegistry) -> list[PluginRecord]:
    """Those that are loaded when they are needed; who is needed by an eager one starts with it."""
    needed: set[str] = set()
    for plugin_id in reversed(order):
        metadata = registry.record(plugin_id).metadata
        if metadata.activation == "eager" or plugin_id in needed:
            needed |= {plugin_id, *(one.plugin_id for one in metadata.dependencies)}
    return [registry.record(plugin_id) for plugin_id in order if plugin_id not in needed]


def _observes(metadata: PluginMetadata) -> bool:
    """Whether a plugin handles nothing but what the kernel and the bus say."""
    patterns = metadata.subscribed_patterns
    return bool(patterns) and all(topic_of(pattern) in RESERVED_TOPICS for pattern in patterns or ())
