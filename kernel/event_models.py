"""Whose model of an event reads what whose model writes, among the plugins of this kernel. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from contracts.bus import CatalogEntry
from contracts.messages.schemas import SchemaComparison, SchemaSide
from contracts.patterns import covered

from .registry import PluginRecord
from .schema_diff import differences
from .traffic import speech_of


@dataclass(frozen=True, slots=True)
class Misfit:
    """A handler that cannot read what a plugin publishes."""

    type: str
    comparison: SchemaComparison

    def __str__(self) -> str:
        writer, reader = self.comparison.writer, self.comparison.reader
        wrong = [one for one in self.comparison.differences if not one.compatible]
        told = "; ".join(f"{one.field or '(whole)'}: {one.text}" for one in wrong)
        return (
            f"plugin {reader.plugin_id!r} handles {self.type} (version {writer.version}) with a model that "
            f"cannot read what plugin {writer.plugin_id!r} publishes: {told}; fix: {wrong[0].fix} "
            f"(plugbus event diff {self.type})"
        )


def compared(writer: CatalogEntry, reader: CatalogEntry, names: tuple[str, str]) -> SchemaComparison:
    """What `writer` writes, as `reader` sees it. `names`: what they are called."""
    return SchemaComparison(
        writer=SchemaSide(version=writer.version, plugin_id=writer.plugin_id),
        reader=SchemaSide(version=reader.version, plugin_id=reader.plugin_id),
        differences=differences(writer.json_schema, reader.json_schema, names),
    )


def compared_sides(writer: CatalogEntry, reader: CatalogEntry) -> SchemaComparison:
    """As `compared`, of two plugins, by their ids."""
    return compared(writer, reader, (writer.plugin_id, reader.plugin_id))


def misfits_of(record: PluginRecord, others: Iterable[PluginRecord]) -> Iterator[Misfit]:
    """Where the models of a loaded plugin and of other loaded ones do not fit, in either direction."""
    published, handled = _sides(record)
    keys = published.keys() | handled.keys()
    for other in others:
        if other is record or other.current is None:
            continue
        if not any((one.type, one.version) in keys for one in other.current.declaration.event_types):
            continue
        published_there, handled_there = _sides(other)
        yield from _misfits(published, handled_there)
        yield from _misfits(published_there, handled)


_Entries = dict[tuple[str, int], CatalogEntry]


def _misfits(written: _Entries, read: _Entries) -> Iterator[Misfit]:
    for key in sorted(written.keys() & read.keys()):
        comparison = compared_sides(written[key], read[key])
        if not comparison.compatible:
            yield Misfit(key[0], comparison)


def _sides(record: PluginRecord) -> tuple[_Entries, _Entries]:
    """What a plugin publishes, and what it handles with a model of its own."""
    if record.current is None:
        return {}, {}
    declaration, said = record.current.declaration, speech_of(record).publishes
    entries = {
        (entry.type, entry.version): entry.model_copy(update={"plugin_id": record.plugin_id})
        for entry in declaration.event_types
    }
    return (
        {key: entry for key, entry in entries.items() if covered(said, entry.type)},
        {key: entry for key, entry in entries.items() if is_handled(entry.type, declaration.patterns)},
    )


def is_handled(type: str, patterns: Iterable[str]) -> bool:
    """Whether a handler takes events of `type` as a model: by a wider pattern it gets them as they are."""
    return type in patterns
