"""Routing: the trie selects what the patterns say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.topics import PatternIndex, may_select
from contracts.errors import InvalidPattern
from contracts.patterns import matches, topic_of

words = st.sampled_from(["a", "b", "bus", "kernel"])
types = st.lists(words, min_size=1, max_size=4).map(".".join)
patterns = st.one_of(
    st.just("**"),
    types,
    st.builds(
        lambda head, middle, end: ".".join([head, *middle, end]),
        words,
        st.lists(st.one_of(words, st.just("*")), max_size=2),
        st.sampled_from(["*", "**", "a"]),
    ),
)


@given(st.lists(patterns, max_size=8), types)
def test_the_index_finds_what_the_patterns_select(known: list[str], type_name: str) -> None:
    """The same answer as asking each pattern, each target once."""
    index: PatternIndex[int] = PatternIndex()
    for number, pattern in enumerate(known):
        index.add(pattern, number)
    wanted = {number for number, pattern in enumerate(known) if matches(pattern, type_name)}
    found = index.find(type_name)
    assert set(found) == wanted
    assert len(found) == len(wanted)


@given(st.lists(patterns, max_size=8), st.data())
def test_what_is_discarded_is_not_found(known: list[str], data: st.DataObject) -> None:
    """Removing in any order leaves the others; removing everything leaves nothing."""
    index: PatternIndex[int] = PatternIndex()
    pairs = list(zip(known, range(len(known)), strict=True))
    for pair in pairs:
        index.add(*pair)
    for pair in data.draw(st.permutations(pairs)):
        index.discard(*pair)
        index.discard(*pair)
        pairs.remove(pair)
        for type_name in ("a", "a.b", "kernel.a", "b.a.b"):
            assert set(index.find(type_name)) == {
                number for pattern, number in pairs if matches(pattern, type_name)
            }
    assert index.is_empty


@given(patterns, types)
def test_a_pattern_may_select_in_the_topics_of_the_types_that_it_selects(
    pattern: str, type_name: str
) -> None:
    """No group misses a topic."""
    if matches(pattern, type_name):
        assert may_select(pattern, topic_of(type_name))


def test_a_bad_pattern_is_refused() -> None:
    """And changes nothing."""
    index: PatternIndex[int] = PatternIndex()
    with pytest.raises(InvalidPattern):
        index.add("*.a", 1)
    assert index.is_empty
