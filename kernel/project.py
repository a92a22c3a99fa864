"""A distribution that is being written: the plugins that its `pyproject.toml` announces."""

from __future__ import annotations

import tomllib
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

from contracts.errors import ManifestError

from .candidates import from_entry_point
from .discovered import ENTRY_POINT_GROUP, Discovered, Discovery, Refusal
from .manifest import Problem, manifest_error
from .manifest_reader import cannot_be_read
from .modules import submodule

PROJECT_FILE = "pyproject.toml"


def announced_by(folder: Path) -> tuple[EntryPoint, ...]:
    """The entry points of plugins in a folder's `pyproject.toml`. Raises `ManifestError`."""
    file = folder / PROJECT_FILE
    if not file.is_file():
        return ()
    try:
        said = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise manifest_error(file, [cannot_be_read(file, error)]) from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise manifest_error(file, [Problem(f"this is not TOML: {error}", "mend it")]) from None
    project = said.get("project", {})
    groups = project.get("entry-points", {}) if isinstance(project, dict) else {}
    group = groups.get(ENTRY_POINT_GROUP, {}) if isinstance(groups, dict) else {}
    points = group.items() if isinstance(group, dict) else ()
    return tuple(EntryPoint(name, str(value), ENTRY_POINT_GROUP) for name, value in points)


def discover_from_project(folder: Path) -> Discovery:
    """Those plugins, read where their source lies: below `src`, or beside `pyproject.toml`."""
    folder = folder.absolute()
    found: list[Discovered] = []
    refused: list[Refusal] = []
    find = partial(submodule, (folder / "src", folder))
    for point in announced_by(folder):
        try:
            found.append(from_entry_point(point, str(folder), find))
        except ManifestError as error:
            refused.append(Refusal(point.name, folder / PROJECT_FILE, error, str(folder)))
    return Discovery(tuple(found), tuple(refused))
