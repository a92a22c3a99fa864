"""Errors that may come with every message are said once a second."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("plugbus.bus")

_QUIET = 1.0
"""Seconds between two messages of one kind."""


class ThrottledLog:
    """`monotonic`: seconds of a clock."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._said: dict[str, float] = {}

    def error(self, kind: str, text: str) -> None:
        """Neither this kind nor this text more than once a second."""
        now = self._monotonic()
        if now - max(self._said.get(kind, -_QUIET), self._said.get(text, -_QUIET)) >= _QUIET:
            self._said = {one: when for one, when in self._said.items() if now - when < _QUIET}
            self._said[kind] = self._said[text] = now
            log.error("%s", text)
