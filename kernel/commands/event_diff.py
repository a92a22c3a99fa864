"""`kernel.event.diff`: whether one model of an event can read what another one writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from contracts.bus import Call, CatalogEntry
from contracts.errors import EventTypeNotFound
from contracts.messages.schemas import DiffEventType, EventDiff, SchemaComparison
from contracts.patterns import covered

from ..event_models import compared, compared_sides, is_handled
from .desk import CommandDesk, did_you_mean
from .events import own_types
from .surroundings import Surroundings, look_around


class EventDiffCommands:
    def __init__(self, desk: CommandDesk) -> None:
        self._desk = desk

    async def open(self) -> None:
        await self._desk.provide(DiffEventType, self._diff)

    async def _diff(self, query: DiffEventType, call: Call) -> EventDiff:
        known = [*self._desk.bus.types(), *own_types()]
        entries = [entry for entry in known if entry.type == query.type]
        if not entries:
            raise EventTypeNotFound(
                f"no plugin that is started declares the event type {query.type!r}",
                fix=did_you_mean(query.type, {entry.type for entry in known}, "plugbus event list"),
            )
        versions = tuple(sorted({entry.version for entry in entries}))
        start, end = _chosen(query, versions)
        models = _Models(entries, await look_around(self._desk))
        found: list[SchemaComparison] = []
        if start != end:
            found.append(_across(models.of(start), models.of(end)))
        if start == end or (query.from_version is None and query.to_version is None):
            wanted = versions if query.from_version is None and query.to_version is None else (start,)
            found += [one for version in wanted for one in models.sides(version)]
        return EventDiff(type=query.type, versions=versions, comparisons=tuple(found))


def _chosen(query: DiffEventType, versions: tuple[int, ...]) -> tuple[int, int]:
    """The two versions to compare; the same twice where there is but one to speak of."""
    for version in (query.from_version, query.to_version):
        if version is not None and version not in versions:
            raise EventTypeNotFound(
                f"{query.type} has no version {version}", fix=f"it has {', '.join(map(str, versions))}"
            )
    start, end = query.from_version, query.to_version
    if start is None:
        end = versions[-1] if end is None else end
        start = max((version for version in versions if version < end), default=end)
    if end is None:
        end = min((version for version in versions if version > start), default=start)
    return start, end


def _across(older: CatalogEntry, newer: CatalogEntry) -> SchemaComparison:
    """Of two versions. What does not fit is no mistake there, if the newer class lifts the older data."""
    found = compared(older, newer, (f"version {older.version}", f"version {newer.version}"))
    lifting = f"an @upcast({older.version}) in the class of version {newer.version} lifts what is older"
    if newer.version < older.version:
        lifting = f"who handles version {newer.version} needs a class of version {older.version}"
    told = (one if one.compatible else one.model_copy(update={"fix": lifting}) for one in found.differences)
    return found.model_copy(update={"differences": tuple(told)})


class _Models:
    """The models of one type: who writes and who reads by which."""

    def __init__(self, entries: Sequence[CatalogEntry], around: Surroundings) -> None:
        self._entries = sorted(entries, key=lambda entry: entry.plugin_id)
        self._said = {speech.plugin_id: speech.publishes for speech in around.speeches}
        self._said |= {entry.plugin_id: (entry.type,) for entry in own_types() if entry in entries}
        self._patterns: dict[str, list[str]] = {}
        for one in around.handlings:
            self._patterns.setdefault(one.plugin_id, []).extend(one.patterns)

    def of(self, version: int) -> CatalogEntry:
        """The model of a version: that of who publishes it, where somebody does."""
        models = [entry for entry in self._entries if entry.version == version]
        return min(models, key=lambda entry: (not self._writes(entry), not entry.published))

    def sides(self, version: int) -> Iterator[SchemaComparison]:
        """Each who publishes the version, with each other one who handles it."""
        models = [entry for entry in self._entries if entry.version == version]
        for writer in filter(self._writes, models):
            for reader in filter(self._reads, models):
                if reader.plugin_id != writer.plugin_id:
                    yield compared_sides(writer, reader)

    def _writes(self, entry: CatalogEntry) -> bool:
        return covered(self._said.get(entry.plugin_id, ()), entry.type)

    def _reads(self, entry: CatalogEntry) -> bool:
        return is_handled(entry.type, self._patterns.get(entry.plugin_id, ()))
