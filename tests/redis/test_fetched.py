"""What a fetch has brought is sorted out: by kind, by what can be read, by whether numbers follow."""

from __future__ import annotations

from typing import Any

import pytest

from bus.redis_streams.fetched import OutOfLine, sort_out
from bus.redis_streams.packing import pack
from contracts.message import Message


def entry(number: int, type: str = "orders.placed", *, ms: int = 7, **more: Any) -> list[Any]:
    """As Redis gives it."""
    message = Message(f"id-{number}", "/shop", type, 1, 1_000_000_007, None, b'{"n": 1}', **more)
    kind, head, data, line = pack(message)
    return [b"%d-%d" % (ms, number), [b"t", kind, b"h", head, b"d", data, b"b", line]]


def wants_orders(kind: bytes) -> bool:
    return kind.startswith(b"orders.")


def test_messages_come_in_order_with_their_places() -> None:
    found = sort_out([entry(4), entry(5), entry(6, ms=9)], 3, wants_orders)
    assert [message.entry for message in found.messages] == [b"7-4", b"7-5", b"9-6"]
    assert [message.sequence for message in found.messages] == [7 << 64 | 4, 7 << 64 | 5, 9 << 64 | 6]
    assert (found.skipped, found.gone, found.rest, found.has_expiry) == ([], 0, [], False)


def test_what_nobody_wants_is_left_out_and_counts_all_the_same() -> None:
    found = sort_out([entry(1), entry(2, "stock.low"), entry(3)], 0, wants_orders)
    assert [message.id for message in found.messages] == ["id-1", "id-3"]
    assert found.skipped == [b"7-2"]
    assert sort_out([entry(1, "stock.low"), entry(2)], 0, wants_orders).messages[0].id == "id-2"


def test_nothing_is_nothing() -> None:
    assert sort_out([], 4, wants_orders) == ([], [], 0, [], False)


def test_an_expiry_is_noticed() -> None:
    assert sort_out([entry(1), entry(2, expires_ns=2_000_000_007)], 0, wants_orders).has_expiry


@pytest.mark.parametrize(
    "entries",
    [
        [entry(5), entry(7)], [entry(6)], [entry(4)], [entry(5), entry(5)], [[b"7-5x", entry(5)[1]]],
        [[b"7-+5", entry(5)[1]]], [[b"7-5-6", entry(5)[1]]], [[b"no name", entry(5)[1]]],
        [[b"7-", entry(5)[1]]], [[b"-5", entry(5)[1]]], [[b"7-5-6", entry(5)[1]], [b"7", entry(6)[1]]],
        [[b"5-", entry(5)[1]], [b"-6", entry(6)[1]]],
    ],
    ids=[
        "one is missing", "the first is missing", "once more", "twice", "not a number", "a sign",
        "three numbers", "no name", "half a name", "the other half", "three and one", "two halves",
    ],
)  # fmt: skip
def test_numbers_that_do_not_follow_are_refused(entries: list[Any]) -> None:
    with pytest.raises(OutOfLine):
        sort_out(entries, 4, wants_orders)


def test_numbers_of_what_is_not_ours_mean_nothing() -> None:
    """Somebody else's entry has a name of its own, and what follows it is not judged."""
    stranger = [b"8-0", [b"hello", b"world"]]
    found = sort_out([entry(5), stranger, entry(9, ms=9)], 4, wants_orders)
    assert [message.id for message in found.messages] == ["id-5"]
    assert found.rest == [stranger, entry(9, ms=9)]
    assert sort_out([entry(9)], 0, wants_orders).messages


def test_what_was_deleted_unsettled_is_acknowledged_and_counted() -> None:
    found = sort_out([entry(5), [b"7-6", None], entry(7)], 4, wants_orders)
    assert (found.skipped, found.gone) == ([b"7-6"], 1)
    assert [message.id for message in found.messages] == ["id-5", "id-7"]
    unnumbered = sort_out([entry(5), [b"8-0", None], entry(6, ms=9)], 4, wants_orders)
    assert [message.id for message in unnumbered.messages] == ["id-5", "id-6"]


def test_what_is_damaged_holds_back_what_follows() -> None:
    """Also where nobody wants its kind: whether that is what it says is not sure."""
    damaged = entry(6, "stock.low")
    damaged[1][5] = b'{"n": 2}'
    found = sort_out([entry(5), damaged, entry(7)], 4, wants_orders)
    assert [message.id for message in found.messages] == ["id-5"]
    assert found.rest == [damaged, entry(7)]
