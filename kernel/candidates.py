"""One candidate for a plugin: a file, a folder or an entry point, read without running it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from contracts.errors import ManifestError

from .discovered import PACKAGE, Discovered
from .fingerprint import Fingerprint, fingerprint
from .manifest import (
    Manifest,
    Problem,
    build_metadata,
    manifest_error,
    manifest_in,
    no_plugin_id,
    read_manifest,
)
from .manifest_problems import suggestion
from .manifest_reader import cannot_be_read
from .modules import Location, locate, submodule
from .plugin_files import PluginFiles, TooLarge
from .plugin_source import PluginClass, find_plugin_class, plugin_classes
from .project_file import PROJECT_FILE, project_of, requirements_in

Find = Callable[[str], Location | None]

CLASS_FILES = ("plugin.py", "__init__.py")
"""Where the class of a folder is looked for when no manifest names it."""
MAX_ENTRY_POINT = 500
_NOT_THERE = (errno.ENOTDIR, errno.ENOENT, errno.ELOOP)


def look_at(path: Path, source: str, *, is_marked: bool = False) -> Discovered | None:
    """The plugin that a file or folder is, or None where it is none. Raises `ManifestError`, `OSError`.

    `is_marked`: with marks, by which changes are seen later.
    """
    try:
        files = PluginFiles(path, is_marked=is_marked)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        _refuse_if_meant(path, error)
        return None
    if files.is_folder:
        return _folder(files, source)
    return _single_file(files, source) if path.suffix == ".py" else None


def from_manifest(file: Path, source: str) -> Discovered:
    """The plugin of a manifest file; its code lies beside it. Raises `ManifestError`, `OSError`."""
    manifest = read_manifest(file)
    return _with_manifest(manifest, PluginFiles(file.parent), source)


def _refuse_if_meant(path: Path, error: OSError) -> None:
    """A name that leads to nothing is an error where it is a link, or the file of a plugin."""
    if path.is_symlink() and not path.exists():
        problem = Problem(f"'{path.name}' is a link that leads nowhere", "mend or remove the link")
        raise manifest_error(path, [problem])
    if path.suffix == ".py":
        raise manifest_error(path, [cannot_be_read(path, error)])


def _folder(files: PluginFiles, source: str) -> Discovered | None:
    found = _found_in(files, source)
    if found is not None and PROJECT_FILE in files.names:  # few have one: it is read once more
        return replace(found, requirements=requirements_in(project_of(files.root, files.read)))
    return found


def _found_in(files: PluginFiles, source: str) -> Discovered | None:
    if manifest := manifest_in(files.root, files.names):
        return _with_manifest(read_manifest(manifest, files.read), files, source)
    for name in CLASS_FILES:
        file = files.root / name
        if name in files.names and (found := find_plugin_class(file, files.read)):
            return _with_class(found, file, files, file.stem, source)
    return None


def _single_file(files: PluginFiles, source: str) -> Discovered | None:
    file = files.root
    found = find_plugin_class(file, files.read)
    return _with_class(found, file, files, file.stem, source) if found else None


def _with_manifest(manifest: Manifest, files: PluginFiles, source: str) -> Discovered:
    """A folder with a manifest, whose `entry_point` is relative to it."""
    problems: list[Problem] = []
    written = manifest.data.get("entry_point")
    if written is None:
        entry_point = _class_of_folder(manifest, files, problems)
    else:
        entry_point = _module_of_folder(manifest, files, str(written), problems)
    prints = _fingerprint(files)
    filled = _filled(prints, manifest.path, source, {"entry_point": entry_point} if entry_point else {})
    metadata = build_metadata(manifest, extra=problems, filled=filled)
    module, _, class_name = metadata.entry_point.partition(":")
    return Discovered(metadata, str(files.root), module, class_name, marks=prints.marks)


def _class_of_folder(manifest: Manifest, files: PluginFiles, problems: list[Problem]) -> str:
    """The one plugin class of a folder whose manifest does not name it."""
    own = f"{manifest.data.get('plugin_id')}.py"
    for name in dict.fromkeys((*CLASS_FILES, own)):
        if name in files.names:
            classes = plugin_classes(files.root / name, files.read)
            if len(classes) == 1:
                return f"{name.removesuffix('.py')}:{classes[0].name}"
    problems.append(Problem("'entry_point' is missing", manifest.example("entry_point", "module:Class")))
    return ""


def _module_of_folder(manifest: Manifest, files: PluginFiles, written: str, problems: list[Problem]) -> str:
    """`written`, where its module exists; a folder named like the module may hold the class itself."""
    module, _, class_name = written.partition(":")
    if len(written) <= MAX_ENTRY_POINT and f"{module}.py" in files.names:
        return ""  # as nearly always; the model says it where the words are wrong
    if not all(word.isidentifier() for word in module.split(".")) or not class_name:
        return ""  # the model says what is wrong with it
    if len(written) > MAX_ENTRY_POINT:
        text = f"'entry_point' is longer than {MAX_ENTRY_POINT} characters"
        problems.append(Problem(text, manifest.example("entry_point", "module:Class")))
        return ""
    folder = files.root
    location = submodule([folder], module)
    if location is not None and location.file is not None:
        return ""
    if module == PACKAGE or (module == folder.name and (folder / "__init__.py").is_file()):
        return f"{PACKAGE}:{class_name}"
    meant = suggestion(module, [Path(name).stem for name in files.names])
    text = f"'entry_point' names the module '{module}', but there is no '{module.replace('.', '/')}.py'"
    fix = manifest.example("entry_point", f"{meant or 'module'}:{class_name}")
    problems.append(Problem(text, fix, manifest.line_of(("entry_point",))))
    return ""


def _with_class(found: PluginClass, file: Path, files: PluginFiles, module: str, source: str) -> Discovered:
    """A plugin whose manifest stands in its class line."""
    manifest = found.manifest(file, f"{module}:{found.name}")
    prints = _fingerprint(files)
    metadata = build_metadata(manifest, extra=found.problems, filled=_filled(prints, file, source, {}))
    root = files.root if files.is_folder else file.parent
    single = not files.is_folder
    return Discovered(metadata, str(root), module, found.name, single_file=single, marks=prints.marks)


def _fingerprint(files: PluginFiles) -> Fingerprint:
    try:
        return fingerprint(files)
    except TooLarge as error:
        fix = "keep data, environments and build results out of a plugin's folder"
        raise manifest_error(
            files.root, [Problem(f"the folder is too large for a plugin: {error}", fix)]
        ) from None


def _filled(prints: Fingerprint, file: Path, source: str, more: dict[str, Any]) -> dict[str, Any]:
    found = {"source": source, "file_path": str(file)}
    return {**found, "size_bytes": prints.size, "checksum": prints.checksum, **more}


# --- entry points ---------------------------------------------------------------------------------


def from_entry_point(point: EntryPoint, source: str, find: Find = locate) -> Discovered:
    """The plugin that an entry point names, without importing its package. Raises `ManifestError`.

    `find` tells where a module is: by default among what is installed.
    """
    module, class_name = _parts(point)
    location = find(module)
    if location is None or location.file is None:
        raise _entry_point_error(
            point, f"its module '{module}' has no source that can be found", "reinstall it"
        )
    file = location.file
    root = _top_package(module, location, find)
    if root is None:
        files = PluginFiles(file)
        found = _class_named(plugin_classes(file, files.read), class_name, file)
        discovered = _with_class(found, file, files, file.stem, source)
    else:
        discovered = _in_package(file, root, class_name, source)
    return _named(discovered, point)


def _parts(point: EntryPoint) -> tuple[str, str]:
    module, _, class_name = point.value.partition("[")[0].strip().partition(":")
    module, class_name = module.strip(), class_name.strip()
    if not all(word.isidentifier() for word in module.split(".")) or not (class_name or "x").isidentifier():
        raise _entry_point_error(
            point, f"'{point.value}' is not 'package.module:Class'", "mend and reinstall it"
        )
    return module, class_name


def _top_package(module: str, location: Location, find: Find) -> Path | None:
    """The outermost real package of a module: within it, relative imports must work. None: it has none."""
    words = module.split(".")
    for count in range(1, len(words)):
        parent = find(".".join(words[:count]))
        if parent is not None and parent.file is not None:
            return parent.file.parent
    return location.folders[0] if location.folders else None


def _in_package(file: Path, root: Path, class_name: str, source: str) -> Discovered:
    inner = file.relative_to(root).with_suffix("").parts
    module = ".".join(inner[:-1] if len(inner) > 1 and inner[-1] == PACKAGE else inner)
    manifest_file = manifest_in(file.parent)
    files = PluginFiles(root)
    if manifest_file is None:
        found = _class_named(plugin_classes(file, files.read), class_name, file)
        return _with_class(found, file, files, module, source)
    manifest = read_manifest(manifest_file, files.read)
    class_name = class_name or str(manifest.data.get("entry_point", "")).rpartition(":")[2]
    named = {"entry_point": f"{module}:{class_name}"}
    filled = _filled(_fingerprint(files), manifest_file, source, named)
    return Discovered(build_metadata(manifest, filled=filled), str(root), module, class_name)


def _class_named(classes: Sequence[PluginClass], name: str, file: Path) -> PluginClass:
    found = next((one for one in classes if one.name == name or (not name and one.has_id)), None)
    if found is None:
        text = f"there is no plugin class '{name}' here, and no manifest file beside it"
        raise manifest_error(file, [Problem(text, f'class {name or "Name"}(BasePlugin, plugin_id="…", …)')])
    if not found.has_id:
        raise manifest_error(file, [no_plugin_id(found.name, found.line)])
    return found


def _named(found: Discovered, point: EntryPoint) -> Discovered:
    requires = tuple(point.dist.requires or ()) if point.dist else ()
    return replace(found, entry_point_name=point.name, requirements=requires)


def _entry_point_error(point: EntryPoint, text: str, fix: str) -> ManifestError:
    owner = f" of the distribution {point.dist.name}" if point.dist else ""
    return ManifestError(text, where=f"entry point {point.name}{owner}", fix=fix)
