"""Groups: places that are kept, patterns, pausing, dropping."""

from __future__ import annotations

import asyncio

import pytest

from contracts.errors import GroupConflict, GroupNotFound, InvalidPattern
from contracts.messages.delivery import (
    GroupPaused,
    GroupResumed,
    GroupRetired,
)
from contracts.subscription import STANDS_IN

from .backend import needs
from .order import soon
from .probe import Gate, fail_if
from .rig import Rig
from .suite import Suite


class Groups(Suite):
    """Every group has its own place and disturbs nobody."""

    async def test_a_group_keeps_its_place_while_nobody_handles_it(self, rig: Rig) -> None:
        """What came while its only subscriber was gone is delivered to the next one, and nothing twice."""
        a, b = await rig.open("a"), await rig.open("b")
        first = await rig.on(a)
        await rig.publish(b, 1, 2, key="k")
        await rig.quiet(b)
        await rig.close(a)
        assert (await rig.info(b)).state == "dormant"
        await rig.publish(b, 3, 4, key="k")
        second = await rig.on(b)
        await rig.quiet(b)
        assert (await rig.info(b)).state == "active"
        assert (first.numbers, second.numbers) == ([1, 2], [3, 4])
        rig.judge()

    async def test_a_declared_group_gets_what_comes_before_it_is_handled(self, rig: Rig) -> None:
        """Declaring again with the same options changes nothing."""
        bus = await rig.open()
        for _ in range(2):
            await bus.declare_group(rig.spec(start="new"))
        await rig.publish(bus, 1, 2, key="k")
        info = await rig.info(bus)
        assert (info.state, info.waiting, info.owners) == ("dormant", 2, {})
        probe = await rig.on(bus, start="new")
        await rig.quiet(bus)
        assert probe.numbers == [1, 2]
        rig.judge()

    async def test_a_group_whose_plugin_is_not_loaded_anywhere_sleeps(self, rig: Rig) -> None:
        """Who only stands in for it does not handle it; one that does is enough."""
        a, b = await rig.open("a"), await rig.open("b")
        await rig.on(a, version=STANDS_IN)
        assert (await rig.info(a)).state == "sleeping"
        await rig.on(b, version="0")
        assert (await rig.info(a)).state == "active"
        await rig.close(b)
        assert (await rig.info(a)).state == "sleeping"

    async def test_a_new_group_may_start_at_the_end(self, rig: Rig) -> None:
        """`start="new"` decides once, when the group is made; a known one goes on at its place."""
        bus = await rig.open()
        await rig.publish(bus, 1)
        probe = await rig.on(bus, start="new")
        await rig.publish(bus, 2)
        await rig.quiet(bus)
        await probe.subscription.remove()
        await rig.publish(bus, 3)
        again = await rig.on(bus, start="new")
        await rig.quiet(bus)
        assert (probe.numbers, again.numbers) == ([2], [3])
        rig.judge(exempt=["e1-1"])

    async def test_patterns_select(self, rig: Rig) -> None:
        """`*` is one word, `**` one or more at the end, and alone everything but the reserved topics."""
        bus = await rig.open()
        cases = {
            "orders.item": ["orders.item"],
            "orders.*": ["orders.item", "orders.cancelled"],
            "orders.**": ["orders.item", "orders.cancelled", "orders.item.added"],
            "orders.*.added": ["orders.item.added"],
            "**": ["orders.item", "orders.cancelled", "orders.item.added", "bills.item"],
            "bus.**": ["bus.something"],
        }
        types = [*cases["**"], "bus.something"]
        probes = {
            pattern: await rig.on(bus, None, pattern, group=f"shop.g{number}")
            for number, pattern in enumerate(cases)
        }
        for n, type_name in enumerate(types):
            await rig.publish(bus, n, type=type_name)
        await rig.quiet(bus)
        for pattern, probe in probes.items():
            assert sorted(probe.numbers) == sorted(types.index(name) for name in cases[pattern]), pattern
        rig.judge()

    async def test_several_patterns_of_a_group_are_one_delivery(self, rig: Rig) -> None:
        """An event that two of its patterns select is delivered once."""
        bus = await rig.open()
        probe = await rig.on(bus, None, "orders.*", "orders.item", "bills.**")
        await rig.publish(bus, 1)
        await rig.publish(bus, 2, type="bills.item")
        await rig.quiet(bus)
        assert sorted(probe.numbers) == [1, 2]
        rig.judge()

    async def test_no_group_delays_another(self, rig: Rig) -> None:
        """One that hangs on its first event, and one that always fails, disturb a third in nothing."""
        bus, gate = await rig.open(), Gate()
        held = await rig.on(bus, gate, group="shop.held", timeout=1_000)
        await rig.on(bus, lambda n, attempt: fail_if(True), group="shop.bad", retry=soon(rig, first_delay=60))
        free = await rig.on(bus, group="mail.free")
        await rig.publish(bus, *range(500), key="k")
        await rig.until(lambda: len(free.done) == 500)
        assert (held.starts, free.starts) == ([(0, 1)], [(n, 1) for n in range(500)])
        assert [info.group for info in await bus.groups()] == ["mail.free", "shop.bad", "shop.held"]

    async def test_a_group_has_one_plugin_and_one_handler_on_a_bus(self, rig: Rig) -> None:
        """A name that is taken, by another plugin or on this bus, is refused with a fix."""
        bus = await rig.open()
        await rig.on(bus)
        with pytest.raises(GroupConflict) as twice:
            await rig.on(bus)
        spec = rig.spec().model_copy(update={"plugin_id": "other"})
        with pytest.raises(GroupConflict) as foreign:
            await bus.declare_group(spec)
        assert twice.value.fix
        assert foreign.value.fix
        for pattern in ("", "orders.", "*.item", "Orders.*"):
            with pytest.raises(InvalidPattern):
                await rig.on(bus, None, pattern, group="shop.bad")
        assert [info.group for info in await bus.groups()] == ["shop.handle"]

    # --- pausing ---------------------------------------------------------------------------------

    @needs(lease=1.0)
    async def test_a_paused_group_starts_nothing_on_any_replica(self, rig: Rig) -> None:
        """What runs finishes; it keeps its place over crashes, and goes on when it is resumed."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
        news = rig.listen(b)
        first = await rig.on(a, gate)
        await rig.publish(a, 1, 2, 3, key="k")
        await rig.until(lambda: gate.waiting)
        assert await b.pause_group("shop.handle", reason="maintenance")
        assert not await a.pause_group("shop.handle")
        gate.open()
        await rig.pause()
        assert (first.starts, first.done) == ([(1, 1)], [1])
        assert (await rig.info(a)).paused == "maintenance"
        await rig.crash(a)
        second = await rig.on(b)
        await rig.publish(b, 4, key="k")
        await asyncio.sleep(2.0)
        assert second.starts == []
        assert await b.resume_group("shop.handle")
        assert not await b.resume_group("shop.handle")
        await rig.quiet(b)
        assert second.numbers == [2, 3, 4]
        assert [(one.group, one.reason) for one in news.of(GroupPaused)] == [("shop.handle", "maintenance")]
        await rig.until(lambda: news.of(GroupResumed))
        rig.judge()

    async def test_pausing_holds_one_group_alone(self, rig: Rig) -> None:
        """Retries that fall due meanwhile wait as well; other groups go on."""

        def act(n: int, attempt: int) -> None:
            if attempt == 1:
                raise ValueError("not yet")

        bus = await rig.open()
        held = await rig.on(bus, act, retry=soon(rig))
        free = await rig.on(bus, group="mail.free")
        await rig.publish(bus, 1)
        await rig.until(lambda: held.starts)
        await bus.pause_group("shop.handle")
        await rig.publish(bus, 2)
        await rig.until(lambda: len(free.done) == 2)
        await rig.pause()
        assert held.starts == [(1, 1)]
        await bus.resume_group("shop.handle")
        await rig.quiet(bus)
        assert sorted(held.done) == [1, 2]
        rig.judge()

    async def test_unknown_groups_are_named(self, rig: Rig) -> None:
        """Pausing, resuming and replaying what does not exist is an error; dropping it is none."""
        bus = await rig.open()
        for action in (bus.pause_group, bus.resume_group, bus.replay, bus.cancel_replay):
            with pytest.raises(GroupNotFound, match=r"no\.such"):
                await action("no.such")
        await bus.drop_group("no.such")

    # --- dropping, retiring ----------------------------------------------------------------------

    async def test_a_dropped_group_is_forgotten_and_recovers_when_it_comes_again(self, rig: Rig) -> None:
        """What was given up is announced; under the same name a new group starts from the beginning."""
        bus = await rig.open()
        news = rig.listen(bus)
        first = await rig.on(bus, lambda n, attempt: fail_if(n == 1), retry=soon(rig, attempts=1))
        await rig.publish(bus, 1)
        await rig.quiet(bus)
        await first.subscription.remove()
        await rig.publish(bus, 2, 3, key="k")
        await bus.drop_group("shop.handle", reason="uninstalled")
        await rig.until(lambda: news.of(GroupRetired))
        [retired] = news.of(GroupRetired)
        assert (retired.group, retired.plugin_id, retired.reason) == ("shop.handle", "shop", "uninstalled")
        assert (retired.waiting, retired.parked, retired.dead) == (2, 0, 1)
        assert [info.group for info in await bus.groups()] == []
        assert await bus.dead_letters() == []
        second = await rig.on(bus)
        await rig.publish(bus, 4)
        await rig.quiet(bus)
        assert sorted(second.numbers) == [1, 2, 3, 4]

    async def test_a_group_deleted_under_traffic_recovers(self, rig: Rig) -> None:
        """Dropped while it is handled: its subscription ends; a new one gets all that is published then."""
        bus, gate = await rig.open(), Gate()
        first = await rig.on(bus, gate)
        await rig.publish(bus, *range(10), key="k")
        await rig.until(lambda: gate.waiting)
        await bus.drop_group("shop.handle")
        assert first.running == 0
        await first.subscription.remove()
        second = await rig.on(bus, start="new")
        await rig.publish(bus, *range(10, 20), key="k")
        await rig.quiet(bus)
        assert (first.starts, second.numbers) == ([(0, 1)], list(range(10, 20)))

    @needs(lease=1.0)
    async def test_a_group_that_is_dormant_too_long_is_retired(self, rig: Rig) -> None:
        """After `keep` seconds without a handler it is dropped and announced; a handled one never is."""
        bus = await rig.open()
        news = rig.listen(bus)
        await rig.on(bus, group="mail.kept", keep=1.0)
        probe = await rig.on(bus, keep=1.0)
        await probe.subscription.remove()
        await rig.publish(bus, 1)
        await rig.until(lambda: news.of(GroupRetired))
        [retired] = news.of(GroupRetired)
        assert (retired.group, retired.waiting) == ("shop.handle", 1)
        assert [info.group for info in await bus.groups()] == ["mail.kept"]
