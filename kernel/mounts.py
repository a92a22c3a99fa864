"""The table of web faces: plugin id → mount of its current generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from contracts.web import WebMount


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

    def put(self, mount: WebMount) -> Callable[[], None]:
        """Serve `mount` from now on; returns what takes it out again (and no newer one)."""
        self._mounts[mount.plugin_id] = mount
        self._version += 1

        def remove() -> None:
            if self._mounts.get(mount.plugin_id) is mount:
                del self._mounts[mount.plugin_id]
                self._version += 1

        return remove
