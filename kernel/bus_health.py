"""How the bus stands, as health tells it: asked seldom enough that probes cost its backend nothing."""

from __future__ import annotations

import asyncio
from typing import Literal

from contracts.bus import BusInfo, EventBus
from contracts.messages import Readiness

Durability = Literal["none", "weak", "strong"]
FRESH = 0.5
"""Seconds for which an answer is told again: everybody may ask for health, and as often as he likes."""
PATIENCE = 0.8
"""Seconds after which a bus that does not answer counts as not connected: probes wait for one."""


class BusHealth:
    """What the bus said last, not older than `FRESH`."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._turn = asyncio.Lock()
        self._asked_at: float | None = None
        self._said: BusInfo | None = None
        """What it said last, connected or not."""
        self._answers = False
        self._durability: Durability | None = None
        """As it was when it last answered; of one that does not, nobody can say."""

    async def look(self) -> Readiness:
        """The part of readiness that is the bus's: ready or not, durability, and what is weak about it."""
        async with self._turn:  # who comes while somebody asks hears what he is told
            if self._asked_at is None or self._now() - self._asked_at >= FRESH:
                self._answers = await self._ask()
                self._asked_at = self._now()
            return self._told()

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                self._said = await self._bus.info()
        except TimeoutError:
            return False
        if self._said.connected:
            self._durability = self._said.durability
        return self._said.connected

    def _told(self) -> Readiness:
        said, durability = self._said, self._durability
        if self._answers and said is not None:
            notes = (*_weakness(said), *said.warnings)
            return Readiness(status="ready", bus="connected", durability=durability, notes=notes)
        whose = f"the {said.backend} at {said.address}" if said else "its backend"
        reasons = (f"bus: {whose} does not answer",)
        return Readiness(status="not_ready", bus="unreachable", durability=durability, reasons=reasons)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _weakness(said: BusInfo) -> tuple[str, ...]:
    """In words, where the bus does not say so itself, with what to do about it."""
    if said.durability != "weak" or any("durability is weak" in sentence for sentence in said.warnings):
        return ()
    server = said.server or said.backend
    return (f"durability is weak: a crash of {server} or of its machine may lose what it has confirmed",)
