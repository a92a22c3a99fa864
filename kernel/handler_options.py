"""What handlers and providers of lazy plugins ask for: known once loaded, and needed while they are not."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from contracts.bus import ProviderSpec, SubscriptionOptions, SubscriptionSpec
from contracts.metadata import PluginMetadata

from .declared_start import begin_new
from .kept import KeptFile
from .registry import PluginRecord

_MISJUDGED = (
    "%s.%s says start= in a way that cannot be read before it is loaded, and its group began elsewhere:"
    ' write start="new" out, in the module of the plugin\'s class'
)


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True)

    by_handler: dict[str, SubscriptionOptions]
    ranks: dict[str, int] = {}


class HandlerOptions:
    """Of each plugin the options of its handlers and the ranks of what it provides, as of its last load.

    They are kept in `lazy.json` in the state folder.
    """

    def __init__(self, state: Path, log: logging.Logger) -> None:
        """Raises `SettingsError` where the file is damaged."""
        self._kept = KeptFile(state / "lazy.json", _Options, "what handlers of lazy plugins ask for")
        self._log = log
        self._supposed: dict[str, dict[str, str]] = {}
        """Plugin id → where groups were begun, of handlers that were never loaded."""

    def of(self, record: PluginRecord) -> Mapping[str, SubscriptionOptions]:
        """Of a handler that was never loaded only where its group begins, as far as its source tells."""
        known = self._of_last_load(record.plugin_id)
        unknown = handlers_of(record.metadata).keys() - known.keys()
        new = begin_new(record.found) if unknown else ()
        supposed = {name: SubscriptionOptions(start="new" if name in new else "oldest") for name in unknown}
        self._supposed[record.plugin_id] = {name: options.start for name, options in supposed.items()}
        return {**supposed, **known}

    def _of_last_load(self, plugin_id: str) -> Mapping[str, SubscriptionOptions]:
        known = self._kept.get(plugin_id)
        return {} if known is None else known.by_handler

    def ranks_of(self, plugin_id: str) -> Mapping[str, int]:
        """Empty where it was never loaded."""
        known = self._kept.get(plugin_id)
        return {} if known is None else known.ranks

    def learn(
        self, plugin_id: str, specs: Iterable[SubscriptionSpec], provided: Iterable[ProviderSpec]
    ) -> None:
        """Remember them; where that cannot be kept, for as long as the kernel runs.

        Where a group was begun elsewhere than its handler says, that is told: it cannot be mended any more.
        """
        specs = tuple(specs)
        supposed = self._supposed.pop(plugin_id, {})
        for spec in specs:
            if supposed.get(spec.handler, spec.options.start) != spec.options.start:
                self._log.warning(_MISJUDGED, plugin_id, spec.handler)
        ranks = {spec.capability: spec.rank for spec in provided}
        options = _Options(by_handler={spec.handler: spec.options for spec in specs}, ranks=ranks)
        if options != self._kept.get(plugin_id):
            self._kept.put_anyway(plugin_id, options, "what is remembered", self._log)


def handlers_of(metadata: PluginMetadata) -> Mapping[str, tuple[str, ...]]:
    """Handler → patterns, as the manifest's table says; empty where it has none."""
    return metadata.subscribes if isinstance(metadata.subscribes, dict) else {}
