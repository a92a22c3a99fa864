"""What the tests of the plugins share: a plugin set up with its own manifest and a context that records."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from contracts import BasePlugin, Event, PluginMetadata, Receipt

PLUGINS = Path(__file__).parents[2] / "plugins"


class RecordingContext:
    """Stands in for the kernel's context: what is published is kept, each id once."""

    def __init__(self, metadata: PluginMetadata, config: dict[str, Any], folder: Path) -> None:
        self.metadata = metadata
        self.config = {**metadata.default_configuration, **config}
        self.data_dir = folder
        self.published: dict[str, tuple[Event, str | None]] = {}
        self.timers: list[tuple[float, Callable[[], Awaitable[None]]]] = []

    async def publish(self, event: Event, *, key: str | None = None, id: str | None = None) -> Receipt:
        await asyncio.sleep(0)
        id = id or f"e{len(self.published)}"
        duplicate = id in self.published
        self.published.setdefault(id, (event, key))
        return Receipt(id, str(len(self.published)), duplicate)

    def every(self, seconds: float, function: Callable[[], Awaitable[None]]) -> None:
        self.timers.append((seconds, function))

    @property
    def events(self) -> list[Event]:
        return [event for event, _ in self.published.values()]


@pytest.fixture
def set_up(tmp_path: Path) -> Callable[..., Any]:
    """Makes a plugin of a class that has its manifest and a `RecordingContext`."""

    def make(cls: type[BasePlugin], **config: Any) -> Any:
        manifest = PLUGINS / cls.__module__.split(".")[1] / "plugin.toml"
        plugin: Any = cls(PluginMetadata.model_validate(tomllib.loads(manifest.read_text())))
        plugin.context = RecordingContext(plugin.metadata, config, tmp_path)
        return plugin

    return make
