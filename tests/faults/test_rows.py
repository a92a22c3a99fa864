"""Every row of the fault matrix is kept by a test, and the guide says by which."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rows import WANTED, names_in, rows, strangers, table


def test_every_row_has_a_test() -> None:
    """B1 to B44, F1 to F36, NOSCRIPT."""
    known = rows()
    assert [row for row in WANTED if row not in known] == []


def test_every_failure_mode_has_a_control() -> None:
    """F1 to F36, NOSCRIPT: one of the tests of each fails on what many people would write."""
    known = rows()
    failure_modes = [row for row in WANTED if row[0] != "B"]
    assert [row for row in failure_modes if not any(test.is_control for test in known[row])] == []


def test_nothing_else_is_named() -> None:
    """A label that no row has would be dropped without a word, and its row be kept by nobody."""
    assert strangers() == []


def test_names_stand_at_the_end_of_paragraphs() -> None:
    """With commas or without, before a full stop or behind one; unknown ones are seen as well."""
    assert names_in("Nothing is lost [B1 F2].") == ["B1", "F2"]
    assert names_in("Nothing is lost. [B1, BUS 4]\n\n[R7]") == ["B1", "BUS", "4", "R7"]
    assert names_in("The list [1, 2] is kept.\n\n[B1]") == ["B1"]
    assert names_in("It may be [B1] or not.") == []


def test_the_table_of_the_guide_is_that_of_the_tests() -> None:
    """It is made by `python tests/faults/rows.py`."""
    text = (Path(__file__).resolve().parent / "README.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- rows -->")[2].partition("<!-- /rows -->")[0]
    assert shown.strip() == table()
