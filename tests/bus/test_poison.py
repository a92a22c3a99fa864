"""Poison: what no repetition can mend is a dead letter at once, with the bytes as they came."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.bus import RetryPolicy, RetryRule
from contracts.event import Event, EventData
from contracts.message import PluginEvent

EVERYTHING = RetryPolicy(
    first_delay=100, rules=(RetryRule(errors=("Exception",), action="retry", delay=1.0),)
)


class Parcel(Event, type="orders.parcel", version=2):
    weight: int


GOOD = EventData(type="orders.parcel", version=2, data='{"weight": 3}')
POISON = {
    "no JSON": (2, "no \x00 json", "decode"),
    "nothing": (2, "", "decode"),
    "too deep": (2, "[" * 100_000, "decode"),
    "no upcast": (1, "{", "schema"),
    "a bad field": (2, '{"weight": "x"}', "schema"),
    "no object": (2, "[1]", "schema"),
    "newer than known": (3, '{"kilos": 3}', "version_ahead"),
}


@pytest.mark.parametrize("policy", [RetryPolicy(), EVERYTHING], ids=["plain", "rules"])
@pytest.mark.parametrize(("version", "data", "reason"), POISON.values(), ids=POISON)
async def test_poison_is_a_dead_letter_at_once(
    rig: Any, bus: Any, version: int, data: str, reason: str, policy: RetryPolicy
) -> None:
    """Whatever the rules say: one attempt, the raw data, and the next event of the key is not delayed."""

    async def handle(delivery: PluginEvent) -> None:
        weights.append(delivery.as_(Parcel).weight)

    weights: list[int] = []
    start = asyncio.get_running_loop().time()
    await rig.on(bus, handle, retry=policy)
    for each in (EventData(type="orders.parcel", version=version, data=data), GOOD):
        await bus.publish(each, source="/test", key="k")
    await bus.quiet()
    [letter] = await bus.dead_letters()
    assert (letter.reason, letter.attempts, letter.version) == (reason, 1, version)
    assert letter.raw == data.encode()
    assert weights == [3]
    assert asyncio.get_running_loop().time() == start


async def test_a_subclass_of_ours_is_poison_and_a_namesake_is_not(rig: Any, bus: Any) -> None:
    """An error is known by its class in full, not by what it is called."""

    class InvalidEvent(Exception):
        """Somebody else's."""

    async def handle(delivery: PluginEvent) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            raise InvalidEvent

    attempts: list[int] = []
    await rig.on(bus, handle)
    await rig.publish(bus, 1)
    await bus.quiet()
    assert attempts == [1, 2]


async def test_a_predicate_that_cannot_read_the_data_makes_a_dead_letter(rig: Any, bus: Any) -> None:
    """What it raises is judged like what a handler raises."""

    async def handle(delivery: PluginEvent) -> None:
        raise AssertionError("never started")

    await bus.subscribe(rig.spec(), handle, where=lambda event: event.as_(Parcel).weight > 1)
    await bus.publish(EventData(type="orders.parcel", version=2, data="}"), source="/test")
    await bus.quiet()
    [letter] = await bus.dead_letters()
    assert (letter.reason, letter.raw) == ("decode", b"}")
