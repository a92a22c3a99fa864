"""The sixteen tests that every publish-subscribe system should pass, in full size and with order judged."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from contracts.bus import EventBus, RetryPolicy
from contracts.errors import BusClosed, PublishUnknown

from .backend import needs
from .probe import Gate, Probe
from .rig import SOURCE, Item, Rig, now, together
from .suite import Suite

AGAIN = RetryPolicy(attempts=1_000, first_delay=0, factor=1, jitter=0)


class Universal(Suite):
    """Names and sizes are those of the field; every start of a handler is judged."""

    async def test_publish_subscribe(self, rig: Rig) -> None:
        """A hundred events arrive once, in order, data and attributes as they were; nothing after close."""
        bus, other = await rig.open("a"), await rig.open("b")
        probe = await rig.on(bus)
        for n in range(100):
            await rig.publish(other, n, key="k", subject=f"order {n}")
        await rig.quiet(other)
        assert probe.numbers == list(range(100))
        first = probe.events[0]
        assert (first.attempt, first.handler, first.replayed) == (1, "handle", False)
        assert first.data == {"n": 0}
        envelope = first.envelope
        assert (envelope.source, envelope.subject, envelope.partitionkey) == (SOURCE, "order 0", "k")
        assert (envelope.type, first.message.version) == ("orders.item", 1)
        assert abs((envelope.time - rig.now()).total_seconds()) < 60
        rig.judge()
        await rig.close(bus)
        await rig.publish(other, 100)
        await rig.pause()
        assert len(probe.starts) == 100
        with pytest.raises(BusClosed):
            await bus.publish(Item(n=1), source=SOURCE)

    @needs(partitions=20)
    async def test_concurrent_subscribe(self, rig: Rig) -> None:
        """Fifty lanes on ten replicas compete for 5,000 events: each is started exactly once."""
        buses = [await rig.open(f"r{number}") for number in range(10)]
        probes = [await rig.on(bus, concurrency=5) for bus in buses]
        await together([rig.publish(bus, *range(number, 5_000, 10)) for number, bus in enumerate(buses)])
        await rig.quiet(buses[0])
        assert sorted(n for probe in probes for n in probe.numbers) == list(range(5_000))
        assert sum(bool(probe.numbers) for probe in probes) > 1, "they do not share the work"
        rig.judge()

    async def test_concurrent_subscribe_multiple_topics(self, rig: Rig) -> None:
        """Twenty topics, a hundred events each: every group gets exactly those of its topic."""
        bus = await rig.open()
        probes = {
            number: await rig.on(bus, None, f"topic{number}.*", group=f"shop.g{number}", concurrency=2)
            for number in range(20)
        }
        await together([rig.publish(bus, *range(100), type=f"topic{number}.item") for number in range(20)])
        await rig.quiet(bus)
        for probe in probes.values():
            assert sorted(probe.numbers) == list(range(100))
        rig.judge()

    @needs(partitions=8)
    async def test_publish_subscribe_in_order(self, rig: Rig) -> None:
        """A thousand events of sixteen keys, ten subscribers: each key starts in the order of publishing."""
        buses = [await rig.open(f"r{number}") for number in range(10)]
        for bus in buses:
            await rig.on(bus, lambda n, attempt: asyncio.sleep(0), concurrency=3)
        for n in range(1_000):
            await rig.publish(buses[n % 16 % 10], n, key=f"k{n % 16}")
        await rig.quiet(buses[0])
        rig.judge()

    async def test_resend_on_error(self, rig: Rig) -> None:
        """A hundred events that fail twice come a third time, each key in order."""

        def act(n: int, attempt: int) -> None:
            if attempt <= 2:
                raise ValueError("not yet")

        bus = await rig.open()
        probe = await rig.on(bus, act, retry=AGAIN)
        for n in range(100):
            await rig.publish(bus, n, key=f"k{n % 5}")
        await rig.quiet(bus)
        assert Counter(probe.numbers) == dict.fromkeys(range(100), 3)
        assert sorted(probe.done) == list(range(100))
        rig.judge()

    async def test_no_ack(self, rig: Rig) -> None:
        """The second event is not started before the first is settled."""
        bus, gate = await rig.open(), Gate()
        probe = await rig.on(bus, gate, concurrency=2)
        await rig.publish(bus, 1, 2, key="k")
        await rig.until(lambda: probe.starts)
        await rig.pause(2)
        assert probe.numbers == [1]
        info = await rig.info(bus)
        assert (info.handled, info.in_flight + info.waiting + info.parked) == (0, 2)
        gate.open()
        await rig.quiet(bus)
        assert probe.numbers == [1, 2]
        rig.judge()

    @needs(partitions=4)
    async def test_continue_after_subscribe_close(self, rig: Rig) -> None:
        """Subscribers that are closed and reopened twenty times read 5,000 events between them, once each."""
        publisher = await rig.open("publisher")
        for start in range(0, 5_000, 500):
            await rig.publish(publisher, *range(start, start + 500), key=f"k{start}")
        handled, probes = 0, list[Probe]()
        for number in range(20):
            bus = await rig.open(f"r{number}")
            probe = await rig.on(bus, lambda n, attempt: asyncio.sleep(0), concurrency=3)
            probes.append(probe)
            target = min(5_000, handled + 250)
            await rig.until(lambda: sum(len(one.done) for one in probes) >= target)  # noqa: B023 - awaited here
            if number < 19:
                await rig.close(bus)
            handled = sum(len(one.done) for one in probes)
        await rig.quiet(publisher)
        assert sorted(n for probe in probes for n in probe.done) == list(range(5_000))
        rig.judge()

    async def test_concurrent_close(self, rig: Rig) -> None:
        """Ten subscribers that come and go at once take nothing away: a later one gets what is left."""
        publisher = await rig.open("publisher")
        await rig.publish(publisher, *range(50))

        async def come_and_go(number: int) -> None:
            bus = await rig.open(f"r{number}")
            await rig.on(bus, lambda n, attempt: asyncio.sleep(rig.tick / 2))
            await asyncio.sleep(number * rig.tick / 10)
            await rig.close(bus)

        await together([come_and_go(number) for number in range(10)])
        last = await rig.open("last")
        await rig.on(last, concurrency=2)
        await rig.quiet(last)
        rig.judge()

    async def test_continue_after_errors(self, rig: Rig) -> None:
        """Three subscribers whose first hundred attempts fail receive all fifty events in the end."""
        bus = await rig.open()

        def failing() -> Any:
            left = [100]

            def act(n: int, attempt: int) -> None:
                if left[0]:
                    left[0] -= 1
                    raise ConnectionError("still down")

            return act

        probes = [await rig.on(bus, failing(), group=f"shop.g{number}", retry=AGAIN) for number in range(3)]
        await rig.publish(bus, *range(50))
        await rig.quiet(bus)
        for probe in probes:
            assert sorted(probe.done) == list(range(50))
            assert len(probe.starts) == 150
        rig.judge()

    async def test_consumer_groups(self, rig: Rig) -> None:
        """Two groups get all fifty events each, whatever the other does."""
        a, b = await rig.open("a"), await rig.open("b")
        first = await rig.on(a, group="shop.first")
        second = await rig.on(b, group="mail.second")
        await rig.publish(a, *range(50))
        await rig.quiet(a)
        assert sorted(first.numbers) == sorted(second.numbers) == list(range(50))
        rig.judge()

    async def test_publisher_close(self, rig: Rig) -> None:
        """Closing right after a parallel burst of 10,000 loses nothing that was confirmed."""
        publisher, reader = await rig.open("publisher"), await rig.open("reader")
        await reader.declare_group(rig.spec())
        burst = [rig.publish(publisher, *range(k * 100, k * 100 + 100), key=f"k{k}") for k in range(100)]
        await together(burst)
        await rig.close(publisher, grace=0)
        await rig.on(reader, concurrency=10)
        await rig.quiet(reader)
        rig.judge()

    async def test_topic(self, rig: Rig) -> None:
        """What is published in one topic does not show in another."""
        bus = await rig.open()
        orders = await rig.on(bus, None, "orders.**", group="shop.orders")
        bills = await rig.on(bus, None, "bills.**", group="shop.bills")
        await rig.publish(bus, 1, type="orders.item")
        await rig.publish(bus, 2, type="bills.item")
        await rig.quiet(bus)
        assert (orders.numbers, bills.numbers) == ([1], [2])
        rig.judge()

    async def test_message_ctx(self, rig: Rig) -> None:
        """An attempt knows when it will be cancelled; closing cancels it, and it is no outcome."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
        probe = await rig.on(a, gate, timeout=100 * rig.tick)
        began = now()
        await rig.publish(a, 1)
        await rig.until(lambda: probe.starts)
        deadline = probe.events[0].deadline
        assert deadline is not None
        assert began < deadline <= now() + 100 * rig.tick
        await rig.close(a, grace=0)
        assert probe.running == 0
        heir = await rig.on(b)
        await rig.quiet(b)
        assert (probe.done, heir.starts) == ([], [(1, 1)])
        rig.judge(repeats=1)

    async def test_subscribe_ctx(self, rig: Rig) -> None:
        """A subscription that was removed starts nothing more; a new one gets all twenty events."""
        bus = await rig.open()
        probe = await rig.on(bus)
        await probe.subscription.remove()
        await probe.subscription.remove()
        await rig.publish(bus, *range(20))
        await rig.pause(2)
        assert probe.starts == []
        again = await rig.on(bus)
        await rig.quiet(bus)
        assert sorted(again.numbers) == list(range(20))
        rig.judge()

    @needs(partitions=4)
    async def test_reconnect(self, rig: Rig) -> None:
        """The backend is restarted at a third and at half of 10,000 events of a hundred publishers."""
        buses = [await rig.open(f"r{number}") for number in range(4)]
        for bus in buses:
            await rig.on(bus, lambda n, attempt: asyncio.sleep(0), concurrency=4)
        published = [0]
        moments = {number: asyncio.Event() for number in (3_333, 5_000)}

        async def publish(number: int) -> None:
            for n in range(number * 100, number * 100 + 100):
                await _insist(rig, buses[number % 4], n, key=f"k{number}")
                published[0] += 1
                if published[0] in moments:
                    moments[published[0]].set()
                await asyncio.sleep(0)

        async def interrupt() -> None:
            for moment in moments.values():
                await moment.wait()
                await rig.backend.restart()

        await together([*(publish(number) for number in range(100)), interrupt()])
        await rig.quiet(buses[0])
        rig.judge(repeats=2 * 4 * 4)  # at each restart, what ran on each of four lanes of four replicas

    async def test_new_subscriber_receives_old_messages(self, rig: Rig) -> None:
        """A new group starts at the oldest event that is retained."""
        bus = await rig.open()
        await rig.on(bus, group="shop.first")
        await rig.publish(bus, 1, 2, 3, key="k")
        await rig.quiet(bus)
        late = await rig.on(bus, group="mail.late")
        await rig.quiet(bus)
        assert late.numbers == [1, 2, 3]
        rig.judge()


async def _insist(rig: Rig, bus: EventBus, n: int, key: str) -> None:
    """Publish as an application would: with the same id again while the answer is unknown."""
    event_id = rig.next_id(n)
    while True:
        try:
            await rig.publish(bus, n, key=key, id=event_id)
        except PublishUnknown:
            continue
        return


UNIVERSAL = sorted(name for name in vars(Universal) if name.startswith("test_"))
"""Their names, for the stress form."""
