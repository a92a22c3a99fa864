"""Manifests: what one says, checked as a whole, and every problem of it in one error."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from contracts.metadata import PluginMetadata
from contracts.patterns import RESERVED_TOPICS

from .manifest_problems import FILLED_IN, Manifest, Problem, manifest_error, problems_of, too_deep
from .manifest_reader import read_manifest

_BUILT_IN = Path(__file__).resolve().parent.parent / "plugins"
MANIFEST_NAMES = ("plugin.toml", "plugin.json", "plugin.yaml", "plugin.yml", "metadata.json")
_SHORT = 2_000
"""Characters of a manifest in which no number is too long to be shown."""


def build_metadata(
    manifest: Manifest, *, extra: Iterable[Problem] = (), filled: Mapping[str, Any] | None = None
) -> PluginMetadata:
    """Check everything that a manifest says; `filled` is what discovery knows besides.

    Raises one `ManifestError` for all problems, those in `extra` included.
    """
    _require_writable(manifest)
    problems = [_may_not_stand_there(key, manifest) for key in FILLED_IN if key in manifest.data]
    metadata = None
    try:
        metadata = PluginMetadata.model_validate({**manifest.data, **(filled or {})})
    except ValidationError as error:
        problems += problems_of(error, manifest)
    except RecursionError:
        problems.append(too_deep())
    problems += extra
    if str(manifest.data.get("plugin_id")) in RESERVED_TOPICS and _BUILT_IN not in manifest.path.parents:
        problems.append(_reserved(manifest))
    if metadata is None or problems:
        raise manifest_error(manifest.path, problems, plugin_id=str(manifest.data.get("plugin_id", "")))
    return metadata


def metadata_of(cls: type, **more: Any) -> PluginMetadata:
    """The metadata of a plugin class that is already imported.

    They stand in its class keywords, or in the manifest file beside its module; `more` completes or
    replaces what they say. Raises `ManifestError`.
    """
    manifest = _manifest_of(cls)
    written = {"entry_point": _entry_point_of(cls), **(manifest.data if manifest else {}), **more}
    place = manifest.path if manifest else Path(_file_of(cls) or cls.__module__)
    if "plugin_id" not in written:
        raise manifest_error(place, [no_plugin_id(cls.__name__)])
    whole = Manifest(place, written, "python") if manifest is None else replace(manifest, data=written)
    return build_metadata(whole, filled={"source": "class", "file_path": str(place)})


def _manifest_of(cls: type) -> Manifest | None:
    """The class keywords, or the file beside the module if that is the manifest of this class."""
    file = _file_of(cls)
    if keywords := getattr(cls, "__manifest__", None):
        return Manifest(Path(file or cls.__module__), keywords, "python")
    beside = manifest_in(Path(file).parent) if file else None
    manifest = read_manifest(beside) if beside else None
    named = str(manifest.data.get("entry_point", "")).rpartition(":")[2] if manifest else ""
    return manifest if named in ("", cls.__name__) else None


def _file_of(cls: type) -> str:
    return getattr(sys.modules.get(cls.__module__), "__file__", None) or ""


def _entry_point_of(cls: type) -> str:
    module = cls.__module__.rpartition(".")[2]
    return f"{module}:{cls.__name__}" if module.isidentifier() else ""


def manifest_in(folder: Path, names: Collection[str] | None = None) -> Path | None:
    """The manifest file of a folder (`names`: what is in it); `ManifestError` where there are two."""
    present = [file.name for file in folder.iterdir()] if names is None else names
    found = [name for name in MANIFEST_NAMES if name in present]
    if len(found) > 1 and found[1] != "metadata.json":
        text = f"the folder has two manifests, {found[0]} and {found[1]}"
        raise manifest_error(folder / found[1], [Problem(text, f"keep one of them, {found[0]} for example")])
    return folder / found[0] if found else None


def no_plugin_id(class_name: str, line: int | None = None) -> Problem:
    """What is wrong with a plugin class that has neither class keywords nor a manifest file."""
    fix = f'class {class_name}(BasePlugin, plugin_id="…", version="1.0.0"), or a plugin.toml beside it'
    return Problem(f"the plugin class {class_name} does not say its plugin_id", fix, line)


def _reserved(manifest: Manifest) -> Problem:
    name = str(manifest.data["plugin_id"])
    fix = manifest.example("plugin_id", f"my_{name}")
    return Problem(f"'{name}' is a word of the kernel's own", fix, manifest.line_of(("plugin_id",)))


def _require_writable(manifest: Manifest) -> None:
    """Refuse values that can be read and never be shown: halves of a character, numbers without end."""
    if manifest.style != "python" and "\\" not in manifest.text and len(manifest.text) < _SHORT:
        return
    try:
        json.dumps(dict(manifest.data), ensure_ascii=False, default=str, skipkeys=True).encode()
    except UnicodeEncodeError as error:
        text = f"{error.object[error.start]!a} is half of a character"
        raise manifest_error(manifest.path, [Problem(text, "write the whole character")]) from None
    except ValueError:
        text = "a number has too many digits"
        raise manifest_error(manifest.path, [Problem(text, "write a smaller number, or a string")]) from None
    except RecursionError:
        raise manifest_error(manifest.path, [too_deep()]) from None


def _may_not_stand_there(key: str, manifest: Manifest) -> Problem:
    return Problem(f"'{key}' is filled in by Plugbus", f"remove '{key}'", manifest.line_of((key,)))


__all__ = [
    "MANIFEST_NAMES",
    "Manifest",
    "Problem",
    "build_metadata",
    "manifest_error",
    "manifest_in",
    "metadata_of",
    "no_plugin_id",
    "read_manifest",
]
