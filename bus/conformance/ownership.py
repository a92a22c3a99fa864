"""Ownership: who handles a partition, and what a former owner may still do: nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.bus import EventBus
from contracts.event import Event, EventResult
from contracts.messages.delivery import OwnerLost

from .backend import needs
from .order import soon
from .probe import Gate
from .rig import Item, Rig
from .suite import Suite

LEASE = 1.0


class Ownership(Suite):
    """One owner at a time of a group and partition; nothing lost, and nothing started twice for nothing."""

    @needs(partitions=8)
    async def test_replicas_share_the_partitions(self, rig: Rig) -> None:
        """Each partition has one owner, and each of three replicas owns some."""
        buses = [await rig.open(name) for name in "abc"]
        probes = [await rig.on(bus) for bus in buses]
        await rig.publish(buses[0], 0)

        async def is_shared() -> bool:
            owners = (await rig.info(buses[0])).owners
            return sum(owners.values()) == 8 and set(owners) == {"a", "b", "c"}

        await rig.until(is_shared)
        for n in range(1, 60):
            await rig.publish(buses[0], n, key=f"k{n}")
        await rig.quiet(buses[0])
        assert all(probe.numbers for probe in probes)
        rig.judge()

    @needs(lease=LEASE, partitions=2)
    async def test_slow_but_live_owner_keeps_its_partitions(self, rig: Rig) -> None:
        """A handler that runs for three leases is started once: it is the beat that counts, not the work."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
        first = await rig.on(a, gate, concurrency=4, timeout=100)
        for n in range(8):
            await rig.publish(a, n, key=f"k{n}")
        await rig.until(lambda: first.running == 4)
        second = await rig.on(b, gate, timeout=100)
        await asyncio.sleep(3 * LEASE)
        gate.open()
        await rig.quiet(a)
        assert sorted(first.numbers + second.numbers) == list(range(8))
        assert ((await rig.info(a)).stale, (await rig.info(a)).failed) == (0, 0)
        rig.judge()

    @needs(lease=LEASE)
    async def test_crash_mid_handler_redelivers_once(self, rig: Rig) -> None:
        """What ran when its owner was killed is started once more, by another, as its first attempt."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
        first = await rig.on(a, gate)
        await rig.publish(b, 0, 1, key="k")
        await rig.until(lambda: gate.waiting)
        await rig.crash(a)
        heir = await rig.on(b)
        await rig.quiet(b)
        assert (first.starts, first.done) == ([(0, 1)], [])
        assert heir.starts == [(0, 1), (1, 1)]
        rig.judge(repeats=1)

    @needs(lease=LEASE)
    async def test_delivery_count_survives_restart(self, rig: Rig) -> None:
        """Attempts go on counting at the next owner, after a crash and after a close."""

        def act(n: int, attempt: int) -> None:
            if attempt < 5:
                raise ValueError("not yet")

        seen: list[tuple[int, int]] = []
        policy = soon(rig, attempts=10, first_delay=4 * rig.tick)
        for number in range(5):
            bus = await rig.open(f"r{number}")
            probe = await rig.on(bus, act, retry=policy)
            if number == 0:
                await rig.publish(bus, 1)
            await rig.until(lambda: probe.starts)  # noqa: B023 - awaited here
            await rig.pause(0.5)
            await (rig.crash(bus) if number % 2 else rig.close(bus))
            seen += probe.starts
        assert seen == [(1, attempt) for attempt in range(1, 6)]
        rig.judge()

    @needs(lease=LEASE, partitions=2)
    async def test_place_and_attempts_survive_an_interruption(self, rig: Rig) -> None:
        """The backend is restarted with events waiting, running and parked: all go on where they were."""

        def act(n: int, attempt: int) -> Any:
            if n == 0 and attempt == 1:
                raise ValueError("not yet")
            return gate(n, attempt) if n == 1 else None

        gate, bus = Gate(), await rig.open()
        probe = await rig.on(bus, act, concurrency=2, retry=soon(rig, first_delay=8 * rig.tick))
        await rig.publish(bus, 0, key="x")
        await rig.publish(bus, 1, 2, 3, key="y")
        await rig.until(lambda: gate.waiting and (0, 1) in probe.starts)
        await rig.backend.restart()
        gate.open()
        await rig.publish(bus, 4, key="y", timeout=rig.backend.patience)
        await rig.quiet(bus)
        assert (0, 2) in probe.starts
        assert [n for n in probe.done if n] == [1, 2, 3, 4]
        rig.judge(repeats=1)

    async def test_what_was_published_survives_the_process_where_it_is_persistent(self, rig: Rig) -> None:
        """After everything was ended: all of it is there if the backend is persistent, and nothing if not."""
        bus = await rig.open()
        first = await rig.on(
            bus, lambda n, attempt: _raise(ValueError("no")), retry=soon(rig, first_delay=60)
        )
        await rig.publish(bus, 1, key="parked")
        await rig.until(lambda: _is_parked(rig, bus))
        await first.subscription.remove()
        await rig.publish(bus, 2, key="waiting", delay=0)
        await rig.close(bus)
        await rig.backend.renew()
        later = await rig.open("later")
        expected = ["orders"] if later.features.persistent else []
        assert [topic.topic for topic in await later.topics() if topic.events] == expected
        probe = await rig.on(later)
        await rig.publish(later, 3, key="waiting")
        await rig.until(lambda: 3 in probe.done)
        assert later.features == rig.backend.features
        assert [n for n in probe.done if n != 1] == ([2, 3] if later.features.persistent else [3])

    # --- the fence -------------------------------------------------------------------------------

    @needs(lease=LEASE)
    async def test_suspended_owner_starts_nothing_and_settles_nothing(self, rig: Rig) -> None:
        """It held one running event and ten more; another takes over; what it does later is refused."""
        release = asyncio.Event()

        async def hold(n: int, attempt: int) -> EventResult:
            await release.wait()
            return EventResult.ok(Item(n=99))

        a, b = await rig.open("a"), await rig.open("b")
        news = rig.listen(b)
        stale = await rig.on(a, hold, timeout=100)
        await rig.publish(b, *range(11), key="k")
        await rig.until(lambda: stale.starts)
        rig.suspend(a)
        heir = await rig.on(b)
        await rig.quiet(b)
        assert heir.starts == [(n, 1) for n in range(11)]
        await heir.subscription.drain(10)  # it owns nothing any more when the other wakes
        again = await rig.on(b)
        release.set()
        await rig.pause()
        rig.wake(a)
        await rig.pause(6)
        assert stale.starts == [(0, 1)]
        assert 99 not in again.numbers
        info = await rig.info(b)
        assert (info.stale, info.handled) == (1, 11)
        assert [(lost.replica, lost.partitions) for lost in news.of(OwnerLost)] == [("a", 1)]
        rig.judge(repeats=1)

    @needs(lease=LEASE)
    @pytest.mark.parametrize("end", ["returns", "raises", "retries", "discards", "gives up"])
    async def test_whatever_a_former_owner_decides_is_refused(self, rig: Rig, end: str) -> None:
        """However its handler ends: no second attempt, no dead letter, only a refusal that is counted."""
        ends = {
            "retries": EventResult.retry("busy", after=0),
            "discards": EventResult.discard("not ours"),
            "gives up": EventResult.dead_letter("broken"),
        }
        gate = Gate()

        async def hold(n: int, attempt: int) -> EventResult | None:
            await gate()
            if end == "raises":
                raise ValueError("too late")
            return ends.get(end)

        a, b = await rig.open("a"), await rig.open("b")
        stale = await rig.on(a, hold, timeout=100)
        await rig.publish(b, 0, 1, key="k")
        await rig.until(lambda: gate.waiting)
        rig.suspend(a)
        heir = await rig.on(b)
        await rig.quiet(b)
        rig.wake(a)
        gate.open()
        await rig.until(lambda: stale.running == 0)
        await rig.pause()
        await rig.quiet(b)
        assert (stale.starts, heir.starts) == ([(0, 1)], [(0, 1), (1, 1)])
        info = await rig.info(b)
        assert (info.stale, info.handled, info.failed, info.discarded, info.dead) == (1, 2, 0, 0, 0)
        rig.judge(repeats=1)

    @needs(lease=LEASE)
    async def test_owner_suspended_before_it_takes_starts_nothing_of_others(self, rig: Rig) -> None:
        """It was idle when it was stopped: what came meanwhile is handled by another, once."""
        a, b = await rig.open("a"), await rig.open("b")
        sleeper = await rig.on(a)
        await rig.publish(b, 0, key="k")
        await rig.quiet(b)
        rig.suspend(a)
        heir = await rig.on(b, lambda n, attempt: asyncio.sleep(rig.tick))
        await rig.publish(b, *range(1, 6), key="k")
        await rig.until(lambda: heir.starts)
        rig.wake(a)
        await rig.publish(b, *range(6, 11), key="k")
        await rig.quiet(b)
        assert sorted(sleeper.numbers + heir.numbers) == list(range(11))
        rig.judge()

    @needs(lease=LEASE)
    async def test_a_short_pause_costs_nothing(self, rig: Rig) -> None:
        """Suspended for less than the lease: nothing changes hands, nothing is started again."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
        first = await rig.on(a, gate)
        await rig.publish(a, 0, 1, key="k")
        await rig.until(lambda: gate.waiting)
        second = await rig.on(b)
        rig.suspend(a, briefly=True)
        await asyncio.sleep(LEASE / 3)
        rig.wake(a)
        gate.open()
        await rig.quiet(a)
        assert sorted(first.numbers + second.numbers) == [0, 1]
        assert (await rig.info(a)).stale == 0
        rig.judge()

    # --- suspects --------------------------------------------------------------------------------

    @needs(lease=LEASE)
    async def test_innocents_are_not_blamed_for_a_crash(self, rig: Rig) -> None:
        """One event among five hundred kills its process each time: it alone becomes a dead letter."""
        publisher, gate = await rig.open("publisher"), Gate()
        await publisher.declare_group(rig.spec())
        await rig.publish(publisher, *range(500))
        killer, deaths, quiet = 250, 0, asyncio.ensure_future(publisher.quiet())
        while not quiet.done():
            bus = await rig.open(f"r{deaths}")
            await rig.on(
                bus, lambda n, attempt: gate(n) if n == killer else None, retry=soon(rig, attempts=3)
            )
            await rig.until(lambda: quiet.done() or gate.waiting)
            if quiet.done():
                break
            await rig.pause(2)  # so that what it has settled has arrived
            await rig.crash(bus)
            deaths += 1
        await quiet
        assert deaths <= 4
        [letter] = await publisher.dead_letters()
        assert (letter.envelope.id, letter.reason) == (f"e{killer + 1}-{killer}", "attempts")
        await rig.given_up(publisher)
        rig.judge(repeats=deaths)

    @needs(lease=LEASE)
    async def test_suspects_are_started_one_at_a_time_and_first(self, rig: Rig) -> None:
        """What a dead owner had started comes back alone, each before the next, before anything newer."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
        first = await rig.on(a, gate, concurrency=4)
        for n in range(8):
            await rig.publish(a, n, key=f"k{n}")
        await rig.until(lambda: first.running == 4)
        await rig.crash(a)
        running = 0

        async def act(n: int, attempt: int) -> None:
            nonlocal running
            running += 1
            assert n not in first.numbers or running == 1
            await asyncio.sleep(rig.tick / 2)
            running -= 1

        heir = await rig.on(b, act, concurrency=4)
        await rig.quiet(b)
        assert sorted(heir.numbers[:4]) == sorted(first.numbers)
        assert {attempt for _, attempt in heir.starts} == {1}
        rig.judge(repeats=4)


class One(Event, type="upgrade.item"):
    n: int


def _raise(error: Exception) -> None:
    raise error


async def _is_parked(rig: Rig, bus: EventBus) -> bool:
    return (await rig.info(bus)).parked == 1
