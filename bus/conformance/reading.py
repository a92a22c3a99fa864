"""Reading along: tails, marks and being quiet; and how a bus is closed."""

from __future__ import annotations

import asyncio

import pytest

from contracts.bus import BusLimits, Tail, TailItem
from contracts.errors import BusClosed, InvalidOption
from contracts.event import EventResult
from contracts.message import PluginEvent

from .backend import needs
from .order import soon
from .probe import Gate
from .rig import SOURCE, Item, Rig, now
from .suite import Suite


class Reading(Suite):
    """Whoever reads along disturbs nobody."""

    # --- tails -----------------------------------------------------------------------------------

    async def test_a_tail_reads_along_from_now_on(self, rig: Rig) -> None:
        """In order, what its patterns select; it settles nothing and ends when it is closed."""
        a, b = await rig.open("a"), await rig.open("b")
        await rig.publish(a, 0)
        tail = b.tail("orders.*", "bills.*")
        probe = await rig.on(a)
        await rig.publish(a, 1, 2, key="k")
        await rig.publish(a, 3, type="other.item")
        await rig.publish(a, 4, type="bills.item")
        items = await _read(rig, tail, 3)
        assert sorted(_numbers(items)) == [1, 2, 4]
        assert (items[0].envelope.id, items[0].version, items[0].missed) == ("e2-1", 1, 0)
        waiting = asyncio.ensure_future(anext(tail))
        await rig.pause(1)
        tail.close()
        tail.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
        assert tail.read_nowait() == []
        await rig.quiet(a)
        assert sorted(probe.numbers) == [0, 1, 2]

    async def test_a_tail_waits_for_the_next(self, rig: Rig) -> None:
        """Iterating waits; two tails each get everything."""
        bus = await rig.open()
        tails = [bus.tail("orders.**") for _ in range(2)]
        waiting = [asyncio.ensure_future(anext(tail)) for tail in tails]
        await rig.publish(bus, 1)
        assert _numbers([await one for one in waiting]) == [1, 1]

    async def test_a_tail_of_everything_sees_topics_that_are_born_later(self, rig: Rig) -> None:
        """From their first event; the reserved topics only where they are named."""
        a, b = await rig.open("a"), await rig.open("b")
        everything, own = a.tail("**"), a.tail("bus.*")
        for n in range(5):
            await rig.publish(b, n, type=f"born{n}.item")
            await rig.publish(b, 10 + n, type="bus.something")
        assert sorted(_numbers(await _read(rig, everything, 5))) == list(range(5))
        assert _numbers(await _read(rig, own, 5)) == list(range(10, 15))

    async def test_a_tail_goes_on_at_a_position(self, rig: Rig) -> None:
        """From the oldest, from an item's position, from a time; on another replica as well."""
        a, b = await rig.open("a"), await rig.open("b")
        await rig.publish(a, 1, 2, key="k")
        await rig.pause(1)
        middle = rig.now()
        await rig.pause(1)
        await rig.publish(a, 3, 4, key="k")
        items = await _read(rig, a.tail("orders.**", position="oldest"), 4)
        assert _numbers(items) == [1, 2, 3, 4]
        for n, item in enumerate(items[:-1]):
            assert (
                _numbers(await _read(rig, b.tail("orders.**", position=item.position), 3 - n))
                == [1, 2, 3, 4][n + 1 :]
            )
        assert _numbers(await _read(rig, b.tail("orders.**", position=middle), 2)) == [3, 4]
        end = b.tail("orders.**", position=items[-1].position)
        await rig.pause(1)
        assert end.read_nowait() == []
        for wrong in ("", "nonsense", "[]"):
            with pytest.raises(InvalidOption):
                b.tail("orders.**", position=wrong)

    @needs(limit=100, retain=5, retain_seconds=0, young_seconds=0)
    async def test_a_tail_is_told_what_it_missed(self, rig: Rig) -> None:
        """What was trimmed before it was read is reported as a gap, exactly; a slow tail holds nothing."""
        bus = await rig.open()
        tail = bus.tail("orders.**")
        await rig.on(bus)
        await rig.publish(bus, *range(1_000), timeout=rig.backend.patience)
        await rig.quiet(bus)
        await rig.publish(bus, 1_000)
        items: list[TailItem] = []

        def has_all() -> bool:
            items.extend(tail.read_nowait())
            return bool(items) and _numbers(items)[-1] == 1_000

        await rig.until(has_all)
        missed = sum(item.missed for item in items)
        assert missed > 0
        assert missed + len(items) == 1_001

    async def test_reading_at_once_is_bounded(self, rig: Rig) -> None:
        """At most a thousand items a call."""
        bus = await rig.open()
        tail = bus.tail("orders.**")
        await rig.publish(bus, *range(2_500), key="k")
        items: list[TailItem] = []

        def has_all() -> bool:
            batch = tail.read_nowait()
            assert len(batch) <= 1_000
            items.extend(batch)
            return len(items) == 2_500

        await rig.until(has_all)
        assert _numbers(items) == list(range(2_500))

    # --- quiet -----------------------------------------------------------------------------------

    async def test_quiet_waits_for_everything_since_a_mark(self, rig: Rig) -> None:
        """Also for what was caused; parked is not final; what was published before does not count."""
        bus, gate = await rig.open(), Gate()

        async def chain(event: PluginEvent) -> EventResult | None:
            n = event.as_(Item).n
            if n == 100:
                await gate()
            if n == 5 and event.attempt == 1:
                raise ValueError("not yet")
            return EventResult.ok(Item(n=n - 1)) if 0 < n < 10 else None

        await rig.subscribe(bus, chain, concurrency=4, retry=soon(rig))
        await rig.publish(bus, 100, key="old")
        await rig.until(lambda: gate.waiting)
        mark = bus.mark()
        await rig.publish(bus, 9, key="k")
        await rig.quiet(bus, mark)
        assert (await rig.info(bus)).handled == 10
        everything = asyncio.ensure_future(bus.quiet())
        await rig.pause(2)
        assert not everything.done()
        gate.open()
        await asyncio.wait_for(everything, rig.backend.patience)

    async def test_quiet_waits_for_what_waits_for_a_time(self, rig: Rig) -> None:
        """Delayed events, and groups that nobody handles: a waiting event has no outcome."""
        bus = await rig.open()
        probe = await rig.on(bus)
        await rig.publish(bus, 1, delay=4 * rig.tick)
        await rig.quiet(bus)
        assert probe.done == [1]
        await bus.declare_group(rig.spec(group="shop.dormant", start="new"))
        await rig.publish(bus, 2)
        waiting = asyncio.ensure_future(bus.quiet())
        await rig.pause()
        assert not waiting.done()
        await bus.drop_group("shop.dormant")
        await asyncio.wait_for(waiting, rig.backend.patience)

    # --- closing ---------------------------------------------------------------------------------

    async def test_close_lets_handlers_finish_within_the_grace_time(self, rig: Rig) -> None:
        """Reading stops at once; what runs may finish and be settled, and may still publish."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()

        async def act(n: int, attempt: int) -> None:
            await gate()
            await a.publish(Item(n=100 + n), source=SOURCE)

        probe = await rig.on(a, act, "start.*")
        await rig.publish(b, 1, 2, key="k", type="start.now")
        await rig.until(lambda: gate.waiting)
        closing = asyncio.ensure_future(rig.close(a, grace=rig.backend.patience))
        await rig.pause(1)
        assert not closing.done()
        gate.open()
        await closing
        assert probe.done == [1]
        heir = await rig.on(b, None, "start.*")
        follow = await rig.on(b, None, "orders.*", group="shop.follow")
        await rig.quiet(b)
        assert (heir.starts, follow.numbers) == ([(2, 1)], [101])
        await a.close()

    async def test_close_cancels_what_does_not_finish_and_ends_everything(self, rig: Rig) -> None:
        """Waiting publishes, requests and tails end; then every method says that the bus is closed."""
        a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
        probe = await rig.on(a, gate)
        tail = a.tail("orders.**")
        await rig.publish(b, 1)
        await rig.until(lambda: gate.waiting)
        assert await _read(rig, tail, 1)
        waiting = asyncio.ensure_future(anext(tail))
        await asyncio.sleep(0)
        began = now()
        await rig.close(a, grace=2 * rig.tick)
        assert now() - began < rig.backend.patience / 2
        assert probe.running == 0
        with pytest.raises(StopAsyncIteration):
            await waiting
        with pytest.raises(BusClosed):
            await a.publish(Item(n=1), source=SOURCE)
        with pytest.raises(BusClosed):
            await a.subscribe(rig.spec(group="shop.late"), probe)
        with pytest.raises(BusClosed):
            await a.request("pricing.quote", "{}", source=SOURCE)
        with pytest.raises(BusClosed):
            a.tail("orders.**")
        with pytest.raises(BusClosed):
            await a.open()

    async def test_features_are_declared(self, rig: Rig) -> None:
        """Every handle declares what its backend does, and has the name that it was given."""
        bus = await rig.open("some-name")
        assert (bus.features, bus.replica) == (rig.backend.features, "some-name")
        assert isinstance(rig.backend.limits, BusLimits)


def _numbers(items: list[TailItem]) -> list[int]:
    return [Item.model_validate_json(item.data).n for item in items]


async def _read(rig: Rig, tail: Tail, count: int) -> list[TailItem]:
    items = [await asyncio.wait_for(anext(tail), rig.backend.patience) for _ in range(count)]
    tail.read_nowait()
    return items
