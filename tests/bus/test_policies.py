"""The pure policies: retry, backoff, the idempotency window, what is retained."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.groups import GroupPartition
from bus.memory.partition import Partition
from bus.policy.retry import backoff, judge
from bus.window import IdWindow
from contracts.bus import BusLimits, Dead, Parked, RetryPolicy
from contracts.errors import ErrorInfo, InvalidEvent
from contracts.message import Message

PLAIN = RetryPolicy(attempts=3, first_delay=2, factor=3, max_delay=10, jitter=0)
ERROR = ErrorInfo(type="ValueError")
SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("attempt", "error", "after", "wanted"),
    [
        (1, ERROR, None, Parked(102, ERROR)),
        (2, ERROR, None, Parked(106, ERROR)),
        (3, ERROR, None, Dead("attempts", ERROR)),
        (7, ERROR, 1, Dead("attempts", ERROR)),
        (1, ERROR, 50, Parked(150, ERROR)),
        (1, ERROR, -5, Parked(100, ERROR)),
        (1, ERROR.model_copy(update={"retry_after": 30}), None, 130),
        (1, ERROR.model_copy(update={"retry_after": 30}), 50, 150),
        (1, ErrorInfo.of(InvalidEvent("no")), None, "schema"),
        (1, ErrorInfo(type="x.Mine", bases=("contracts.errors.InvalidEvent",)), None, "schema"),
        (1, ErrorInfo(type="other.InvalidEvent"), None, 102),
    ],
)
def test_the_retry_policy_decides(attempt: int, error: ErrorInfo, after: float | None, wanted: Any) -> None:
    """Error and attempt in, outcome out."""
    found = judge(PLAIN, error, attempt, now=100, random=Random(1), after=after)  # noqa: S311 - to be repeatable
    if isinstance(wanted, Parked | Dead):
        assert found == wanted
    elif isinstance(wanted, str):
        assert isinstance(found, Dead)
        assert found.reason == wanted
    else:
        assert isinstance(found, Parked)
        assert found.due == wanted


@given(
    st.integers(1, 10_000),
    st.floats(0, 100),
    st.floats(1, 10),
    st.floats(0, 1_000),
    st.floats(0, 1),
    st.integers(),
)
def test_backoff_is_bounded_and_never_shortened(
    attempt: int, first: float, factor: float, most: float, jitter: float, seed: int
) -> None:
    """Between the plain pause and that much jitter more, whatever the attempt."""
    policy = RetryPolicy(first_delay=first, factor=factor, max_delay=most, jitter=jitter)
    try:
        plain = min(first * factor ** (attempt - 1), most)
    except OverflowError:
        plain = most
    assert plain <= backoff(policy, attempt, Random(seed)) <= plain * (1 + jitter) * 1.000001  # noqa: S311 - to be repeatable


def test_the_window_remembers_at_least_its_time_and_count() -> None:
    """And at most twice of either."""
    window = IdWindow(seconds=10, count=3, at_least=0)
    assert window.find("s", "a", 100) is None
    window.remember("s", "a", "p1")
    assert window.find("s", "a", 109) == "p1"
    assert window.find("other", "a", 109) is None
    assert window.find("s", "a", 131) is None
    for number in range(9):
        assert window.find("s", f"b{number}", 140) is None
        window.remember("s", f"b{number}", "p")
        assert window.find("s", f"b{max(0, number - 2)}", 140) == "p"
    assert window.find("s", "b0", 140) is None


def test_the_window_is_never_shorter_than_a_publish_is_repeated() -> None:
    """However many ids come."""
    window = IdWindow(seconds=10, count=3, at_least=5)
    for number in range(50):
        window.find("s", f"a{number}", 100)
        window.remember("s", f"a{number}", "p")
    assert window.find("s", "a0", 104) == "p"


def message(n: int = 0, key: str | None = None) -> Message:
    return Message(f"m{n}", "/test", "orders.item", 1, 0, None, b"{}", key)


def part(limit: int = 100) -> GroupPartition:
    return GroupPartition("shop.handle", "orders", 0, "handle", order="key", lot_limit=limit)


def fill(partition: Partition, count: int, now: int) -> None:
    for _ in range(count):
        new = message()
        new.sequence = partition.end
        partition.messages.append(new)
        partition.stamp(new.sequence, now)


def test_messages_are_numbered_without_gaps_through_trimming() -> None:
    """The base moves, the numbers go on."""
    partition = Partition("orders", 0, BusLimits(retain=3, young_seconds=0))
    fill(partition, 5, 10 * SECOND)
    partition.trim(20 * SECOND)
    fill(partition, 2, 20 * SECOND)
    assert [kept.sequence for kept in partition.messages] == [2, 3, 4, 5, 6]
    assert [kept.sequence for kept in partition.read(4)] == [4, 5, 6]
    assert (partition.base, partition.end) == (2, 7)


@pytest.mark.parametrize(
    ("limits", "now", "kept"),
    [
        (BusLimits(retain=4), 10, 10),  # all young
        (BusLimits(retain=4), 200, 4),
        (BusLimits(retain=4, limit=16), 10, 8),  # the young are kept up to half of the limit
        (BusLimits(retain_seconds=100), 90, 10),
        (BusLimits(retain_seconds=100), 200, 0),
        (BusLimits(retain=100), 10_000, 10),
    ],
)
def test_retention(limits: BusLimits, now: int, kept: int) -> None:
    """Count, age, and the protection of the young."""
    partition = Partition("orders", 0, limits)
    fill(partition, 10, 5 * SECOND)
    partition.trim(now * SECOND)
    assert len(partition.messages) == kept


def test_nothing_is_trimmed_that_a_group_still_needs() -> None:
    """What waits or runs holds the log; what is parked does not."""
    partition, holder = Partition("orders", 0, BusLimits(retain=1, young_seconds=0)), part()
    partition.parts.append(holder)
    fill(partition, 5, SECOND)
    holder.backlog.extend(partition.messages[1:])
    partition.trim(99 * SECOND)
    assert partition.base == 1
    [first] = holder.take(1)
    partition.trim(99 * SECOND)
    assert (partition.base, partition.holder()) == (1, holder)
    holder.park(first, 1_000.0, None)
    partition.trim(99 * SECOND)
    assert partition.base == 2


def test_a_slot_goes_on_with_its_head_only() -> None:
    """Two parked of one key: the first alone is due, then the second."""
    state = part()
    first, second, third = (message(n, "k") for n in range(3))
    for number, each in enumerate((first, second, third)):
        each.sequence = number
        state.backlog.append(each)
    one, two, three = state.take(10)
    state.park(one, 5.0, ERROR)
    assert state.is_blocked(two)
    state.queue_behind(two)
    state.queue_behind(three)
    assert (state.take(10), state.lot.parked, state.lot.next_due) == ([], 3, 5.0)
    state.release_due(4.0)
    assert not state.has_work
    state.release_due(5.0)
    [again] = state.take(10)
    assert (again.message, again.attempt, state.take(10)) == (first, 2, [])
    state.park(again, 9.0, ERROR)
    state.release_due(9.0)
    [last] = state.take(10)
    assert last.attempt == 3
    state.remove(last)
    [following] = state.take(10)
    assert (following.message, following.attempt) == (second, 1)


def test_a_settlement_counts_once() -> None:
    """What is settled, handed back or taken over cannot be settled again."""
    state = part()
    state.backlog.append(message())
    [delivery] = state.take(1)
    state.take_over(None)
    assert not state.remove(delivery)
    assert not state.park(delivery, 1.0, None)
    assert not state.queue_behind(delivery)
    state.give_back(delivery)
    assert (state.stale, state.waiting, state.open) == (3, 1, 0)
    [suspect] = state.take(5)
    assert suspect.entry is not None
    assert suspect.entry.suspect
