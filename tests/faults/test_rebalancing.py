"""Partitions that move: to another version of their plugin, and to replicas that come and go."""

from __future__ import annotations

import asyncio
import itertools

from fault_tools.form import IS_LONG
from fault_tools.workers import Bench, Worker, owners, owners_are

from bus.conformance.backend import needs
from bus.conformance.handover import One, Two
from bus.conformance.probe import Probe
from bus.conformance.rig import now
from contracts.bus import EventBus
from contracts.errors import VersionAhead
from contracts.event import Event, EventResult, Receipt
from contracts.message import PluginEvent

LEASE = 1.0
GROUP = "shop.handle"


# --- versions -----------------------------------------------------------------------------------------------


@needs(lease=LEASE, partitions=4)
async def test_a_rolling_upgrade_and_back_under_load(work: Bench) -> None:
    """Plugin and event version 1 → 2 → 1 while events come: no dead letter, nobody sees a version that he
    does not know, and the older one owns nothing 5 s after the newer has come [B17]."""
    rig, ahead = work.rig, list[str]()
    a, b = await rig.open("a"), await rig.open("b")
    rig.groups[GROUP] = ("upgrade.*",)
    version, numbers, is_over, probes = 1, itertools.count(), False, list[Probe]()

    async def host(bus: EventBus, model: type[Event], plugin: str) -> Probe:
        probe = Probe(rig.history, GROUP, bus.replica, lambda n, attempt: asyncio.sleep(0.002))
        probes.append(probe)

        async def handle(event: PluginEvent) -> EventResult | None:
            try:
                event.as_(model)
            except VersionAhead as error:
                ahead.append(str(error))
                raise
            return await probe(event)

        probe.subscription = await bus.subscribe(rig.spec("upgrade.*", version=plugin), handle)
        return probe

    async def load() -> None:
        while not is_over:
            n = next(numbers)
            await rig.publish(a, n, type="upgrade.item", version=version, key=f"k{n % 7}")
            await asyncio.sleep(0.002)

    loading = asyncio.ensure_future(load())
    old = await host(a, One, "1.0")
    await rig.until(lambda: old.numbers)
    for _ in range(10 if IS_LONG else 2):
        new, came_at = await host(b, Two, "2.0"), now()
        await rig.until(lambda: owners_are(work, a, {"b": 4}))
        assert now() - came_at < 5
        version = 2
        await rig.until(lambda: any(event.message.version == 2 for event in new.events))  # noqa: B023
        version = 1
        last = next(numbers)  # what is of version 2 was published before
        await rig.publish(a, last, type="upgrade.item", key="last")
        await rig.until(lambda: set(range(last)) <= {n for one in probes for n in one.done})  # noqa: B023
        await new.subscription.drain(10)
        await rig.until(lambda: owners_are(work, a, {"a": 4}))
    is_over = True
    await loading
    await rig.quiet(a)
    assert (ahead, await a.dead_letters()) == ([], [])
    work.judge()


# --- many subscriptions, and replicas that come and go ------------------------------------------------------


@needs(lease=LEASE, partitions=2)
async def test_a_partition_that_waits_for_a_slow_handler_goes_on_meanwhile(work: Bench) -> None:
    """In each of two partitions one runs that does not end, and one of them is to move: its other keys stand
    still for less than 3 s, again and again, and when the slow one has ended it moves [B37]."""
    rig = work.rig
    a, b = await rig.open("a"), await rig.open("b")
    first = await work.host(a, holds=True, concurrency=3, timeout=100)  # one lane is left for what is fast
    n, keys = itertools.count(), dict[int, list[str]]()
    for number in itertools.islice(n, 16):
        [receipt] = await rig.publish(a, number, key=f"k{number}")
        keys.setdefault(partition_of(receipt), []).append(f"k{number}")
    slow, fast = zip(*(found[:2] for found in keys.values()), strict=True)
    assert len(slow) == 2
    for key in slow:
        await work.publish(a, next(n), "hold", key=key)
    await rig.until(lambda: first.running == 2)
    second, waits = await work.host(b, concurrency=3), list[float]()
    while sum(wait > STOOD for wait in waits) < 2:
        published_at = now()
        numbers = [next(n) for _ in fast]
        for number, key in zip(numbers, fast, strict=True):
            await work.publish(a, number, key=key)
        await rig.until(lambda: set(numbers) <= set(first.done))  # noqa: B023 - awaited here
        waits.append(now() - published_at)
    assert max(waits) < 3
    assert (second.numbers, await owners(work, a)) == ([], {"a": 2})
    first.gate.open()
    await rig.until(lambda: owners_are(work, a, {"a": 1, "b": 1}))
    await rig.quiet(a)
    work.judge()


STOOD = 0.5
"""Seconds of waiting that show that a partition stood still."""


def partition_of(receipt: Receipt) -> int:
    """As it says: `topic/partition:entry`."""
    return int(receipt.position.partition("/")[2].partition(":")[0])


@needs(lease=LEASE, partitions=8)
async def test_replicas_come_and_go_while_some_handlers_are_slow(work: Bench) -> None:
    """1 → 4 → 2 → 4: nothing is started again, no key is handled by two at once, all partitions have an
    owner in the end, and none stands still for 3 s because a slow one runs in it when others come [B37]."""
    rig, slow = work.rig, 60 if IS_LONG else 4
    rig.backend.patience += slow
    bus = await rig.open("publisher")
    await bus.declare_group(rig.spec(concurrency=4))
    rig.groups[GROUP] = ("orders.**",)
    is_over, n = False, itertools.count()

    async def load() -> None:
        while not is_over:
            number = next(n)
            await work.publish(bus, number, key=f"k{number % 64}")
            await asyncio.sleep(0.01)

    async def come(*names: str) -> list[Worker]:
        return list(await asyncio.gather(*(work.up(name, concurrency=4, timeout=100) for name in names)))

    async def are_shared(*names: str) -> None:
        async def is_so() -> bool:
            found = await owners(work, bus)
            return set(found) == set(names) and sum(found.values()) == 8

        await rig.until(is_so)

    loading = asyncio.ensure_future(load())
    [first] = await come("w0")
    for number in range(3):  # its fourth lane is left for what is fast: without one, no key could go on
        await work.publish(bus, 10_000 + number, f"sleep {slow}", key=f"slow{number}")
    await rig.until(lambda: first.running() >= 3)
    _, second, third = await come("w1", "w2", "w3")
    await are_shared("w0", "w1", "w2", "w3")
    leaving_at = now()
    await asyncio.gather(second.end(), third.end())
    await are_shared("w0", "w1")
    left_at = now()
    await come("w4", "w5")
    await are_shared("w0", "w1", "w4", "w5")
    is_over = True
    await loading
    await rig.quiet(bus)
    work.collect()
    cut = sum(one.kind == "ended" and one.how == "cancelled" for one in rig.history)
    assert not cut  # what ran was waited for
    work.judge()
    assert longest_wait(work, besides=(leaving_at, left_at)) < 3


def longest_wait(work: Bench, besides: tuple[float, float]) -> float:
    """Seconds from a publish to its first start, of those that are fast and not of the time in between."""
    begin, end = besides
    confirmed = {one.id: one.at for one in work.rig.history if one.kind == "confirmed"}
    waits = dict[str, float]()
    for one in work.rig.history:
        published_at = confirmed.get(one.id, one.at)
        if one.kind == "started" and (one.key or "")[:1] == "k" and not begin < published_at < end:
            waits.setdefault(one.id, one.at - published_at)
    return max(waits.values())


async def test_many_subscriptions_that_are_idle_cost_nothing(work: Bench) -> None:
    """A hundred subscriptions on eight partitions each take less than 2 % of a processor."""
    rig = work.rig
    rig.backend.limits = rig.backend.limits.model_copy(update={"partitions": 8})
    bus = await rig.open("publisher")
    worker = await work.up("many", groups=[f"shop.h{n}" for n in range(100)])
    for n in range(64):
        await work.publish(bus, n)

    async def is_handled() -> bool:
        return len(worker.starts()) == 6_400

    await rig.until(is_handled)
    await rig.quiet(bus)
    worker.tell(f"measure {60 if IS_LONG else 1}")
    assert float((await worker.fact("measured")).split()[1]) < 0.02
