"""What passes between plugins: who says that it publishes, handles, provides and requests what. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from contracts.bus import CatalogEntry, GroupInfo, ProviderInfo
from contracts.patterns import RESERVED_TOPICS, covered, is_type_name, overlaps, topic_of

from .registry import PluginRecord

ANYTHING = "**"
"""Who may publish or request everything says nothing about anything in particular."""


@dataclass(frozen=True, slots=True)
class Speech:
    """What one plugin says of itself: by its code and its grants where it is loaded, else by its manifest."""

    plugin_id: str
    known_from: Literal["code", "manifest"]
    publishes: tuple[str, ...] = ()
    """Types, and patterns of which no type is known. Not those that it only handles."""
    wide: tuple[str, ...] = ()
    """Patterns by which its manifest grants it to publish."""
    provides: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    """Names of capabilities, or patterns."""


@dataclass(frozen=True, slots=True)
class Handling:
    """One handler's group."""

    group: str
    plugin_id: str
    patterns: tuple[str, ...]
    state: str = "active"


def speech_of(record: PluginRecord) -> Speech:
    """What a plugin of this kernel says of itself."""
    generation, metadata = record.current, record.metadata
    if generation is None:
        return Speech(
            record.plugin_id,
            "manifest",
            publishes=tuple(sorted(metadata.publishes or ())),
            provides=tuple(sorted(metadata.provided or ())),
            requests=tuple(sorted(metadata.requests or ())),
        )
    grants, declared = generation.security.grants, generation.declaration
    return Speech(
        record.plugin_id,
        "code",
        publishes=_named(
            grants.publishes,
            [entry.type for entry in declared.event_types],
            handled=() if metadata.publishes is not None else declared.patterns,
        ),
        wide=tuple(sorted(grant for grant in grants.publishes if not is_type_name(grant))),
        provides=tuple(sorted(declared.capabilities)),
        requests=tuple(sorted(grants.requests)),
    )


def _named(grants: Sequence[str], declared: Iterable[str], *, handled: Sequence[str]) -> tuple[str, ...]:
    """What is published by name.

    A manifest that does not say what is published grants every event class that the code names. Those in
    `handled` are then taken for what they mostly are: models of what others publish.
    """
    types = {type for type in declared if covered(grants, type) and not covered(handled, type)}
    named = {grant for grant in grants if is_type_name(grant) and not covered(handled, grant)}
    wide = {
        grant for grant in grants
        if not is_type_name(grant) and not any(overlaps(grant, type) for type in types | named)
    }  # fmt: skip
    return tuple(sorted(types | named | wide))


def speeches_elsewhere(
    entries: Iterable[CatalogEntry], here: Iterable[Speech], handlings: Sequence[Handling]
) -> list[Speech]:
    """What plugins say that are loaded on other replicas only: no more than the catalogue tells."""
    loaded = {speech.plugin_id for speech in here if speech.known_from == "code"}
    types: dict[str, set[str]] = {}
    for entry in entries:
        if entry.plugin_id in loaded or not entry.published:
            continue
        handled = [p for one in handlings if one.plugin_id == entry.plugin_id for p in one.patterns]
        if not covered(handled, entry.type):
            types.setdefault(entry.plugin_id, set()).add(entry.type)
    return [Speech(id, "code", publishes=tuple(sorted(named))) for id, named in sorted(types.items())]


def handlings_of(groups: Iterable[GroupInfo]) -> list[Handling]:
    """The groups that the bus knows, on all replicas."""
    return [Handling(group.group, group.plugin_id, group.patterns, group.state) for group in groups]


def handlings_here(records: Iterable[PluginRecord]) -> list[Handling]:
    """The groups of this kernel's plugins, for when the bus does not answer."""
    return [
        Handling(spec.group, record.plugin_id, spec.patterns)
        for record in records
        if record.current is not None
        for spec in record.current.port.subscriptions
    ]


def handlers_of(published: str, handlings: Iterable[Handling]) -> list[Handling]:
    """Who handles what is published as `published` (a type or a pattern)."""
    return [one for one in handlings if any(overlaps(pattern, published) for pattern in one.patterns)]


def publishers_of(handled: str, speeches: Iterable[Speech], own: Iterable[CatalogEntry]) -> list[str]:
    """Who publishes what the pattern `handled` selects; who may publish anything is not named for it.

    `own`: what the kernel and the bus themselves publish.
    """
    plugins = {
        speech.plugin_id
        for speech in speeches
        if any(overlaps(handled, name) for name in speech.publishes if name != ANYTHING)
    }
    ours = {entry.plugin_id for entry in own if overlaps(handled, entry.type)}
    return sorted(plugins | ours)


def providers_of(requested: str, providers: Iterable[ProviderInfo]) -> list[str]:
    """Who provides what the name or pattern `requested` selects."""
    return sorted({info.plugin_id for info in providers if covered((requested,), info.capability)})


def requesters_of(capability: str, speeches: Iterable[Speech]) -> list[str]:
    """Who says that it requests `capability`; who may request anything is not named for it."""
    return sorted(
        {
            speech.plugin_id
            for speech in speeches
            if any(overlaps(one, capability) for one in speech.requests if one != ANYTHING)
        }
    )


def is_reserved(pattern: str) -> bool:
    """Whether only the kernel and the bus publish it."""
    return topic_of(pattern) in RESERVED_TOPICS
