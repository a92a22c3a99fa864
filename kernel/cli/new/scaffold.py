"""From a name to files: which there will be, what is in them, and writing them all or not at all."""

import keyword
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from string import Template

from pydantic import TypeAdapter, ValidationError

from contracts.metadata import PluginId
from contracts.patterns import RESERVED_TOPICS

from ...finding import BUILT_IN_DEFAULTS
from ...manifest_problems import as_plugin_id
from ...version import plugbus_version
from ..errors import CommandError, usage

FILE = {"{module}.py": "file/plugin.py", "test_{module}.py": "file/test_plugin.py"}
PACKAGE = {
    "pyproject.toml": "package/pyproject.toml",
    "README.md": "package/README.md",
    "CHANGELOG.md": "package/CHANGELOG.md",
    ".gitignore": "package/gitignore",
    ".github/workflows/ci.yml": "package/ci.yml",
    ".github/workflows/publish.yml": "package/publish.yml",
    "src/{module}/__init__.py": "package/src/__init__.py",
    "src/{module}/py.typed": "package/src/py.typed",
    "src/{module}/events.py": "package/src/events.py",
    "src/{module}/plugin.py": "package/src/plugin.py",
    "tests/test_{plugin_id}.py": "package/tests/test_plugin.py",
}
"""The files of a plugin and the templates that they are made of."""


@dataclass(frozen=True)
class Plan:
    """What will be written: path below the folder that was named → text."""

    plugin_id: str
    single_file: bool
    files: Mapping[PurePosixPath, str]

    def next_steps(self, into: Path) -> tuple[str, ...]:
        """The commands that an author will want now."""
        if self.single_file:
            file, test = (shlex.quote(str(into / path)) for path in self.files)
            return f"plugbus test {test}", f"plugbus dev {file}"
        return (f"cd {shlex.quote(str(into / self.plugin_id))}", "pip install -e '.[test]'", "plugbus test")


def plan(name: str, *, single_file: bool) -> Plan:
    """Everything that a new plugin consists of. Raises `CommandError` for a name that will not do."""
    check_name(name, single_file=single_file)
    words = words_of(name, single_file=single_file)
    return Plan(
        name, single_file, filled(FILE if single_file else PACKAGE, words, "" if single_file else name)
    )


def words_of(name: str, *, single_file: bool) -> dict[str, str]:
    """What the templates say of a plugin of this name."""
    # A package of the plugin's bare name would sooner or later stand in the way of another distribution.
    return {
        "plugin_id": name,
        "module": name if single_file else f"plugbus_{name}",
        "distribution": f"plugbus-{name.replace('_', '-')}",
        "class_name": "".join(word.capitalize() for word in name.split("_")),
        "title": name.replace("_", " ").capitalize(),
        "plugbus_range": _range(plugbus_version()),
        "more_requirements": "",
    }


def filled(templates: Mapping[str, str], words: Mapping[str, str], folder: str) -> dict[PurePosixPath, str]:
    """Path below `folder` → template, with `words` in both."""
    place = files(__package__) / "templates"
    return {
        PurePosixPath(folder) / path.format(**words): Template(
            (place / f"{template}.template").read_text(encoding="utf-8")
        ).substitute(words)
        for path, template in templates.items()
    }


def write(plan: Plan, into: Path) -> None:
    """Write all files below `into`, or none. Raises `CommandError`, also where one of them is there."""
    targets = [into / path for path in plan.files]
    whole = targets if plan.single_file else [into / plan.plugin_id]
    if there := [path for path in whole if path.exists() or path.is_symlink()]:
        raise CommandError(
            "exists", f"'{there[0]}' is there already", fix="another name, or another folder with --into"
        )
    made: list[Path] = []
    try:
        for target, text in zip(targets, plan.files.values(), strict=True):
            _make_folder(target.parent, made)
            with target.open("x", encoding="utf-8", newline="\n") as file:
                made.append(target)
                file.write(text)
    except OSError as error:
        for path in reversed(made):
            path.rmdir() if path.is_dir() else path.unlink()
        text = f"'{error.filename}' cannot be written: {error.strerror}"
        raise CommandError(
            "cannot-write", text, fix="name a folder that you may write to with --into"
        ) from None


def _make_folder(folder: Path, made: list[Path]) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent, made)
        folder.mkdir()
        made.append(folder)


def check_name(name: str, *, single_file: bool) -> None:
    try:
        TypeAdapter(PluginId).validate_python(name)
    except ValidationError:
        allowed = "lower-case words of a-z and 0-9, the first letter no digit, joined by single underscores"
        raise usage(f"'{name}' is no plugin id: {allowed}", f"for example '{as_plugin_id(name)}'") from None
    if name in BUILT_IN_DEFAULTS:
        raise usage(f"'{name}' is a plugin that comes with Plugbus", f"for example 'my_{name}'")
    if name in RESERVED_TOPICS:  # `kernel.asked` could be published by nobody but the kernel
        raise usage(f"'{name}' is the first word of what Plugbus itself says", f"for example 'my_{name}'")
    taken = keyword.iskeyword(name) or name in sys.stdlib_module_names or name in OURS
    if single_file and taken:
        raise usage(
            f"'{name}.py' cannot be imported: Python or Plugbus has that name", f"for example 'my_{name}'"
        )


OURS = ("plugbus", "contracts", "bus", "kernel", "plugins")


def _range(version: str) -> str:
    """The versions that a plugin written for `version` may expect to work with."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return f">={major}.{minor},<{major + 1}" if major else f">=0.{minor},<0.{minor + 1}"
