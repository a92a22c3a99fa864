"""Delivery: who gets what, in which order, and what becomes of an attempt."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from contracts.bus import DeadLetterSelection, RetryPolicy
from contracts.errors import GroupConflict, InvalidEvent, InvalidPattern, PluginNotReady
from contracts.event import Event, EventData, EventResult
from contracts.message import PluginEvent

ALL = DeadLetterSelection()


class Answer(Event, type="orders.answer"):
    text: str


class Basket(Event, type="orders.basket"):
    lines: list[str]


def fail_until(attempt: int, *numbers: int) -> Any:
    """Fail for these numbers (all, if none is named) before that attempt."""

    def act(n: int, now: int) -> None:
        if now < attempt and (not numbers or n in numbers):
            raise ValueError(f"no {n}")

    return act


async def test_every_group_gets_every_event_that_its_patterns_select(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """Groups are independent; several patterns that select one event deliver it once."""
    exact, star, other, all_ = recorder(), recorder(), recorder(), recorder()
    await rig.on(bus, exact, "orders.item", group="a.h")
    await rig.on(bus, star, "orders.*", "orders.item", group="b.h")
    await rig.on(bus, other, "bills.**", group="c.h")
    await rig.on(bus, all_, "**", group="d.h")
    await rig.publish(bus, 1, 2)
    await bus.publish(EventData(type="kernel.started"), source="/kernel")
    await bus.quiet()
    assert exact.numbers == star.numbers == all_.numbers == [1, 2]
    assert other.numbers == []


async def test_a_handler_sees_envelope_attempt_and_deadline(rig: Any, bus: Any, recorder: Any) -> None:
    """What a handler sees: the CloudEvents attributes, the attempt, the deadline on the monotonic clock."""
    handler = recorder()
    await rig.on(bus, handler, timeout=7)
    [receipt] = await rig.publish(bus, 1, key="k", subject="s")
    await bus.quiet()
    [event] = handler.events
    envelope = event.envelope
    assert (event.id, event.attempt, event.handler) == (receipt.id, 1, "handle")
    assert event.deadline == asyncio.get_running_loop().time() + 7
    assert (envelope.source, envelope.type, envelope.partitionkey, envelope.subject) == (
        "/test", "orders.item", "k", "s",
    )  # fmt: skip
    assert envelope.correlationid == receipt.id
    assert envelope.causationid is None
    assert event.data == {"n": 1}


async def test_an_immutable_event_is_handed_over_itself(rig: Any, bus: Any, item: Any) -> None:
    """A deeply immutable event is one object for publisher and handlers."""
    seen = []

    async def handle(event: PluginEvent) -> None:
        seen.append(event.as_(item))

    await rig.on(bus, handle)
    published = item(n=1)
    await bus.publish(published, source="/test")
    await bus.quiet()
    assert seen[0] is published


async def test_a_handler_may_have_a_model_of_its_own(rig: Any, bus: Any, item: Any) -> None:
    """As a plugin has that knows another's events by their type alone."""

    class Thing(Event, type="orders.item"):
        n: int

    seen = []

    async def handle(event: PluginEvent) -> None:
        seen.append(event.as_(Thing))

    await rig.on(bus, handle)
    for n in range(3):  # the first of a type is published in a form of its own
        await bus.publish(item(n=n), source="/test")
    await bus.quiet()
    assert seen == [Thing(n=0), Thing(n=1), Thing(n=2)]


async def test_a_mutable_event_is_a_snapshot_for_each_handler(rig: Any, bus: Any) -> None:
    """Changing a list field after publishing, or in one handler, is seen by no other."""
    seen = []

    async def handle(event: PluginEvent) -> None:
        basket = event.as_(Basket)
        seen.append(list(basket.lines))
        basket.lines.append("spoiled")

    await rig.on(bus, handle, group="a.h")
    await rig.on(bus, handle, group="b.h")
    basket = Basket(lines=["egg"])
    await bus.publish(basket, source="/test")
    basket.lines.append("late")
    await bus.quiet()
    assert seen == [["egg"], ["egg"]]


async def test_a_new_group_starts_at_the_oldest_or_at_the_end(rig: Any, bus: Any, recorder: Any) -> None:
    """`start` decides about a group that did not exist; a known group keeps its place."""
    await rig.publish(bus, 1)
    old, new = recorder(), recorder()
    await rig.on(bus, old, group="a.h")
    subscription = await rig.on(bus, new, group="b.h", start="new")
    await rig.publish(bus, 2)
    await bus.quiet()
    await subscription.remove()
    await rig.publish(bus, 3)
    again = recorder()
    await rig.on(bus, again, group="b.h", start="new")
    await bus.quiet()
    assert (old.numbers, new.numbers, again.numbers) == ([1, 2, 3], [2], [3])


async def test_a_declared_group_misses_nothing(rig: Any, bus: Any, recorder: Any) -> None:
    """A group that is declared and handled later gets what came in between."""
    spec = rig.spec(start="new")
    await bus.declare_group(spec)
    await bus.declare_group(spec)
    await rig.publish(bus, 1)
    handler = recorder()
    assert (await rig.info()).state == "dormant"
    await bus.subscribe(spec, handler)
    await bus.quiet()
    assert handler.numbers == [1]
    assert (await rig.info()).state == "active"


async def test_changed_patterns_select_from_now_on(rig: Any, bus: Any, recorder: Any) -> None:
    """A new generation may change the patterns of its group; its place in the others is kept."""
    await rig.publish(bus, 1)
    await bus.declare_group(rig.spec("bills.*"))
    await bus.declare_group(rig.spec("orders.*", start="new"))
    await rig.publish(bus, 2)
    handler = recorder()
    await rig.on(bus, handler, "orders.*", start="new")
    await bus.quiet()
    assert handler.numbers == [2]


async def test_a_group_belongs_to_one_plugin_and_is_hosted_once_on_a_bus(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """The name of a group cannot be taken by another plugin, nor handled twice on one bus."""
    await rig.on(bus, recorder())
    with pytest.raises(GroupConflict, match="handles group"):
        await rig.on(bus, recorder())
    stranger = rig.spec().model_copy(update={"plugin_id": "thief"})
    with pytest.raises(GroupConflict, match="belongs to plugin 'shop'"):
        await bus.subscribe(stranger, recorder())


async def test_a_bad_pattern_changes_nothing(rig: Any, bus: Any, recorder: Any) -> None:
    """A group with a pattern that cannot select anything is refused and does not exist afterwards."""
    with pytest.raises(InvalidPattern):
        await rig.on(bus, recorder(), "Orders")
    assert await bus.groups() == []


@pytest.mark.parametrize("lanes", [1, 2, 5])
async def test_events_of_a_key_never_overlap_and_start_in_order(
    rig: Any, bus: Any, recorder: Any, lanes: int
) -> None:
    """However many lanes: one key is handled in order, one at a time."""
    running: set[str] = set()

    async def handle(event: PluginEvent) -> None:
        key = event.message.key
        assert key not in running
        running.add(key)
        await asyncio.sleep(event.data["n"] % 3)
        running.discard(key)
        order.setdefault(key, []).append(event.data["n"])

    order: dict[str, list[int]] = {}
    await rig.on(bus, handle, concurrency=lanes)
    for n in range(30):
        await rig.publish(bus, n, key=f"k{n % 4}")
    await bus.quiet()
    assert order == {f"k{rest}": [n for n in range(30) if n % 4 == rest] for rest in range(4)}
    assert (await rig.info()).failed == 0


async def test_keys_run_in_parallel_up_to_the_number_of_lanes(rig: Any, bus: Any) -> None:
    """With three lanes three keys run side by side; a long one does not hold up the others."""
    running, peak = 0, 0

    async def handle(event: PluginEvent) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(100 if event.message.key == "slow" else 1)
        running -= 1
        if event.message.key != "slow":
            finished.append(asyncio.get_running_loop().time())

    finished: list[float] = []
    await rig.on(bus, handle, concurrency=3, timeout=1_000)
    start = asyncio.get_running_loop().time()
    await rig.publish(bus, 0, 0, 0, key="slow")
    for n in range(10):
        await rig.publish(bus, n, key=f"k{n}")
    await bus.quiet()
    assert peak == 3
    assert max(finished) - start <= 6


async def test_order_none_lets_events_of_one_key_overlap(rig: Any, bus: Any) -> None:
    """`order="none"` treats every event as if it had no key."""
    both = asyncio.Barrier(2)

    async def handle(event: PluginEvent) -> None:
        await both.wait()

    await rig.on(bus, handle, concurrency=2, order="none")
    await rig.publish(bus, 1, 2, key="k")
    await bus.quiet()
    assert (await rig.info()).handled == 2


async def test_a_failing_handler_is_tried_again_after_growing_pauses(
    rig: Any, bus: Any, recorder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails twice, succeeds at the third attempt; each failure is one log line."""
    handler = recorder(fail_until(3))
    await rig.on(bus, handler, retry=RetryPolicy(first_delay=1, factor=10, jitter=0))
    start = asyncio.get_running_loop().time()
    await rig.publish(bus, 1)
    await bus.quiet()
    assert handler.seen == [(1, 1), (1, 2), (1, 3)]
    assert asyncio.get_running_loop().time() - start == pytest.approx(11, abs=0.01)
    failures = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(failures) == 2
    assert "shop.handle: attempt 1 of 5" in failures[0].getMessage()
    info = await rig.info()
    assert (info.handled, info.failed, info.dead) == (1, 2, 0)


@pytest.mark.parametrize("lanes", [1, 3])
async def test_later_events_of_a_failing_key_queue_behind_it_and_others_go_on(
    rig: Any, bus: Any, recorder: Any, lanes: int
) -> None:
    """A parked event holds back its key, in order, and nothing else."""
    handler = recorder(fail_until(3, 1))
    await rig.on(bus, handler, concurrency=lanes, retry=RetryPolicy(first_delay=60, jitter=0))
    await rig.publish(bus, 1, 2, key="bad")
    await rig.publish(bus, 10, key="good")
    await rig.publish(bus, 20)
    await asyncio.sleep(30)
    await rig.publish(bus, 3, key="bad")
    await rig.publish(bus, 11, key="good")
    await asyncio.sleep(1)
    assert handler.done == [10, 20, 11]
    assert (await rig.info()).parked == 3
    await bus.quiet()
    assert handler.done == [10, 20, 11, 1, 2, 3]
    assert (await rig.info()).parked == 0


async def test_unkeyed_failures_stand_alone(rig: Any, bus: Any, recorder: Any) -> None:
    """Without a key a parked event holds nobody back."""
    handler = recorder(fail_until(2, 1))
    await rig.on(bus, handler, retry=RetryPolicy(first_delay=60))
    await rig.publish(bus, 1, 2, 3)
    await bus.quiet()
    assert handler.done == [2, 3, 1]


async def test_after_the_last_attempt_an_event_is_a_dead_letter_and_its_key_goes_on(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """The dead letter knows everything of its end; the next event of the key is handled."""
    handler = recorder(fail_until(99, 1))
    await rig.on(bus, handler, retry=RetryPolicy(attempts=3))
    [receipt] = await rig.publish(bus, 1, key="k")
    await rig.publish(bus, 2, key="k")
    tail = bus.tail("bus.**", position="oldest")
    await bus.quiet()
    assert handler.seen == [(1, 1), (1, 2), (1, 3), (2, 1)]
    [letter] = await bus.dead_letters()
    assert (letter.group, letter.plugin_id, letter.generation, letter.reason, letter.attempts) == (
        "shop.handle", "shop", 3, "attempts", 3,
    )  # fmt: skip
    assert letter.error.type == "ValueError"
    assert "no 1" in letter.error.traceback
    assert letter.envelope.id == receipt.id
    assert letter.data == '{"n":1}'
    assert letter.first_at <= letter.last_at
    [item] = tail.read_nowait()
    assert (item.envelope.type, item.envelope.source, item.envelope.causationid) == (
        "bus.dead_lettered", "/bus", receipt.id,
    )  # fmt: skip


async def test_redrive_goes_to_the_group_that_failed_and_to_it_alone(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """Attempts start at zero; the other group does not see the event again."""
    broken = recorder(fail_until(99))
    healthy = recorder()
    await rig.on(bus, broken, group="a.h", retry=RetryPolicy(attempts=2))
    await rig.on(bus, healthy, group="b.h")
    await rig.publish(bus, 1, 2, key="k")
    await bus.quiet()
    assert {letter.group for letter in await bus.dead_letters()} == {"a.h"}
    broken.act = None
    assert await bus.redrive(DeadLetterSelection(group="b.h")) == 0
    assert await bus.redrive(DeadLetterSelection(group="a.h")) == 2
    await bus.quiet()
    assert broken.seen[-2:] == [(1, 1), (2, 1)]
    assert healthy.numbers == [1, 2]
    assert await bus.dead_letters() == []


async def test_a_redriven_event_never_runs_beside_its_key(rig: Any, bus: Any) -> None:
    """While an event of the key runs, the redriven one waits, with many lanes too."""
    running: list[int] = []

    async def handle(event: PluginEvent) -> EventResult | None:
        n = event.data["n"]
        if n == 1 and not allowed:
            return EventResult.dead_letter("not yet")
        assert not running
        running.append(n)
        await asyncio.sleep(5)
        running.remove(n)
        done.append(n)
        return None

    allowed: list[bool] = []
    done: list[int] = []
    await rig.on(bus, handle, concurrency=4)
    await rig.publish(bus, 1, 2, 3, key="k")
    await asyncio.sleep(1)
    allowed.append(True)
    assert await bus.redrive(ALL) == 1
    await rig.publish(bus, 4, key="k")
    await bus.quiet()
    assert sorted(done) == [1, 2, 3, 4]
    assert [n for n in done if n != 1] == [2, 3, 4]


async def test_dead_letters_are_listed_newest_first_and_discarded_by_id(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """Selection by id; what was discarded is gone."""
    await rig.on(bus, recorder(lambda n, a: EventResult.dead_letter("no")))
    await rig.publish(bus, 1)
    await asyncio.sleep(1)
    await rig.publish(bus, 2)
    await bus.quiet()
    newest, oldest = await bus.dead_letters()
    assert (newest.data, oldest.data, newest.reason) == ('{"n":2}', '{"n":1}', "asked")
    assert newest.error.message == "no"
    assert await bus.dead_letters(limit=1) == [newest]
    assert await bus.discard(DeadLetterSelection(ids=(oldest.id, "unknown"))) == 1
    assert await bus.dead_letters() == [newest]


async def test_the_number_of_dead_letters_is_bounded(rig: Any, recorder: Any) -> None:
    """The oldest go, counted and announced."""
    rig.limit(dead_letters=2)
    bus = await rig.open()
    await rig.on(bus, recorder(lambda n, a: EventResult.dead_letter("no")))
    tail = bus.tail("bus.dead_letters_dropped")
    await rig.publish(bus, 1, 2, 3)
    await bus.quiet()
    assert [letter.data for letter in await bus.dead_letters()] == ['{"n":3}', '{"n":2}']
    assert [item.data for item in tail.read_nowait()] == ['{"group":"shop.handle","count":1}']


async def test_an_explicit_retry_asks_for_its_own_pause(rig: Any, bus: Any, recorder: Any) -> None:
    """`EventResult.retry(after=)` replaces the backoff; it counts as a failed attempt."""
    handler = recorder(lambda n, attempt: EventResult.retry("later", after=90) if attempt == 1 else None)
    await rig.on(bus, handler)
    start = asyncio.get_running_loop().time()
    await rig.publish(bus, 1)
    await bus.quiet()
    assert handler.seen == [(1, 1), (1, 2)]
    assert asyncio.get_running_loop().time() - start == pytest.approx(90)


async def test_an_error_may_ask_for_a_longer_pause(rig: Any, bus: Any, recorder: Any) -> None:
    """`retry_after` of an error is a lower bound of the backoff."""

    def act(n: int, attempt: int) -> None:
        if attempt == 1:
            raise PluginNotReady(retry_after=500)

    await rig.on(bus, recorder(act))
    start = asyncio.get_running_loop().time()
    await rig.publish(bus, 1)
    await bus.quiet()
    assert asyncio.get_running_loop().time() - start == pytest.approx(500)


async def test_discarded_events_are_announced_and_not_kept(rig: Any, bus: Any, recorder: Any) -> None:
    """`EventResult.discard` gives up on purpose."""
    await rig.on(bus, recorder(lambda n, a: EventResult.discard("unwanted")))
    tail = bus.tail("bus.discarded")
    await rig.publish(bus, 1)
    await bus.quiet()
    assert await bus.dead_letters() == []
    assert '"reason":"unwanted"' in tail.read_nowait()[0].data


async def test_data_that_do_not_fit_are_dead_at_once(rig: Any, bus: Any, recorder: Any) -> None:
    """`InvalidEvent` is not retried, nor is its kind for what is no JSON; the key is not delayed."""
    handler = recorder()
    await rig.on(bus, handler)
    await bus.publish(EventData(type="orders.item", data='{"n":"x"}'), source="/test", key="k")
    await bus.publish(EventData(type="orders.item", data="not json"), source="/test", key="k")
    await rig.publish(bus, 2, key="k")
    await bus.quiet()
    letters = await bus.dead_letters()
    assert [letter.reason for letter in letters] == ["decode", "schema"]
    assert letters[0].data == "not json"
    assert handler.numbers == [2]
    assert all(letter.error.matches(InvalidEvent.__name__) for letter in letters)


async def test_returned_events_are_published_once_with_source_key_and_causes(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """They carry the handler's source, the delivery's key, its cause, and ids derived from it."""

    async def handle(event: PluginEvent) -> EventResult:
        return EventResult.ok(Answer(text="a"), Answer(text="b"))

    answers = recorder()
    await rig.on(bus, handle, "orders.item")
    await rig.on(bus, answers, "orders.answer", group="x.h")
    [receipt] = await rig.publish(bus, 1, key="k")
    await bus.quiet()
    first, second = answers.events
    envelope = first.envelope
    assert (envelope.source, envelope.partitionkey) == ("/plugins/shop", "k")
    assert envelope.correlationid == envelope.causationid == receipt.id
    assert first.message.depth == 1
    assert first.id != second.id


async def test_a_repetition_publishes_nothing_twice(rig: Any, bus: Any, recorder: Any) -> None:
    """If the second of two returned events cannot be published, the retry adds only what is missing."""

    async def handle(event: PluginEvent) -> EventResult:
        large = Answer(text="x" * 2_000_000) if event.attempt == 1 else Answer(text="small")
        return EventResult.ok(Answer(text="first"), large)

    answers = recorder()
    await rig.on(bus, handle, "orders.item")
    await rig.on(bus, answers, "orders.answer", group="x.h")
    await rig.publish(bus, 1)
    await bus.quiet()
    assert [event.data["text"] for event in answers.events] == ["first", "small"]


async def test_a_result_of_the_wrong_kind_is_a_failure(rig: Any, bus: Any) -> None:
    """A handler that returns something else than an `EventResult` fails like any other."""

    async def handle(event: PluginEvent) -> Any:
        return "ok"

    await rig.on(bus, handle, retry=RetryPolicy(attempts=1))
    await rig.publish(bus, 1)
    await bus.quiet()
    [letter] = await bus.dead_letters()
    assert letter.error.type == "TypeError"


async def test_failures_of_listeners_to_the_bus_itself_are_not_announced(
    rig: Any, bus: Any, recorder: Any
) -> None:
    """A handler of `bus.**` that always fails does not feed itself."""
    await rig.on(bus, recorder(fail_until(99)), group="a.h", retry=RetryPolicy(attempts=1))
    listener = recorder(fail_until(99))
    await rig.on(bus, listener, "bus.**", group="b.h", retry=RetryPolicy(attempts=1))
    await rig.publish(bus, 1)
    await bus.quiet()
    assert len(listener.seen) == 1
    assert sorted(letter.group for letter in await bus.dead_letters()) == ["a.h", "b.h"]


async def test_a_dropped_group_is_forgotten(rig: Any, bus: Any, recorder: Any) -> None:
    """Place, lot and dead letters are gone; the same name is a new group afterwards."""
    handler = recorder(lambda n, a: EventResult.dead_letter("no"))
    subscription = await rig.on(bus, handler)
    await rig.publish(bus, 1)
    await bus.quiet()
    await bus.drop_group("shop.handle")
    await bus.drop_group("unknown.group")
    await subscription.remove()
    assert await bus.groups() == []
    assert await bus.dead_letters() == []
    await rig.publish(bus, 2)
    again = recorder()
    await rig.on(bus, again)
    await bus.quiet()
    assert again.numbers == [1, 2]


async def test_a_handler_that_cancels_itself_has_failed(rig: Any, bus: Any, recorder: Any) -> None:
    """A `CancelledError` that nobody asked for is a failure, not the end of the lane."""

    async def act(n: int, attempt: int) -> None:
        if attempt == 1:
            raise asyncio.CancelledError

    handler = recorder(act)
    await rig.on(bus, handler)
    await rig.publish(bus, 1, 2)
    await bus.quiet()
    assert sorted(handler.done) == [1, 2]


async def test_a_handler_that_exits_the_process_has_failed(rig: Any, bus: Any, recorder: Any) -> None:
    """`SystemExit` in a handler does not take the process along."""

    def act(n: int, attempt: int) -> None:
        if attempt == 1:
            raise SystemExit(3)

    handler = recorder(act)
    await rig.on(bus, handler)
    await rig.publish(bus, 1)
    await bus.quiet()
    assert handler.seen == [(1, 1), (1, 2)]


async def test_the_lot_is_bounded_and_then_the_group_reads_no_further(rig: Any, recorder: Any) -> None:
    """With a full lot the rest waits in its place until something of it is settled."""
    rig.limit(lot=3)
    bus = await rig.open()
    handler = recorder(fail_until(2))
    await rig.on(bus, handler, retry=RetryPolicy(first_delay=60, jitter=0))
    for n in range(6):
        await rig.publish(bus, n, key=f"k{n}")
        await asyncio.sleep(0)
    await asyncio.sleep(1)
    info = await rig.info()
    assert (info.parked, info.waiting) == (3, 3)
    await bus.quiet()
    assert sorted(handler.done) == list(range(6))


async def test_a_topic_with_several_partitions_keeps_the_order_of_each_key(rig: Any, recorder: Any) -> None:
    """Partitions split keys, never one key; reserved topics have one partition."""
    rig.make_broker(partitions=4)
    bus = await rig.open()
    handler = recorder()
    await rig.on(bus, handler)
    receipts = [(await rig.publish(bus, n, key=f"k{n % 8}"))[0] for n in range(80)]
    await bus.quiet()
    assert len({receipt.position.partition(":")[0] for receipt in receipts}) > 1
    for rest in range(8):
        assert [n for n in handler.numbers if n % 8 == rest] == [n for n in range(80) if n % 8 == rest]


async def test_two_handlers_of_one_plugin_share_nothing(rig: Any, bus: Any, recorder: Any) -> None:
    """Two groups of one plugin fail and go on by themselves."""
    first, second = recorder(fail_until(2)), recorder()
    await rig.on(bus, first, group="shop.one")
    await rig.on(bus, second, group="shop.two")
    await rig.publish(bus, 1, 2, key="k")
    await bus.quiet()
    assert first.seen == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert second.seen == [(1, 1), (2, 1)]
