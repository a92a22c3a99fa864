"""What a plugin provides: ranked, announced when it comes and goes, and handed over.

A capability whose plugin sleeps is there: a stand-in takes its calls. So what a generation begins or ceases
to provide is no news while one stands in for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from contracts.bus import EventBus, Provider, ProviderInfo, ProviderSpec, Provision
from contracts.event import Event
from contracts.messages import CapabilityOffered, CapabilityWithdrawing

from .hosts import ProviderDeclaration

_HEARD = 0.5
"""Seconds that the bus may take to publish a notice before what it speaks of happens all the same."""


@dataclass(frozen=True)
class Notices:
    """How others are told of what one plugin provides on this replica."""

    plugin_id: str
    version: str
    bus: EventBus
    announce: Callable[[Event], None]
    settle: Callable[[float], Awaitable[object]]
    """Returns when what was announced is published, or after so many seconds."""

    def offered(self, spec: ProviderSpec) -> None:
        best = next(iter(self.bus.providers(spec.capability)), None)
        self._say(CapabilityOffered, spec, is_best=best is not None and self._is_ours(best))

    def withdrawing(self, spec: ProviderSpec) -> None:
        others = (info for info in self.bus.providers(spec.capability) if not self._is_ours(info))
        successor = next(others, None)
        self._say(
            CapabilityWithdrawing,
            spec,
            successor=successor.plugin_id if successor else "",
            successor_replica=successor.replica if successor else "",
        )

    async def heard(self) -> None:
        """Give the bus a moment to publish it before what it speaks of happens."""
        await self.settle(_HEARD)

    def _is_ours(self, info: ProviderInfo) -> bool:
        return info.plugin_id == self.plugin_id and info.replica == self.bus.replica

    def _say(self, kind: type[Event], spec: ProviderSpec, **more: object) -> None:
        fact = {
            "plugin_id": self.plugin_id,
            "version": self.version,
            "generation": spec.generation,
            "replica": self.bus.replica,
            "capability": spec.capability,
            "rank": spec.rank,
        }
        self.announce(kind.model_validate({**fact, **more}))


@dataclass(eq=False)
class Offer:
    """One capability that is provided. `remove` says so before it is gone."""

    spec: ProviderSpec
    provision: Provision
    offers: Offers
    is_told: bool = False
    """That it goes."""

    @property
    def id(self) -> str:
        return self.provision.id

    async def remove(self) -> None:
        await self.offers.remove(self)


class Offers:
    """What a generation provides now."""

    def __init__(
        self,
        generation: int,
        notices: Notices,
        ranks: Mapping[str, int],
        stood_in: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """`ranks`: what the operator says instead of the code; `stood_in`: capabilities whose calls stand-ins
        take now, with their ranks."""
        self._generation = generation
        self._bus = notices.bus
        self._notices = notices
        self._ranks = ranks
        self._stood_in = stood_in
        self._offers: list[Offer] = []

    @property
    def specs(self) -> tuple[ProviderSpec, ...]:
        return tuple(offer.spec for offer in self._offers)

    async def offer(self, provider: ProviderDeclaration, timeout: float, call: Provider) -> Offer:
        spec = ProviderSpec(
            capability=provider.capability,
            plugin_id=self._notices.plugin_id,
            provider=provider.name,
            rank=self._ranks.get(provider.capability, provider.rank),
            timeout=timeout,
            generation=self._generation,
        )
        offer = Offer(spec, await self._bus.provide(spec, call), self)
        self._offers.append(offer)
        if self._stood_in().get(spec.capability) != spec.rank:  # another rank is news
            self._notices.offered(spec)
        return offer

    async def announce_end(self) -> None:
        """Say of all that they go, and give the bus a moment to publish it before they do."""
        told = [self._announce_end(offer) for offer in self._offers]
        if any(told):
            await self._notices.heard()

    async def drain(self, grace: float) -> bool:
        """Let the next in rank take over; wait up to `grace` seconds for calls that run. Did all finish?"""
        return all(await asyncio.gather(*(offer.provision.drain(grace) for offer in self._offers)))

    async def remove(self, offer: Offer) -> None:
        try:
            if self._announce_end(offer):
                await self._notices.heard()
        finally:
            if offer in self._offers:
                self._offers.remove(offer)
            await offer.provision.remove()

    def _announce_end(self, offer: Offer) -> bool:
        if offer.is_told or offer.spec.capability in self._stood_in():
            return False
        offer.is_told = True
        self._notices.withdrawing(offer.spec)
        return True
