"""Every row of the fault matrix is kept by a test, and the guide says by which."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rows import WANTED, rows, table


def test_every_row_has_a_test() -> None:
    """B1 to B44, F1 to F36, NOSCRIPT."""
    known = rows()
    assert [row for row in WANTED if row not in known] == []


def test_the_table_of_the_guide_is_that_of_the_tests() -> None:
    """It is made by `python tests/faults/rows.py`."""
    text = (Path(__file__).resolve().parent / "README.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- rows -->")[2].partition("<!-- /rows -->")[0]
    assert shown.strip() == table()
