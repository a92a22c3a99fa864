"""The catalogue of event types: who declares which, as long as nobody takes it out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from contracts.bus import CatalogEntry

Key = tuple[str, int, str]


class Catalog:
    """Event types as replicas have declared them."""

    def __init__(self) -> None:
        self._declared: list[tuple[str, CatalogEntry]] = []
        self._listed: list[CatalogEntry] | None = []
        self._known: dict[Key, CatalogEntry] = {}

    def add(self, entries: Sequence[CatalogEntry], replica: str) -> Callable[[], None]:
        """Enter them; returns what takes exactly these out again (safe twice)."""
        left = [(replica, entry) for entry in entries]
        self._declared += left
        self._listed = None

        def undo() -> None:
            while left:
                declared = left.pop()
                if declared in self._declared:  # else it was taken for left behind
                    self._declared.remove(declared)
            self._listed = None

        return undo

    def clear_up(self, plugins: Collection[str], living: Collection[str]) -> None:
        """Take out what others have left behind of plugins that are declared anew."""
        self._declared = [
            (replica, entry) for replica, entry in self._declared
            if replica in living or entry.plugin_id not in plugins
        ]  # fmt: skip
        self._listed = None

    def __iter__(self) -> Iterator[tuple[str, CatalogEntry]]:
        """Each declaration, with the replica that made it; the first comes first."""
        return iter(self._declared)

    def entries(self) -> list[CatalogEntry]:
        if self._listed is None:
            self._known = joined(self, self._known)
            self._listed = list(self._known.values())
        return list(self._listed)


def joined(
    declared: Iterable[tuple[str, CatalogEntry]], known: dict[Key, CatalogEntry]
) -> dict[Key, CatalogEntry]:
    """By type, version and plugin: what was declared first, and who declares it.

    What was `known` and has not changed stays the same object: others keep what they made of it.
    """
    first: dict[Key, CatalogEntry] = {}
    replicas: dict[Key, set[str]] = {}
    for replica, entry in declared:
        key = entry.type, entry.version, entry.plugin_id
        first.setdefault(key, entry)
        replicas.setdefault(key, set()).add(replica)
    found = {
        key: first[key].model_copy(update={"replicas": tuple(sorted(replicas[key]))}) for key in sorted(first)
    }
    return {key: known[key] if known.get(key) == entry else entry for key, entry in found.items()}
