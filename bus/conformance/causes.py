"""Causes: what an event inherits from the one that caused it, and chains without an end."""

from __future__ import annotations

from contracts.bus import MAX_PAYLOAD, EventBus
from contracts.envelope import Envelope
from contracts.errors import StormDetected
from contracts.event import EventData, EventResult
from contracts.message import PluginEvent
from contracts.messages.delivery import GroupPaused, StormFound

from .backend import needs
from .order import soon
from .rig import Item, Rig, payload
from .suite import Suite


class Causes(Suite):
    """Every event knows where it comes from."""

    async def test_context_across_retry(self, rig: Rig) -> None:
        """Each attempt sees the same envelope; what it publishes carries cause, origin, depth and path."""
        bus = await rig.open()

        async def pass_on(event: PluginEvent) -> EventResult:
            seen.append(event)
            if event.attempt < 3:
                raise ValueError("not yet")
            await bus.publish(EventData(type="bills.direct"), source="/shop")
            return EventResult.ok(Item(n=7))

        seen: list[PluginEvent] = []
        await rig.subscribe(bus, pass_on, "start.*", group="shop.first", retry=soon(rig))
        last = await rig.on(bus, None, "orders.*", "bills.*", group="shop.last")
        await rig.publish(bus, 1, type="start.now", id="root", key="k")
        await rig.quiet(bus)
        assert [event.attempt for event in seen] == [1, 2, 3]
        assert len({(event.id, event.envelope.correlationid, event.message.depth) for event in seen}) == 1
        assert seen[0].envelope.correlationid == "root"
        assert len(last.events) == 2
        for event in last.events:
            assert event.envelope.correlationid == "root"
            assert event.envelope.causationid == "root"
            assert event.message.depth == seen[0].message.depth + 1
            assert event.message.path == ("shop.first",)
        [returned] = [event for event in last.events if event.type == "orders.item"]
        assert (returned.envelope.source, returned.message.key) == ("/plugins/shop", "k")

    async def test_what_a_handler_relays_continues_its_chain(self, rig: Rig) -> None:
        """Depth and path go on, whatever the envelope says of its own causes, which is kept."""
        bus = await rig.open()

        async def pass_on(event: PluginEvent) -> None:
            envelope = Envelope(
                id="outside", source="//partner", type="orders.item", time=rig.now(), correlationid="c",
                causationid="d",
            )  # fmt: skip
            await bus.relay(envelope, Item(n=1))

        await rig.subscribe(bus, pass_on, "start.*", group="shop.first")
        last = await rig.on(bus, group="shop.last")
        await rig.publish(bus, 0, type="start.now")
        await rig.quiet(bus)
        [event] = last.events
        assert (event.envelope.correlationid, event.envelope.causationid) == ("c", "d")
        assert (event.message.depth, event.message.path) == (1, ("shop.first",))

    @needs(lease=1.0)
    async def test_returned_events_are_one_event_however_often_the_delivery_is_repeated(
        self, rig: Rig
    ) -> None:
        """Their ids are derived from the delivery: a second attempt publishes the same again."""
        bus = await rig.open()

        async def answer(event: PluginEvent) -> EventResult:
            if event.attempt == 1:
                await bus.publish(Item(n=1), source="/plugins/shop", id=event.derived_id(0))
                raise ConnectionError("after publishing")
            return EventResult.ok(Item(n=1), Item(n=2))

        await rig.subscribe(bus, answer, "start.*", group="shop.first", retry=soon(rig))
        last = await rig.on(bus, None, "orders.*", group="shop.last")
        await rig.publish(bus, 0, type="start.now")
        await rig.quiet(bus)
        assert sorted(last.numbers) == [1, 2]

    async def test_what_cannot_be_published_fails_the_attempt(self, rig: Rig) -> None:
        """Returned events come before the acknowledgement: if one is refused, the delivery has failed."""
        bus = await rig.open()

        async def answer(event: PluginEvent) -> EventResult:
            return EventResult("ok", (Item(n=1), payload(MAX_PAYLOAD + 1)))

        await rig.subscribe(bus, answer, "start.*", group="shop.first", retry=soon(rig, attempts=3))
        last = await rig.on(bus, None, "orders.*", group="shop.last")
        await rig.publish(bus, 0, type="start.now")
        await rig.quiet(bus)
        assert last.numbers == [1]
        info = await rig.info(bus, "shop.first")
        assert (info.handled, info.failed, info.dead) == (0, 3, 1)
        [letter] = await bus.dead_letters()
        assert letter.error is not None
        assert letter.error.matches("PayloadTooLarge")

    # --- storms ----------------------------------------------------------------------------------

    @needs(depth=10, loops=1_000)
    async def test_a_chain_that_is_too_deep_is_stopped_and_named(self, rig: Rig) -> None:
        """The publish raises, the delivery is parked, the group is paused and announced."""
        bus = await rig.open()
        news, errors = rig.listen(bus), list[StormDetected]()
        await _spinning(rig, bus, errors)
        await rig.publish(bus, 0)
        await rig.until(lambda: news.of(StormFound))
        [storm] = news.of(StormFound)
        assert storm.group == "shop.spin"
        assert set(storm.path) == {"shop.spin"}
        assert errors
        assert "shop.spin" in errors[0].path
        assert [paused.group for paused in news.of(GroupPaused)] == ["shop.spin"]
        info = await rig.info(bus, "shop.spin")
        assert (info.paused is not None, info.parked, info.dead) == (True, 1, 0)
        assert info.handled <= 10

    @needs(depth=1_000, loops=5)
    async def test_a_chain_that_runs_in_circles_is_stopped(self, rig: Rig) -> None:
        """It may pass the same group only so often."""
        bus = await rig.open()
        news, errors = rig.listen(bus), list[StormDetected]()
        await _spinning(rig, bus, errors)
        await rig.publish(bus, 0)
        await rig.until(lambda: news.of(StormFound))
        await rig.publish(bus, 1, type="bills.item")
        assert (await rig.info(bus, "shop.spin")).handled <= 6

    @needs(depth=5, loops=5)
    async def test_a_schedule_is_no_storm(self, rig: Rig) -> None:
        """What is published with a delay of a second or more begins a new chain."""
        bus = await rig.open()
        depths: list[int] = []

        async def tick(event: PluginEvent) -> None:
            depths.append(event.message.depth)
            if len(depths) < 8:
                await bus.publish(Item(n=1), source="/shop", delay=1.0)

        await rig.subscribe(bus, tick, group="shop.tick")
        await rig.publish(bus, 0)
        await rig.until(lambda: len(depths) == 8)
        assert len(set(depths)) == 1
        assert (await rig.info(bus, "shop.tick")).paused is None


async def _spinning(rig: Rig, bus: EventBus, errors: list[StormDetected]) -> None:
    """A group that answers each event with another of the same type, up to 200 times."""
    turns = 0

    async def spin(event: PluginEvent) -> None:
        nonlocal turns
        turns += 1
        if turns > 200:
            return
        try:
            await bus.publish(Item(n=1), source="/shop")
        except StormDetected as error:
            errors.append(error)
            raise

    await rig.subscribe(bus, spin, group="shop.spin", retry=soon(rig))
