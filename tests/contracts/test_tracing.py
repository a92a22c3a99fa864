"""W3C trace context: what is taken in, what begins a new trace. The cases are those of its own harness."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.tracing import TraceContext, read_trace, trace_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_good_one_is_taken_in() -> None:
    found = trace_of([GOOD], ["congo=t61rcWkgMzE"])
    assert found == TraceContext(TRACE, SPAN, 1, "congo=t61rcWkgMzE")
    assert found.is_sampled
    assert str(found) == f"{GOOD} congo=t61rcWkgMzE"
    assert read_trace(str(found)) == found
    assert not trace_of([f"00-{TRACE}-{SPAN}-00"], []).is_sampled  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        GOOD[:-1],
        f"{GOOD}0",
        f"{GOOD}.",
        f"{GOOD}-",
        f"{GOOD}-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"000-{TRACE}-{SPAN}-01",
        f".0-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE[:-1]}.-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-.0",
        f"00-{TRACE}-{SPAN}-1",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}",
        f"01-{TRACE}-{SPAN}-01.",
        f"01-{TRACE}-{SPAN}-01what",
        f"cc-{TRACE}-{SPAN}-0",
        f"00-{TRACE}-{SPAN}-01 {GOOD}",
        "ü" * 55,
        f"{GOOD}\n",
    ],
)
def test_what_is_malformed_begins_a_new_trace(parent: str) -> None:
    assert trace_of([parent], []) is None


def test_two_of_them_are_none() -> None:
    """Whichever is right; several `tracestate` are one."""
    assert trace_of([GOOD, GOOD], []) is None
    assert trace_of([], ["foo=1"]) is None
    assert trace_of([GOOD], ["foo=1", "bar=2, rojo=3"]) == TraceContext(TRACE, SPAN, 1, "foo=1,bar=2,rojo=3")


@pytest.mark.parametrize("parent", [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what the future is like"])
def test_a_version_of_the_future_is_read_as_far_as_it_is_known(parent: str) -> None:
    found = trace_of([parent], [])
    assert found == TraceContext(TRACE, SPAN, 1)
    assert found.traceparent.startswith("00-")


def test_flags_that_nobody_knows_are_not_handed_on() -> None:
    """Sampled, and since level 2 that the id is random."""
    assert trace_of([f"00-{TRACE}-{SPAN}-ff"], []) == TraceContext(TRACE, SPAN, 3)


@pytest.mark.parametrize(
    "state",
    [
        "foo",
        "foo=",
        "foo=1,foo=1",
        "foo=1,bar=2,foo=3",
        "foo =1",
        "FOO=1",
        "foo.bar=1",
        "foo@=1,bar=2",
        "@foo=1",
        "foo@@bar=1",
        "foo@bar@baz=1",
        f"{'z' * 257}=1",
        f"{'t' * 242}@v=1",
        f"t@{'v' * 15}=1",
        f"foo={'.' * 257}",
        "foo=bar=baz",
        "foo=,bar=3",
        "1foo=1",
        "foo=é",
        ",".join(f"bar{n}=1" for n in range(33)),
    ],
)
def test_a_state_that_breaks_a_rule_is_left_out(state: str) -> None:
    """The trace goes on all the same."""
    assert trace_of([GOOD], [state]) == TraceContext(TRACE, SPAN, 1, "")


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("", ""),
        ("foo=1,", "foo=1"),
        ("foo=1 \t , \t bar=2,\t,", "foo=1,bar=2"),
        (f"{'z' * 256}=1", f"{'z' * 256}=1"),
        (f"{'t' * 241}@{'v' * 14}=1", f"{'t' * 241}@{'v' * 14}=1"),
        ("foo= 1", "foo= 1"),
        ("1t@v=1", "1t@v=1"),
        (",".join(f"bar{n}=1" for n in range(32)), ",".join(f"bar{n}=1" for n in range(32))),
        ("a-b_c*d/e=~!$%", "a-b_c*d/e=~!$%"),
    ],
)
def test_a_state_of_any_form_that_is_allowed_is_kept(state: str, kept: str) -> None:
    found = trace_of([GOOD], [state])
    assert found is not None
    assert found.state == kept


def test_a_state_of_ten_thousand_characters_is_cut() -> None:
    """Long members first, then from the end; what is left is well-formed."""
    long = f"long={'x' * 200}"
    members = [f"k{n}={'y' * 60}" for n in range(12)]
    found = trace_of([GOOD], [",".join([long, *members])])
    assert found is not None
    assert found.state == ",".join(members[:8])
    assert trace_of([GOOD], ["x" * 10_000]).state == ""  # type: ignore[union-attr]


@given(st.lists(st.text(max_size=80), max_size=3), st.lists(st.text(max_size=600), max_size=3))
def test_nothing_raises_and_what_comes_out_goes_in(parents: list[str], states: list[str]) -> None:
    found = trace_of(parents, states)
    assert found is None or read_trace(str(found)) == found


@given(st.text(alphabet="abc01=,@-_*/ \t~", max_size=700))
def test_a_kept_state_is_kept_again(state: str) -> None:
    found = trace_of([GOOD], [state])
    assert found is not None
    assert trace_of([GOOD], [found.state]) == found
    assert len(found.state) <= 512
