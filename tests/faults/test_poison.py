"""Entries that nobody of ours has written: each is a dead letter, and in nobody's way."""

from __future__ import annotations

import json
import logging
import zlib
from typing import Any

import pytest
from fault_tools.controls import Control, fails_on_naive
from fault_tools.storage_systems import GROUP, Store, check_log, said

from bus.conformance.backend import needs
from bus.conformance.probe import Gate
from bus.conformance.rig import Rig, now

CONTROLS: list[Control] = []
SOON = 0.1
"""Seconds within which the entry behind a poisoned one is handled."""


Fields = list[bytes]
HEAD = {"id": "x1", "source": "/elsewhere", "time": "2026-01-01T00:00:00.000000000Z"}
DATA = b'{"n": -7}'


def entry(
    kind: bytes = b"orders.item@1", head: bytes | dict[str, Any] | None = None, data: bytes = DATA,
    line: bytes | None = None, more: bytes = b"",
) -> Fields:  # fmt: skip
    """An entry in our form, its checksum right unless `line` says otherwise; `more`: behind the checksum."""
    text = head if isinstance(head, bytes) else json.dumps(HEAD if head is None else head).encode()
    right = b"%08x" % zlib.crc32(data, zlib.crc32(text, zlib.crc32(kind)))
    return [b"t", kind, b"h", text, b"d", data, b"b", line if line is not None else right + more]


POISON: dict[str, Fields] = {
    "fields of a stranger": [b"hello", b"world", b"from", b"redis-cli"],
    "one empty field": [b"", b""],
    "all fields empty": entry(b"", b"", b"", b""),
    "NUL bytes": [b"\x00", b"\x00\xff\x00"],
    "5 MB of a stranger": [b"blob", b"\xfe" * 5_000_000],
    "our fields in another order": entry()[2:] + entry()[:2],
    "one of our fields missing": entry()[:6],
    "one field too many": [*entry(), b"e", b"extra"],
    "attributes that are no JSON": entry(head=b"{id: x1"),
    "attributes that are a list": entry(head=b"[1, 2]"),
    "attributes that are no UTF-8": entry(head=b"\xff\xfe\x00"),
    "attributes too deep": entry(head=b'{"id":' + b"[" * 200_000),
    "half a CloudEvent: no source": entry(head={"id": "x1", "time": HEAD["time"]}),
    "half a CloudEvent: no time": entry(head={"id": "x1", "source": "/elsewhere"}),
    "an id that is a number": entry(head={**HEAD, "id": 5}),
    "an empty id": entry(head={**HEAD, "id": ""}),
    "a key that is a list": entry(head={**HEAD, "partitionkey": [1]}),
    "a key that is an object": entry(head={**HEAD, "partitionkey": {"a": 1}}),
    "a subject that is a number": entry(head={**HEAD, "subject": 7}),
    "a correlation that is a list": entry(head={**HEAD, "correlationid": [1]}),
    "a cause that is true": entry(head={**HEAD, "causationid": True}),
    "a time that is none": entry(head={**HEAD, "time": "yesterday"}),
    "an expiry that is none": entry(head={**HEAD, "expirytime": 12}),
    "a type without a version": entry(b"orders.item"),
    "a version that is no number": entry(b"orders.item@one"),
    "a type that is no UTF-8": entry(b"orders.\xff@1"),
    "no checksum": entry(line=b""),
    "a checksum that is none": entry(line=b"zzzzzzzz"),
    "a chain that is none": entry(more=b" x y z"),
    "a path that is no list": entry(more=b" 3 7"),
}
WRONG_CHECKSUM = entry(line=b"00000000")


def bytes_kept(letter: Any, fields: Fields) -> bool:
    """Whether a dead letter has what was in the entry: the data as they are, else all fields as JSON."""
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    if pairs.keys() >= {b"t", b"h", b"d", b"b"} and len(fields) == 8:
        return bool(letter.raw == pairs[b"d"])
    kept = json.loads(letter.raw)
    return len(kept) == len(pairs)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [*((fields, "decode") for fields in POISON.values()), (WRONG_CHECKSUM, "checksum")],
    ids=[*POISON, "a wrong checksum"],
)
async def test_what_cannot_be_read_is_a_dead_letter_with_its_bytes(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture, fields: Fields, reason: str
) -> None:
    """The entry behind it is handled within 100 ms, in the same subscription, which lives on. [B16, F20]"""
    bus = await rig.open()
    probe = await rig.on(bus, concurrency=2)
    await rig.publish(bus, 1)
    await rig.until(lambda: probe.done == [1])
    store.server.command("XADD", store.stream("orders"), "*", *fields)
    began = now()
    await rig.publish(bus, 2)
    await rig.until(lambda: 2 in probe.done)
    assert now() - began < SOON + 4 * rig.tick
    await rig.quiet(bus)
    assert probe.done == [1, 2]
    [letter] = await bus.dead_letters()
    assert (letter.group, letter.reason, letter.attempts) == (GROUP, reason, 0)
    assert letter.error is not None
    assert letter.error.message
    assert bytes_kept(letter, fields)
    await rig.publish(bus, 3)
    await rig.quiet(bus)
    assert probe.done == [1, 2, 3]
    assert store.pending(GROUP, "orders") == 0
    assert not said(caplog.records, logging.CRITICAL), "it was taken for something else than poison"
    rig.judge()
    check_log(caplog.records, most=2)


async def test_much_poison_delays_nobody_and_each_is_kept(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Three hundred entries of strangers between good ones: all good ones in order, all others dead.

    [B16, F20]
    """
    bus = await rig.open()
    probe = await rig.on(bus)
    with store.server.client() as client:
        for n in range(100):
            await rig.publish(bus, n, key="k")
            for fields in ([b"a", b"%d" % n], entry(head=b"{"), entry(b"orders.item")):
                client.execute_command("XADD", store.stream("orders"), "*", *fields)
    await rig.until(lambda: len(probe.done) == 100)
    await rig.quiet(bus)
    assert await bus.count_dead_letters() == 300
    assert store.pending(GROUP, "orders") == 0
    rig.judge()
    assert len(caplog.records) < 310, "more than a line for each"


@fails_on_naive(
    CONTROLS, at="await rig.quiet(b)",
    because="what cannot be read stays pending, and is read again and again for ever",
)  # fmt: skip
@needs(lease=1.0)
async def test_poison_of_a_dead_owner_kills_nobody(rig: Rig, store: Store) -> None:
    """What it has read and not settled is read by the next: one dead letter, nothing twice. [B16, F20]"""
    a, gate = await rig.open("a"), Gate()
    await rig.on(a, gate)
    await rig.publish(a, 1)
    await rig.until(lambda: gate.waiting)
    store.server.command("XADD", store.stream("orders"), "*", "hello", "world")
    await rig.publish(a, 2)
    await rig.crash(a)
    b = await rig.open("b")
    probe = await rig.on(b)
    await rig.until(lambda: sorted(probe.done) == [1, 2])
    await rig.quiet(b)
    assert [letter.reason for letter in await b.dead_letters()] == ["decode"]
    rig.judge(repeats=2)


async def test_a_tail_goes_on_behind_poison(rig: Rig, store: Store) -> None:
    """It shows what it can, and loses nothing that is readable. [B16]"""
    bus = await rig.open()
    tail = bus.tail("orders.**")
    await rig.publish(bus, 1)
    for fields in POISON.values():
        store.server.command("XADD", store.stream("orders"), "*", *fields)
    await rig.publish(bus, 2)
    seen: list[str] = []

    def has_come() -> bool:
        seen.extend(item.data for item in tail.read_nowait())
        return '{"n": 2}' in seen

    await rig.until(has_come)
    assert [text for text in seen if text.startswith('{"n": ') and text != DATA.decode()] == [
        '{"n": 1}',
        '{"n": 2}',
    ]


async def test_a_replay_passes_poison(rig: Rig, store: Store) -> None:
    """What is dead already does not become dead again, and the replay comes to its end. [B16]"""
    bus = await rig.open()
    probe = await rig.on(bus)
    await rig.publish(bus, 1)
    for fields in ([b"hello", b"world"], entry(head=b"{"), entry(b"orders.item")):
        store.server.command("XADD", store.stream("orders"), "*", *fields)
    await rig.publish(bus, 2)
    await rig.quiet(bus)
    assert await bus.count_dead_letters() == 3
    await bus.replay(GROUP)
    await rig.until(lambda: probe.done == [1, 2, 1, 2])
    await rig.quiet(bus)
    assert await bus.count_dead_letters() == 3
    assert (await rig.info(bus)).replaying == 0


# --- the control --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", CONTROLS, ids=str)
async def test_the_naive_bus_fails(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    """Each of these, for its reason: what passes there judges nothing."""
    await control.check(caplog)
