"""Where the source of a module is, found step by step without running any of its parents."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Location:
    """The folders (several for a namespace package) or the file that a dotted name stands for."""

    file: Path | None
    """The module's file, `__init__.py` for a package; None for a namespace package."""
    folders: tuple[Path, ...] = ()
    """Where its submodules are; empty for a plain module."""


def locate(name: str) -> Location | None:
    """The place of the module `name` among what can be imported, or None if it has no source there.

    `importlib.util.find_spec` would do for a name without dots only: for the others it imports, and so
    runs, every parent.
    """
    top, _, rest = name.partition(".")
    found = _top(top)
    return submodule(found.folders, rest) if found and rest else found


def submodule(folders: Iterable[Path], dotted: str) -> Location | None:
    """The module `dotted` below a package that lies in `folders`."""
    found: Location | None = Location(None, tuple(folders))
    for word in dotted.split("."):
        found = below(found.folders, word) if found else None
    return found


def below(folders: Iterable[Path], word: str) -> Location | None:
    """The submodule `word` of a package that lies in `folders`."""
    portions = []
    for folder in folders:
        package = folder / word
        if (package / "__init__.py").is_file():
            return Location(package / "__init__.py", (package,))
        if (folder / f"{word}.py").is_file():
            return Location(folder / f"{word}.py")
        if package.is_dir():
            portions.append(package)
    return Location(None, tuple(portions)) if portions else None


def _top(name: str) -> Location | None:
    if name in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: a module that was imported without a spec
        return None
    if spec is None:
        return None
    folders = tuple(Path(folder) for folder in spec.submodule_search_locations or ())
    has_source = spec.has_location and spec.origin is not None and spec.origin.endswith(".py")
    file = Path(spec.origin) if has_source and spec.origin else None
    return Location(file, folders) if file or folders else None
