"""Announcements: in order, never in the way, whatever the bus does."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest

from contracts.bus import EventBus
from contracts.errors import BusClosed, PayloadTooLarge
from contracts.messages import KernelStopping
from kernel.announcer import Announcer

LOG = logging.getLogger("test")


class Bus:
    """Takes events, refuses them, or never answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.taken: list[str] = []
        self.room = asyncio.Event()
        self.room.set()

    async def publish(self, event: KernelStopping, **_: Any) -> None:
        await self.room.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.taken.append(event.reason)


def fact(reason: str) -> KernelStopping:
    return KernelStopping(replica="r", reason=reason)


def announcer_on(bus: Bus, **options: Any) -> Announcer:
    announcer = Announcer(cast(EventBus, bus), LOG, **options)
    announcer.open()
    return announcer


async def test_one_refused_fact_does_not_silence_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """Too large, a closed bus, or a mistake of the bus: logged, and the next fact is published."""
    bus = Bus(PayloadTooLarge("2 MiB"), BusClosed("closed"), RuntimeError("a bug"))
    announcer = announcer_on(bus)
    for word in ("one", "two", "three", "four"):
        announcer.announce(fact(word))
    assert await announcer.settle(5)
    assert bus.taken == ["four"]
    assert all(word in caplog.text for word in ("2 MiB", "closed", "a bug"))
    await announcer.close()


async def test_a_full_bus_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Announcing never waits; the oldest goes, told once; settling and closing give up in time."""
    bus = Bus()
    bus.room.clear()
    announcer = announcer_on(bus, limit=3)
    for n in range(6):
        announcer.announce(fact(str(n)))
    assert announcer.dropped == 3
    assert caplog.text.count("does not take announcements") == 1
    assert not await announcer.settle(0.01)
    await announcer.close(0.01)
    await announcer.close()
    assert "were not published" in caplog.text


async def test_after_the_end_nobody_waits_for_an_announcement() -> None:
    """A fact that comes too late is not published, and `settle` says so instead of waiting for ever."""
    bus = Bus()
    announcer = announcer_on(bus)
    announcer.announce(fact("in time"))
    await announcer.close()
    announcer.announce(fact("late"))
    assert not await announcer.settle()
    assert bus.taken == ["in time"]
