"""The journal of a place, and who shall own what: pure, told by tables."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from bus.redis_streams.journal import Journal
from bus.redis_streams.placement import only, spread
from bus.redis_streams.server import durability_of, warnings_of

LIMITS = (1, 2, 3)


def call_of(journal: Journal, **counts: int) -> list[Any]:
    call = journal.call(LIMITS, counts)
    assert call is not None
    assert call[2:5] == list(LIMITS)
    return call[5:]


def test_what_is_plainly_acknowledged_comes_first() -> None:
    """Then what moves, and only then what may go when that has arrived."""
    journal = Journal("orders")
    journal.bury(b"1-1", {"id": "x"}, b"message", in_lot=False)
    journal.ack_moved(b"1-1")
    journal.leave(b"1-2")
    journal.mark(b"1-1", "")
    journal.ack(b"1-3")
    assert [word for word in call_of(journal, handled=1) if isinstance(word, str) and "{" not in word] == [
        "ack", "bury", "ack", "leave", "mark", "", "count", "handled"
    ]  # fmt: skip


def test_many_are_acknowledged_by_several_operations() -> None:
    """A script hands on a few thousand arguments at most."""
    journal, names = Journal("orders"), [b"1-%d" % n for n in range(1_203)]
    journal.ack_all(names)
    call, sizes, found = call_of(journal), [], []
    while call:
        operation, size, *call = call
        assert operation == "ack"
        sizes.append(size)
        found += call[:size]
        del call[:size]
    assert (sizes, found) == ([500, 500, 203], names)


def test_a_call_is_the_same_until_it_is_confirmed() -> None:
    """With its number; what is noted meanwhile goes into the next."""
    journal = Journal("orders")
    journal.ack(b"1-1")
    first = journal.call(LIMITS, {})
    journal.ack(b"1-2")
    assert journal.call(LIMITS, {}) is first
    assert journal.confirmed([]) == ([], {})
    second = journal.call(LIMITS, {})
    assert (first and first[:2], second and second[:2]) == (["orders", 1], ["orders", 2])
    journal.confirmed([])
    assert (journal.call(LIMITS, {}), journal.is_open) == (None, False)


@pytest.mark.parametrize("operation", ["keep", "bury", "leave", "mark", "done", "ack", "replay", "count"])
def test_what_failed_comes_again(operation: str) -> None:
    """As it was, with what depends on it; the rest is done."""
    journal = Journal("orders")
    journal.ack(b"1-1")
    journal.keep(b"1-2", b"slip", b"message")
    journal.ack_moved(b"1-2")
    journal.bury(b"1-3", {"id": "x"}, b"message", in_lot=True)
    journal.leave(b"1-3")
    journal.mark(b"1-4", "note")
    journal.done("key")
    journal.replay_came("note")
    call = journal.call(LIMITS, {"failed": 2})
    assert call is not None
    at = call.index(operation)
    whys, counts = journal.confirmed([at + 4, b"OOM"])
    assert whys == ["OOM"]
    if operation == "count":
        assert counts == {"failed": 2}
        return
    again = call_of(journal)
    assert operation in again
    depending = {"keep": ["ack", 1, b"1-2"], "bury": ["leave", b"1-3"]}.get(operation, [])
    assert again[len(again) - len(depending) :] == depending if depending else True


def test_entries_of_a_call_under_way_are_known() -> None:
    """Whoever reads the pending list must not take them for new."""
    journal = Journal("orders")
    journal.ack(b"1-1")
    journal.call(LIMITS, {})
    journal.ack(b"1-2")
    assert journal.entries() >= {b"1-1", b"1-2"}


# --- placement ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 7, 8, 20])
def test_shares_are_equal(replicas: int) -> None:
    """No replica has more than one partition more than another could have; all are placed."""
    owners = spread({f"r{number}": 1 for number in range(replicas)}, "shop.handle", 8)
    shares = Counter(owners)
    assert None not in shares
    assert max(shares.values()) == -(-8 // replicas)


def test_who_comes_moves_little() -> None:
    """Of a hundred partitions on four replicas a fifth takes its share, and not many more move."""
    before = spread({f"r{number}": 1 for number in range(4)}, "g", 100)
    after = spread({f"r{number}": 1 for number in range(5)}, "g", 100)
    assert sum(one != other for one, other in zip(before, after, strict=True)) <= 45


def test_only_the_highest_version_owns() -> None:
    """And nobody, where nobody hosts."""
    assert set(spread({"a": 1, "b": 2}, "g", 8)) == {"b"}
    assert spread({}, "g", 2) == [None, None]


def test_an_exclusive_owner_stays() -> None:
    """Whoever owns the lowest partition, as long as it may be."""
    hosts = {"a": 1, "b": 1}
    chosen = only(hosts, {}, "g")
    assert chosen in hosts
    assert only(hosts, {1: "b", 2: "a"}, "g") == "b"
    assert only({"a": 2, "b": 1}, {0: "b"}, "g") == "a"


# --- the server -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "durability"),
    [
        ({"appendonly": "yes", "appendfsync": "always"}, "strong"),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "weak"),
        ({"appendonly": "no", "appendfsync": "always"}, "weak"),
        ({}, "weak"),
    ],
)
def test_durability_is_what_is_in_force(config: dict[str, str], durability: str) -> None:
    """What cannot be read is not taken for granted; what is weak is warned of, with the way out."""
    assert durability_of({}, config) == durability
    warned = any("appendfsync always" in warning for warning in warnings_of({}, config, durability))
    assert warned == (durability == "weak")


def test_an_evicting_server_is_warned_of() -> None:
    """Keys without a time to live are safe from `volatile-*`, and from nothing else."""
    for policy, expected in (("allkeys-lru", True), ("volatile-lru", False), ("noeviction", False)):
        found = warnings_of({}, {"maxmemory-policy": policy}, "strong")
        assert any("noeviction" in warning for warning in found) == expected
