"""What handlers and providers of lazy plugins ask for: known once loaded, and needed while they are not."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from contracts.bus import ProviderSpec, SubscriptionOptions, SubscriptionSpec

from .kept import KeptFile


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

    def of(self, plugin_id: str) -> Mapping[str, SubscriptionOptions]:
        """Empty where it was never loaded."""
        known = self._kept.get(plugin_id)
        return {} if known is None else known.by_handler

    def ranks_of(self, plugin_id: str) -> Mapping[str, int]:
        """Empty where it was never loaded."""
        known = self._kept.get(plugin_id)
        return {} if known is None else known.ranks

    def learn(
        self, plugin_id: str, specs: Iterable[SubscriptionSpec], provided: Iterable[ProviderSpec]
    ) -> None:
        """Remember them; where that cannot be kept, for as long as the kernel runs."""
        ranks = {spec.capability: spec.rank for spec in provided}
        options = _Options(by_handler={spec.handler: spec.options for spec in specs}, ranks=ranks)
        if options != self._kept.get(plugin_id):
            self._kept.put_anyway(plugin_id, options, "what is remembered", self._log)
