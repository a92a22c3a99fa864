"""Which test keeps which row of the fault matrix: read from the docstrings, `python tests/faults/rows.py`.

B1 to B44 are faults with an exact outcome, F1 to F36 the failure modes of buses on Redis. A test names its
rows in brackets at the end of its docstring, or of a paragraph of it; what else stands in such a bracket is a
mistake.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
FOLDERS = (FOLDER, FOLDER.parent / "redis")
WANTED = (
    *(f"B{number}" for number in range(1, 45)),
    *(f"F{number}" for number in range(1, 37)),
    "NOSCRIPT",
)
_BRACKET = re.compile(r"\[([^\[\]]*)\]\.?$")
"""At the end of a paragraph."""


_CONTROLLED = {"fails_on_naive", "controlled"}
"""Marks of tests that are run on the naive bus as well, where they must fail."""


class Test(NamedTuple):
    file: str
    name: str
    rows: list[str]
    """What stands in the brackets of its docstring."""
    is_control: bool
    """It fails on the naive bus, or says what that does wrong."""

    def __str__(self) -> str:
        return f"{self.file}::{self.name}"

    @property
    def title(self) -> str:
        file = self.file.replace("faults/", "").replace("_", " ")
        title = self.name.removeprefix("test_").replace("_", " ")
        return f"{file}: {title}{' *' if self.is_control else ''}"


def tests() -> Iterator[Test]:
    """All of them."""
    for folder in FOLDERS:
        for file in sorted(folder.glob("test_*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                    names = names_in(ast.get_docstring(node) or "")
                    is_control = file.stem == "test_controls" or bool(_CONTROLLED & _marks(node))
                    yield Test(str(file.relative_to(FOLDER.parent)), node.name, names, is_control)


def rows() -> dict[str, list[Test]]:
    """Row → the tests that name it."""
    found: defaultdict[str, list[Test]] = defaultdict(list)
    for test in tests():
        for name in test.rows:
            found[name].append(test)
    return {row: found[row] for row in WANTED if row in found}


def strangers() -> list[str]:
    """What stands in brackets at the end of a paragraph and is no row, with the test."""
    return [f"{test}: {name}" for test in tests() for name in test.rows if name not in WANTED]


def names_in(docstring: str) -> list[str]:
    """`Nothing is lost. [B1, F2]` → B1, F2."""
    ends = map(_BRACKET.search, docstring.split("\n\n"))
    return [name for end in ends if end for name in re.split(r",\s*|\s+", end[1])]


def _marks(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Names of its decorators."""
    calls = (mark.func if isinstance(mark, ast.Call) else mark for mark in node.decorator_list)
    return {mark.id for mark in calls if isinstance(mark, ast.Name)}


def table() -> str:
    """In Markdown; a star stands behind those that fail on the naive bus."""
    known = rows()
    titles = {row: "; ".join(test.title for test in known.get(row, [])) for row in WANTED}
    return "\n".join(
        ["| row | kept by |", "|---|---|", *(f"| {row} | {kept} |" for row, kept in titles.items())]
    )


if __name__ == "__main__":
    print(table())
