"""Patterns: which types they select, which grants cover them, which overlap."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from contracts.errors import InvalidPattern
from contracts.patterns import TypePattern, check_pattern, covered, covers, matches, overlaps

words = st.sampled_from(["a", "b", "kernel"])
types = st.lists(words, min_size=1, max_size=4).map(".".join)
inner = st.lists(st.sampled_from(["a", "b", "*"]), max_size=2)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    if draw(st.integers(0, 9)) == 0:
        return "**"
    last = draw(st.sampled_from(["a", "b", "*", "**"]))
    return ".".join([draw(words), *draw(inner), last])


@pytest.mark.parametrize(
    ("pattern", "selected", "not_selected"),
    [
        ("orders.placed", ["orders.placed"], ["orders", "orders.placed.x", "orders.paid"]),
        ("orders.*", ["orders.placed"], ["orders", "orders.a.b", "users.a"]),
        ("orders.**", ["orders.a", "orders.a.b"], ["orders", "users.a"]),
        ("orders.*.done", ["orders.a.done"], ["orders.a.b", "orders.done", "orders.a.b.done"]),
        ("**", ["orders", "orders.a.b"], ["kernel.x", "plugin.x.y", "audit.a", "bus.b"]),
        ("kernel.**", ["kernel.started"], ["plugin.started"]),
    ],
)
def test_what_a_pattern_selects(pattern: str, selected: list[str], not_selected: list[str]) -> None:
    """`*` is exactly one word, `**` one or more at the end; alone it leaves the reserved topics out."""
    assert all(matches(pattern, name) for name in selected)
    assert not any(matches(pattern, name) for name in not_selected)


@pytest.mark.parametrize(
    "bad", ["", "*", "orders.", ".a", "a.**.b", "a..b", "A.b", "a b", "a.*x", "***", "*.a"]
)
def test_what_is_no_pattern_is_refused_with_the_forms(bad: str) -> None:
    """The error shows what can be written."""
    with pytest.raises(InvalidPattern) as caught:
        check_pattern(bad)
    assert "orders.**" in caught.value.fix


@given(st.text("aB_1.*- ", max_size=8))
def test_the_schema_of_a_pattern_says_what_one_is(text: str) -> None:
    """Exactly what is not refused fits the JSON Schema."""
    fits = re.search(TypeAdapter(TypePattern).json_schema()["pattern"], text) is not None
    try:
        check_pattern(text)
    except InvalidPattern:
        assert not fits
    else:
        assert fits


@given(patterns(), patterns(), types)
def test_a_grant_covers_only_what_it_selects(grant: str, pattern: str, name: str) -> None:
    """Whatever a covered pattern selects, the grant selects."""
    if covers(grant, pattern) and matches(pattern, name):
        assert matches(grant, name)


@given(patterns(), patterns(), types)
def test_patterns_that_share_a_type_overlap(one: str, other: str, name: str) -> None:
    """A denied pattern is found in every wider one."""
    if matches(one, name) and matches(other, name):
        assert overlaps(one, other)
        assert overlaps(other, one)


def test_two_open_patterns_of_different_length_overlap() -> None:
    """`**` is as long as the other one needs; a closed pattern must be long enough for it."""
    assert overlaps("a.**", "a.a.**")
    assert overlaps("a.b.**", "a.**")
    assert not overlaps("a.**", "b.a.**")
    assert not overlaps("a.b", "a.b.**")
    assert overlaps("a.b.c", "a.b.**")


def test_covering_is_reflexive_and_by_any_grant() -> None:
    """A pattern covers itself; one of several grants is enough."""
    for pattern in ("a.b", "a.*", "a.**", "**", "a.*.c"):
        assert covers(pattern, pattern)
    assert covered(["x.y", "a.**"], "a.*")
    assert not covered(["x.y", "a.*"], "a.**")
    assert not covered(["**"], "kernel.started")
