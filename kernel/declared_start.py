"""Which handlers want only new events, told without loading their plugin: where their groups begin.

It cannot be mended afterwards: a group begins where it is made, and that of a lazy plugin is made before its
code is imported. So the source is read for `@on(start="new")`, as it is for class lines.
"""

from __future__ import annotations

import ast
from pathlib import Path

from contracts.base import ON, OnMark

from .bounded import MAX_BYTES, read_bounded
from .discovered import Discovered
from .hosts.reading import members


def begin_new(found: Discovered | type | None) -> frozenset[str]:
    """Names of the handlers that say so. Of a plugin in files: in the module of its class, written out."""
    if isinstance(found, type):
        return _marked(found)
    return frozenset() if found is None else _written(_file_of(found))


def _marked(plugin: type) -> frozenset[str]:
    marks = ((member, getattr(member, ON, None)) for _, member in members(plugin))
    return frozenset(
        mark.name or member.__name__
        for member, mark in marks
        if isinstance(mark, OnMark) and mark.options.start == "new"
    )


def _file_of(found: Discovered) -> Path:
    module = found.root.joinpath(*found.module.split("."))
    return module / "__init__.py" if module.is_dir() else module.with_name(f"{module.name}.py")


def _written(file: Path) -> frozenset[str]:
    """None where it is no code: loading it will say so."""
    try:
        source = read_bounded(file)[:MAX_BYTES]
        tree = ast.parse(source) if b"start" in source else ast.Module([], [])
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    handlers = (node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef))
    calls = ((node, call) for node in handlers for call in node.decorator_list if isinstance(call, ast.Call))
    said = ((node, {word.arg: word.value for word in call.keywords}) for node, call in calls)
    return frozenset(_text(words.get("name")) or node.name for node, words in said if _is_new(words))


def _is_new(words: dict[str | None, ast.expr]) -> bool:
    return _text(words.get("start")) == "new"


def _text(value: ast.expr | None) -> str | None:
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
