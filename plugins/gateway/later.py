"""A document that is made when somebody first reads it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

log = logging.getLogger(__name__)


class LaterDocument(Mapping[str, Any]):
    """An OpenAPI document; `make` is called once.

    It is for what is certain to work. Where it raises all the same, that is logged, and the document has no
    paths: the other plugins' are shown even so.
    """

    def __init__(self, plugin_id: str, make: Callable[[], Mapping[str, Any]]) -> None:
        self._plugin_id = plugin_id
        self._make: Callable[[], Mapping[str, Any]] | None = make
        self._made: Mapping[str, Any] = {"paths": {}}

    def _document(self) -> Mapping[str, Any]:
        make, self._make = self._make, None
        if make is not None:
            try:
                self._made = make()
            except Exception:
                log.exception("the OpenAPI document of plugin %s cannot be made", self._plugin_id)
        return self._made

    def __getitem__(self, key: str) -> Any:
        return self._document()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._document())

    def __len__(self) -> int:
        return len(self._document())
