"""Several buses on one broker: who owns what, takeover, fences, suspects."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from contracts.bus import RetryPolicy
from contracts.event import Event, EventResult
from contracts.message import PluginEvent


class Echo(Event, type="orders.item"):
    n: int


async def test_buses_share_a_group_and_every_event_is_handled_once(rig: Any, recorder: Any) -> None:
    """Two replicas of a kernel share the partitions of a group."""
    rig.make_broker(partitions=8)
    a, b = await rig.open("a"), await rig.open("b")
    first, second = recorder(), recorder()
    await rig.on(a, first)
    await rig.on(b, second)
    for n in range(100):
        await rig.publish(a, n, key=f"k{n}")
    await a.quiet()
    assert sorted(first.numbers + second.numbers) == list(range(100))
    assert first.numbers
    assert second.numbers
    info = await rig.info()
    assert sum(info.owners.values()) == 8
    assert set(info.owners) == {"a", "b"}


async def test_a_partition_moves_only_when_nothing_of_it_runs(rig: Any) -> None:
    """Joining while handlers run: no key is started twice, no event is lost or doubled."""
    rig.make_broker(partitions=8)
    running: set[str] = set()
    done: list[int] = []

    async def handle(event: PluginEvent) -> None:
        key = event.message.key
        assert key not in running
        running.add(key)
        await asyncio.sleep(10)
        running.discard(key)
        done.append(event.data["n"])

    a = await rig.open("a")
    await rig.on(a, handle, concurrency=3)
    for n in range(60):
        await rig.publish(a, n, key=f"k{n % 12}")
    await asyncio.sleep(15)
    b = await rig.open("b")
    await rig.on(b, handle, concurrency=3)
    await asyncio.sleep(25)
    c = await rig.open("c")
    await rig.on(c, handle, concurrency=3)
    await asyncio.sleep(25)
    await b.close()
    await a.quiet()
    assert sorted(done) == list(range(60))
    for rest in range(12):
        assert [n for n in done if n % 12 == rest] == [n for n in range(60) if n % 12 == rest]
    info = await rig.info()
    assert (info.stale, info.failed) == (0, 0)
    assert set(info.owners) == {"a", "c"}


async def test_what_a_killed_bus_left_is_taken_over_in_order_and_first(rig: Any, recorder: Any) -> None:
    """Unsettled deliveries of a crashed owner come before anything newer, one at a time."""
    a, b = await rig.open("a"), await rig.open("b")
    stuck = recorder(lambda n, attempt: asyncio.Event().wait())
    await rig.on(a, stuck, concurrency=3)
    for n in range(5):
        await rig.publish(a, n, key=f"k{n}")
    await asyncio.sleep(1)
    running = 0

    async def act(n: int, attempt: int) -> None:
        nonlocal running
        running += 1
        assert n >= 5 or running == 1
        await asyncio.sleep(1)
        running -= 1

    heir = recorder(act)
    a.kill()
    await rig.publish(b, 5, 6, key="new")
    await rig.on(b, heir, concurrency=3)
    await b.quiet()
    assert heir.numbers == [0, 1, 2, 3, 4, 5, 6]
    assert stuck.numbers == [0, 1, 2]
    await a.close()


async def test_what_a_former_owner_still_settles_is_refused_and_counted(rig: Any, recorder: Any) -> None:
    """A handler that survives its bus cannot acknowledge, and what it returns is not published."""
    release = asyncio.Event()

    async def zombie(event: PluginEvent) -> EventResult:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return EventResult.ok(Echo(n=7))

    a, b = await rig.open("a"), await rig.open("b")
    await rig.on(a, zombie)
    await rig.publish(a, 1)
    await asyncio.sleep(1)
    a.kill()
    heir = recorder()
    await rig.on(b, heir)
    await b.quiet()
    release.set()
    await a.close()
    assert heir.seen == [(1, 1)]
    assert (await rig.info()).stale == 1


async def test_a_handler_that_survives_its_bus_is_the_last_of_it(rig: Any, recorder: Any) -> None:
    """What its lane had taken as well is not started there, also when others have long done it."""
    release = asyncio.Event()
    started = []

    async def zombie(event: PluginEvent) -> None:
        started.append(event.data["n"])
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    a, b = await rig.open("a"), await rig.open("b")
    await rig.on(a, zombie)
    await rig.publish(a, 1, 2, 3)
    await asyncio.sleep(1)
    a.kill()
    heir = recorder()
    await rig.on(b, heir)
    await b.quiet()
    release.set()
    await a.close()
    assert (started, heir.numbers) == ([1], [1, 2, 3])


async def test_nothing_runs_beside_the_last_suspect(rig: Any, recorder: Any) -> None:
    """It may be the one that kills: what is newer waits for its end, on every lane."""
    a, b = await rig.open("a"), await rig.open("b")
    await rig.on(a, recorder(lambda n, attempt: asyncio.sleep(1_000)), concurrency=2, timeout=5_000)
    await rig.publish(a, 1, 2)
    await asyncio.sleep(1)
    a.kill()
    await rig.publish(b, 3, 4)
    running = 0
    together = []

    async def act(n: int, attempt: int) -> None:
        nonlocal running
        running += 1
        together.append((n, running))
        await asyncio.sleep(1)
        running -= 1

    await rig.on(b, recorder(act), concurrency=4)
    await b.quiet()
    assert together == [(1, 1), (2, 1), (3, 1), (4, 2)]


async def test_an_event_that_kills_its_owners_is_found_and_innocents_are_not_blamed(
    rig: Any, recorder: Any
) -> None:
    """Only the killer becomes a dead letter, after as many deaths as it had attempts (and one more)."""
    killers = {3}
    deaths = 0

    def act(n: int, attempt: int) -> Any:
        if n in killers:
            dying.set()
            return asyncio.Event().wait()
        return None

    dying = asyncio.Event()
    watcher = await rig.open("watcher")
    await rig.publish(watcher, *range(8))
    handlers = []
    while deaths < 20:
        bus = await rig.open(f"r{deaths}")
        handlers.append(recorder(act))
        await rig.on(bus, handlers[-1], retry=RetryPolicy(attempts=3))
        quiet, death = asyncio.ensure_future(watcher.quiet()), asyncio.ensure_future(dying.wait())
        await asyncio.wait([quiet, death], return_when=asyncio.FIRST_COMPLETED)
        quiet.cancel()
        if not death.done():
            death.cancel()
            break
        dying.clear()
        bus.kill()
        deaths += 1
    assert deaths == 4
    done = [n for handler in handlers for n in handler.done]
    assert sorted(done) == [0, 1, 2, 4, 5, 6, 7]
    [letter] = await watcher.dead_letters()
    assert (letter.data, letter.reason, letter.attempts) == ('{"n":3}', "attempts", 3)


async def test_the_lot_survives_the_death_of_its_owner(rig: Any, recorder: Any) -> None:
    """Parked deliveries, and those behind them, go on at the next owner when they are due."""

    def act(n: int, attempt: int) -> None:
        if n == 1 and attempt < 3:
            raise ValueError

    a, b = await rig.open("a"), await rig.open("b")
    first, second = recorder(act), recorder(act)
    await rig.on(a, first, retry=RetryPolicy(first_delay=10, factor=1, jitter=0))
    await rig.publish(a, 1, 2, 3, key="k")
    await asyncio.sleep(5)
    a.kill()
    await rig.on(b, second, retry=RetryPolicy(first_delay=10, factor=1, jitter=0))
    await b.quiet()
    assert first.seen == [(1, 1)]
    assert second.seen == [(1, 2), (1, 3), (2, 1), (3, 1)]


async def test_a_parked_delivery_that_was_running_at_the_crash_keeps_its_key_waiting(
    rig: Any, recorder: Any
) -> None:
    """Killed during a second attempt: the heir repeats it before the rest of the key."""

    def act(n: int, attempt: int) -> Any:
        if n == 1 and attempt == 1:
            raise ValueError
        return asyncio.Event().wait() if blocked else None

    blocked = [True]
    a, b = await rig.open("a"), await rig.open("b")
    await rig.on(a, recorder(act), retry=RetryPolicy(first_delay=1, jitter=0))
    await rig.publish(a, 1, 2, 3, key="k")
    await asyncio.sleep(5)
    a.kill()
    blocked.clear()
    heir = recorder(act)
    await rig.on(b, heir)
    await rig.publish(b, 4, key="k")
    await b.quiet()
    assert heir.numbers == [1, 2, 3, 4]
    assert heir.seen[0] == (1, 2)


async def test_draining_hands_back_what_has_not_started(rig: Any, recorder: Any) -> None:
    """Drain: the running one finishes, the others go to the next owner without a counted attempt."""
    a, b = await rig.open("a"), await rig.open("b")
    handler = recorder(lambda n, attempt: asyncio.sleep(5))
    subscription = await rig.on(a, handler)
    await rig.publish(a, 1, 2, 3, key="k")
    await asyncio.sleep(1)
    assert await subscription.drain(60)
    heir = recorder()
    await rig.on(b, heir)
    await b.quiet()
    assert handler.done == [1]
    assert heir.seen == [(2, 1), (3, 1)]


async def test_draining_cancels_what_does_not_finish_in_time(rig: Any, recorder: Any) -> None:
    """After the grace time the attempt is no outcome: it is delivered again, as the same attempt."""
    a, b = await rig.open("a"), await rig.open("b")
    handler = recorder(lambda n, attempt: asyncio.sleep(50))
    subscription = await rig.on(a, handler, timeout=100)
    await rig.publish(a, 1, 2, key="k")
    await asyncio.sleep(1)
    assert not await subscription.drain(10)
    heir = recorder()
    await rig.on(b, heir)
    await b.quiet()
    assert handler.done == []
    assert heir.seen == [(1, 1), (2, 1)]
    assert (await rig.info()).failed == 0


async def test_drain_of_an_idle_handler_is_immediate(rig: Any, bus: Any, recorder: Any) -> None:
    """Nothing runs: all finished, with no grace at all, and twice is once."""
    subscription = await rig.on(bus, recorder())
    await asyncio.sleep(0)
    assert await subscription.drain(0)
    assert await subscription.drain(0)
    await subscription.remove()
    assert (await rig.info()).state == "dormant"


async def test_a_handler_may_remove_its_own_subscription(rig: Any, bus: Any) -> None:
    """It is not waited for; its event is acknowledged, the next one waits for a new owner."""
    seen = []

    async def handle(event: PluginEvent) -> None:
        seen.append(event.data["n"])
        await subscription.remove()

    subscription = await rig.on(bus, handle)
    await rig.publish(bus, 1, 2)
    await asyncio.sleep(1)
    assert seen == [1]
    info = await rig.info()
    assert (info.handled, info.waiting, info.owners) == (1, 1, {})


@pytest.mark.parametrize("steps", range(12))
async def test_a_crash_at_any_moment_loses_nothing(rig: Any, recorder: Any, steps: int) -> None:
    """Killed after any number of turns of the loop: everything is handled, each key in order."""

    def act(n: int, attempt: int) -> Any:
        if n % 5 == 3 and attempt == 1:
            raise ValueError
        return asyncio.sleep(0) if n % 2 else None

    a, b = await rig.open("a"), await rig.open("b")
    first, second = recorder(act), recorder(act)
    await rig.on(a, first, concurrency=1 + steps % 3, retry=RetryPolicy(first_delay=0))
    for n in range(20):
        await rig.publish(a, n, key=f"k{n % 3}")
    for _ in range(steps):
        await asyncio.sleep(0)
    a.kill()
    await rig.on(b, second, concurrency=2, retry=RetryPolicy(first_delay=0))
    await b.quiet()
    assert set(first.done) | set(second.done) == set(range(20))
    for rest in range(3):
        order = list(dict.fromkeys(n for n in first.done + second.done if n % 3 == rest))
        assert order == sorted(order)
