"""What a `pyproject.toml` says that concerns plugins: their entry points, and what they require."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli

from .bounded import MAX_BYTES, ReadFile, read_bounded
from .manifest_problems import MAX_DEPTH, Problem, manifest_error
from .manifest_reader import cannot_be_read, has_deep_key

PROJECT_FILE = "pyproject.toml"


def project_of(folder: Path, read: ReadFile = read_bounded) -> Mapping[str, Any]:
    """The table `project` of a folder's `pyproject.toml`, empty if there is none. Raises `ManifestError`."""
    file = folder / PROJECT_FILE
    if not file.is_file():
        return {}
    try:
        said = _parsed(read(file))
    except OSError as error:
        raise manifest_error(file, [cannot_be_read(file, error)]) from None
    except (ValueError, RecursionError) as error:  # not TOML, or not UTF-8
        raise manifest_error(file, [Problem(f"this cannot be read as TOML: {error}", "mend it")]) from None
    project = said.get("project", {})
    return project if isinstance(project, dict) else {}


def _parsed(content: bytes) -> dict[str, Any]:
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
    text = content.decode("utf-8")
    if has_deep_key(text):
        raise ValueError(f"a key has more than {MAX_DEPTH} parts")
    return tomli.loads(text)


def requirements_in(project: Mapping[str, Any]) -> tuple[str, ...]:
    """The distributions that a project needs, as they are written there."""
    said = project.get("dependencies", ())
    return tuple(map(str, said)) if isinstance(said, list) else ()
