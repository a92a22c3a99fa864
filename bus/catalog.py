"""The catalogue of event types: who declares which, as long as somebody does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from contracts.bus import CatalogEntry


class Catalog:
    """Event types by name and version, an entry for each plugin that declares one."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, int], list[CatalogEntry]] = {}

    def add(self, entries: Sequence[CatalogEntry]) -> Callable[[], None]:
        """Enter them; returns what takes exactly these out again (safe twice)."""
        for entry in entries:
            self._entries.setdefault((entry.type, entry.version), []).append(entry)
        left = list(entries)

        def undo() -> None:
            while left:
                self._remove(left.pop())

        return undo

    def list(self) -> list[CatalogEntry]:
        found: list[CatalogEntry] = []
        for key in sorted(self._entries):
            first: dict[str, CatalogEntry] = {}
            for entry in self._entries[key]:
                first.setdefault(entry.plugin_id, entry)
            found += first.values()
        return found

    def _remove(self, entry: CatalogEntry) -> None:
        key = (entry.type, entry.version)
        self._entries[key].remove(entry)
        if not self._entries[key]:
            del self._entries[key]
