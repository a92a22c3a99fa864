"""Publishing: receipts, idempotency, causes, size, delay, expiry, room."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bus.memory import MemoryBus
from contracts.bus import RetryPolicy
from contracts.envelope import Envelope
from contracts.errors import (
    BusClosed,
    BusError,
    BusFull,
    InvalidEvent,
    InvalidOption,
    InvalidPattern,
    PayloadTooLarge,
)
from contracts.event import Event, EventData, EventResult
from contracts.message import PluginEvent


class Note(Event, type="notes.note"):
    text: str
    tags: tuple[str, ...] = ()


class Untyped(Event):
    n: int = 0


def now(rig: Any) -> datetime:
    return datetime.fromtimestamp(rig.clock.time_ns() / 1e9, UTC)


async def test_a_receipt_tells_id_and_position(rig: Any, bus: Any) -> None:
    """Ids differ; positions count up within a topic."""
    first, second = await rig.publish(bus, 1, 2)
    assert first.id != second.id
    assert (first.position, second.position) == ("orders/0:0", "orders/0:1")
    assert not first.duplicate


async def test_the_same_source_and_id_is_one_event(rig: Any, bus: Any, recorder: Any) -> None:
    """The second receipt is a duplicate at the first position; another source is another event."""
    handler = recorder()
    await rig.on(bus, handler)
    [first] = await rig.publish(bus, 1, id="x")
    [second] = await rig.publish(bus, 1, id="x")
    other = await bus.publish(EventData(type="orders.item", data='{"n":2}'), source="/other", id="x")
    await bus.quiet()
    assert (second.duplicate, second.position) == (True, first.position)
    assert not other.duplicate
    assert handler.numbers == [1, 2]


async def test_an_id_that_the_bus_made_is_known_too(rig: Any, bus: Any, recorder: Any) -> None:
    """Publishing again with the id of a receipt is the same event."""
    handler = recorder()
    await rig.on(bus, handler)
    [first] = await rig.publish(bus, 1)
    [again] = await rig.publish(bus, 1, id=first.id)
    assert (again.duplicate, again.position) == (True, first.position)
    await bus.quiet()
    assert handler.numbers == [1]


async def test_the_window_ends(rig: Any, bus: Any) -> None:
    """After twice the window an id is new again; within it, never."""
    await rig.publish(bus, 1, id="x")
    await asyncio.sleep(119)
    assert (await rig.publish(bus, 1, id="x"))[0].duplicate
    await asyncio.sleep(241)
    assert not (await rig.publish(bus, 1, id="x"))[0].duplicate


async def test_what_a_handler_publishes_carries_its_cause(rig: Any, bus: Any, recorder: Any) -> None:
    """The correlation id is that of the chain's first event; the depth counts the steps."""
    notes = recorder()

    async def handle(event: PluginEvent) -> None:
        await bus.publish(Note(text="x"), source="/plugins/shop")

    async def further(event: PluginEvent) -> None:
        await bus.publish(EventData(type="last.one"), source="/plugins/x")

    await rig.on(bus, handle)
    await rig.on(bus, further, "notes.*", group="y.h")
    await rig.on(bus, notes, "notes.*", "last.*", group="x.h")
    [root] = await rig.publish(bus, 1)
    [unrelated] = [await bus.publish(Note(text="root"), source="/test")]
    await bus.quiet()
    chain = [event for event in notes.events if event.envelope.correlationid == root.id]
    assert [event.message.depth for event in chain] == [1, 2]
    assert chain[1].envelope.causationid == chain[0].id
    assert {event.envelope.correlationid for event in notes.events} == {root.id, unrelated.id}


async def test_too_large_data_are_refused(rig: Any, bus: Any) -> None:
    """Over 1 MiB of JSON: refused; just below: taken. Objects and data alike."""
    with pytest.raises(PayloadTooLarge, match=r"notes\.note"):
        await bus.publish(Note(text="x" * (1 << 20)), source="/test")
    with pytest.raises(PayloadTooLarge):
        await bus.publish(Note(text="\0" * 200_000), source="/test")
    with pytest.raises(PayloadTooLarge):
        await bus.publish(Note(text="", tags=("x" * 600_000, "y" * 600_000)), source="/test")
    with pytest.raises(PayloadTooLarge):
        await bus.publish(EventData(type="a.b", data='"' + "x" * (1 << 20) + '"'), source="/test")
    receipt = await bus.publish(Note(text="x" * 1_048_000), source="/test")
    assert receipt.position == "notes/0:0"


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (Untyped(), InvalidOption),
        (EventData(type="Orders"), InvalidPattern),
        (EventData(type="orders.*"), InvalidPattern),
        (EventData.model_construct(type="a.b", version=1, data="\ud800"), InvalidEvent),
    ],
)
async def test_what_is_no_event_is_refused(bus: Any, event: Any, error: type[Exception]) -> None:
    """A base class without type, a bad type name, text that is not Unicode."""
    with pytest.raises(error):
        await bus.publish(event, source="/test")


@pytest.mark.parametrize(
    "options",
    [
        {"delay": -1.0},
        {"delay": float("nan")},
        {"delay": 1.0, "at": datetime.now(UTC)},
        {"at": datetime(2030, 1, 1)},  # noqa: DTZ001 - that is the mistake
        {"expires": datetime(2030, 1, 1)},  # noqa: DTZ001 - that is the mistake
        {"expires": datetime(2001, 1, 1, tzinfo=UTC)},
        {"timeout": 0.0},
        {"timeout": float("inf")},
        {"id": ""},
    ],
)
async def test_contradicting_options_are_refused(rig: Any, bus: Any, options: Any) -> None:
    """Each is named with a fix."""
    with pytest.raises(InvalidOption) as caught:
        await rig.publish(bus, 1, **options)
    assert caught.value.fix


async def test_many_are_published_in_order(rig: Any, bus: Any, recorder: Any, item: Any) -> None:
    """One receipt each; it stops at the first that fails."""
    handler = recorder()
    await rig.on(bus, handler)
    receipts = await bus.publish_many([item(n=n) for n in range(3)], source="/test", key="k")
    assert [receipt.position for receipt in receipts] == [f"orders/0:{n}" for n in range(3)]
    with pytest.raises(InvalidOption):
        await bus.publish_many([item(n=3), Untyped(), item(n=4)], source="/test")
    await bus.quiet()
    assert handler.numbers == [0, 1, 2, 3]


async def test_a_relayed_envelope_is_kept(rig: Any, bus: Any, recorder: Any, item: Any) -> None:
    """Id, source, time, key, causes and foreign extensions are those of the envelope; twice is once."""
    handler = recorder()
    await rig.on(bus, handler)
    envelope = Envelope(
        id="42", source="https://example.org", type="orders.item", time=datetime(2020, 1, 2, tzinfo=UTC),
        subject="s", partitionkey="k", correlationid="c", traceparent="00-x", extensions={"tenant": "acme"},
    )  # fmt: skip
    await bus.relay(envelope, item(n=1))
    assert (await bus.relay(envelope, EventData(type="orders.item", data='{"n":1}'))).duplicate
    with pytest.raises(InvalidOption):
        await bus.relay(envelope, EventData(type="orders.other"))
    await bus.quiet()
    [event] = handler.events
    assert event.envelope.attributes() == {**envelope.attributes(), "dataschema": "urn:plugbus:orders.item:1"}
    assert event.as_(item).n == 1


async def test_a_delayed_event_becomes_visible_when_it_is_due(rig: Any, bus: Any, recorder: Any) -> None:
    """`delay` and `at`; numbered when visible; its id is known at once."""
    handler = recorder()
    await rig.on(bus, handler)
    await rig.publish(bus, 3, delay=100, id="x")
    await rig.publish(bus, 2, at=now(rig) + timedelta(seconds=50))
    assert (await rig.publish(bus, 3, id="x"))[0].duplicate
    await rig.publish(bus, 1)
    await asyncio.sleep(49)
    assert handler.numbers == [1]
    await asyncio.sleep(2)
    assert handler.numbers == [1, 2]
    await bus.quiet()
    assert handler.numbers == [1, 2, 3]
    assert [event.message.sequence for event in handler.events] == [0, 1, 2]


async def test_delay_follows_the_wall_clock(rig: Any, bus: Any, recorder: Any) -> None:
    """A jump of the wall clock shifts what is delayed, within a minute."""
    handler = recorder()
    await rig.on(bus, handler)
    await rig.publish(bus, 1, delay=3_600)
    rig.clock.jump = 3_600
    await asyncio.sleep(61)
    assert handler.numbers == [1]


async def test_an_expired_event_is_not_handled(rig: Any, bus: Any, recorder: Any) -> None:
    """Expiry is looked at before each start, on several lanes too; it is final and announced."""
    blocker = recorder(lambda n, attempt: asyncio.sleep(20))
    await rig.on(bus, blocker, group="a.h")
    await rig.on(bus, recorder(), group="b.h", concurrency=3)
    tail = bus.tail("bus.**")
    await rig.publish(bus, 1)
    await rig.publish(bus, 2, expires=now(rig) + timedelta(seconds=10))
    await rig.publish(bus, 3)
    await bus.quiet()
    assert blocker.numbers == [1, 3]
    groups = sorted(item.data.split('"')[3] for item in tail.read_nowait())
    assert groups == ["a.h"]


async def test_a_parked_event_may_expire(rig: Any, bus: Any, recorder: Any) -> None:
    """Its key goes on."""

    def act(n: int, attempt: int) -> None:
        if n == 1:
            raise ValueError

    handler = recorder(act)
    await rig.on(bus, handler, retry=RetryPolicy(first_delay=60, jitter=0))
    await rig.publish(bus, 1, key="k", expires=now(rig) + timedelta(seconds=10))
    await rig.publish(bus, 2, key="k")
    await bus.quiet()
    assert handler.seen == [(1, 1), (2, 1)]
    assert await bus.dead_letters() == []


async def test_publishing_waits_for_room_and_then_names_who_holds(rig: Any, recorder: Any) -> None:
    """At the limit a publish waits until its deadline; the error names the group and what frees it."""
    rig.limit(limit=4)
    bus = await rig.open()
    await bus.declare_group(rig.spec(group="slow.h"))
    await rig.on(bus, recorder(), group="quick.h")
    await rig.publish(bus, 1, 2, 3, 4)
    start = asyncio.get_running_loop().time()
    with pytest.raises(BusFull) as caught:
        await rig.publish(bus, 5, timeout=3)
    assert asyncio.get_running_loop().time() - start == pytest.approx(3)
    assert (caught.value.topic, caught.value.group) == ("orders", "slow.h")
    assert "plugbus group drop slow.h" in caught.value.fix
    await bus.publish(Note(text="another topic has room"), source="/test")


async def test_waiting_publishes_go_on_in_order_when_there_is_room(rig: Any, recorder: Any) -> None:
    """First come, first published; nobody overtakes who waits."""
    rig.limit(limit=2)
    bus = await rig.open()
    gate = asyncio.Event()
    handler = recorder(lambda n, attempt: gate.wait())
    await rig.on(bus, handler)
    await rig.publish(bus, 1, 2)
    waiting = []
    for n in (3, 4, 5):
        waiting.append(asyncio.create_task(rig.publish(bus, n)))
        await asyncio.sleep(0)
    cancelled = asyncio.create_task(rig.publish(bus, 99))
    await asyncio.sleep(1)
    assert not any(task.done() for task in waiting)
    cancelled.cancel()
    gate.set()
    await asyncio.gather(*waiting)
    await rig.publish(bus, 6)
    await bus.quiet()
    assert handler.numbers == [1, 2, 3, 4, 5, 6]
    assert cancelled.cancelled()


async def test_two_that_wait_with_one_id_are_one_event(rig: Any, recorder: Any) -> None:
    """Idempotency holds for publishes that wait for room as well."""
    rig.limit(limit=1)
    bus = await rig.open()
    gate = asyncio.Event()
    handler = recorder(lambda n, attempt: gate.wait())
    await rig.on(bus, handler)
    await rig.publish(bus, 1)
    waiting = [asyncio.create_task(rig.publish(bus, 2, id="x")) for _ in range(2)]
    await asyncio.sleep(1)
    gate.set()
    receipts = [receipt for [receipt] in await asyncio.gather(*waiting)]
    await bus.quiet()
    assert handler.numbers == [1, 2]
    assert [receipt.duplicate for receipt in receipts] == [False, True]


async def test_dropping_the_group_that_holds_makes_room(rig: Any) -> None:
    """The command that the error names works."""
    rig.limit(limit=2)
    bus = await rig.open()
    await bus.declare_group(rig.spec(group="slow.h"))
    await rig.publish(bus, 1, 2)
    waiting = asyncio.create_task(rig.publish(bus, 3))
    await asyncio.sleep(1)
    await bus.drop_group("slow.h")
    await waiting


async def test_what_is_parked_does_not_hold_the_topic(rig: Any, recorder: Any) -> None:
    """A retry of an hour does not count towards the limit."""
    rig.limit(limit=3)
    bus = await rig.open()

    def act(n: int, attempt: int) -> None:
        if n == 0 and attempt == 1:
            raise ValueError

    handler = recorder(act)
    await rig.on(bus, handler, retry=RetryPolicy(first_delay=300, max_delay=3_600))
    for n in range(30):
        await rig.publish(bus, n, key="bad" if n == 0 else "good", timeout=1)
    await bus.quiet()
    assert handler.done == [*range(1, 30), 0]


async def test_a_handler_never_waits_for_room(rig: Any) -> None:
    """Admitted up to twice the limit, then refused at once, which parks the delivery."""
    rig.limit(limit=3)
    bus = await rig.open()
    errors = []

    async def handle(event: PluginEvent) -> EventResult | None:
        if event.attempt > 1:
            return None
        for n in range(100, 110):
            try:
                await rig.publish(bus, n)
            except BusFull:
                errors.append(n)
                raise
        return None

    await bus.declare_group(rig.spec(group="slow.h"))
    await rig.on(bus, handle, retry=RetryPolicy(first_delay=1_000_000, max_delay=1_000_000))
    await rig.publish(bus, 1)
    await asyncio.sleep(1)
    assert errors[0] == 105
    assert (await rig.info()).parked > 0


async def test_the_topic_of_a_late_group_is_trimmed_to_what_is_retained(rig: Any, recorder: Any) -> None:
    """Older than `retain_seconds`, or more than `retain` and not young: gone for those who come late."""
    rig.limit(retain=5, retain_seconds=1_000, young_seconds=10)
    bus = await rig.open()
    await rig.publish(bus, *range(10))
    young = recorder()
    await rig.on(bus, young, group="a.h")
    await asyncio.sleep(20)
    few = recorder()
    await rig.on(bus, few, group="b.h")
    await asyncio.sleep(2_000)
    none = recorder()
    await rig.on(bus, none, group="c.h")
    await bus.quiet()
    assert young.numbers == list(range(10))
    assert few.numbers == [5, 6, 7, 8, 9]
    assert none.numbers == []


async def test_a_bus_must_be_open(rig: Any) -> None:
    """Before open and after close every operation says so."""
    bus = MemoryBus(rig.broker, replica="new")
    with pytest.raises(BusError, match="not open"):
        await rig.publish(bus, 1)
    with pytest.raises(BusError, match="not open"):
        await bus.declare_group(rig.spec())
    await bus.open()
    with pytest.raises(BusClosed):
        await bus.open()
    with pytest.raises(BusError, match="on this broker already"):
        await MemoryBus(rig.broker, replica="new").open()
    await bus.close()
    for call in (
        rig.publish(bus, 1),
        rig.publish(bus, 1, delay=1),
        bus.declare_group(rig.spec()),
        bus.request("a.b", "{}", source="/"),
    ):
        with pytest.raises(BusClosed):
            await call


async def test_a_tight_loop_of_publishes_does_not_starve_consumers(rig: Any, bus: Any, recorder: Any) -> None:
    """The publisher lets the loop turn every now and then."""
    handler = recorder()
    await rig.on(bus, handler)
    await rig.publish(bus, *range(1_000))
    assert len(handler.seen) > 500


async def test_an_id_of_ours_given_again_is_one_event(rig: Any, item: Any) -> None:
    """By whatever source, after however many others, at once or for later."""
    rig.limit(window=10)
    bus = await rig.open()
    first, *_ = await rig.publish(bus, *range(50))
    for options in ({}, {"delay": 5}):
        [again] = await rig.publish(bus, 0, id=first.id, **options)
        assert (again.duplicate, again.position) == (True, first.position)
    forwarded = [await bus.publish(item(n=1), source="/other", id=first.id) for _ in range(2)]
    assert [receipt.duplicate for receipt in forwarded] == [False, True]


async def test_an_id_that_looks_like_one_of_ours_is_an_id(rig: Any, bus: Any) -> None:
    """However long its number is."""
    [receipt] = await rig.publish(bus, 1)
    strange = receipt.id[:-1] + "9" * 5_000
    receipts = [(await rig.publish(bus, 1, id=strange))[0] for _ in range(2)]
    assert [receipt.duplicate for receipt in receipts] == [False, True]


async def test_a_delay_that_is_over_means_now(rig: Any, bus: Any, recorder: Any) -> None:
    """The event has a position at once, and keeps the order of its key."""
    handler = recorder()
    await rig.on(bus, handler)
    [first] = await rig.publish(bus, 1, key="k", delay=0)
    await rig.publish(bus, 2, key="k")
    await bus.quiet()
    assert first.position != "delayed"
    assert handler.numbers == [1, 2]


async def test_a_full_topic_holds_back_no_delayed_event_of_another(rig: Any, recorder: Any) -> None:
    """What is due there waits for room; what is due elsewhere comes."""

    class Answer(Event, type="answers.late"):
        n: int

    rig.limit(limit=1)
    bus = await rig.open()
    await bus.declare_group(rig.spec())
    await rig.publish(bus, 1)
    for n in (2, 3):
        await rig.publish(bus, n, delay=n)
    tail = bus.tail("answers.*")
    await bus.publish(Answer(n=1), source="/test", delay=5)
    await asyncio.sleep(10)
    assert len(tail.read_nowait()) == 1
    handler = recorder()
    await rig.on(bus, handler)
    await bus.quiet()
    assert handler.numbers == [1, 2, 3]
