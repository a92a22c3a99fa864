"""Readiness as far as it is the bus's: connected, durable, and cheap to ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bus.memory import MemoryBus
from contracts.bus import BusInfo
from contracts.messages import BusDetails, GetReadiness, Readiness, ShowBus
from kernel import bus_health
from kernel.testing import Harness, MockPlugin


class ServerBus(MemoryBus):
    """A bus that says of itself what a test wants it to say."""

    def __init__(self) -> None:
        super().__init__(replica="r1")
        self.says: dict[str, Any] = {"connected": True, "durability": "weak"}
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()

    async def info(self) -> BusInfo:
        self.asked += 1
        await self.answering.wait()
        about = {"backend": "redis", "server": "Redis 7.0.15", "address": "redis://h", "namespace": "shop"}
        return BusInfo.model_validate({**about, "replicas": ("r1",), **self.says})


@pytest.fixture
async def server_bus() -> AsyncIterator[ServerBus]:
    async with ServerBus() as bus:
        yield bus


@pytest.fixture
async def harness(tmp_path: Path, server_bus: ServerBus) -> AsyncIterator[Harness]:
    async with Harness(tmp_path, bus=server_bus) as running:
        yield running


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_health, "FRESH", 0.0)


async def test_weak_durability_is_told_in_words(harness: Harness, server_bus: ServerBus) -> None:
    """With whatever else the bus warns of; the kernel is ready all the same."""
    server_bus.says["warnings"] = ("maxmemory-policy is allkeys-lru: set noeviction",)
    readiness = await harness.manager.readiness()
    assert (readiness.status, readiness.bus, readiness.durability) == ("ready", "connected", "weak")
    assert readiness.reasons == ()
    assert readiness.notes == (
        "durability is weak: a crash of Redis 7.0.15 or of its machine may lose what it has confirmed",
        "maxmemory-policy is allkeys-lru: set noeviction",
    )
    server_bus.says["warnings"] = ("durability is weak, for a reason: set appendfsync always",)
    assert (await harness.manager.readiness()).notes == server_bus.says["warnings"]
    for durability in ("strong", "none"):
        server_bus.says = {"connected": True, "durability": durability}
        readiness = await harness.manager.readiness()
        assert (readiness.durability, readiness.notes) == (durability, ())


async def test_a_bus_that_is_not_connected_makes_the_kernel_not_ready(
    harness: Harness, server_bus: ServerBus
) -> None:
    """It names the bus, beside whatever else is wrong, and how durable it was when it last answered; and is
    ready again once the bus is there."""
    server_bus.says = {"connected": False, "durability": "none"}
    assert (await harness.request(GetReadiness())).durability is None
    server_bus.says = {"connected": True, "durability": "weak"}
    assert (await harness.request(GetReadiness())).durability == "weak"
    server_bus.says = {"connected": False, "durability": "none"}
    readiness = await harness.request(GetReadiness())
    assert (readiness.status, readiness.bus, readiness.durability) == ("not_ready", "unreachable", "weak")
    assert readiness.reasons == ("bus: the redis at redis://h does not answer",)
    await harness.load(MockPlugin.make("needed", criticality="required"))
    await harness.unload("needed")
    assert len((await harness.request(GetReadiness())).reasons) == 2
    await harness.load(MockPlugin.make("needed", criticality="required"))
    server_bus.says["connected"] = True
    assert (await harness.request(GetReadiness())).status == "ready"


async def test_a_bus_that_hangs_counts_as_not_connected(
    harness: Harness, server_bus: ServerBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe waits for about a second; so it is answered before that."""
    assert bus_health.PATIENCE < 1
    monkeypatch.setattr(bus_health, "PATIENCE", 0.01)
    server_bus.answering.clear()
    readiness = await harness.manager.readiness()
    assert (readiness.status, readiness.bus) == ("not_ready", "unreachable")
    assert readiness.reasons == ("bus: its backend does not answer",)
    server_bus.answering.set()
    assert (await harness.manager.readiness()).status == "ready"


async def test_the_backend_is_not_asked_more_often_than_is_needed(
    harness: Harness, server_bus: ServerBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health needs no token: whoever asks again and again, or a hundred at once, costs it nothing more."""
    monkeypatch.setattr(bus_health, "FRESH", 3_600.0)
    server_bus.asked = 0
    answers = await asyncio.gather(*(harness.manager.readiness() for _ in range(100)))
    assert server_bus.asked == 1
    assert answers == [answers[0]] * 100


async def test_the_bus_is_shown_as_far_as_it_answers(harness: Harness, server_bus: ServerBus) -> None:
    """All of it with its topics; of one that is not connected what can be told without its backend."""
    shown = await harness.request(ShowBus())
    info = await server_bus.info()
    assert BusInfo(**{name: getattr(shown, name) for name in BusInfo.model_fields}) == info
    assert (shown.replica, shown.features) == ("r1", server_bus.features)
    assert "kernel" in [topic.topic for topic in shown.topics]
    server_bus.says["connected"] = False
    shown = await harness.request(ShowBus())
    assert isinstance(shown, BusDetails)
    assert (shown.connected, shown.topics) == (False, ())


def test_a_kernel_without_answer_knows_nothing_of_its_bus() -> None:
    """What the gateway says then leaves it open."""
    assert Readiness(status="not_ready").model_dump() == {
        "status": "not_ready", "bus": None, "durability": None, "reasons": (), "notes": (),
    }  # fmt: skip
