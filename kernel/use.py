"""Whether a plugin is used: what runs of it, and since when nothing does."""

from __future__ import annotations

import time
from dataclasses import replace
from types import TracebackType
from typing import Any

from contracts.web import WebMount


class Use:
    """Entered by each delivery, call and request of a plugin that is unloaded when it is idle."""

    def __init__(self) -> None:
        self.running = 0
        self.last = self._made = time.monotonic()

    def __enter__(self) -> None:
        self.running += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.running -= 1
        self.last = time.monotonic()

    def begin(self, expected_within: float) -> None:
        """It is started, and perhaps used already; else that is expected within so many seconds."""
        if self.last == self._made:
            self.last = time.monotonic() + expected_within

    def idle_for(self) -> float:
        """Seconds without use; 0 while it is used, and less while its first use is still expected."""
        return 0.0 if self.running else time.monotonic() - self.last

    def counting(self, mount: WebMount) -> WebMount:
        """`mount`, each request to which is a use."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            with self:
                await mount.app(scope, receive, send)

        return replace(mount, app=app)
