"""A distribution that is being written: the plugins that its `pyproject.toml` announces."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

from contracts.errors import ManifestError

from .candidates import from_entry_point
from .discovered import ENTRY_POINT_GROUP, Discovered, Discovery, Refusal
from .modules import submodule
from .project_file import PROJECT_FILE, project_of, requirements_in


def announced_by(folder: Path) -> tuple[EntryPoint, ...]:
    """The entry points of plugins in a folder's `pyproject.toml`. Raises `ManifestError`."""
    project = project_of(folder)
    groups = project.get("entry-points", {})
    group = groups.get(ENTRY_POINT_GROUP, {}) if isinstance(groups, dict) else {}
    points = group.items() if isinstance(group, dict) else ()
    return tuple(EntryPoint(name, str(value), ENTRY_POINT_GROUP) for name, value in points)


def discover_from_project(folder: Path) -> Discovery:
    """Those plugins, read where their source lies: below `src`, or beside `pyproject.toml`."""
    folder = folder.absolute()
    found: list[Discovered] = []
    refused: list[Refusal] = []
    find = partial(submodule, (folder / "src", folder))
    requirements = requirements_in(project_of(folder))
    for point in announced_by(folder):
        try:
            plugin = from_entry_point(point, str(folder), find)
            found.append(replace(plugin, requirements=requirements))
        except ManifestError as error:
            refused.append(Refusal(point.name, folder / PROJECT_FILE, error, str(folder)))
    return Discovery(tuple(found), tuple(refused))
