"""Which test keeps which row of the fault matrix: read from the docstrings, `python tests/faults/rows.py`.

B1 to B44 are faults with an exact outcome, F1 to F36 the failure modes of buses on Redis. A test names its
rows in brackets at the end of its docstring.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
FOLDERS = (FOLDER, FOLDER.parent / "redis")
WANTED = (
    *(f"B{number}" for number in range(1, 45)),
    *(f"F{number}" for number in range(1, 37)),
    "NOSCRIPT",
)
_ROW = r"(?:[BF]\d+|NOSCRIPT)"
_ROWS = re.compile(rf"\[({_ROW}(?:,?\s+{_ROW})*)\]")


def rows() -> dict[str, list[str]]:
    """Row → the tests that name it, as `file::test`."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for folder in FOLDERS:
        for file in sorted(folder.glob("test_*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                    for names in _ROWS.findall(ast.get_docstring(node) or ""):
                        for name in re.split(r",?\s+", names):
                            found[name].append(f"{file.relative_to(FOLDER.parent)}::{node.name}")
    return dict(found)


def table() -> str:
    """In Markdown."""
    known = rows()
    lines = ["| row | kept by |", "|---|---|"]
    for row in WANTED:
        tests = [
            test.replace("faults/", "").replace("::test_", ": ").replace("_", " ")
            for test in known.get(row, [])
        ]
        lines.append(f"| {row} | {'; '.join(tests)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
