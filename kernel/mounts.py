"""The table of web faces: plugin id → mount of its current generation."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator

from contracts.web import WebMount

from .open_requests import GOING_AWAY, OpenRequests

Unmount = Callable[[], Awaitable[int]]


class WebMounts:
    """See `contracts.web.MountTable`. A change is one assignment; requests read the table as it is."""

    def __init__(self) -> None:
        self._mounts: dict[str, WebMount] = {}
        self._version = 0

    @property
    def version(self) -> int:
        return self._version

    def get(self, plugin_id: str) -> WebMount | None:
        return self._mounts.get(plugin_id)

    def __iter__(self) -> Iterator[WebMount]:
        return iter(list(self._mounts.values()))

    def put(self, mount: WebMount, *, grace: float = 0.0, code: int = GOING_AWAY) -> Unmount:
        """Serve `mount` from now on; returns what takes it out again (and no newer one).

        That waits until its open requests are finished, `grace` seconds at most; `code` is what its
        WebSockets are closed with. It answers how many requests were cut.
        """
        requests = OpenRequests(mount.app)
        take_out = self.put_stand_in(dataclasses.replace(mount, app=requests))

        async def remove() -> int:
            take_out()
            return await requests.close(grace, code)

        return remove

    def put_stand_in(self, mount: WebMount) -> Callable[[], None]:
        """The same for what hands its requests on: they go on when it is taken out."""
        self._mounts[mount.plugin_id] = mount
        self._version += 1

        def remove() -> None:
            if self._mounts.get(mount.plugin_id) is mount:
                del self._mounts[mount.plugin_id]
                self._version += 1

        return remove
