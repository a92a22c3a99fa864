"""Hand-over: replicas that come and go, upgrades, reloads, draining."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from contracts.bus import EventBus
from contracts.errors import BusError, VersionAhead
from contracts.event import Event, EventResult, upcast
from contracts.message import PluginEvent

from .backend import needs
from .ownership import LEASE
from .probe import Gate, Probe
from .rig import Rig, together
from .suite import Suite


class HandOver(Suite):
    """A partition changes hands without loss, repetition or disorder."""

    @needs(partitions=8, lease=LEASE)
    async def test_rebalance_with_slow_handlers(self, rig: Rig) -> None:
        """One replica, four, two, four, while handlers are slow: no second start, no key twice at once."""
        buses: list[EventBus] = []
        names = (f"r{number}" for number in itertools.count())

        async def resize(count: int) -> None:
            while len(buses) > count:
                await rig.close(buses.pop())
            while len(buses) < count:
                buses.append(await rig.open(next(names)))
                await rig.on(buses[-1], lambda n, attempt: asyncio.sleep(rig.tick), concurrency=4)

        await resize(1)
        publisher = await rig.open("publisher")
        for n in range(400):
            await rig.publish(publisher, n, key=f"k{n % 40}")
        for count in (4, 2, 4):
            await rig.pause()
            await resize(count)
        await rig.quiet(publisher)
        info = await rig.info(publisher)
        assert (info.stale, info.failed, sum(info.owners.values())) == (0, 0, 8)
        rig.judge()

    @needs(partitions=4, lease=LEASE)
    async def test_exclusive_group_is_handled_by_one_replica(self, rig: Rig) -> None:
        """All partitions are on one replica; the others stand by, and one takes all over when it goes."""
        buses = {name: await rig.open(name) for name in "abc"}
        probes = {name: await rig.on(bus, exclusive=True) for name, bus in buses.items()}
        for n in range(20):
            await rig.publish(buses["a"], n, key=f"k{n}")
        await rig.quiet(buses["a"])
        [owner] = [name for name, probe in probes.items() if probe.numbers]
        assert (await rig.info(buses["a"])).owners == {owner: 4}
        await rig.crash(buses.pop(owner))
        rest = next(iter(buses.values()))
        for n in range(20, 40):
            await rig.publish(rest, n, key=f"k{n}")
        await rig.quiet(rest)
        assert sum(bool(probes[name].numbers) for name in buses) == 1
        rig.judge()

    @needs(partitions=4, lease=LEASE)
    async def test_only_the_highest_version_owns(self, rig: Rig) -> None:
        """A replica with a newer plugin takes all partitions; when it goes, the older one has them again."""
        a, b = await rig.open("a"), await rig.open("b")
        old = await rig.on(a, version="1.9")
        await rig.publish(a, *range(10))
        await rig.quiet(a)
        new = await rig.on(b, version="1.10")
        await rig.until(lambda: _owners(rig, a, {"b": 4}))
        await rig.publish(a, *range(10, 20))
        await rig.quiet(a)
        assert (len(old.numbers), len(new.numbers)) == (10, 10)
        await rig.close(b)
        await rig.publish(a, *range(20, 30))
        await rig.quiet(a)
        assert len(old.numbers) == 20
        rig.judge()

    @needs(partitions=4, lease=LEASE)
    async def test_rolling_upgrade_and_back(self, rig: Rig) -> None:
        """Plugin and event version 1 → 2 under load, and back: nobody sees a version he does not know."""
        a, b = await rig.open("a"), await rig.open("b")
        wrong: list[str] = []

        def reading(model: type[Event], probe: Probe) -> Any:
            async def handle(event: PluginEvent) -> EventResult | None:
                try:
                    event.as_(model)
                except VersionAhead as error:
                    wrong.append(str(error))
                    raise
                return await probe(event)

            return handle

        async def host(bus: EventBus, model: type[Event], version: str) -> Probe:
            probe = Probe(rig.history, "shop.handle", bus.replica, lambda n, attempt: asyncio.sleep(0))
            spec = rig.spec("upgrade.*", version=version)
            probe.subscription = await bus.subscribe(spec, reading(model, probe))
            return probe

        rig.groups["shop.handle"] = ("upgrade.*",)
        old = await host(a, One, "1.0")
        for n in range(50):
            await rig.publish(a, n, type="upgrade.item", key=f"k{n % 7}")
        new = await host(b, Two, "2.0")
        await rig.until(lambda: _owners(rig, a, {"b": 4}))
        for n in range(50, 100):
            await rig.publish(b, n, type="upgrade.item", version=2, key=f"k{n % 7}")
        await rig.quiet(a)
        assert not await a.dead_letters()
        await rig.close(b)
        for n in range(100, 150):
            await rig.publish(a, n, type="upgrade.item", key=f"k{n % 7}")
        await rig.quiet(a)
        assert (wrong, await a.dead_letters()) == ([], [])
        assert new.numbers
        assert old.numbers[-1] >= 100
        rig.judge()

    @needs(partitions=2)
    async def test_reload_during_traffic_loses_nothing(self, rig: Rig) -> None:
        """A group is handed to a new generation ten times under traffic: each event is started once."""
        bus, probes = await rig.open(), list[Probe]()
        done = asyncio.Event()

        async def work(n: int, attempt: int) -> None:
            await asyncio.sleep(rig.tick / 10)

        async def traffic() -> None:
            for n in range(600):
                await rig.publish(bus, n, key=f"k{n % 11}")
                if n % 10 == 0:
                    await asyncio.sleep(rig.tick / 10)
            done.set()

        async def reload() -> None:
            for generation in range(10):
                probe = await rig.on(bus, work, generation=generation, concurrency=3)
                probes.append(probe)
                await rig.until(lambda: probe.running or done.is_set())  # noqa: B023 - awaited here
                assert await probe.subscription.drain(10)
            probes.append(await rig.on(bus, generation=10))

        await together([traffic(), reload()])
        await rig.quiet(bus)
        assert sum(bool(probe.starts) for probe in probes) > 1
        assert sorted(n for probe in probes for n in probe.done) == list(range(600))
        rig.judge()

    async def test_unsubscribe_stops_within_one_delivery(self, rig: Rig) -> None:
        """What runs finishes, nothing more is started, and the rest goes to the next owner uncounted."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
        first = await rig.on(a, gate)
        await rig.publish(a, *range(10), key="k")
        await rig.until(lambda: gate.waiting)
        removal = asyncio.ensure_future(first.subscription.remove())
        await rig.pause(1)
        assert not removal.done()
        gate.open()
        await removal
        heir = await rig.on(b)
        await rig.quiet(b)
        assert (first.starts, first.done) == ([(0, 1)], [0])
        assert heir.starts == [(n, 1) for n in range(1, 10)]
        rig.judge()

    async def test_drain_cancels_what_does_not_finish(self, rig: Rig) -> None:
        """After the grace time the attempt is cancelled: no outcome, so it comes again as the same one."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
        first = await rig.on(a, gate)
        await rig.publish(a, 0, 1, key="k")
        await rig.until(lambda: gate.waiting)
        assert not await first.subscription.drain(2 * rig.tick)
        assert first.running == 0
        heir = await rig.on(b)
        await rig.quiet(b)
        assert heir.starts == [(0, 1), (1, 1)]
        assert (await rig.info(b)).failed == 0
        rig.judge(repeats=1)

    async def test_a_replica_has_its_name_alone(self, rig: Rig) -> None:
        """A second handle of the same name is refused while the first is open; then the name is free."""
        bus = await rig.open("a")
        assert bus.replica == "a"
        with pytest.raises(BusError) as caught:
            await rig.backend.open("a")
        assert caught.value.fix
        await rig.close(bus)
        await rig.open("a")


class One(Event, type="upgrade.item"):
    n: int


class Two(Event, type="upgrade.item", version=2):
    n: int
    unit: str = "piece"

    @upcast(1)
    @staticmethod
    def from_one(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "unit": "piece"}


async def _owners(rig: Rig, bus: EventBus, expected: dict[str, int]) -> bool:
    return (await rig.info(bus)).owners == expected
