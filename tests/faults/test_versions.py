"""Events that do not fit who takes them: wrong data, another version, a type that nobody has declared."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fault_tools.controls import Control, fails_on_naive
from fault_tools.storage_systems import check_log, is_naive

from bus.conformance.backend import needs
from bus.conformance.rig import Rig, now
from contracts.bus import EventBus
from contracts.event import Event, EventData
from contracts.message import PluginEvent

CONTROLS: list[Control] = []
SOON = 0.1
"""Seconds within which the event behind one that does not fit is handled."""


class Parcel(Event, type="orders.parcel", version=2):
    weight: int


UNFIT = {
    "a bad field": (2, '{"weight": "x"}', "schema"),
    "a missing field": (2, "{}", "schema"),
    "no object": (2, "[1]", "schema"),
    "a version without a way to ours": (1, '{"kilos": 3}', "schema"),
    "a newer version": (3, '{"kilos": 3}', "version_ahead"),
    "a version that nobody will ever know": (2_000_000_000, "{}", "version_ahead"),
    "data that are no JSON": (2, "{weight: 3}", "decode"),
    "no data": (2, "", "decode"),
    "NUL bytes": (2, "\x00", "decode"),
}


@pytest.mark.parametrize(("version", "data", "reason"), UNFIT.values(), ids=UNFIT)
async def test_data_that_do_not_fit_are_a_dead_letter_at_once(
    rig: Rig, caplog: pytest.LogCaptureFixture, version: int, data: str, reason: str
) -> None:
    """One attempt, the raw data, and the next event of the key is handled within 100 ms. [B17]"""

    async def handle(delivery: PluginEvent) -> None:
        weights.append(delivery.as_(Parcel).weight)

    weights: list[int] = []
    bus = await rig.open()
    await rig.subscribe(bus, handle)
    began = now()
    for each in (
        EventData(type="orders.parcel", version=version, data=data),
        EventData(type="orders.parcel", version=2, data='{"weight": 3}'),
    ):
        await bus.publish(each, source="/test", key="k")
    await rig.until(lambda: weights == [3])
    assert now() - began < SOON + 4 * rig.tick
    await rig.quiet(bus)
    [letter] = await bus.dead_letters()
    assert (letter.reason, letter.attempts, letter.version) == (reason, 1, version)
    assert letter.raw == data.encode()
    check_log(caplog.records, most=2)


async def test_a_type_that_nobody_has_declared_goes_to_who_selects_it(rig: Rig) -> None:
    """It is data with a name: a group whose pattern selects it gets it, any other passes over it. [B17]"""
    bus = await rig.open()
    everything = await rig.on(bus)
    narrow = await rig.on(bus, None, "orders.item", group="shop.narrow")
    await rig.publish(bus, 1, type="orders.never_heard_of", version=40)
    await rig.publish(bus, 2)
    await rig.quiet(bus)
    assert (everything.done, narrow.done) == ([1, 2], [2])
    assert await bus.count_dead_letters() == 0
    rig.judge()


@fails_on_naive(
    CONTROLS, at=("len(seen) == 11", "assert seen[1:] =="),
    because="both versions read, and the older one gets what it cannot make an event of",
)  # fmt: skip
@needs(lease=1.0)
async def test_two_versions_of_a_plugin_on_one_stream(rig: Rig) -> None:
    """Only the newer handles while it is there; the older gets back what is left and lifts nothing down.

    [F36, B17]

    Events of the newer version that come when only the old one is left wait in its dead letters as
    `version_ahead`, and the newer takes them from there.
    """

    def handles(known: int, seen: list[tuple[str, int]], name: str) -> Callable[[PluginEvent], Any]:
        class Known(Event, type="orders.lot", version=known):
            n: int

            @classmethod
            def upcast(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
                return data

        async def handle(delivery: PluginEvent) -> None:
            seen.append((name, delivery.as_(Known).n))

        return handle

    async def publish(bus: EventBus, n: int, version: int) -> None:
        data = EventData(type="orders.lot", version=version, data=json.dumps({"n": n}))
        await bus.publish(data, source="/test", key="k")

    seen: list[tuple[str, int]] = []
    a, b = await rig.open("a"), await rig.open("b")
    await rig.subscribe(a, handles(1, seen, "old"), version="1")
    await publish(a, 1, 1)
    await rig.until(lambda: seen == [("old", 1)])
    newer = await rig.subscribe(b, handles(2, seen, "new"), version="2")
    await rig.until(lambda: _owns(rig, b, "b"), "the newer version to own the group")
    for n in range(2, 12):
        await publish(a if n % 2 else b, n, 2)
    await rig.until(lambda: len(seen) == 11)
    assert seen[1:] == [("new", n) for n in range(2, 12)]
    assert await a.count_dead_letters() == 0
    await newer.remove()
    await publish(b, 12, 2)
    await publish(b, 13, 1)
    await rig.until(lambda: len(seen) == 12)
    assert seen[11:] == [("old", 13)]
    assert [letter.reason for letter in await a.dead_letters()] == ["version_ahead"]


async def _owns(rig: Rig, bus: EventBus, replica: str) -> bool:
    """On the naive bus, which has no owners, whoever is asked for."""
    return is_naive(rig.backend) or set((await rig.info(bus)).owners) == {replica}


# --- the control --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", CONTROLS, ids=str)
async def test_the_naive_bus_fails(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    """Each of these, for its reason: what passes there judges nothing."""
    await control.check(caplog)
