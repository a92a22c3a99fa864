"""Messages as they lie in Redis, names of entries, positions: pure, told by tables."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.redis_streams.layout import Keys, entry_of, order_of, position_of, sequence_of
from bus.redis_streams.packing import (
    Damaged,
    Fields,
    StoredMessage,
    Undecodable,
    fields_of,
    is_intact,
    named,
    pack,
    pack_plain,
    packed,
    read_time,
    unpack,
    unpacked,
    write_time,
)
from bus.redis_streams.positions import read_position, read_receipt, write_position
from bus.redis_streams.unreadable import raw_of, stored_message, unreadable
from contracts.errors import InvalidOption
from contracts.message import Message

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
MAYBE = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ENTRY = b"1764301234567-17"
NOW_NS = 1_764_301_234_567_890_123


def message(**changes: object) -> Message:
    given = {
        "id": "e1",
        "source": "/shop",
        "type": "orders.item",
        "version": 2,
        "time_ns": 1_764_301_234_567_890_123,
    }
    return Message(**{**given, "event": None, "data": b'{"n":1}', **changes})  # type: ignore[arg-type]


ATTRIBUTES = ("id", "source", "type", "version", "time_ns", "key", "subject", "expires_ns", "correlationid",
              "causationid", "depth", "path", "data")  # fmt: skip


@given(
    id=TEXT, source=TEXT, key=MAYBE, subject=MAYBE, correlationid=MAYBE, causationid=MAYBE,
    data=st.binary(max_size=200), depth=st.integers(0, 100), path=st.lists(TEXT, max_size=3).map(tuple),
    expires_ns=st.none() | st.integers(0, 4_000_000_000_000_000_000),
    time_ns=st.integers(0, 4_000_000_000_000_000_000),
)  # fmt: skip
def test_a_message_is_read_as_it_was_written(depth: int, path: tuple[str, ...], **attributes: object) -> None:
    """Whatever characters its attributes have, and whatever bytes its data are."""
    written = message(depth=depth, path=path if depth else (), **attributes)
    again = unpack(named(pack(written)), ENTRY)
    for name in ATTRIBUTES:
        assert getattr(again, name) == getattr(written, name), name
    assert (again.entry, again.sequence) == (ENTRY, order_of(ENTRY))
    fields, entry = unpacked(packed(pack(written), ENTRY))
    assert (fields, entry) == (pack(written), ENTRY)


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("trace", [f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'b' * 16}-00 v=1,w=x y"])
def test_the_span_that_has_sent_it_travels_along(depth: int, trace: str) -> None:
    """With or without a chain before it, into the lot and out again; an event without one has none."""
    written = message(depth=depth, path=("a.b", "c.d") if depth else (), trace=trace)
    again = unpack(named(pack(written)), ENTRY)
    assert (again.trace, again.depth, again.path) == (trace, depth, written.path)
    fields, entry = unpacked(packed(pack(written), ENTRY))
    assert unpack(named(fields), entry).trace == trace
    assert unpack(named(pack(message())), ENTRY).trace is None


def test_foreign_attributes_stay() -> None:
    """Extensions, trace context, another content type."""
    extra = {"tenant": "blue", "rank": 3, "traceparent": "00-a-b-01", "datacontenttype": "text/plain"}
    assert unpack(named(pack(message(extra=extra))), ENTRY).extra == extra


def test_the_short_form_is_the_long_one() -> None:
    """What most events are written with is what `pack` would have written."""
    plain = message(version=1)
    assert pack_plain("e1", "/shop", plain.time_ns, b"orders.item@1", b'{"n":1}') == pack(plain)


def altered(at: int, value: bytes) -> Fields:
    fields = list(pack(message()))
    fields[at] = value
    return tuple(fields)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (altered(2, b'{"n":2}'), Damaged),
        (altered(0, b"orders.item@3"), Damaged),
        (altered(1, b"{}"), Damaged),
        (altered(3, b"no checksum"), Undecodable),
        (altered(3, b""), Undecodable),
    ],
)
def test_what_was_changed_on_the_way_is_noticed(fields: Fields, error: type[Exception]) -> None:
    """A checksum that is wrong may be damage; one that is none is somebody else's."""
    with pytest.raises(error):
        unpack(named(fields), ENTRY)


@pytest.mark.parametrize(
    "head", ["no json", "[]", "{}", '{"id":1,"source":"/s","time":"2026-01-01T00:00:00Z"}',
             '{"id":"a","source":"","time":"2026-01-01T00:00:00Z"}', '{"id":"a","source":"/s","time":"noon"}',
             '{"id":"a","source":"/s"}'],
)  # fmt: skip
def test_half_an_event_cannot_be_read(head: str) -> None:
    """Attributes that are missing, or none: whoever wrote them."""
    import zlib

    kind, raw = b"orders.item@1", head.encode()
    with pytest.raises(Undecodable):
        unpack(named((kind, raw, b"{}", b"%08x" % zlib.crc32(kind + raw + b"{}"))), ENTRY)


def test_other_fields_are_foreign() -> None:
    """Only four, in their order; what is shown of others is all of them."""
    assert fields_of([b"t", b"1", b"h", b"2", b"d", b"3", b"b", b"4"]) == (b"1", b"2", b"3", b"4")
    right = named(pack(message()))
    assert named(fields_of(right)) == right
    others = [[*right[:at], b"x", *right[at + 1 :]] for at in (0, 2, 4, 6)]
    for wrong in ([], [b"a", b"1"], right[:7], [*right, b"x"], [*right, b"x", b"1"], *others):
        with pytest.raises(Undecodable):
            fields_of(wrong)
        with pytest.raises(Undecodable):
            unpack(wrong, ENTRY)
        assert not is_intact(wrong)
    assert json.loads(raw_of([b"a", b"1", b"b", b"\xff"])) == {"a": "1", "b": "base64:/w=="}
    assert raw_of([b"t", b"1", b"h", b"2", b"d", b"3", b"b", b"4"]) == b"3"
    shown = unreadable(b"raw", ENTRY, kind=b"orders.item@7")
    assert (shown.type, shown.version, shown.data, shown.time_ns // 1_000_000) == (
        "orders.item",
        7,
        b"raw",
        1764301234567,
    )


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_times_are_kept_to_the_nanosecond(nanoseconds: int) -> None:
    """And are RFC 3339, which others write with fewer digits and other offsets."""
    assert read_time(write_time(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    "text", ["2026-11-28T03:41:40Z", "2026-11-28T04:41:40+01:00", "2026-11-28T03:41:40.000Z"]
)
def test_times_of_others_are_read(text: str) -> None:
    """Any offset, any number of digits."""
    assert read_time(text) == 1_795_837_300_000_000_000


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_entries_sort_by_their_order(millisecond: int, number: int) -> None:
    """One number for both halves, and back."""
    entry = b"%d-%d" % (millisecond, number)
    assert entry_of(order_of(entry)) == entry
    assert sequence_of(entry) == number
    assert order_of(b"%d-%d" % (millisecond + 1, 0)) > order_of(entry)


def test_positions_are_read_as_they_were_written() -> None:
    """Of a receipt, and of a tail's item."""
    assert read_receipt(position_of("orders", 3, ENTRY)) == ("orders", 3, ENTRY)
    text = write_position("incarnation", {"orders/3": ENTRY}, ("orders/3", ENTRY))
    assert read_position(text) == ("incarnation", {"orders/3": ENTRY}, ("orders/3", ENTRY))
    assert read_position(write_position("i", {})) == ("i", {}, None)


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '["i",{"a":"x"}]', '["i",[]]', "[" * 10_000])
def test_what_is_no_position_is_refused(text: str) -> None:
    """With one way to mend it."""
    assert read_receipt(text) is None
    with pytest.raises(InvalidOption):
        read_position(text)


def test_all_keys_of_a_partition_share_its_slot() -> None:
    """And begin with the namespace."""
    keys = Keys("ns")
    for key in (keys.stream("orders", 3), keys.tally("shop.handle", 3), keys.lot("shop.handle", "orders", 3)):
        assert key.startswith(keys.of_partition(3)), key
    assert keys.inbox("a").startswith("ns:{m}:")


def test_a_day_that_does_not_exist_is_the_one_on_which_it_came() -> None:
    """Whoever knows the checksum and not the calendar holds nobody up."""
    head = b'{"id":"a","source":"/s","time":"2026-02-31T25:61:61.000000000Z"}'
    kind = b"orders.item@1"
    found = unpack(named((kind, head, b"{}", b"%08x" % zlib.crc32(kind + head + b"{}"))), b"7-1")
    assert (found.id, found.source, found.time_ns, found.key) == ("a", "/s", 7_000_000, None)


def test_attributes_are_there_whichever_is_asked_for_first() -> None:
    """Of one that was just read; what somebody has set is not read any more."""
    written = Message("a1", "/s", "orders.item", 3, 1_764_312_345_123_456_789, None, b"{}")
    written.sequence = order_of(ENTRY)
    for name in (
        "id", "source", "time_ns", "key", "subject", "expires_ns", "correlationid", "causationid", "extra",
        "depth", "path", "trace", "sequence",
    ):  # fmt: skip
        assert getattr(unpack(named(pack(written)), ENTRY), name) == getattr(written, name)
        assert hasattr(StoredMessage, name)
    found = unpack(named(pack(written)), ENTRY)
    found.sequence = 7
    assert (found.id, found.sequence) == ("a1", 7)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = found.nonsense  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [b"", b"7", b"7-", b"-1", b"q7-1", b"7-1-1"])
def test_what_has_no_name_cannot_be_read(name: bytes) -> None:
    """At once, and not when its place is asked for."""
    with pytest.raises(Undecodable, match="its name"):
        unpack(named(pack(message())), name)


@pytest.mark.parametrize(
    "damage", [b"{", b"}", ENTRY, b"orders.item"], ids=["attributes", "data", "name", "type"]
)
def test_what_is_damaged_outside_of_its_stream_is_shown_as_it_is(damage: bytes) -> None:
    """In the lot, or among dead letters: one bit, wherever it is."""
    text = packed(pack(message(data=b"[1}")), ENTRY)
    at = text.index(damage) + len(damage) - 1
    text = text[:at] + bytes([text[at] ^ 64]) + text[at + 1 :]
    shown = stored_message(text, ENTRY)
    assert (shown.id, shown.data, shown.sequence) == (ENTRY.decode(), text, order_of(ENTRY))
    assert stored_message(packed(pack(message()), ENTRY), ENTRY).id == "e1"
