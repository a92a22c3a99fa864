"""Replay: events that are retained, delivered to one group once more."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from contracts.errors import InvalidOption
from contracts.message import PluginEvent
from contracts.messages.delivery import GapFound

from .backend import needs
from .order import soon
from .probe import Gate
from .rig import Rig
from .suite import Suite


class Replaying(Suite):
    """Beside live traffic, in the order of keys, and to nobody else."""

    async def test_replay_delivers_once_more_to_one_group(self, rig: Rig) -> None:
        """From the oldest: marked as replayed, keys in order, failures as usual, no other group touched."""
        bus = await rig.open()
        probe = await rig.on(bus, lambda n, attempt: _fail_first(probe_replayed, n, attempt), retry=soon(rig))
        probe_replayed = [False]
        other = await rig.on(bus, group="mail.other")
        for n in range(20):
            await rig.publish(bus, n, key=f"k{n % 3}")
        await rig.quiet(bus)
        probe_replayed[0] = True
        assert await bus.replay("shop.handle") == 20
        await rig.quiet(bus)
        replayed = [event for event in probe.events if event.replayed]
        assert len(probe.events) - len(replayed) == 20
        assert Counter(probe.done) == dict.fromkeys(range(20), 2)
        for rest in range(3):
            numbers = [event.data["n"] for event in replayed if event.message.key == f"k{rest}"]  # type: ignore[index, call-overload]
            assert list(dict.fromkeys(numbers)) == list(range(rest, 20, 3))
        assert len(other.numbers) == 20
        assert (await rig.info(bus)).replaying == 0

    async def test_replay_is_not_suppressed_by_dedupe(self, rig: Rig) -> None:
        """The operator has asked for exactly that."""
        bus = await rig.open()
        probe = await rig.on(bus, dedupe=True)
        await rig.publish(bus, 1, 2)
        await rig.quiet(bus)
        assert await bus.replay("shop.handle") == 2
        await rig.quiet(bus)
        assert sorted(probe.numbers) == [1, 1, 2, 2]
        assert (await rig.info(bus)).repeated == 0

    async def test_replay_takes_a_range(self, rig: Rig) -> None:
        """From a receipt's position or a time, up to another; `end` is left out."""
        bus = await rig.open()
        probe = await rig.on(bus)
        receipts = await rig.publish(bus, *range(5), key="k")
        await rig.pause(1)
        middle = rig.now()
        await rig.pause(1)
        receipts += await rig.publish(bus, *range(5, 10), key="k")
        await rig.quiet(bus)
        cases = [
            ({"start": receipts[7].position}, [7, 8, 9]),
            ({"start": receipts[2].position, "end": receipts[4].position}, [2, 3]),
            ({"start": middle}, [5, 6, 7, 8, 9]),
            ({"end": middle}, [0, 1, 2, 3, 4]),
            ({"start": rig.now(60)}, []),
        ]
        for options, expected in cases:
            probe.starts.clear()
            assert await bus.replay("shop.handle", **options) == len(expected)  # type: ignore[arg-type]
            await rig.quiet(bus)
            assert probe.numbers == expected, options
        for wrong in ("", "nonsense"):
            with pytest.raises(InvalidOption):
                await bus.replay("shop.handle", start=wrong)

    async def test_replay_leaves_live_traffic_its_lanes(self, rig: Rig) -> None:
        """At most a quarter of the lanes, or every fourth turn, are for the replay."""
        bus = await rig.open()
        probe = await rig.on(bus)
        await rig.publish(bus, *range(100))
        await rig.quiet(bus)
        gate = Gate()
        probe.act = gate
        await rig.publish(bus, 1_000)
        await rig.until(lambda: gate.waiting)
        await bus.replay("shop.handle")
        await rig.publish(bus, *range(1_001, 1_090))
        gate.open()
        await rig.quiet(bus)
        started = probe.events[101:]
        first = [event.replayed for event in started[:80]]
        assert sum(first) <= 21
        assert sum(event.replayed for event in probe.events) == 101
        probe.events.clear()
        await probe.subscription.remove()
        wide = await rig.on(bus, gate := Gate(), concurrency=8)
        await bus.replay("shop.handle")
        await rig.publish(bus, *range(2_000, 2_020))
        await rig.until(lambda: wide.running == 8)
        assert sum(event.replayed for event in wide.events) <= 2
        gate.open()
        await rig.quiet(bus)

    async def test_replay_of_a_key_never_runs_beside_its_live_events(self, rig: Rig) -> None:
        """A replayed delivery waits for the running one of its key, and the other way round."""
        bus = await rig.open()
        running: set[str] = set()

        async def handle(event: PluginEvent) -> None:
            key = event.message.key or ""
            assert key not in running
            running.add(key)
            await asyncio.sleep(rig.tick / 10)
            running.discard(key)

        await rig.subscribe(bus, handle, concurrency=8)
        for n in range(60):
            await rig.publish(bus, n, key=f"k{n % 5}")
        await rig.quiet(bus)
        await bus.replay("shop.handle")
        for n in range(60):
            await rig.publish(bus, n, key=f"k{n % 5}")
        await rig.quiet(bus)
        info = await rig.info(bus)
        assert (info.failed, info.dead) == (0, 0)

    async def test_a_replay_can_be_cancelled_and_replaced(self, rig: Rig) -> None:
        """Cancelling tells how many were left; a second replay replaces the first."""
        bus = await rig.open()
        probe = await rig.on(bus)
        await rig.publish(bus, *range(50))
        await rig.quiet(bus)
        await bus.pause_group("shop.handle")
        assert await bus.replay("shop.handle") == 50
        assert await bus.replay("shop.handle") == 50
        assert (await rig.info(bus)).replaying == 50
        assert await bus.cancel_replay("shop.handle") == 50
        assert await bus.cancel_replay("shop.handle") == 0
        await bus.resume_group("shop.handle")
        await rig.quiet(bus)
        assert len(probe.starts) == 50

    @needs(limit=100, retain=20, retain_seconds=3_600, young_seconds=0)
    async def test_what_is_trimmed_before_its_replay_is_announced(self, rig: Rig) -> None:
        """It is left out, and told as a gap; the replay comes to its end."""
        bus, gate = await rig.open(), Gate()
        news = rig.listen(bus)
        probe = await rig.on(bus)
        await rig.publish(bus, *range(20))
        await rig.quiet(bus)
        probe.act = gate
        count = await bus.replay("shop.handle")
        await rig.until(lambda: gate.waiting)
        probe.act = None
        publishing = asyncio.ensure_future(rig.publish(bus, *range(100, 1_100), timeout=rig.backend.patience))
        await rig.pause(1)
        gate.open()
        await publishing
        await rig.quiet(bus)
        replayed = sum(event.replayed for event in probe.events)
        await rig.until(lambda: replayed + sum(gap.count for gap in news.of(GapFound)) == count)
        assert (await rig.info(bus)).replaying == 0


def _fail_first(is_replay: list[bool], n: int, attempt: int) -> None:
    if is_replay[0] and n == 4 and attempt == 1:
        raise ValueError("not yet")
