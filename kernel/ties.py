"""How plugins hang together by name: who starts after whom, and who is there for whom. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from contracts.messages.explain import Dependent, StartPlace, StartsAfter, Tie
from contracts.metadata import PluginMetadata
from contracts.plugin import PluginStatus

from .registry import PluginRecord

Waves = Sequence[Sequence[str]]


def ties_of(metadata: PluginMetadata) -> dict[str, tuple[Tie, str]]:
    """The ids that a plugin starts after → how, and which versions; the strongest tie to each."""
    found: dict[str, tuple[Tie, str]] = dict.fromkeys(metadata.order_after, ("order", ""))
    for one in metadata.optional_dependencies:
        found[one.plugin_id] = ("optional", one.version_spec)
    for one in metadata.dependencies:
        found[one.plugin_id] = ("dependency", one.version_spec)
    return dict(sorted(found.items()))


def wave_of(plugin_id: str, waves: Waves) -> int | None:
    """Counted from 1; None where it is in none."""
    return next((number for number, wave in enumerate(waves, 1) if plugin_id in wave), None)


def start_place(
    record: PluginRecord, records: Mapping[str, PluginRecord], waves: Waves, rule: str
) -> StartPlace:
    """Where `record` came in the start order `waves`. `rule`: why, where no other plugin decides it."""
    own = wave_of(record.plugin_id, waves)
    after = _starts_after(record, records, waves, own)
    deciding = [one.plugin_id for one in after if one.decides]
    if own is None:
        why = _why_nowhere(record)
    else:
        why = rule or (f"it starts after {' and '.join(deciding)}" if deciding else "it waits for nobody")
    beside = tuple(id for id in waves[own - 1] if id != record.plugin_id) if own is not None else ()
    return StartPlace(wave=own, waves=len(waves), beside=beside, why=why, after=after)


def _starts_after(
    record: PluginRecord, records: Mapping[str, PluginRecord], waves: Waves, own: int | None
) -> tuple[StartsAfter, ...]:
    ties = ties_of(record.metadata)
    places = {id: wave_of(id, waves) for id in ties}
    # A wish that contradicted another one was ignored: who lies later or beside decides nothing.
    earlier = [place for place in places.values() if place is not None and own is not None and place < own]
    latest = max(earlier, default=None)
    return tuple(
        StartsAfter(
            plugin_id=id,
            tie=tie,
            version_spec=version_spec,
            status=records[id].status if id in records else None,
            wave=places[id],
            decides=latest is not None and places[id] == latest,
        )
        for id, (tie, version_spec) in ties.items()
    )


def _why_nowhere(record: PluginRecord) -> str:
    if not record.enabled:
        return "it has no place: it was not enabled when the kernel started"
    if record.status is PluginStatus.ERROR and not record.loads:
        return "it has no place: it was refused"
    return "it has no place: it came after the kernel had started"


def dependents_of(plugin_id: str, records: Iterable[PluginRecord]) -> tuple[Dependent, ...]:
    """Who names `plugin_id`, and who needs one of those that cannot do without it; the nearest first."""
    users: dict[str, list[tuple[PluginRecord, Tie]]] = {}
    for record in records:
        for id, (tie, _) in ties_of(record.metadata).items():
            users.setdefault(id, []).append((record, tie))
    found: dict[str, Dependent] = {}
    waiting: deque[tuple[str, ...]] = deque([(plugin_id,)])
    while waiting:
        chain = waiting.popleft()
        for record, tie in sorted(users.get(chain[0], ()), key=lambda user: user[0].plugin_id):
            id = record.plugin_id
            if id in chain or not _is_news(found.get(id), tie, chain, plugin_id):
                continue
            found[id] = Dependent(plugin_id=id, status=record.status, tie=tie, chain=(id, *chain))
            if tie == "dependency":
                waiting.append((id, *chain))
    return tuple(sorted(found.values(), key=_nearness))


def _nearness(one: Dependent) -> tuple[bool, int, str]:
    return one.tie != "dependency", len(one.chain), one.plugin_id


def _is_news(known: Dependent | None, tie: Tie, chain: tuple[str, ...], plugin_id: str) -> bool:
    """Whether a tie says more than what is known: a wish counts only for the plugin itself."""
    if tie != "dependency":
        return known is None and chain == (plugin_id,)
    return known is None or known.tie != "dependency"
