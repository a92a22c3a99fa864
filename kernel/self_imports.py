"""A plugin imports itself relatively; an absolute import would bring in a second copy.

That copy would never be reloaded, and its classes would not be those of the running generation.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from contracts.errors import PluginLoadError

from .modules import locate

_STATEMENT = re.compile(r"\bfrom[ \t\f]+([\w.][\w. \t\f]*)\bimport\b|\bimport[ \t\f]+(\w[\w., \t\f]*)")
"""`from MODULE import`, or `import MODULE as NAME, MODULE …`; on one line: comments may end in either."""


@dataclass(frozen=True, slots=True)
class _Import:
    """One name that an import statement brings in."""

    line: int
    module: str
    name: str | None
    """None: `import module`."""
    alias: str | None


def may_import_itself(source: str, code: Path) -> bool:
    """Whether an absolute import in `source` could lead into the plugin `code` (its folder or file).

    Hardly ever, and then no syntax tree is made to look at each statement. Read from the text, so what only
    looks like an import counts as well.
    """
    whole = os.path.realpath(code)
    return any(_could_lead_into(whole, name) for name in _first_words(source))


def _first_words(source: str) -> set[str]:
    """The first word of every module that `source` imports; none where that is relative."""
    lines = (line for line in source.replace("\\\n", " ").split("\n") if "import" in line)
    statements = _STATEMENT.findall("\n".join(lines))
    modules = (module for one, several in statements for module in (one or several).split(","))
    words = (module.split()[0].partition(".")[0] for module in modules if module.strip())
    return {word for word in words if word}


def _could_lead_into(code: str, name: str) -> bool:
    """Whether the module `name`, or one below it, may lie in `code`."""
    location = locate(name)
    if location is None:
        return False
    if location.file is None:  # a namespace: its portions may be links to anywhere
        return True
    place = _real(str(location.file.parent if location.folders else location.file))
    return _is_in(place, code) or (bool(location.folders) and _is_in(code, place))


@lru_cache(256)
def _real(place: str) -> str:
    """Where it really is; kept, because every plugin imports the same few libraries."""
    return os.path.realpath(place)


def _is_in(place: str, folder: str) -> bool:
    return place == folder or place.startswith(f"{folder}{os.sep}")


def check_imports(tree: ast.Module, file: Path, code: Path) -> None:
    """Raise `PluginLoadError` if `file` of the plugin `code` (its folder or file) imports itself absolutely.

    Only what would really be found there counts; imports for type checkers alone do not.
    """
    known: dict[str, Path | None] = {}
    here, whole = file.resolve(), code.resolve()
    for found in _imports(tree):
        if target := _within(found, whole, known):
            raise PluginLoadError(
                f"'{_statement(found)}' would import a second copy of the plugin itself",
                where=f"{file}:{found.line}",
                fix=_instead(found, *target, here, whole),
            )


def relative_import(target: Path, file: Path, root: Path, name: str = "…") -> str:
    """The line by which `file` imports `name` from the module `target`, both below `root`."""
    dots = "." * (len(file.parent.relative_to(root).parts) + 1)
    module = target.parent if target.name == "__init__.py" else target.with_suffix("")
    return f"from {dots}{'.'.join(module.relative_to(root).parts)} import {name}"


def _imports(tree: ast.AST) -> Iterator[_Import]:
    for node in _run_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _Import(node.lineno, alias.name, None, alias.asname)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for alias in node.names:
                yield _Import(node.lineno, node.module, alias.name, alias.asname)


def _run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING:`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def _within(found: _Import, code: Path, known: dict[str, Path | None]) -> tuple[Path, bool] | None:
    """The place in the plugin that the import would find, and whether its last name is a module there."""
    names = (
        {found.module: False, f"{found.module}.{found.name}": True} if found.name else {found.module: True}
    )
    for name, is_module in reversed(names.items()):
        if name not in known:
            known[name] = _place(name, code)
        if place := known[name]:
            return place, is_module
    return None


def _place(name: str, code: Path) -> Path | None:
    location = locate(name)
    if location is None:
        return None
    places = (location.file,) if location.file else location.folders
    return next((place for each in places if (place := each.resolve()).is_relative_to(code)), None)


def _statement(found: _Import) -> str:
    if found.name is None:
        return f"import {found.module}"
    return f"from {found.module} import {found.name}"


def _instead(found: _Import, target: Path, is_module: bool, file: Path, code: Path) -> str:
    if code.is_file():
        return "remove the import: what it names stands in this very file"
    name, package = found.name or "…", code / "__init__.py"
    if is_module and target not in (code, package):
        module = target.parent if target.name == "__init__.py" else target
        name, target = module.stem, module.parent / "__init__.py"
    elif target in (code, package):
        name, target = "…" if is_module else name, package
    alias = f" as {found.alias}" if found.alias else ""
    return f"write '{relative_import(target, file, code, name)}{alias}'"
