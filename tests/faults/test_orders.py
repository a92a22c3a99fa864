"""Order, retries, dead letters and room, while processes die, keys fail, and publishers are too fast."""

from __future__ import annotations

import asyncio
import itertools
import json
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from fault_tools.controls import Control, fails_on_naive
from fault_tools.form import IS_LONG
from fault_tools.servers import Server
from fault_tools.storage_systems import dead_are, is_parked
from fault_tools.worker import Doer
from fault_tools.worker_points import OPERATIONS
from fault_tools.workers import Bench, Body, Nursery, Worker, namespace_on, passes_on_naive, retries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.conformance.backend import needs
from bus.conformance.probe import Gate
from bus.conformance.rig import SOURCE, Rig, now
from bus.redis_streams.layout import Keys
from contracts.bus import EventBus, RetryPolicy
from contracts.errors import BusFull
from contracts.event import EventResult

LEASE = 0.5
GROUP = "shop.handle"
CONTROLLED: list[Body] = []
"""Tests of failure modes: on the naive bus they must fail."""


def controlled(body: Body) -> Body:
    CONTROLLED.append(body)
    return body


# --- retries and dead letters -------------------------------------------------------------------------------


async def test_five_attempts_with_growing_pauses(work: Bench) -> None:
    """Raises four times, then works: acknowledged after five starts, each pause as the schedule says and its
    jitter only longer. Raises always: one dead letter with everything that is known, nothing left behind
    [B12 B13]."""
    rig, first = work.rig, 0.06
    bus = await rig.open()
    handler = await work.host(
        bus, concurrency=2, generation=7, retry=RetryPolicy(first_delay=first, factor=2, jitter=0.2)
    )
    began = rig.now()
    await work.publish(bus, 0, "fail 4", key="works")
    await work.publish(bus, 1, "fail 9", key="never")
    await work.publish(bus, 2, key="works")
    await work.publish(bus, 3, key="never")
    await rig.quiet(bus)
    for n, last in ((0, 2), (1, 3)):
        at = [time for time, number in zip(handler.times, handler.numbers, strict=True) if number == n]
        pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
        wanted = [first * 2**k for k in range(4)]
        assert all(due <= pause < 1.2 * 1.1 * due + 0.1 for due, pause in zip(wanted, pauses, strict=True))
        assert [start for start in handler.starts if start[0] in (n, last)] == [
            *((n, attempt) for attempt in range(1, 6)), (last, 1)
        ]  # fmt: skip
    [letter] = await bus.dead_letters()
    assert letter.error is not None
    assert (letter.group, letter.plugin_id, letter.generation) == (GROUP, "shop", 7)
    assert (letter.reason, letter.attempts) == ("attempts", 5)
    assert (letter.error.type.rpartition(".")[2], letter.error.message) == ("ValueError", "not yet")
    assert "not yet" in letter.error.traceback
    assert (letter.envelope.source, letter.envelope.id) == (SOURCE, "e2-1")
    assert json.loads(letter.data) == {"n": 1, "do": ["fail 9"]}
    slack = timedelta(seconds=0.1)
    assert began - slack <= letter.first_at <= letter.last_at - timedelta(seconds=15 * first)
    assert letter.last_at <= rig.now() + slack
    info = await rig.info(bus)
    assert (info.handled, info.failed, info.dead, info.parked) == (3, 9, 1, 0)
    assert left(work) == {}
    await rig.given_up(bus)
    rig.judge()


def left(work: Bench) -> dict[str, int]:
    """Deliveries that are pending, in a lot, or suspect, in all partitions."""
    keys, found = Keys(work.namespace), dict[str, int]()
    with work.client() as client:
        for p in range(work.partitions):
            found[f"pending {p}"] = client.xpending(work.stream("orders", p), GROUP)["pending"]
            for kind in (keys.lot, keys.slips, keys.suspects):
                found[kind(GROUP, "orders", p)] = client.hlen(kind(GROUP, "orders", p))
    return {name: count for name, count in found.items() if count}


@needs(lease=LEASE)
@pytest.mark.parametrize("end", ["killed", "closed"])
async def test_what_was_due_while_everybody_was_down_comes_once(work: Bench, end: str) -> None:
    """A retry and a delayed event become due while no replica lives: each starts once, within a second after
    one is there again (and the lease of who was killed is over) [B40]."""
    rig = work.rig
    bus, worker = await rig.open("publisher"), await work.up("first", retry=retries(0.4))
    await work.publish(bus, 0, "fail 1", key="k")
    await work.publish(bus, 1, key="k")
    await work.publish(bus, 2, delay=0.4)

    async def is_parked() -> bool:
        return (await rig.info(bus)).parked == 2

    await rig.until(is_parked)
    if end == "killed":
        worker.kill()
    else:
        await worker.end()
    await rig.close(bus)
    await asyncio.sleep(0.6)
    again, came_at = await rig.open("again"), now()
    handler = await work.host(again, retry=retries(0.4))
    await rig.quiet(again)
    assert sorted(handler.starts) == [(0, 2), (1, 1), (2, 1)]
    assert max(handler.times) - came_at < 1 + (LEASE if end == "killed" else 0)
    work.collect()
    work.judge()


# --- order --------------------------------------------------------------------------------------------------


@controlled
@needs(lease=LEASE, partitions=8)
async def test_keys_are_in_order_while_processes_are_killed(work: Bench) -> None:
    """A hundred keys, eight processes, some failures, random SIGKILLs: of each key first starts and first
    completions are in the order of publishing [B37 F26]."""
    rig, random = work.rig, Random(37)  # noqa: S311 - a plan, not a secret
    bus = await rig.open("publisher")
    await bus.declare_group(rig.spec(concurrency=3, retry=retries(0.05)))
    rig.groups[GROUP] = ("orders.**",)
    names = itertools.count()

    async def come() -> Worker:
        return await work.up(f"w{next(names)}", concurrency=3, retry=retries(0.05))

    living = list(await asyncio.gather(*(come() for _ in range(8))))
    held, kills = 0, 60 if IS_LONG else 4
    for n in range(kills * 150):
        does = ["fail 1"] if random.random() < 0.03 else [f"sleep {random.random() / 200}"]
        await work.publish(bus, n, *does, key=f"k{random.randrange(100)}")
        if n % 150 == 100:
            victim = living.pop(random.randrange(len(living)))
            victim.kill()
            held += sum(
                client.xpending(work.stream("orders", p), GROUP)["pending"]
                for client in [work.client()] for p in range(work.partitions)
            )  # fmt: skip
            living.append(await come())
    await rig.quiet(bus)
    work.collect()
    work.judge(repeats=held)


class Death(NamedTuple):
    """What a process dies at: the `nth` such call."""

    when: str
    what: str
    nth: int


class Life(NamedTuple):
    """Events (key, attempts that fail), the deaths of who handles them one after the other, and lanes."""

    events: list[tuple[int, int]]
    deaths: list[Death]
    lanes: int


_CALLS = ("take", "fill", "recover", "fetch", "settle", *OPERATIONS[:5])
LIVES = st.builds(
    Life,
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=14),
    st.lists(
        st.builds(Death, st.sampled_from(["before", "after"]), st.sampled_from(_CALLS), st.integers(1, 3)),
        min_size=1, max_size=3,
    ),
    st.integers(1, 3),
)  # fmt: skip
AT_ONCE = 6


@settings(
    max_examples=100 if IS_LONG else 2, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)  # fmt: skip
@given(lives=st.lists(LIVES, min_size=AT_ONCE, max_size=AT_ONCE))
async def test_order_through_the_lot_and_deaths_at_every_call(
    server: Server, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory, lives: list[Life]
) -> None:
    """Keys, failures, deaths before and after script calls, new events of keys that wait: none of a key
    starts before an earlier one has its end [B37 F26]."""

    async def carry_out(life: Life) -> None:
        rig = Rig(namespace_on(server, lease=LEASE, partitions=2))
        folder = tmp_path_factory.mktemp("life")
        async with Bench(rig, nursery, folder, server, is_alone=False) as work:
            await live(life, work)

    await asyncio.gather(*map(carry_out, lives))


async def live(life: Life, work: Bench) -> None:
    rig, held = work.rig, 0
    bus = await rig.open("heir")
    options: dict[str, Any] = {"concurrency": life.lanes, "retry": retries(0.05, attempts=10)}
    await bus.declare_group(rig.spec(**options))
    rig.groups[GROUP] = ("orders.**",)
    events = iter(enumerate(life.events))

    async def publish(count: int) -> None:
        for n, (key, fails) in itertools.islice(events, count):
            await work.publish(bus, n, f"fail {fails}", f"sleep {n % 3 / 200}", key=f"k{key}")

    share = len(life.events) // (len(life.deaths) + 1)
    for number, (when, what, nth) in enumerate(life.deaths):
        await publish(share)
        worker = work.start(f"w{number}", point=f"{when}:{what}#{nth}", is_armed=True, **options)
        await publish(1)
        await its_end(worker, bus, rig)
        held += held_in(work)
    await publish(len(life.events))
    await work.host(bus, **options)
    await rig.quiet(bus)
    work.collect()
    work.judge(repeats=held)
    assert left(work) == {}


async def its_end(worker: Worker, bus: EventBus, rig: Rig) -> None:
    """It dies at its point, or is killed when nothing is left to do."""
    quiet = asyncio.ensure_future(bus.quiet())
    await rig.until(lambda: worker.code is not None or quiet.done())
    quiet.cancel()
    if worker.code is None:
        worker.kill()
        await worker.died()


def held_in(work: Bench) -> int:
    """Deliveries that somebody had in hand: read and not settled, or started from the lot."""
    keys, count = Keys(work.namespace), 0
    with work.client() as client:
        for p in range(work.partitions):
            count += client.xpending(work.stream("orders", p), GROUP)["pending"]
            slips = client.hvals(keys.slips(GROUP, "orders", p))
            count += sum("o" in json.loads(slip) for slip in slips)
    return count


# --- keys that fail, publishers that are too fast -----------------------------------------------------------


@needs(retain=50, young_seconds=0.0)
async def test_a_key_that_fails_is_in_nobody_s_way(work: Bench) -> None:
    """A hot key fails for a while, thousands of its events wait: other keys are as fast as before, the stream
    is trimmed; then one is dead and the key goes on in order [B38]."""
    rig, hot = work.rig, 100_000 if IS_LONG else 1_500
    bus = await rig.open()
    handler = await work.host(bus, concurrency=4, retry=retries(60.0 if IS_LONG else 3.0, attempts=2))
    usual = await p99_of_others(work, bus, handler, range(1, 301))
    await work.publish(bus, 10_000, "fail 9", key="hot")
    publishes = (work.publish(bus, 10_000 + n, key="hot", timeout=300) for n in range(1, hot))
    await asyncio.gather(*publishes)

    async def is_parked() -> bool:
        return (await rig.info(bus)).parked == hot

    await rig.until(is_parked)
    beside = await p99_of_others(work, bus, handler, range(301, 601))
    await rig.until(lambda: is_trimmed(bus))
    assert (await rig.info(bus)).parked == hot, "the hot key has not waited all the while"
    assert beside < max(2 * usual, 0.03)
    await rig.quiet(bus)
    started = [start for start in handler.starts if start[0] >= 10_000]
    assert started == [(10_000, 1), (10_000, 2), *((10_000 + n, 1) for n in range(1, hot))]
    [letter] = await bus.dead_letters()
    assert letter.attempts == 2
    await rig.given_up(bus)
    rig.judge()


async def is_trimmed(bus: EventBus) -> bool:
    """To what is retained, and what came since it was trimmed."""
    return all(topic.events <= 50 for topic in await bus.topics() if topic.topic == "orders")


async def p99_of_others(work: Bench, bus: EventBus, handler: Doer, numbers: range) -> float:
    """Seconds from publish to start, of a hundred keys at a steady pace."""
    began = dict[int, float]()
    for n in numbers:
        began[n] = now()
        await work.publish(bus, n, key=f"k{n % 100}")
        await asyncio.sleep(0.001)
    await work.rig.until(lambda: handler.numbers and numbers[-1] in handler.numbers)
    starts = dict(zip(handler.numbers, handler.times, strict=True))
    return sorted(starts[n] - began[n] for n in numbers)[len(numbers) * 99 // 100]


@controlled
@needs(retain=50, young_seconds=0.0, limit=200)
async def test_a_publisher_that_is_too_fast_waits(work: Bench) -> None:
    """Ten times faster than the handler: it waits for room; the bound is kept, nothing is lost, all of it
    drains; who will not wait is told who holds [B39 F33]."""
    rig, count, gate = work.rig, 60_000 if IS_LONG else 800, Gate()
    bus, numbers, refused = await rig.open(), itertools.count(), list[BusFull]()

    async def handle(n: int, attempt: int) -> None:
        await gate()
        await asyncio.sleep(0.001)

    async def publish() -> None:
        for n in itertools.takewhile(lambda n: n < count, numbers):
            await rig.publish(bus, n, key=f"k{n % 7}", timeout=300)

    async def will_not_wait() -> None:
        try:
            await rig.publish(bus, -1, timeout=0.05)
        except BusFull as error:
            refused.append(error)

    handler = await rig.on(bus, handle)
    await rig.publish(bus, next(numbers))
    publishers = [asyncio.ensure_future(publish()) for _ in range(20)]
    while not all(one.done() for one in publishers):
        await will_not_wait()
        if refused:
            gate.open()
    await asyncio.gather(*publishers)
    await rig.quiet(bus)
    [topic] = await bus.topics()
    assert topic.peak <= 200
    assert set(range(count)) <= set(handler.numbers)
    told = {(error.group, GROUP in error.fix) for error in refused}
    assert (GROUP, True) in told <= {(GROUP, True), ("", False)}  # where that was not known in time
    rig.judge()


# --- what is deleted by others ------------------------------------------------------------------------------


@controlled
@needs(lease=LEASE)
async def test_a_group_that_somebody_deletes_goes_on_where_it_was(work: Bench) -> None:
    """Its place in Redis is deleted while it waits, and events come before that is noticed: it is made anew
    where it was; nothing is lost, nothing handled again. The same for the whole stream, but for what was in
    it: what comes is delivered [F7 F8]."""
    rig = work.rig
    bus = await rig.open()
    handler = await work.host(bus)
    for n in range(5):
        await work.publish(bus, n, key="k")
    await rig.quiet(bus)
    with work.client() as client:
        assert client.xgroup_destroy(work.stream("orders"), GROUP)
    for n in range(5, 10):
        await work.publish(bus, n, key="k")
    await rig.until(lambda: len(handler.numbers) >= 10)
    await rig.quiet(bus)
    assert handler.numbers == list(range(10))
    with work.client() as client:
        assert client.delete(work.stream("orders"))
    for n in range(10, 15):
        await work.publish(bus, n, key="k")
    await rig.until(lambda: len(handler.numbers) >= 15)
    await rig.quiet(bus)
    assert handler.numbers == list(range(15))
    rig.judge()


@controlled
@needs(lease=LEASE)
async def test_a_group_that_was_deleted_while_nobody_had_it_starts_at_its_checkpoint(work: Bench) -> None:
    """Neither at the beginning nor at the end: what was settled before the last trim is not handled again,
    what came since is not lost [F8]."""
    rig = work.rig
    bus = await rig.open("publisher")
    first = await work.host(bus)
    for n in range(5):
        await work.publish(bus, n, key="k")
    await rig.quiet(bus)
    await first.subscription.drain(10)
    await bus.topics()  # looks, and trims
    with work.client() as client:
        assert client.xgroup_destroy(work.stream("orders"), GROUP)
    for n in range(5, 10):
        await work.publish(bus, n, key="k")
    second = await work.host(bus)
    await rig.until(lambda: len(second.numbers) >= 5)
    await rig.quiet(bus)
    assert second.numbers == list(range(5, 10))
    rig.judge()


# --- the control --------------------------------------------------------------------------------------------


async def test_the_naive_bus_fails_each_of_these(
    shared_servers: dict[str, Server], nursery: Nursery, tmp_path: Path
) -> None:
    """What passes there judges nothing."""
    server = list(shared_servers.values())[-1]
    server.reset()
    assert await passes_on_naive(CONTROLLED, server, nursery, tmp_path) == []


# --- what never comes to an end -----------------------------------------------------------------------------


CONTROLS: list[Control] = []


@fails_on_naive(
    CONTROLS, at="assert starts == [1, 2, 3, 4]",
    because="attempts are counted in the memory of one replica: who takes over begins at one",
)  # fmt: skip
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
    await rig.until(lambda: is_parked(rig, a))
    await rig.crash(a)
    b = await rig.open("b")
    await rig.on(b, again, retry=policy)
    await rig.until(lambda: dead_are(b, 1))
    await rig.pause(8)
    assert starts == [1, 2, 3, 4]
    [letter] = await b.dead_letters()
    assert (letter.reason, letter.attempts) == ("attempts", 4)
    await rig.given_up(b)
    rig.judge()


@pytest.mark.parametrize("control", CONTROLS, ids=str)
async def test_the_naive_bus_fails(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    """It has no end in sight, for its reason: what passes there judges nothing."""
    await control.check(caplog)
