"""Publishing: identity, fidelity, size, delay, expiry, and what is refused."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from contracts.bus import DEFAULT_TIMEOUT, MAX_PAYLOAD, SubscriptionSpec
from contracts.envelope import Envelope
from contracts.errors import (
    InvalidOption,
    InvalidPattern,
    PayloadTooLarge,
)
from contracts.event import Event, EventData, EventResult
from contracts.message import PluginEvent
from contracts.messages.delivery import DeliveryDiscarded

from .backend import needs
from .order import soon
from .probe import Gate
from .rig import SOURCE, Item, Rig, now, payload
from .suite import Suite


class Bill(Event, type="bills.item"):
    n: int


class Publishing(Suite):
    """What `publish`, `publish_many` and `relay` promise."""

    async def test_the_same_id_again_is_one_event(self, rig: Rig) -> None:
        """A repetition, as after a lost answer, is a duplicate at the position of the first."""
        a, b = await rig.open("a"), await rig.open("b")
        probe = await rig.on(a)
        [first] = await rig.publish(a, 1, id="x")
        [again] = await rig.publish(b, 1, id="x")
        [other] = await rig.publish(b, 2, id="x", source="/elsewhere")
        await rig.quiet(a)
        assert (first.id, first.duplicate, again.duplicate, other.duplicate) == ("x", False, True, False)
        assert again.position == first.position
        assert other.position != first.position
        assert probe.numbers == [1, 2]
        rig.judge()

    async def test_the_same_id_at_once_is_one_event(self, rig: Rig) -> None:
        """Twenty publishes of one id, side by side on two replicas: one is first, the others duplicates."""
        a, b = await rig.open("a"), await rig.open("b")
        probe = await rig.on(a)
        item = Item(n=1)
        receipts = await asyncio.gather(*(bus.publish(item, source=SOURCE, id="x") for bus in (a, b) * 10))
        await rig.quiet(a)
        assert sorted(receipt.duplicate for receipt in receipts) == [False] + [True] * 19
        assert probe.numbers == [1]

    @needs(window=10, window_seconds=3_600)
    async def test_the_window_holds_the_last_ids(self, rig: Rig) -> None:
        """So many as the limit says, however old; and all that are younger than the longest deadline."""
        bus = await rig.open()
        for begin, end, oldest in ((0, 50, 0), (50, 57, 47), (57, 64, 54)):
            for n in range(begin, end):
                await rig.publish(bus, n, id=f"x{n}")
            for n in range(oldest, end):
                [receipt] = await rig.publish(bus, n, id=f"x{n}")
                assert receipt.duplicate, f"x{n} of {end} is forgotten"
            await asyncio.sleep(DEFAULT_TIMEOUT + 1)

    @needs(window=1_000, window_seconds=20)
    async def test_the_window_holds_for_so_long(self, rig: Rig) -> None:
        """Ids younger than `window_seconds` are known, though other events came after them."""
        bus = await rig.open()
        await rig.publish(bus, 1, id="x")
        for seconds in (DEFAULT_TIMEOUT + 1, DEFAULT_TIMEOUT + 1):
            await asyncio.sleep(seconds)
            await rig.publish(bus, *range(10))
            [receipt] = await rig.publish(bus, 1, id="x")
            assert receipt.duplicate

    @pytest.mark.parametrize("name", ["id", "source", "key", "subject"])
    @needs(partitions=2)
    async def test_half_a_character(self, rig: Rig, name: str) -> None:
        """A lone surrogate, as JSON may bring one, could not be read again: it is refused at once."""
        bus = await rig.open()
        whole: dict[str, Any] = {"source": SOURCE, "id": "x"}
        with pytest.raises(InvalidOption, match=name):
            await bus.publish(Item(n=1), **whole | {name: "/\ud800"})
        attribute = "partitionkey" if name == "key" else name
        envelope = Envelope(**whole | {attribute: "/\ud800"}, type="orders.item", time=rig.now())
        with pytest.raises(InvalidOption, match=attribute):
            await bus.relay(envelope, Item(n=1))

    async def test_a_source_is_never_empty(self, rig: Rig) -> None:
        """Source and id together name an event; what a handler returns has the source of its plugin."""
        bus = await rig.open()
        with pytest.raises(InvalidOption, match="source"):
            await bus.publish(Item(n=1), source="")
        with pytest.raises(InvalidOption, match="source"):
            await bus.publish(Item(n=1), source="", key="k")
        seen: list[tuple[str, str]] = []

        async def handle(event: PluginEvent) -> EventResult | None:
            seen.append((event.type, event.message.source))
            return EventResult.ok(Bill(n=1)) if event.type == "orders.item" else None

        spec = SubscriptionSpec(
            group="shop.handle", plugin_id="shop", handler="handle", patterns=("orders.item", "bills.item")
        )
        await bus.subscribe(spec, handle)
        await bus.publish(Item(n=2), source="/elsewhere")
        await rig.until(lambda: len(seen) == 2)
        assert seen == [("orders.item", "/elsewhere"), ("bills.item", "/plugins/shop")]

    async def test_ids_are_made_and_positions_differ(self, rig: Rig) -> None:
        """Without an id each publish is an event of its own; positions are all different."""
        bus = await rig.open()
        receipts = [await bus.publish(Item(n=1), source=SOURCE) for _ in range(100)]
        assert len({receipt.id for receipt in receipts}) == 100
        assert len({receipt.position for receipt in receipts}) == 100

    async def test_publish_many_keeps_order_and_stops_at_the_first_failure(self, rig: Rig) -> None:
        """One receipt each; what came before the failure is published, what follows is not."""
        bus = await rig.open()
        probe = await rig.on(bus)
        receipts = await bus.publish_many([Item(n=n) for n in range(50)], source=SOURCE, key="k")
        assert [receipt.duplicate for receipt in receipts] == [False] * 50
        with pytest.raises(PayloadTooLarge):
            await bus.publish_many([Item(n=50), payload(MAX_PAYLOAD + 1), Item(n=52)], source=SOURCE, key="k")
        await rig.quiet(bus)
        assert probe.numbers == list(range(51))

    async def test_relay_keeps_the_envelope(self, rig: Rig) -> None:
        """Id, source, time, subject, key and foreign extensions arrive as they came from outside."""
        bus = await rig.open()
        probe = await rig.on(bus)
        envelope = Envelope(
            id="outside", source="//partner", type="orders.item", time=rig.now(-3_600), subject="s",
            partitionkey="k", correlationid="c", causationid="d", extensions={"tenant": "blue", "rank": 3},
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )  # fmt: skip
        first = await bus.relay(envelope, Item(n=1))
        again = await bus.relay(envelope, Item(n=1))
        await rig.quiet(bus)
        assert (first.id, first.duplicate, again.duplicate) == ("outside", False, True)
        [event] = probe.events
        got = event.envelope
        for name in (
            "id",
            "source",
            "type",
            "time",
            "subject",
            "partitionkey",
            "correlationid",
            "causationid",
        ):
            assert getattr(got, name) == getattr(envelope, name), name
        assert dict(got.extensions) == {"tenant": "blue", "rank": 3}
        assert got.traceparent == envelope.traceparent
        with pytest.raises(InvalidOption):
            await bus.relay(envelope, EventData(type="orders.other", data="{}"))

    async def test_data_and_attributes_arrive_as_they_are(self, rig: Rig) -> None:
        """Whatever characters keys, ids, sources and subjects have, and whatever JSON the data are."""
        bus = await rig.open()
        probe = await rig.on(bus, concurrency=4)
        odd = ["", " ", "a:b", "{x}", "a\nb", "*", "ключ", "🗝", "k" * 1_000, "\x00", '"', "None"]
        for n, text in enumerate(odd):
            await rig.publish(bus, n, key=text, subject=text, id=f"id {text}", source=f"/s/{text}")
            await rig.publish(bus, n, key=text)
        for data in ("{}", '{"n":1e400,"a":[1,2,{"b":null}]}', '{"n":12345678901234567890123,"é":"\\u0000"}'):
            await rig.publish(bus, 1, text=data)
        await rig.quiet(bus)
        assert [event.data for event in probe.events if event.message.data == b"{}"] == [{}]
        assert len(probe.starts) == 2 * len(odd) + 3
        rig.judge()

    async def test_what_one_handler_changes_no_other_sees(self, rig: Rig) -> None:
        """An event class with fields that can be changed is another object for each group and attempt."""
        bus, seen = await rig.open(), list[list[int]]()

        async def meddle(event: PluginEvent) -> None:
            basket = event.as_(Basket)
            seen.append(list(basket.items))
            basket.items.append(99)
            if event.attempt == 1:
                raise ValueError("again")

        for group in ("shop.one", "mail.two"):
            await rig.subscribe(bus, meddle, "baskets.*", group=group, retry=soon(rig))
        basket = Basket(items=[1, 2])
        await bus.publish(basket, source=SOURCE)
        basket.items.append(77)
        await rig.quiet(bus)
        assert seen == [[1, 2]] * 4

    # --- what is refused -------------------------------------------------------------------------

    async def test_payload_of_one_mebibyte_passes_and_one_byte_more_does_not(self, rig: Rig) -> None:
        """It is measured in bytes of JSON, before anything is sent."""
        bus = await rig.open()
        sizes: list[int] = []

        async def measure(event: PluginEvent) -> None:
            sizes.append(len(event.message.data))

        await rig.subscribe(bus, measure, group="shop.measure")
        await bus.publish(payload(MAX_PAYLOAD), source=SOURCE)
        with pytest.raises(PayloadTooLarge) as caught:
            await bus.publish(payload(MAX_PAYLOAD + 1), source=SOURCE)
        assert caught.value.fix
        await rig.quiet(bus)
        assert sizes == [MAX_PAYLOAD]

    async def test_bad_options_are_refused_with_a_fix(self, rig: Rig) -> None:
        """Each before anything is published."""
        bus = await rig.open()
        await rig.on(bus)
        soon_, naive = rig.now(60), datetime(2030, 1, 1)  # noqa: DTZ001 - that is what is refused
        cases: list[dict[str, Any]] = [
            {"delay": -1}, {"delay": 1, "at": soon_}, {"at": naive}, {"expires": naive},
            {"expires": rig.now(-1)}, {"id": ""}, {"timeout": 0}, {"timeout": -1},
        ]  # fmt: skip
        for options in cases:
            with pytest.raises(InvalidOption) as caught:
                await bus.publish(Item(n=1), source=SOURCE, **options)
            assert caught.value.fix, options
        for name in ("", "Orders.item", "orders..item", "orders.*", "1.2"):
            with pytest.raises(InvalidPattern):
                await bus.publish(EventData(type=name), source=SOURCE)
        assert [topic.published for topic in await bus.topics() if topic.topic == "orders"] in ([], [0])

    # --- later -----------------------------------------------------------------------------------

    async def test_delayed_events_wait_and_survive_their_publisher(self, rig: Rig) -> None:
        """`delay` and `at` hold an event back; it comes although the bus that published it has crashed."""
        a, b = await rig.open("a"), await rig.open("b")
        probe = await rig.on(b)
        began = now()
        await rig.publish(a, 1, delay=8 * rig.tick)
        await rig.publish(a, 2, at=rig.now(4 * rig.tick))
        await rig.publish(a, 3, at=rig.now(-60))
        await rig.publish(a, 4, delay=0)
        await rig.crash(a)
        await rig.until(lambda: len(probe.starts) == 4)
        assert (sorted(probe.numbers[:2]), probe.numbers[2:]) == ([3, 4], [2, 1])
        assert probe.times[-1] - began >= 8 * rig.tick - 0.01
        rig.judge()

    async def test_a_delayed_event_is_one_event_too(self, rig: Rig) -> None:
        """Its id counts from the moment it was taken; it is numbered when it becomes visible."""
        bus = await rig.open()
        probe = await rig.on(bus)
        await rig.publish(bus, 1, id="x", key="k", delay=4 * rig.tick)
        [again] = await rig.publish(bus, 1, id="x", key="k", delay=2 * rig.tick)
        await rig.publish(bus, 2, key="k")
        await rig.until(lambda: len(probe.starts) == 2)
        assert again.duplicate
        assert probe.numbers == [2, 1]

    async def test_an_expired_event_is_not_started(self, rig: Rig) -> None:
        """It expires while it waits, also behind its key; counted and announced, and no dead letter."""
        bus, gate = await rig.open(), Gate()
        news = rig.listen(bus)
        probe = await rig.on(bus, gate)
        await rig.publish(bus, 1, key="k")
        await rig.until(lambda: gate.waiting)
        await rig.publish(bus, 2, key="k", expires=rig.now(3 * rig.tick))
        await rig.publish(bus, 3, key="k", expires=rig.now(3_600))
        await rig.pause(5)
        gate.open()
        await rig.quiet(bus)
        assert probe.numbers == [1, 3]
        info = await rig.info(bus)
        assert (info.expired, info.dead, info.failed) == (1, 0, 0)
        await rig.until(lambda: [told.event_id for told in news.of(DeliveryDiscarded)] == ["e2-2"])


class Basket(Event, type="baskets.filled"):
    """Frozen, but for the list in it."""

    items: list[int]
