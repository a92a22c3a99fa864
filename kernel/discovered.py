"""What discovery finds: plugins, and what was meant to be one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from contracts.errors import PlugbusError
from contracts.metadata import PluginMetadata

from .marks import Marks

ENTRY_POINT_GROUP = "plugbus.plugins"
PACKAGE = "__init__"
"""The module name of a plugin whose class stands in its folder's `__init__.py`."""


@dataclass(slots=True)  # not frozen: a thousand are made at a start, and freezing trebles what each costs
class Discovered:
    """A plugin that was found: what its manifest says, and where its code is."""

    metadata: PluginMetadata
    place: str
    """`root` as text: to make a `Path` of each takes as long as to look whether its files have changed."""
    module: str
    """The module of the class, relative to `root`; `__init__` is the folder itself as a package."""
    class_name: str
    entry_point_name: str | None = None
    single_file: bool = False
    """Whether the plugin is one file, whose neighbours are none of its business."""
    requirements: tuple[str, ...] = ()
    """The distributions that its own one requires, or the `pyproject.toml` in its folder."""
    marks: Marks = field(default=Marks(), compare=False, repr=False)
    """By what one sees that its files have changed since; empty where they were not taken anew."""

    @property
    def plugin_id(self) -> str:
        return self.metadata.plugin_id

    @property
    def root(self) -> Path:
        """The folder of the plugin's code; for a single file the folder in which it lies."""
        return Path(self.place)

    @property
    def code(self) -> Path:
        """What the plugin consists of: its folder, or its one file."""
        return self.root / f"{self.module}.py" if self.single_file else self.root


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was meant to be a plugin, and why it cannot be one."""

    plugin_id: str
    """As the manifest says it, or the best guess."""
    path: Path
    error: PlugbusError
    source: str = ""


@dataclass(frozen=True, slots=True)
class Discovery:
    """What one look around found."""

    found: tuple[Discovered, ...] = ()
    refused: tuple[Refusal, ...] = ()
    shadowed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Plugin id → places of further plugins with that id, which an earlier source hides."""


@dataclass(frozen=True, slots=True)
class Source:
    """One place to look in: a folder of plugins, a path that a person named, or entry points."""

    kind: Literal["folder", "path", "entry_points"]
    place: str
    name: str = ""
    """What `PluginMetadata.source` says of plugins from there; the folder itself if empty."""

    @classmethod
    def folder(cls, path: Path | str, name: str = "") -> Source:
        """All plugins in a folder, one level deep."""
        return cls("folder", str(path), name)

    @classmethod
    def named(cls, path: Path | str, name: str = "") -> Source:
        """The plugin that this file or folder is; finding none there is an error."""
        return cls("path", str(path), name)

    @classmethod
    def entry_points(cls, group: str = ENTRY_POINT_GROUP) -> Source:
        """What installed distributions announce."""
        return cls("entry_points", group)
