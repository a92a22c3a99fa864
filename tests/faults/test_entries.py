"""Entries that nobody of ours has written, and streams that somebody else has cut, emptied or deleted.

With `PLUGBUS_FAULTS_SYSTEM=naive` the same bodies run on the naive bus; those of the F rows fail there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from fault_tools.servers import Server
from fault_tools.storage_systems import Store, backend_on, check_log, said

from bus.conformance import limits_for
from bus.conformance.backend import needs
from bus.conformance.probe import Gate, fail_if
from bus.conformance.rig import Rig, now
from bus.redis_streams import trimming
from contracts.bus import EventBus, RetryPolicy
from contracts.event import Event, EventData, EventResult
from contracts.message import PluginEvent
from contracts.messages.delivery import GapFound

GROUP = "shop.handle"
SOON = 0.1
"""Seconds within which the entry behind a poisoned one is handled."""
NOTICED = 2.0
"""Seconds within which it is noticed that a stream, or all data, are gone."""


# --- poison -------------------------------------------------------------------------------------------------

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


class Parcel(Event, type="orders.parcel", version=2):
    weight: int


UNFIT = {
    "a bad field": (2, '{"weight": "x"}', "schema"),
    "a missing field": (2, "{}", "schema"),
    "no object": (2, "[1]", "schema"),
    "a version without a way to ours": (1, '{"kilos": 3}', "schema"),
    "a newer version": (3, '{"kilos": 3}', "version_ahead"),
    "a version that nobody will ever know": (2_000_000_000, "{}", "version_ahead"),
    "data that are no JSON": (2, "{weight: 3}", "decode"),
    "no data": (2, "", "decode"),
    "NUL bytes": (2, "\x00", "decode"),
}


@pytest.mark.parametrize(("version", "data", "reason"), UNFIT.values(), ids=UNFIT)
async def test_data_that_do_not_fit_are_a_dead_letter_at_once(
    rig: Rig, caplog: pytest.LogCaptureFixture, version: int, data: str, reason: str
) -> None:
    """One attempt, the raw data, and the next event of the key is handled within 100 ms. [B17]"""

    async def handle(delivery: PluginEvent) -> None:
        weights.append(delivery.as_(Parcel).weight)

    weights: list[int] = []
    bus = await rig.open()
    await rig.subscribe(bus, handle)
    began = now()
    for each in (
        EventData(type="orders.parcel", version=version, data=data),
        EventData(type="orders.parcel", version=2, data='{"weight": 3}'),
    ):
        await bus.publish(each, source="/test", key="k")
    await rig.until(lambda: weights == [3])
    assert now() - began < SOON + 4 * rig.tick
    await rig.quiet(bus)
    [letter] = await bus.dead_letters()
    assert (letter.reason, letter.attempts, letter.version) == (reason, 1, version)
    assert letter.raw == data.encode()
    check_log(caplog.records, most=2)


async def test_a_type_that_nobody_has_declared_goes_to_who_selects_it(rig: Rig) -> None:
    """It is data with a name: a group whose pattern selects it gets it, any other passes over it. [B17]"""
    bus = await rig.open()
    everything = await rig.on(bus)
    narrow = await rig.on(bus, None, "orders.item", group="shop.narrow")
    await rig.publish(bus, 1, type="orders.never_heard_of", version=40)
    await rig.publish(bus, 2)
    await rig.quiet(bus)
    assert (everything.done, narrow.done) == ([1, 2], [2])
    assert await bus.count_dead_letters() == 0
    rig.judge()


@needs(lease=1.0)
async def test_two_versions_of_a_plugin_on_one_stream(rig: Rig) -> None:
    """Only the newer handles while it is there; the older gets back what is left and lifts nothing down.

    [F36, B17]

    Events of the newer version that come when only the old one is left wait in its dead letters as
    `version_ahead`, and the newer takes them from there.
    """

    def handles(known: int, seen: list[tuple[str, int]], name: str) -> Callable[[PluginEvent], Any]:
        class Known(Event, type="orders.lot", version=known):
            n: int

            @classmethod
            def upcast(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
                return data

        async def handle(delivery: PluginEvent) -> None:
            seen.append((name, delivery.as_(Known).n))

        return handle

    async def publish(bus: EventBus, n: int, version: int) -> None:
        data = EventData(type="orders.lot", version=version, data=json.dumps({"n": n}))
        await bus.publish(data, source="/test", key="k")

    seen: list[tuple[str, int]] = []
    a, b = await rig.open("a"), await rig.open("b")
    await rig.subscribe(a, handles(1, seen, "old"), version="1")
    await publish(a, 1, 1)
    await rig.until(lambda: seen == [("old", 1)])
    newer = await rig.subscribe(b, handles(2, seen, "new"), version="2")
    await rig.until(lambda: _owns(rig, b, "b"), "the newer version to own the group")
    for n in range(2, 12):
        await publish(a if n % 2 else b, n, 2)
    await rig.until(lambda: len(seen) == 11)
    assert seen[1:] == [("new", n) for n in range(2, 12)]
    assert await a.count_dead_letters() == 0
    await newer.remove()
    await publish(b, 12, 2)
    await publish(b, 13, 1)
    await rig.until(lambda: len(seen) == 12)
    assert seen[11:] == [("old", 13)]
    assert [letter.reason for letter in await a.dead_letters()] == ["version_ahead"]


async def _owns(rig: Rig, bus: EventBus, replica: str) -> bool:
    return set((await rig.info(bus)).owners) == {replica}


# --- what never comes to an end -----------------------------------------------------------------------------


@needs(lease=1.0)
async def test_a_handler_that_always_asks_again_comes_to_an_end(rig: Rig) -> None:
    """However many replicas it passes on its way: so many starts in all as it has attempts, then dead.

    [F21, B13]
    """
    policy = RetryPolicy(attempts=4, first_delay=0.3, factor=1, jitter=0)
    starts: list[int] = []

    def again(n: int, attempt: int) -> EventResult:
        starts.append(attempt)
        return EventResult.retry(reason="not yet")

    a = await rig.open("a")
    await rig.on(a, again, retry=policy)
    await rig.publish(a, 1)
    await rig.until(lambda: len(starts) == 2)
    await rig.until(lambda: _is_parked(rig, a))
    await rig.crash(a)
    b = await rig.open("b")
    await rig.on(b, again, retry=policy)
    await rig.until(lambda: _is_dead(b))
    await rig.pause(8)
    assert starts == [1, 2, 3, 4]
    [letter] = await b.dead_letters()
    assert (letter.reason, letter.attempts) == ("attempts", 4)
    await rig.given_up(b)
    rig.judge()


async def _is_parked(rig: Rig, bus: EventBus) -> bool:
    return (await rig.info(bus)).parked > 0


async def _is_dead(bus: EventBus) -> bool:
    return await bus.count_dead_letters() > 0


# --- streams that somebody else has touched -----------------------------------------------------------------


@needs(lease=1.0)
async def test_a_stream_that_is_deleted_is_made_anew(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Under a reader that waits: the next event is handled within 2 s, the loss is said once. [B20, F7]"""
    a, b = await rig.open("a"), await rig.open("b")
    probe = await rig.on(a)
    await a.declare_group(rig.spec(group="shop.dormant"))
    await rig.publish(b, 1, 2)
    await rig.until(lambda: probe.done == [1, 2])
    store.server.command("DEL", store.stream("orders"))
    began = now()
    await rig.publish(b, 3)
    await rig.until(lambda: probe.done == [1, 2, 3])
    assert now() - began < NOTICED
    later = await rig.on(a, None, group="shop.dormant")
    await rig.until(lambda: later.done == [3])
    await rig.publish(b, 4)
    await rig.quiet(b)
    assert (probe.done, later.done) == ([1, 2, 3, 4], [3, 4])
    assert said(caplog.records, logging.CRITICAL, "shop.handle", "orders")
    check_log(caplog.records)
    rig.judge(exempt=["e1-1", "e2-2"])


async def test_what_a_deleted_stream_has_taken_along_is_said(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """As many as were waiting and not read. [B20]"""
    bus, gate = await rig.open(), Gate()
    probe = await rig.on(bus, gate)
    await rig.publish(bus, *range(100))
    await rig.until(lambda: gate.waiting)
    store.server.command("DEL", store.stream("orders"))
    gate.open()
    await rig.publish(bus, 100)
    await rig.until(lambda: 100 in probe.done)
    lost = 101 - len(probe.done)
    assert lost > 0
    assert said(caplog.records, logging.CRITICAL, f"{lost} events")
    check_log(caplog.records)
    rig.judge(lossy=True)


async def test_a_group_that_is_deleted_goes_on_where_it_was(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Not from the beginning, and not from the end; what it has in hand is handled once. [B22, F8]"""
    bus, gate = await rig.open(), Gate()
    probe = await rig.on(bus, lambda n, _: gate() if n == 150 else None)
    for n in range(150):
        await rig.publish(bus, n)
    await rig.until(lambda: len(probe.done) == 150)
    await rig.publish(bus, 150)
    await rig.until(lambda: gate.waiting)
    store.server.command("XGROUP", "DESTROY", store.stream("orders"), GROUP)
    await rig.publish(bus, *range(151, 300))
    gate.open()
    await rig.until(lambda: len(probe.done) == 300)
    await rig.quiet(bus)
    assert said(caplog.records, logging.CRITICAL, GROUP, "deleted")
    check_log(caplog.records)
    rig.judge()


@needs(lease=1.0)
async def test_a_deleted_group_keeps_what_was_in_hand_when_its_owner_dies(rig: Rig, store: Store) -> None:
    """Its owner has noticed, and dies: what it had read and not settled is started again, in order; what it
    had settled is not. [B22, F8]"""
    a, gate = await rig.open("a"), Gate()
    first = await rig.on(a, lambda n, _: gate() if n == 3 else None)
    await rig.publish(a, *range(8), key="k")
    await rig.until(lambda: gate.waiting)
    await rig.until(lambda: store.pending(GROUP, "orders") == 5)
    store.server.command("XGROUP", "DESTROY", store.stream("orders"), GROUP)
    await rig.publish(a, 8, key="k")
    await rig.until(lambda: _has_group(store), "the group to be made anew")
    await rig.crash(a)
    b = await rig.open("b")
    second = await rig.on(b)
    await rig.until(lambda: 8 in second.done)
    await rig.quiet(b)
    assert (first.numbers, second.numbers) == ([0, 1, 2, 3], [3, 4, 5, 6, 7, 8])
    rig.judge(repeats=1)


@needs(lease=1.0)
async def test_a_group_that_is_deleted_when_its_owner_dies_goes_on_with_what_it_had(
    rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has noticed: what was not settled when the topic was last looked at is started again, in order;
    what waits in the lot since then is not delivered from the stream as well. [B22, F8]"""
    monkeypatch.setattr(trimming, "_OFTEN", 60.0)  # it is looked at when the test says
    gates, retry = {2: Gate(), 5: Gate()}, RetryPolicy(first_delay=2.0, jitter=0)

    async def act(n: int, attempt: int) -> None:
        fail_if(n == 4 and attempt == 1)
        if n in gates:
            await gates[n]()

    a = await rig.open("a")
    first = await rig.on(a, act, retry=retry)
    for n in range(9):
        key = "k" if n in (5, 7, 8) else "waits" if n in (4, 6) else None
        await rig.publish(a, n, key=key)
    await rig.until(lambda: gates[2].waiting and store.pending(GROUP, "orders") == 7)
    await a.topics()
    gates[2].open()
    await rig.until(lambda: gates[5].waiting and store.pending(GROUP, "orders") == 4)
    await rig.crash(a)
    store.server.command("XGROUP", "DESTROY", store.stream("orders"), GROUP)
    b = await rig.open("b")
    second = await rig.on(b, None, retry=retry)
    await rig.publish(b, 9, key="k")
    await rig.until(lambda: {4, 6, 9} <= set(second.done))
    await rig.quiet(b)
    assert first.starts == [(n, 1) for n in range(6)]
    assert sorted(second.starts) == [(2, 1), (3, 1), (4, 2), *((n, 1) for n in range(5, 10))]
    assert _left(store) == {}
    rig.judge(repeats=3)


@needs(lease=1.0)
async def test_what_is_settled_while_a_group_is_made_anew_stays_so(rig: Rig, store: Store) -> None:
    """Its owner goes on with what it has in hand, the group is deleted again and again: each is handled once,
    what fails waits in the lot once, and nothing is left pending. [B22, F8]"""
    bus = await rig.open()
    act = lambda n, attempt: fail_if(n % 7 == 0 and attempt == 1)  # noqa: E731
    probe = await rig.on(bus, act, concurrency=2, retry=RetryPolicy(first_delay=0.05))
    for n in range(300):
        await rig.publish(bus, n, key=f"k{n % 5}")
        if n % 50 == 49:
            store.server.command("XGROUP", "DESTROY", store.stream("orders"), GROUP)
    await rig.until(lambda: set(probe.done) == set(range(300)))
    await rig.quiet(bus)
    await rig.until(lambda: not _left(store))
    rig.judge()


@pytest.mark.parametrize("who", ["publishes", "declares"])
async def test_whoever_makes_a_deleted_group_anew_begins_where_it_was(
    rig: Rig, store: Store, who: str
) -> None:
    """A replica that comes to the topic, or a plugin with other options, finds it gone: it begins neither at
    the beginning nor at the end. [B22, F8]"""
    a, b = await rig.open("a"), await rig.open("b")
    first = await rig.on(a)
    await rig.publish(a, 0, 1, 2)
    await rig.quiet(a)
    await a.topics()
    if who == "declares":
        await first.subscription.drain(10)
    store.server.command("XGROUP", "DESTROY", store.stream("orders"), GROUP)
    await rig.publish(b if who == "publishes" else a, 3)
    second = await rig.on(b, concurrency=2) if who == "declares" else first
    await rig.until(lambda: 3 in second.done)
    await rig.publish(a, 4)
    await rig.quiet(a)
    assert sorted({*first.starts, *second.starts}) == [(n, 1) for n in range(5)]
    rig.judge()


def _left(store: Store) -> dict[str, int]:
    """Deliveries of the group that are pending, in the lot, or suspect."""
    keys, found = store.keys, {"pending": store.pending(GROUP, "orders")}
    for kind in (keys.lot, keys.slips, keys.suspects):
        key = kind(GROUP, "orders", 0)
        found[key] = store.server.command("HLEN", key)
    return {name: count for name, count in found.items() if count}


def _has_group(store: Store) -> bool:
    return GROUP in store.groups("orders")


@needs(lease=1.0, partitions=4)
async def test_a_group_that_many_make_at_once_is_one(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Ten replicas subscribe and publish the first events of a topic at once: each event is handled once.

    [B22]
    """
    buses = [await rig.open(f"r{n}") for n in range(10)]
    await asyncio.gather(*(rig.on(bus) for bus in buses), *(rig.publish(bus, 1) for bus in buses))
    await rig.quiet(buses[0])
    info = await rig.info(buses[0])
    assert info.handled == 10
    rig.judge()
    check_log(caplog.records, most=0)


async def test_what_an_outsider_trims_is_said_with_how_many_and_where(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Entries that were not read yet: a critical line and an announcement with exactly their number.

    [B23, F22]
    """
    bus, gate = await rig.open(), Gate()
    probe = await rig.on(bus, gate)
    news = rig.listen(bus)
    await rig.publish(bus, *range(300))
    await rig.until(lambda: gate.waiting)
    store.server.command("XTRIM", store.stream("orders"), "MAXLEN", 10)
    left = store.numbers("orders")
    gate.open()
    await rig.until(lambda: 299 in probe.done)
    await rig.quiet(bus)
    lost = 300 - len(probe.done)
    assert lost > 100
    assert said(caplog.records, logging.CRITICAL, GROUP, f"{lost} events", "orders/0", f"{left[0] - 1}")
    await rig.until(lambda: news.of(GapFound))
    assert sum(gap.count for gap in news.of(GapFound)) == lost
    check_log(caplog.records, most=1)
    rig.judge(lossy=True)


@needs(retain=100, young_seconds=0, retain_seconds=0.1, lease=1.0)
async def test_nothing_is_trimmed_that_a_group_still_needs(rig: Rig, store: Store) -> None:
    """A group that nobody handles, one that is slow, and what waits in a lot: all is there in the end.

    [F22]
    """
    a, gate = await rig.open("a"), Gate()
    await a.declare_group(rig.spec(group="shop.dormant"))
    fast = await rig.on(a)
    slow = await rig.on(a, gate, group="shop.slow")
    rig.groups["shop.dormant"] = ("orders.**",)
    for n in range(600):
        await rig.publish(a, n, key=f"k{n % 7}")
    await rig.until(lambda: len(fast.done) == 600)
    await rig.pause(40)  # the trimmer has come by
    gate.open()
    late = await rig.on(a, None, group="shop.dormant")
    await rig.until(lambda: len(late.done) == len(slow.done) == 600)
    await rig.quiet(a)
    rig.judge()


@pytest.mark.parametrize("how", ["XDEL", "XTRIM"])
@needs(lease=1.0)
async def test_what_is_gone_while_it_was_in_hand_is_never_handled_empty(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """The next owner finds no fields: counted, said once, and not pending any more. [B24, F22]"""
    a, gate = await rig.open("a"), Gate()
    await rig.on(a, gate)
    await rig.publish(a, *range(5))
    await rig.until(lambda: gate.waiting)
    await rig.until(lambda: store.pending(GROUP, "orders") == 5)
    if how == "XDEL":
        store.server.command("XDEL", store.stream("orders"), *store.entries("orders")[1:4])
        gone = 3
    else:
        store.server.command("XTRIM", store.stream("orders"), "MAXLEN", 1)
        gone = 4
    await rig.crash(a)
    b = await rig.open("b")
    probe = await rig.on(b)
    await rig.publish(b, 5)
    await rig.until(lambda: 5 in probe.done)
    await rig.quiet(b)
    assert store.pending(GROUP, "orders") == 0
    assert sorted(probe.done) == ([0, 4, 5] if how == "XDEL" else [4, 5])
    assert said(caplog.records, logging.ERROR, GROUP, f"{gone} ", "orders/0"), "nobody was told"
    assert await b.count_dead_letters() == 0
    check_log([record for record in caplog.records if "is gone: no sign" not in record.getMessage()], most=2)
    rig.judge(repeats=2, lossy=True)


# --- everything is gone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["FLUSHALL", "restart"])
async def test_that_everything_is_gone_is_noticed_and_said(
    request: pytest.FixtureRequest, server: Server, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Under load, with the lease as it is by default: noticed within 2 s, said, and new events flow.

    [B21, F7]

    There is no outbox that could list what was confirmed and is gone: it is said that it may be.
    """
    with Server(server.binary) as own:  # it keeps nothing on disk
        backend = backend_on(own, limits_for(request))
        rig = Rig(backend)
        a, b = await rig.open("a"), await rig.open("b")
        probe = await rig.on(a)
        ended = asyncio.Event()
        confirmed = 0

        async def load() -> None:
            nonlocal confirmed
            while not ended.is_set():
                await rig.publish(b, confirmed, key=f"k{confirmed % 5}")
                confirmed += 1

        task = asyncio.ensure_future(load())
        await rig.until(lambda: len(probe.done) > 200)
        if how == "FLUSHALL":
            own.command("FLUSHALL")
        else:
            own.kill()
            await own.start_async()
        began, before = now(), confirmed
        await rig.until(lambda: said(caplog.records, logging.CRITICAL, "are gone", "lost"))
        noticed = now() - began
        await rig.until(lambda: confirmed > before + 100)
        ended.set()
        await task
        mark = confirmed
        await rig.publish(b, *range(mark, mark + 20))
        await rig.until(lambda: set(range(mark, mark + 20)) <= set(probe.done))
        await rig.quiet(a)
        assert noticed < NOTICED
        # two replicas say it, each once; the load may have lost its connection, and found it again
        assert len(said(caplog.records, logging.CRITICAL, "are gone")) <= 2
        check_log(caplog.records, speakers=2)
        rig.judge(lossy=True, unordered=[GROUP], repeats=2)
        assert {info.group for info in await a.groups()} >= {GROUP}
        await rig.end()
        await backend.close()


async def test_nothing_of_a_key_waits_for_ever_behind_what_is_gone(rig: Rig, store: Store) -> None:
    """The lot of a key is deleted by an outsider: the key goes on when its next event comes. [B21, F26]"""
    bus = await rig.open()
    policy = RetryPolicy(first_delay=0.2, jitter=0)
    probe = await rig.on(bus, lambda n, attempt: fail_if(n == 1 and attempt == 1), retry=policy)
    await rig.publish(bus, 1, key="k")
    await rig.until(lambda: _is_parked(rig, bus))
    for name in (store.keys.lot(GROUP, "orders", 0), store.keys.slips(GROUP, "orders", 0)):
        store.server.command("DEL", name)
    await rig.publish(bus, 2, key="k")
    await rig.until(lambda: 2 in probe.done)
    await rig.quiet(bus)
    assert store.pending(GROUP, "orders") == 0
