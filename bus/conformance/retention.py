"""Retention: what is kept and for whom; what becomes of events for which there is no room."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.bus import BusLimits, EventBus
from contracts.errors import BusFull
from contracts.event import EventData, EventResult
from contracts.message import PluginEvent
from contracts.messages.delivery import GroupOverflowed

from .backend import needs
from .order import soon
from .probe import Gate, fail_if
from .rig import Item, Rig, now
from .suite import Suite


class Retention(Suite):
    """Nothing that somebody needs is trimmed, and nothing is kept without a bound."""

    @pytest.mark.parametrize("policy", ["drop_oldest", "drop_new"])
    async def test_overflow_drops_for_one_group_alone(self, rig: Rig, policy: str) -> None:
        """Above its bound the oldest or the newest waiting events go; counted, announced, nobody waits."""
        bus, gate = await rig.open(), Gate()
        news = rig.listen(bus)
        await bus.declare_group(rig.spec(overflow=policy, max_waiting=5))
        other = await rig.on(bus, group="mail.all")
        await rig.publish(bus, *range(20), key="k")
        info = await rig.info(bus)
        assert (info.waiting, info.dropped) == (5, 15)
        gate.open()
        probe = await rig.on(bus, gate, overflow=policy, max_waiting=5)
        await rig.quiet(bus)
        assert probe.numbers == (list(range(15, 20)) if policy == "drop_oldest" else list(range(5)))
        assert len(other.numbers) == 20
        await rig.until(lambda: sum(lost.count for lost in news.of(GroupOverflowed)) == 15)
        lost = news.of(GroupOverflowed)[0]
        assert (lost.group, lost.topic, lost.policy) == ("shop.handle", "orders", policy)
        assert lost.first_position
        rig.judge(lossy=True)

    @needs(retain=10, retain_seconds=3_600, young_seconds=0, limit=500)
    async def test_what_is_settled_is_kept_for_those_who_come_late(self, rig: Rig) -> None:
        """Of what everybody settled the last `retain` stay; what a dormant group needs is not trimmed."""
        bus = await rig.open()
        fast = await rig.on(bus, group="shop.fast")
        await bus.declare_group(rig.spec(group="shop.dormant"))
        await rig.publish(bus, *range(400), key="k")
        await rig.until(lambda: len(fast.done) == 400)
        assert await _kept(bus) == 400
        late = await rig.on(bus, group="shop.dormant")
        await rig.publish(bus, *range(400, 2_000), key="k", timeout=rig.backend.patience)
        await rig.quiet(bus)
        assert late.numbers == list(range(2_000))
        rig.judge()
        newest = await rig.on(bus, group="shop.newest")
        await rig.quiet(bus)
        assert 10 <= len(newest.numbers) <= 500
        assert newest.numbers == list(range(2_000))[-len(newest.numbers) :]

    @needs(retain=10, retain_seconds=3_600, young_seconds=0, limit=50, lease=1.0)
    async def test_the_last_that_were_settled_are_always_there(self, rig: Rig) -> None:
        """At every moment so many as `retain` says: beyond the limit, and when nothing happens."""
        bus = await rig.open()
        await rig.on(bus)
        for n in range(150):
            await rig.publish(bus, n)
            await rig.quiet(bus)
            assert await _kept(bus) >= min(n + 1, 10)
        await asyncio.sleep(2.0)
        late = await rig.on(bus, group="shop.late")
        await rig.quiet(bus)
        assert late.numbers == list(range(150))[-len(late.numbers) :]
        assert 10 <= len(late.numbers) <= 50

    @needs(retain=1_000, retain_seconds=600, young_seconds=0, limit=100_000, lease=1.0)
    async def test_what_was_settled_lately_is_there(self, rig: Rig) -> None:
        """As long as it is younger than `retain_seconds`, and no more than `retain`."""
        bus = await rig.open()
        await rig.on(bus)
        for n in range(800):
            await rig.publish(bus, n)
        await rig.quiet(bus)
        await asyncio.sleep(2.0)
        assert await _kept(bus) == 800

    @needs(retain=0, retain_seconds=0, young_seconds=600, limit=1_000, lease=1.0)
    async def test_the_young_are_there_while_there_is_room(self, rig: Rig) -> None:
        """Younger than `young_seconds`: of these nothing is trimmed below half of the limit."""
        bus = await rig.open()
        await rig.on(bus)
        for _ in range(4):
            await rig.publish(bus, *range(100))
            await rig.quiet(bus)
            await asyncio.sleep(1.0)
        assert await _kept(bus) == 400
        late = await rig.on(bus, group="shop.late")
        await rig.quiet(bus)
        assert len(late.numbers) == 400
        for _ in range(12):
            await rig.publish(bus, *range(100), timeout=rig.backend.patience)
            await rig.quiet(bus)
            assert await _kept(bus) >= 499

    async def test_what_is_settled_never_takes_up_room(self, rig: Rig) -> None:
        """It goes at the latest when the limit is reached, whatever would be retained, and for how long."""
        for count, seconds, young in ((100_000, 0, 0), (0, 3_600, 0), (0, 0, 3_600), (100_000, 3_600, 3_600)):
            limits = BusLimits(limit=20, retain=count, retain_seconds=seconds, young_seconds=young)
            backend = await rig.backend.sibling(limits)
            bus = await backend.open("a")
            await rig.subscribe(bus, _ignore)
            await rig.publish(bus, *range(100), timeout=rig.backend.patience)
            await rig.quiet(bus)
            assert await _kept(bus) <= 20
            await bus.close()
            await backend.close()

    @needs(retain=0, retain_seconds=0, young_seconds=0, limit=1_000)
    async def test_trimming_under_pending_deliveries_takes_nothing(self, rig: Rig) -> None:
        """With nothing retained: what runs, waits or is parked is delivered all the same."""

        def act(n: int, attempt: int) -> object:
            if n == 1 and attempt == 1:
                raise ValueError("not yet")
            return gate(n) if n == 0 else None

        bus, gate = await rig.open(), Gate()
        probe = await rig.on(bus, act, concurrency=3, retry=soon(rig, first_delay=8 * rig.tick))
        fast = await rig.on(bus, group="shop.fast")
        await rig.publish(bus, 0, 1)
        await rig.until(lambda: gate.waiting and (1, 1) in probe.starts)
        for n in range(2, 300):
            await rig.publish(bus, n, key=f"k{n % 5}")
        await rig.until(lambda: len(fast.done) == 300)
        gate.open()
        await rig.quiet(bus)
        assert sorted(probe.done) == list(range(300))
        rig.judge()

    @needs(retain=0, retain_seconds=0, young_seconds=0, limit=1_000)
    async def test_a_parked_retry_of_an_hour_holds_no_room(self, rig: Rig) -> None:
        """Nothing in a lot keeps the topic from being trimmed."""
        bus = await rig.open()
        probe = await rig.on(bus, lambda n, attempt: fail_if(n == 0), retry=soon(rig, first_delay=300))
        await rig.publish(bus, 0, key="slow")
        await rig.until(lambda: probe.starts)
        await rig.publish(bus, *range(1, 3_000), key="k", timeout=rig.backend.patience)
        await rig.until(lambda: _handled(rig, bus, "shop.handle", 2_999))
        assert await _kept(bus) <= 1_000

    async def test_a_group_of_everything_reads_a_new_topic_from_its_first_event(self, rig: Rig) -> None:
        """Topics that are born after the group, on another replica, are seen from their beginning."""
        a, b = await rig.open("a"), await rig.open("b")
        probe = await rig.on(a, None, "**", concurrency=4)
        for n in range(20):
            await rig.publish(b, n, type=f"born{n}.item")
        await rig.quiet(b)
        assert sorted(probe.numbers) == list(range(20))
        rig.judge()

    # --- room ------------------------------------------------------------------------------------

    @needs(limit=20, retain=0, retain_seconds=0, young_seconds=0)
    async def test_publishing_waits_for_room_and_then_names_who_holds(self, rig: Rig) -> None:
        """At the limit publishers wait; at the deadline `BusFull` names topic, group and the way out."""
        bus, gate = await rig.open(), Gate()
        probe = await rig.on(bus, gate)
        await rig.on(bus, group="mail.fast")
        await rig.publish(bus, *range(20))
        began = now()
        with pytest.raises(BusFull) as caught:
            await rig.publish(bus, 20, timeout=4 * rig.tick)
        assert now() - began >= 4 * rig.tick - 0.01
        assert (caught.value.topic, caught.value.group) == ("orders", "shop.handle")
        assert "shop.handle" in caught.value.fix
        [topic] = [topic for topic in await bus.topics() if topic.topic == "orders"]
        assert topic.holder == "shop.handle"
        await rig.publish(bus, 1, type="bills.item")  # another topic has room of its own
        waiting = asyncio.ensure_future(rig.publish(bus, *range(21, 40), timeout=rig.backend.patience))
        await rig.pause(1)
        assert not waiting.done()
        gate.open()
        await waiting
        await rig.quiet(bus)
        assert sorted(probe.numbers) == [*range(20), *range(21, 40)]
        rig.judge()

    @needs(limit=10, retain=0, retain_seconds=0, young_seconds=0)
    async def test_publish_inside_a_handler_never_waits(self, rig: Rig) -> None:
        """It is admitted up to twice the limit, then raises, which parks the delivery: no deadlock."""
        bus = await rig.open()
        errors: list[BusFull] = []

        async def flood(event: PluginEvent) -> None:
            began = now()
            for n in range(25 if event.attempt == 1 else 1):
                try:
                    await bus.publish(Item(n=n), source="/shop")
                except BusFull as error:
                    assert now() - began < rig.tick
                    errors.append(error)
                    raise

        await bus.declare_group(rig.spec("orders.*", group="shop.sink"))
        await rig.subscribe(bus, flood, "start.*", group="shop.flood", retry=soon(rig, attempts=50))
        await rig.publish(bus, 1, type="start.now")
        await rig.until(lambda: errors)
        [topic] = [topic for topic in await bus.topics() if topic.topic == "orders"]
        assert topic.published == 20
        sink = await rig.on(bus, None, "orders.*", group="shop.sink")
        await rig.until(lambda: len(sink.starts) == 21)
        assert (await rig.info(bus, "shop.flood")).dead == 0

    async def test_publish_inside_handlers_in_both_directions(self, rig: Rig) -> None:
        """Two groups that feed each other run to the end."""
        bus = await rig.open()

        def passing(to: str) -> Any:
            async def handle(event: PluginEvent) -> EventResult | None:
                n = event.data["n"]  # type: ignore[index, call-overload]
                return EventResult.ok(EventData(type=to, data=f'{{"n":{n - 1}}}')) if n else None  # type: ignore[arg-type, operator]

            return handle

        await rig.subscribe(bus, passing("pong.item"), "ping.*", group="shop.ping")
        await rig.subscribe(bus, passing("ping.item"), "pong.*", group="shop.pong")
        await rig.publish(bus, 30, type="ping.item")
        await rig.quiet(bus)
        published = {topic.topic: topic.published for topic in await bus.topics()}
        assert (published["ping"], published["pong"]) == (16, 15)


async def _ignore(event: PluginEvent) -> None:
    """Settles it."""


async def _handled(rig: Rig, bus: EventBus, group: str, count: int) -> bool:
    return (await rig.info(bus, group)).handled == count


async def _kept(bus: EventBus) -> int:
    return {topic.topic: topic.events for topic in await bus.topics()}["orders"]
