"""The names of attributes that OpenTelemetry's semantic conventions know, as they are installed."""

from __future__ import annotations

import ast
import functools
import pkgutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import opentelemetry.semconv._incubating.attributes as incubating
import opentelemetry.semconv.attributes as stable

OURS = "plugbus."
"""Prefix of what we say beside the conventions."""


def not_in_force(names: Iterable[str]) -> set[str]:
    """Those that the conventions do not know, or do not want any more."""
    return {name for name in names if not name.startswith(OURS) and name not in in_force()}


@functools.cache
def in_force() -> frozenset[str]:
    # What has become stable is called deprecated where it came from.
    found = {name for name, _ in _attributes(stable)}
    found |= {name for name, text in _attributes(incubating) if not text.strip().startswith("Deprecated")}
    return frozenset(found)


def _attributes(package: ModuleType) -> Iterator[tuple[str, str]]:
    """Name and description, as each module has them one below the other."""
    for module in pkgutil.iter_modules(package.__path__):
        tree = ast.parse((Path(package.__path__[0]) / f"{module.name}.py").read_text())
        for told, text in zip(tree.body, tree.body[1:], strict=False):
            match told, text:
                case ast.AnnAssign(value=ast.Constant(str(name))), ast.Expr(ast.Constant(str(description))):
                    yield name, description
