"""Finding plugins and reading their manifests. Nothing of a plugin is imported or run here."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

from contracts.errors import ManifestError

from .candidates import CLASS_FILES, from_entry_point, from_manifest, look_at
from .collector import rarely_collected
from .discovered import ENTRY_POINT_GROUP, Discovered, Discovery, Refusal, Source
from .manifest import MANIFEST_NAMES, Problem, manifest_error, metadata_of, read_manifest
from .manifest_index import ManifestIndex, now
from .manifest_problems import as_plugin_id
from .manifest_reader import cannot_be_read
from .plugin_source import plain_classes

T = TypeVar("T")
_Look = tuple[str, Discovered | Callable[[], Discovered | None]]
"""The text of a path, and what is known to be there, or how to find out."""

LOOKS = 3
"""How often a plugin is looked at whose files go away meanwhile, before that is an error."""


class PluginDiscovery:
    """Finds plugins, and never runs their code.

    With an `index` it does not read again what lies in a folder and has not changed; without, it keeps
    nothing between two calls.
    """

    def __init__(self, index: ManifestIndex | None = None) -> None:
        self._index = index

    def discover_all(self, sources: Iterable[Source]) -> Discovery:
        """Look into several sources. The first plugin with an id is it; later ones are `shadowed`.

        What was refused does not hide a good plugin of the same id in a later source.
        """
        found: dict[str, Discovered] = {}
        refused: list[Refusal] = []
        shadowed: defaultdict[str, list[str]] = defaultdict(list)
        for source in sources:
            discovery = self.discover(source)
            refused += discovery.refused
            for plugin in discovery.found:
                first = found.setdefault(plugin.plugin_id, plugin)
                if first.metadata.file_path != plugin.metadata.file_path:
                    shadowed[plugin.plugin_id].append(plugin.metadata.file_path)
        places = {plugin_id: tuple(paths) for plugin_id, paths in shadowed.items()}
        return Discovery(tuple(found.values()), tuple(refused), places)

    def discover(self, source: Source) -> Discovery:
        """Look into one source."""
        if source.kind == "folder":
            return self.discover_from_directory(source.place, source.name)
        if source.kind == "path":
            return self._discover_named(source.place, source.name)
        return self.discover_from_entry_points(source.place)

    def discover_from_directory(self, path: Path | str, source: str = "") -> Discovery:
        """The plugins that lie in a folder, one level deep, in the order of their names.

        A plugin is a folder with a manifest file, a folder whose `plugin.py` or `__init__.py` holds a
        plugin class, or a `.py` file that holds one. Names that begin with `.` or `_` are passed over, and
        so is what is no plugin. A folder that has a manifest itself is one plugin, and so is a file.
        """
        folder, source = Path(path).absolute(), source or str(path)
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 - a Path for each of a thousand is too slow
        except NotADirectoryError:
            return self._discover_named(path, source)
        except OSError as error:
            problem = manifest_error(folder, [cannot_be_read(folder, error)])
            return Discovery(refused=(_refusal(folder, problem, source),))
        if not set(names).isdisjoint(MANIFEST_NAMES):
            return _collect([self._look(str(folder), source)], source)
        beginning = os.path.join(folder, "")  # noqa: PTH118 - the text of a Path costs more than a Path
        shown = [name for name in names if name[0] not in "._"]
        with rarely_collected():
            return _collect((self._look(beginning + name, source) for name in shown), source)

    def discover_path(self, path: Path | str, source: str = "") -> Discovered:
        """The plugin that this file or folder is. Raises `ManifestError`, also where it is none."""
        target = _target(path)
        found = _read(target, partial(look_at, target, source or str(path)))
        if found is None:
            raise manifest_error(target, [_no_plugin(target)])
        return found

    def discover_from_metadata(self, file: Path | str, source: str = "") -> Discovered:
        """The plugin of one manifest file. Raises `ManifestError`."""
        path = Path(file).absolute()
        return _read(path, partial(from_manifest, path, source or str(path.parent)))

    def discover_from_entry_points(self, group: str = ENTRY_POINT_GROUP) -> Discovery:
        """The plugins that installed distributions announce; their packages are not imported."""
        points = sorted(set(entry_points(group=group)), key=lambda point: (point.name, point.value))
        return _collect(
            ((point.name, partial(self.discover_entry_point, point)) for point in points),
            "entry points",
        )

    def discover_entry_point(self, entry_point: EntryPoint) -> Discovered:
        """The plugin that one entry point names. Raises `ManifestError`."""
        source = f"entry point {entry_point.name}"
        return _read(Path(entry_point.name), partial(from_entry_point, entry_point, source))

    def _look(self, place: str, source: str) -> _Look:
        """What the index knows of the path `place`, or how to find out."""
        if self._index is None:
            return place, partial(look_at, Path(place), source)
        if known := self._index.get(place, source):
            return place, known
        return place, partial(self._look_anew, self._index, place, source)

    def _look_anew(self, index: ManifestIndex, place: str, source: str) -> Discovered | None:
        began = now()
        found = look_at(Path(place), source, is_marked=True)
        if found is not None:
            index.put(place, source, found, began)
        return found

    def _discover_named(self, path: Path | str, source: str) -> Discovery:
        target, source = _target(path), source or str(path)
        discovery = _collect([(str(target), partial(look_at, target, source))], source)
        if target.is_dir() and discovery == Discovery():
            discovery = self.discover_from_directory(target, source)
        if discovery == Discovery():
            error = manifest_error(target, [_no_plugin(target)])
            return Discovery(refused=(_refusal(target, error, source),))
        return discovery


def _target(path: Path | str) -> Path:
    """The plugin's folder, where its manifest or the file of its class was named."""
    target = Path(path).absolute()
    is_inside = target.name in (*MANIFEST_NAMES, *CLASS_FILES) and target.is_file()
    return target.parent if is_inside else target


def _read(path: Path, look: Callable[[], T]) -> T:
    """What `look` finds; once more where a file went away between being listed and being read."""
    for left in range(LOOKS - 1, -1, -1):
        try:
            return look()
        except FileNotFoundError as error:
            if not left:
                raise _unreadable(path, error) from None
        except OSError as error:
            raise _unreadable(path, error) from None
    raise AssertionError("the last look returns or raises")


def _unreadable(path: Path, error: OSError) -> ManifestError:
    """The file itself is named where it is one inside the plugin."""
    inner = Path(error.filename) if isinstance(error.filename, str) else path
    return manifest_error(path, [cannot_be_read(inner if path in inner.parents else path, error)])


def _collect(looks: Iterable[_Look], source: str) -> Discovery:
    """What one source holds; the second plugin with an id is refused, because neither hides the other."""
    found: dict[str, Discovered] = {}
    refused = []
    for place, look in looks:
        try:
            plugin = look if isinstance(look, Discovered) else _read(Path(place), look)
            if plugin and found.setdefault(plugin.plugin_id, plugin) is not plugin:
                raise _same_id(found[plugin.plugin_id], plugin)
        except ManifestError as error:
            refused.append(_refusal(Path(place), error, source))
    return Discovery(tuple(found.values()), tuple(refused))


def _refusal(path: Path, error: ManifestError, source: str) -> Refusal:
    return Refusal(_guess_id(path, error), path, error, source)


def _guess_id(path: Path, error: ManifestError) -> str:
    """The id that the manifest gives, if it can be read that far; else one made from the name."""
    said = error.details.get("plugin_id")
    return said if isinstance(said, str) and said.isidentifier() else as_plugin_id(path.stem)


def _same_id(first: Discovered, second: Discovered) -> ManifestError:
    here, there = second.metadata.file_path, first.metadata.file_path
    text = f"the id '{second.plugin_id}' is taken by {there}"
    problem = Problem(text, "give one of the two another plugin_id, or remove it")
    return manifest_error(Path(here), [problem], plugin_id=second.plugin_id)


def _no_plugin(path: Path) -> Problem:
    fix = 'class Name(BasePlugin, plugin_id="…", version="1.0.0"), or a folder with a plugin.toml'
    text = f"no plugin found in '{path.name}'"
    if path.is_file() and (others := plain_classes(path)):
        text += f", only {' and '.join(others[:3])}, which derives from no BasePlugin"
        fix = f'class {others[0]}(BasePlugin, plugin_id="…", version="1.0.0"):'
    return Problem(text, fix)


__all__ = [
    "Discovered",
    "Discovery",
    "PluginDiscovery",
    "Refusal",
    "Source",
    "metadata_of",
    "read_manifest",
]
