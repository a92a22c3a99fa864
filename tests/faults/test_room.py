"""Room: what holds publishers back, what is trimmed, what must not be, and what stays bounded."""

from __future__ import annotations

import asyncio

import pytest
from fault_tools.controls import Control, fails_on_naive
from fault_tools.own_servers import own_backend, own_rig, own_store, server_of_its_own  # noqa: F401 - fixtures
from fault_tools.storage_systems import GROUP, Store, is_parked

from bus.conformance.backend import needs
from bus.conformance.probe import Gate, fail_if
from bus.conformance.rig import Rig, now
from contracts.bus import RetryPolicy
from contracts.errors import BusFull

CONTROLS: list[Control] = []


@needs(limit=200, retain=10, retain_seconds=0.1, young_seconds=0)
async def test_at_the_limit_publishers_wait_and_nothing_is_lost(rig: Rig, store: Store) -> None:
    """A group that nobody handles holds what it needs, `BusFull` names it; later it gets all. [B25, F33]"""
    bus = await rig.open()
    await bus.declare_group(rig.spec(group="shop.lagging"))
    rig.groups["shop.lagging"] = ("orders.**",)
    fast = await rig.on(bus)
    for n in range(200):
        await rig.publish(bus, n)
    began = now()
    with pytest.raises(BusFull) as caught:
        await rig.publish(bus, 200, timeout=0.5)
    assert 0.45 <= now() - began <= 1.5
    assert (caught.value.topic, caught.value.group) == ("orders", "shop.lagging")
    assert "shop.lagging" in caught.value.fix
    assert store.length("orders") == 200
    await rig.until(lambda: len(fast.done) == 200)
    waiting = asyncio.ensure_future(rig.publish(bus, 201, timeout=20))
    late = await rig.on(bus, None, group="shop.lagging")
    await waiting
    await rig.until(lambda: len(late.done) == 201)
    await rig.quiet(bus)
    rig.judge()


@fails_on_naive(
    CONTROLS, at=("for probe in probes) == 900", "assert await bus.count_dead_letters() <= 20"),
    because="keys of which one fails may stand still, and dead letters are kept without bound",
)  # fmt: skip
@needs(retain=50, retain_seconds=0.5, young_seconds=0, lease=1.0, dead_letters=20, partitions=2)
async def test_nothing_grows_without_bound(rig: Rig, store: Store) -> None:
    """Streams go back to what is retained; pending, lot, suspects to nothing; dead letters to their bound.

    [F23]
    """
    bus, other = await rig.open("a"), await rig.open("b")
    policy = RetryPolicy(attempts=2, first_delay=0.05, jitter=0)
    act = lambda n, attempt: fail_if(n % 10 == 0 or (n % 7 == 0 and attempt == 1))  # noqa: E731
    probes = [await rig.on(one, act, concurrency=8, retry=policy) for one in (bus, other)]
    fail = set()
    for n in range(1_000):
        [receipt] = await rig.publish(bus, n, key=f"k{n % 50}")
        fail |= {receipt.id} if n % 10 == 0 else set()
    await rig.until(lambda: sum(len(probe.done) for probe in probes) == 900)
    await rig.quiet(bus)
    assert await bus.count_dead_letters() <= 20
    rig.judge(exempt=fail)  # of their letters the oldest are gone by now
    await rig.until(lambda: sum(store.length("orders", p) for p in (0, 1)) <= 2 * 50, "streams to be trimmed")
    for p in (0, 1):
        groups = store.groups("orders", p)
        assert groups[GROUP]["pending"] == 0
        assert groups[GROUP]["consumers"] <= 1
    leftovers = [key for key in store.all_keys() if any(part in key for part in (":lot", ":sus:", ":again:"))]
    assert leftovers == []


@needs(retain=20, retain_seconds=0.1, young_seconds=0, lease=1.0)
async def test_trimming_passes_what_waits_in_a_lot_and_stops_at_what_is_needed(
    rig: Rig, store: Store
) -> None:
    """A retry of an hour holds nothing; a group that is made while it trims, and one of everything on a topic
    that was born just now, miss nothing. [F22, F23]
    """
    bus = await rig.open()
    patient = RetryPolicy(first_delay=3_600, max_delay=3_600, jitter=0)
    await rig.on(bus, lambda n, _: fail_if(n == 0), retry=patient)
    everything = await rig.on(bus, None, "**", group="shop.everything")
    await rig.publish(bus, 0, key="waits")
    await rig.until(lambda: is_parked(rig, bus))
    groups, n = [], 1
    for round_ in range(6):
        for _ in range(100):
            await rig.publish(bus, n, key=f"k{n % 5}")
            n += 1
        group = f"shop.late{round_}"
        spec = rig.spec(group=group)
        await asyncio.gather(bus.declare_group(spec), rig.publish(bus, n, key="x"), rig.pause(6))
        groups.append((group, n, store.numbers("orders")))
        n += 1
        await rig.publish(bus, *range(3), type=f"born{round_}.now")
    await rig.until(lambda: len(everything.done) == n + 18)
    for group, first, kept in groups:
        probe = await rig.on(bus, None, group=group)
        await rig.until(lambda: n - 1 in probe.numbers)  # noqa: B023
        seen = sorted(probe.numbers)
        assert seen == list(range(seen[0], n)), "a gap"
        assert seen[0] <= first
        assert kept
        del rig.groups[group]
        await bus.drop_group(group)
    await rig.until(lambda: store.length("orders") <= 20, "only what is retained to be left")
    assert await is_parked(rig, bus)
    rig.judge(exempt=["e1-0"])


@fails_on_naive(
    CONTROLS, at="len(late.done) == len(slow.done) == 600",
    because="`MAXLEN ~` trims what a group has not read yet",
)  # fmt: skip
@needs(retain=100, young_seconds=0, retain_seconds=0.1, lease=1.0)
async def test_nothing_is_trimmed_that_a_group_still_needs(rig: Rig, store: Store) -> None:
    """A group that nobody handles, one that is slow, and what waits in a lot: all is there in the end.

    [F22]
    """
    a, gate = await rig.open("a"), Gate()
    await a.declare_group(rig.spec(group="shop.dormant"))
    fast = await rig.on(a)
    slow = await rig.on(a, gate, group="shop.slow")
    rig.groups["shop.dormant"] = ("orders.**",)
    for n in range(600):
        await rig.publish(a, n, key=f"k{n % 7}")
    await rig.until(lambda: len(fast.done) == 600)
    await a.topics()  # looks, and trims
    gate.open()
    late = await rig.on(a, None, group="shop.dormant")
    await rig.until(lambda: len(late.done) == len(slow.done) == 600)
    await rig.quiet(a)
    rig.judge()


# --- the control --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", CONTROLS, ids=str)
async def test_the_naive_bus_fails(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    """Each of these, for its reason: what passes there judges nothing."""
    await control.check(caplog)
