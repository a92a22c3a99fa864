"""What Python source says of a plugin without being run: its class and the manifest in its class line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .bounded import MAX_BYTES, ReadFile, read_bounded
from .manifest import Manifest, Problem, manifest_error, no_plugin_id
from .manifest_reader import cannot_be_read

_BASE = "BasePlugin"
_ENUMS = ("SecurityLevel", "Permission")
_MODULE = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True, slots=True)
class PluginClass:
    """A class that is a plugin as far as its source tells: it derives from `BasePlugin`, or has an id."""

    name: str
    line: int
    keywords: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def has_id(self) -> bool:
        return "plugin_id" in self.lines

    def manifest(self, path: Path, entry_point: str) -> Manifest:
        """The class line as a manifest. Raises `ManifestError` where its file is named like no module."""
        _require_module_name(path)
        return Manifest(path, {"entry_point": entry_point, **self.keywords}, "python", lines=self.lines)


def find_plugin_class(path: Path, read: ReadFile = read_bounded) -> PluginClass | None:
    """The plugin class with an id in its class line, or None where the file has no plugin class at all.

    Raises `ManifestError` for a file that cannot be read or parsed, and for several plugins in one.
    """
    classes = plugin_classes(path, read)
    named = [found for found in classes if found.has_id]
    if len(named) > 1:
        names = " and ".join(f"{found.name} (line {found.line})" for found in named)
        text = f"one file is one plugin, this one has {names}"
        raise manifest_error(
            path, [Problem(text, f"move {named[1].name} to a file of its own", named[1].line)]
        )
    if classes and not named:
        raise manifest_error(path, [no_plugin_id(classes[-1].name, classes[-1].line)])
    return named[0] if named else None


def plugin_classes(path: Path, read: ReadFile = read_bounded) -> Sequence[PluginClass]:
    """All plugin classes of a file, in order. Raises `ManifestError` as `find_plugin_class`."""
    try:
        source = read(path)
    except OSError as error:
        raise manifest_error(path, [cannot_be_read(path, error)]) from None
    if _BASE.encode() not in source and b"plugin_id" not in source:
        return ()  # most files are no plugins, and need not be parsed to know it
    if len(source) > MAX_BYTES:
        problem = Problem(f"the file is larger than {MAX_BYTES >> 20} MiB", "keep data in files of their own")
        raise manifest_error(path, [problem])
    return tuple(_classes(_parse(source, path)))


def plain_classes(path: Path) -> list[str]:
    """The names of all classes of a file, for whoever looks for a plugin there; none where it is no code."""
    try:
        tree = ast.parse(read_bounded(path)[:MAX_BYTES])
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def _parse(source: bytes, path: Path) -> ast.Module:
    try:
        return ast.parse(source, str(path))
    except SyntaxError as error:
        problem = Problem(f"syntax error: {error.msg}", "mend the syntax there", error.lineno or None)
    except (ValueError, RecursionError, MemoryError) as error:
        problem = Problem(f"this is not Python: {error or 'nested too deeply'}", "mend the syntax")
    raise manifest_error(path, [problem])


def _classes(tree: ast.Module) -> Iterator[PluginClass]:
    bases = {_BASE}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            bases |= {name.asname for name in node.names if name.name == _BASE and name.asname}
        elif isinstance(node, ast.ClassDef):
            found = _read_class(node)
            if found.has_id or any(_name(base) in bases for base in node.bases):
                bases.add(node.name)
                yield found


def _name(base: ast.expr) -> str:
    if isinstance(base, ast.Subscript):
        base = base.value
    return base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")


def _read_class(node: ast.ClassDef) -> PluginClass:
    found = PluginClass(node.name, node.lineno)
    problems = []
    for keyword in node.keywords:
        key = keyword.arg or "**"
        if key == "metaclass":
            continue
        found.lines[key] = keyword.value.lineno
        try:
            found.keywords[key] = ast.literal_eval(_Literal().visit(keyword.value))
        except (ValueError, TypeError, RecursionError):
            text = f"'{key}' is not a literal, and the class line is read without running it"
            problems.append(Problem(text, f"write the value of '{key}' out", keyword.value.lineno))
    return PluginClass(node.name, node.lineno, found.keywords, found.lines, tuple(problems))


def _require_module_name(file: Path) -> None:
    if not _MODULE.fullmatch(file.stem):
        near = re.sub(r"\W+", "_", file.stem, flags=re.ASCII).strip("_")
        near = near if _MODULE.fullmatch(near) else f"plugin_{near}".rstrip("_")
        fix = f"rename it, for example to '{near}.py'"
        raise manifest_error(file, [Problem(f"'{file.stem}' is no name of a Python module", fix)])


class _Literal(ast.NodeTransformer):
    """`SecurityLevel.TRUSTED` is as good as its name."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id in _ENUMS:
            return ast.copy_location(ast.Constant(node.attr), node)
        return node
