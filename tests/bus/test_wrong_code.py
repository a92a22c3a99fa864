"""Code of plugins that is wrong in ways nobody expects: it fails alone, and what comes after it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from contracts.bus import Call, ProviderSpec, RetryPolicy
from contracts.errors import ProviderFailed
from contracts.event import EventResult
from contracts.message import PluginEvent

ONCE = RetryPolicy(attempts=1)


class Speechless(Exception):
    """Its text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Undecided:
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


RESULTS: dict[str, Callable[[], Any]] = {
    "an error as reason of a retry": lambda: EventResult.retry(ValueError("x")),  # type: ignore[arg-type]
    "no reason of a discard": lambda: EventResult.discard(None),  # type: ignore[arg-type]
    "a number as reason of a dead letter": lambda: EventResult.dead_letter(3),  # type: ignore[arg-type]
    "a text as pause": lambda: EventResult.retry("x", after="soon"),  # type: ignore[arg-type]
    "not a number as pause": lambda: EventResult.retry("x", after=float("nan")),
    "an unknown action": lambda: EventResult("forget"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", RESULTS)
async def test_a_result_that_cannot_be_is_a_failed_attempt(rig: Any, bus: Any, what: str) -> None:
    """Whatever is wrong with it, the retry policy judges, and the lane goes on with the next event."""

    async def handle(event: PluginEvent) -> Any:
        return RESULTS[what]() if event.data["n"] == 1 else None  # type: ignore[index,call-overload]

    await rig.on(bus, handle, retry=ONCE)
    await rig.publish(bus, 1, 2)
    await asyncio.wait_for(bus.quiet(), 100)
    info = await rig.info()
    assert (info.handled, info.dead, info.failed) == (1, 1, 1)


async def test_an_error_without_a_text_is_an_error(rig: Any, bus: Any) -> None:
    """Its kind is known all the same, and the lane goes on."""

    async def handle(event: PluginEvent) -> None:
        raise Speechless

    await rig.on(bus, handle, retry=ONCE)
    await rig.publish(bus, 1, 2)
    await asyncio.wait_for(bus.quiet(), 100)
    letters = await bus.dead_letters()
    assert [letter.error.type.rpartition(".")[2] for letter in letters] == ["Speechless"] * 2


async def test_a_predicate_without_an_answer_is_a_failed_attempt(rig: Any, bus: Any, recorder: Any) -> None:
    """What it returned is neither true nor false: as if it had raised."""
    await bus.subscribe(rig.spec(retry=ONCE), recorder(), where=lambda event: Undecided())
    await rig.publish(bus, 1, 2)
    await asyncio.wait_for(bus.quiet(), 100)
    assert (await rig.info()).dead == 2


@pytest.mark.parametrize("raises", [True, False])
async def test_a_provider_without_an_answer_has_failed(rig: Any, bus: Any, raises: bool) -> None:
    """The requester knows at once, not at its deadline."""

    async def provide(call: Call) -> Any:
        if raises:
            raise Speechless

    await bus.provide(ProviderSpec(capability="pricing.quote", plugin_id="p", provider="quote"), provide)
    with pytest.raises(ProviderFailed):
        await bus.request("pricing.quote", "{}", source="/test")


async def test_what_cannot_be_announced_holds_no_announcement_back(rig: Any, bus: Any, recorder: Any) -> None:
    """A fact that is larger than an event may be is dropped; the next is told, and `quiet` ends."""
    await rig.on(bus, recorder(lambda n, attempt: EventResult.dead_letter("no")))
    tail = bus.tail("bus.dead_lettered")
    await rig.publish(bus, 1, id="x" * (2 << 20))
    await asyncio.wait_for(bus.quiet(), 100)
    await rig.publish(bus, 2, id="y")
    await asyncio.wait_for(bus.quiet(), 100)
    assert ['"y"' in item.data for item in tail.read_nowait()] == [True]
    assert rig.broker.announcer.dropped == 1
