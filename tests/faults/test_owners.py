"""Who owns a partition, while replicas are killed, stopped, slow, twins or many."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from fault_tools.form import IS_LONG
from fault_tools.servers import Server
from fault_tools.worker import KILLED
from fault_tools.workers import (
    Bench,
    Body,
    Nursery,
    in_flight,
    owners,
    owners_are,
    passes_on_naive,
    retries,
)

from bus.conformance.backend import needs
from bus.conformance.rig import now
from bus.redis_streams.layout import Keys, owner_of
from contracts.bus import EventBus
from contracts.errors import BusError

LEASE = 1.0
SHORT = 0.5
"""A lease, where only one replica could lose anything by it."""
GROUP = "shop.handle"
CONTROLLED: list[Body] = []
"""Tests of failure modes: on the naive bus they must fail."""


def controlled(body: Body) -> Body:
    CONTROLLED.append(body)
    return body


# --- killed -------------------------------------------------------------------------------------------------


@controlled
@needs(lease=LEASE)
async def test_what_a_killed_process_ran_is_handled_by_others(work: Bench) -> None:
    """Eight run when it gets SIGKILL: each starts once more in lease + 5 s, before newer ones [B8 F10]."""
    bus = await work.rig.open("heir")
    worker = await work.up("first", concurrency=8)
    for n in range(8):
        await work.publish(bus, n, "hold", key=f"k{n}")
    await work.rig.until(lambda: worker.running() == 8)
    worker.kill()
    killed_at = now()
    for n in range(8, 16):
        await work.publish(bus, n, key=f"k{n - 8}")
    heir = await work.host(bus, concurrency=8)
    await work.rig.quiet(bus)
    work.collect()
    work.judge(repeats=8)
    assert sorted(heir.starts) == [(n, 1) for n in range(16)]
    assert max(heir.times) - killed_at < LEASE + 5


@controlled
@needs(lease=SHORT)
async def test_who_takes_over_is_killed_in_turn(work: Bench) -> None:
    """Whatever a dead replica held, another has it after the lease; what it left comes first [B27 F11]."""
    bus = await work.rig.open("last")
    await bus.declare_group(work.rig.spec())
    for name, n in (("first", 0), ("second", 1)):
        worker = await work.up(name)
        await work.publish(bus, n, "hold", key="k")
        await work.rig.until(lambda: worker.running() == 1)  # noqa: B023 - awaited here
        worker.kill()
    killed_at = now()
    await work.publish(bus, 2, key="k")
    heir = await work.host(bus)
    await work.rig.quiet(bus)
    work.collect()
    work.judge(repeats=2)
    assert heir.starts == [(0, 2), (1, 1), (2, 1)]  # the first had a second start, which counts
    assert heir.times[0] - killed_at < SHORT + 5


@needs(lease=SHORT, partitions=1)
async def test_an_event_that_kills_its_process_is_found(work: Bench) -> None:
    """One of 500 fetched: it alone becomes a dead letter, after `attempts` + 1 deaths at most; all others are
    handled, and started again only where their settlement died with a process [B8]."""
    bus, attempts = await work.rig.open("publisher"), 3
    await bus.declare_group(work.rig.spec())
    work.rig.groups[GROUP] = ("orders.**",)
    for n in range(500):
        await work.publish(bus, n, *(["kill"] if n == 250 else []))
    repeats = 0
    for deaths in itertools.count():
        worker = work.start(f"r{deaths}", retry=retries(0.05, attempts=attempts))
        quiet = asyncio.ensure_future(bus.quiet())
        await work.rig.until(lambda: quiet.done() or worker.code is not None)  # noqa: B023 - awaited here
        if quiet.done():
            break
        quiet.cancel()
        assert (worker.code, worker.reached) == (KILLED, "kill 250")
        assert deaths <= attempts
        # Nobody else has anything yet: what it had started, and Redis does not know as settled, comes again.
        repeats += len({one.id for one in worker.starts()} & pending_ids(work))
    [letter] = await bus.dead_letters()
    assert (letter.envelope.id, letter.reason, letter.attempts) == ("e251-250", "attempts", attempts)
    await work.rig.given_up(bus)
    work.collect()
    work.judge(repeats=repeats - 1)  # when the last had died, what killed it was not started any more


def pending_ids(work: Bench) -> set[str]:
    """Events that were handed over and not settled: the first of the only partition is `e1-0`, and so on."""
    with work.client() as client:
        found = client.xpending_range(work.stream("orders"), GROUP, "-", "+", 1_000)
    numbers = [int(one["message_id"].partition(b"-")[2]) for one in found]
    return {f"e{number}-{number - 1}" for number in numbers}


# --- stopped ------------------------------------------------------------------------------------------------


@controlled
@needs(lease=LEASE)
async def test_who_is_stopped_and_goes_on_settles_nothing(work: Bench) -> None:
    """SIGSTOP with four running: handled by another, effected once; the late ends are refused, all four
    counted; and it starts nothing of what is not its own any more [B9 F15]."""
    bus = await work.rig.open("heir")
    effects = await work.rig.on(bus, None, "effects.*", group="audit.effects")
    stale = await work.up("stale", concurrency=4)
    for n in range(4):
        await work.publish(bus, n, "hold", "make", key=f"k{n}")
    for n in range(4, 8):
        await work.publish(bus, n, key=f"k{n - 4}")
    await work.rig.until(lambda: stale.running() == 4)
    await stale.stop()
    heir = await work.host(bus, concurrency=4)
    await work.rig.quiet(bus)
    assert sorted(heir.numbers) == list(range(8))
    stale.tell("go")
    stale.go_on()

    async def are_refused() -> bool:
        return (await work.rig.info(bus)).stale == 4

    await work.rig.until(are_refused)
    for n in range(8, 16):
        await work.publish(bus, n, key=f"k{n % 4}")
    await work.rig.quiet(bus)
    assert (await work.rig.info(bus)).stale == 4
    assert sorted(effects.numbers) == list(range(4))
    work.collect()
    work.judge(repeats=4)


@pytest.mark.parametrize("has_fetched", [False, True], ids=["by script", "by transaction"])
@needs(lease=SHORT)
async def test_who_stood_still_before_a_fetch_reads_nothing(work: Bench, has_fetched: bool) -> None:
    """What lies unread, because the new owner is busy, stays his: no delivery is in the hands of one who does
    not know of it, and none is started by who lost it [B9 F15]."""
    bus = await work.rig.open("heir")
    stale = await work.up("stale", point="before:fetch", stops=True)
    stale.tell("go")
    if has_fetched:
        await work.publish(bus, 100, key="k")
        await work.rig.quiet(bus)
    await stale.arm()
    await work.publish(bus, 0, "hold", key="k")
    await stale.stood_still()
    heir = await work.host(bus, holds=True, version="1")  # a newer one: it stays the owner
    await work.rig.until(lambda: heir.starts)
    for n in range(
        1, 50
    ):  # fewer than both would read: behind what is taken wrongly nothing comes that shows it
        await work.publish(bus, n, key="k")
    await work.rig.until(lambda: in_flight(work))
    held = in_flight(work)
    assert held < 40
    stale.go_on()
    await work.rig.until(lambda: is_back(bus, "stale"))
    await work.rig.pause()
    assert in_flight(work) == held
    heir.gate.open()
    await work.rig.quiet(bus)
    work.collect()
    work.judge()


@needs(lease=SHORT)
async def test_who_stood_still_before_a_settlement_acknowledges_nothing(work: Bench) -> None:
    """What the new owner runs when the late settlement comes is handled again if he dies with it [B9 F15]."""
    bus, heir = await work.rig.open("witness"), await work.rig.open("heir")
    stale = await work.up("stale", point="before:settle", stops=True)
    stale.tell("go")
    await stale.arm()
    await work.publish(bus, 0, "hold", key="k")
    await stale.stood_still()
    second = await work.host(heir, holds=True)
    await work.rig.until(lambda: second.running)
    stale.go_on()

    async def is_refused() -> bool:
        return (await work.rig.info(bus)).stale == 1

    await work.rig.until(is_refused)
    await work.rig.crash(heir)
    await stale.end()
    third = await work.host(bus)
    await work.rig.quiet(bus)
    assert third.starts == [(0, 2)]
    work.collect()
    work.judge(repeats=2)


async def is_back(bus: EventBus, replica: str) -> bool:
    return replica in (await bus.info()).replicas


@controlled
@needs(lease=SHORT, partitions=2)
async def test_who_is_cleared_away_while_it_wakes_takes_nothing_with_it(work: Bench) -> None:
    """A replica is stopped again and again, at last until it is cleared away, and before that for about its
    lease, so that it wakes meanwhile: what it held is started again, once, and never lost [B29 F24]."""
    bus = await work.rig.open("heir")
    sleeper = await work.up("sleeper", concurrency=2)
    handler = await work.host(bus, concurrency=2)
    n, held, was_cleared = itertools.count(), 0, list[bool]()
    await work.publish(bus, next(n))
    for pause in (0.0, SHORT - 0.2, SHORT - 0.02, SHORT, SHORT + 0.05, None):
        await work.rig.until(lambda: owners_are(work, bus, {"heir": 1, "sleeper": 1}))
        epochs = epochs_of(work)
        his = {epoch for epoch in epochs if owner_of(epoch) == "sleeper"}
        for key in "abcdef":
            await work.publish(bus, next(n), "sleep 0.05", key=key)
        # All its lanes: one that is stopped as it starts something would start it when it wakes.
        await work.rig.until(lambda: sleeper.running() == 2)
        await sleeper.stop(is_long=False)
        stopped_at, in_hand = now(), in_flight(work)
        for key in "abcdef":
            await work.publish(bus, next(n), key=key)
        await (changed_hands(work, his) if pause is None else asyncio.sleep(pause))
        woke_at = now()
        sleeper.go_on(is_long=False)
        await work.rig.quiet(bus)
        was_cleared.append(not his <= set(epochs_of(work)))  # the heir may have left and taken back his own
        if was_cleared[-1]:
            held += in_hand
            work.rig.history.add("gone", stopped_at, replica="sleeper")
            work.rig.history.add("back", woke_at, replica="sleeper")
    work.collect()
    work.judge(repeats=held)
    assert (was_cleared[0], was_cleared[-1]) == (False, True)
    assert handler.numbers
    assert consumers(work) == {1}


@needs(lease=SHORT, partitions=2)
async def test_who_is_back_before_he_is_taken_over_keeps_what_he_has(work: Bench) -> None:
    """Judged gone, and just about to be taken over: he runs on, and who takes is refused and looks again."""
    bus = await work.rig.open("witness")
    sleeper = await work.up("sleeper", concurrency=6)
    heir = await work.up("heir", concurrency=6, point="before:take#2", stops=True)
    await work.publish(bus, 0)
    await work.rig.until(lambda: owners_are(work, bus, {"heir": 1, "sleeper": 1}))
    await work.rig.quiet(bus)
    before = epochs_of(work)
    await heir.arm()
    await sleeper.stop(is_long=False)
    await heir.stood_still()  # it was refused once, has seen that the owner is gone, and takes now
    sleeper.go_on(is_long=False)
    for n, key in enumerate("abcdef", 1):
        await work.publish(bus, n, "sleep 0.3", key=key)
    await work.rig.until(lambda: len(sleeper.starts()) > 1)
    heir.go_on()
    await work.rig.quiet(bus)
    [kept] = [epoch for epoch in before if epoch.endswith(b" sleeper")]
    assert kept in epochs_of(work), "it was taken over"
    work.collect()
    work.judge()


async def changed_hands(work: Bench, epochs: set[Any]) -> None:
    """Return when somebody has taken over a partition of which this was the ownership."""
    await work.rig.until(lambda: not epochs <= set(epochs_of(work)), "a partition to change hands")


def epochs_of(work: Bench) -> list[Any]:
    """Of the ownership of each partition: another one tells that it has changed hands."""
    keys = Keys(work.namespace)
    with work.client() as client:
        return [client.hget(keys.own(p), GROUP) for p in range(work.partitions)]


def consumers(work: Bench) -> set[int]:
    with work.client() as client:
        streams = [work.stream("orders", p) for p in range(work.partitions)]
        return {group["consumers"] for stream in streams for group in client.xinfo_groups(stream)}


# --- slow ---------------------------------------------------------------------------------------------------


@controlled
@needs(lease=SHORT)
async def test_a_slow_handler_keeps_what_it_has(work: Bench) -> None:
    """One runs for three leases, 200 wait behind it in its process, another replica stands by: one start
    each, one delivery each, no change of owners, nothing refused [B10 B11 F13 F14]."""
    a, b, options = await work.rig.open("a"), await work.rig.open("b"), {"timeout": 300.0}
    first = await work.host(a, **options)
    await work.publish(a, 0, f"sleep {120 if IS_LONG else 3 * SHORT}", key="k0")
    await work.rig.until(lambda: first.starts)
    for n in range(1, 201):
        await work.publish(a, n, key=f"k{n % 10}")
    second = await work.host(b, **options)
    owner, counts = await owners(work, a), set[int]()
    while first.running:
        await work.rig.pause(1)
        with work.client() as client:
            found = client.xpending_range(work.stream("orders", 0), GROUP, "-", "+", 300)
        counts |= {one["times_delivered"] for one in found}
    await work.rig.quiet(a)
    assert sorted(first.starts + second.starts) == [(n, 1) for n in range(201)]
    assert counts == {1}
    assert (await work.rig.info(a)).stale == 0
    assert sum((await owners(work, a)).values()) == sum(owner.values()) == 1
    work.judge()


@controlled
@needs(lease=SHORT)
async def test_only_what_was_handled_is_acknowledged(work: Bench) -> None:
    """Cancelled, timed out or failed: it is handled again, before newer ones of its key [F16]."""
    bus = await work.rig.open("heir")
    options: dict[str, Any] = {"timeout": 0.2, "retry": retries(0.05)}
    worker = await work.up("first", concurrency=4, **options)
    for n, do in enumerate(("hold", "sleep 0.1", "fail 1", "sleep 0.1")):
        await work.publish(bus, n, do, key=f"k{n}")
    await work.rig.until(lambda: len(worker.starts()) >= 4)
    worker.tell("drain")
    await worker.fact("drained")
    for n in range(4, 8):
        await work.publish(bus, n, key=f"k{n - 4}")
    heir = await work.host(bus, concurrency=4, **options)
    await work.rig.quiet(bus)
    work.collect()
    work.judge(repeats=4)
    ends = [one for one in work.rig.history if one.kind == "ended" and one.how == "returned"]
    assert len(ends) == 8
    assert heir.done


# --- many at once -------------------------------------------------------------------------------------------


@controlled
@needs(lease=LEASE, partitions=4)
async def test_ten_replicas_come_at_once(work: Bench) -> None:
    """A dead owner left four running and twenty more: each is started once by one of the ten [B26 F12]."""
    bus = await work.rig.open("r0")
    worker = await work.up("first", concurrency=4)
    for n in range(4):
        await work.publish(bus, n, "hold", key=f"k{n}")
    await work.rig.until(lambda: worker.running() == 4)
    for n in range(4, 24):
        await work.publish(bus, n, key=f"k{n % 8}")
    worker.kill()
    buses = [bus, *await asyncio.gather(*(work.rig.open(f"r{n}") for n in range(1, 10)))]
    handlers = await asyncio.gather(*(work.host(bus) for bus in buses))
    for n in range(24, 48):
        await work.publish(bus, n, key=f"k{n % 8}")
    await work.rig.quiet(bus)
    assert sorted(n for handler in handlers for n in handler.numbers) == list(range(48))
    work.collect()
    work.judge(repeats=4)
    assert sum((await owners(work, bus)).values()) == 4


# --- twins --------------------------------------------------------------------------------------------------


@controlled
@needs(lease=SHORT)
async def test_a_name_is_one_replica_s(work: Bench) -> None:
    """While it lives a second one of its name is refused, with a fix, and disturbs nobody; when it is killed
    its name is free after the lease, and what it ran comes first [B28 F25 F34]."""
    bus, twin = await work.rig.open("publisher"), await work.up("twin")
    await work.publish(bus, 0, "hold", key="k")
    await work.rig.until(lambda: twin.running() == 1)
    with pytest.raises(BusError) as caught:
        await work.rig.backend.open("twin")
    assert caught.value.is_final
    assert "'twin'" in caught.value.message
    assert caught.value.fix
    assert await owners(work, bus) == {"twin": 1}
    twin.kill()
    killed_at = now()
    await work.publish(bus, 1, key="k")
    again = await work.rig.open("twin")
    work.rig.history.add("back", now(), replica="twin")
    handler = await work.host(again)
    await work.rig.quiet(bus)
    assert handler.starts == [(0, 1), (1, 1)]
    assert handler.times[0] - killed_at < SHORT + 5
    work.collect()
    work.judge(repeats=1)


@controlled
@needs(lease=SHORT)
async def test_who_comes_again_under_its_name_finishes_first_what_it_had(work: Bench) -> None:
    """Killed and started anew with the same name: its own unsettled events come before newer ones [F34]."""
    bus, worker = await work.rig.open("publisher"), await work.up("same")
    await work.publish(bus, 0, "hold", key="k")
    await work.publish(bus, 1, key="k")
    await work.rig.until(lambda: worker.running() == 1)
    worker.kill()
    await work.publish(bus, 2, key="k")
    again = await work.rig.open("same")
    work.rig.history.add("back", now(), replica="same")
    handler = await work.host(again)
    await work.rig.quiet(bus)
    assert handler.numbers == [0, 1, 2]
    work.collect()
    work.judge(repeats=1)


# --- the control --------------------------------------------------------------------------------------------


async def test_the_naive_bus_fails_each_of_these(
    shared_servers: dict[str, Server], nursery: Nursery, tmp_path: Path
) -> None:
    """What passes there judges nothing."""
    server = list(shared_servers.values())[-1]
    server.reset()
    assert await passes_on_naive(CONTROLLED, server, nursery, tmp_path) == []
