"""What one generation of a plugin provides: ranked, announced, and handed over when it goes."""

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
    """How others are told."""

    announce: Callable[[Event], None]
    settle: Callable[[float], Awaitable[object]]
    """Returns when what was announced is published, or after so many seconds."""


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
        plugin_id: str,
        version: str,
        generation: int,
        bus: EventBus,
        notices: Notices,
        ranks: Mapping[str, int],
    ) -> None:
        """`ranks`: what the operator says instead of the code."""
        self._plugin_id, self._version, self._generation = plugin_id, version, generation
        self._bus = bus
        self._notices = notices
        self._ranks = ranks
        self._offers: list[Offer] = []

    @property
    def specs(self) -> tuple[ProviderSpec, ...]:
        return tuple(offer.spec for offer in self._offers)

    async def offer(self, provider: ProviderDeclaration, timeout: float, call: Provider) -> Offer:
        spec = ProviderSpec(
            capability=provider.capability,
            plugin_id=self._plugin_id,
            provider=provider.name,
            rank=self._ranks.get(provider.capability, provider.rank),
            timeout=timeout,
            generation=self._generation,
        )
        offer = Offer(spec, await self._bus.provide(spec, call), self)
        self._offers.append(offer)
        best = next(iter(self._bus.providers(spec.capability)), None)
        self._announce(CapabilityOffered, spec, is_best=best is not None and self._is_ours(best))
        return offer

    async def announce_end(self) -> None:
        """Say of all that they go, and give the bus a moment to publish it before they do."""
        told = [self._announce_end(offer) for offer in self._offers]
        if any(told):
            await self._notices.settle(_HEARD)

    def hand_over(self) -> None:
        """Somebody stands in for what goes: whoever asks finds no difference, so nothing is announced."""
        for offer in self._offers:
            offer.is_told = True

    async def drain(self, grace: float) -> bool:
        """Let the next in rank take over; wait up to `grace` seconds for calls that run. Did all finish?"""
        return all(await asyncio.gather(*(offer.provision.drain(grace) for offer in self._offers)))

    async def remove(self, offer: Offer) -> None:
        try:
            if self._announce_end(offer):
                await self._notices.settle(_HEARD)
        finally:
            if offer in self._offers:
                self._offers.remove(offer)
            await offer.provision.remove()

    def _announce_end(self, offer: Offer) -> bool:
        if offer.is_told:
            return False
        offer.is_told = True
        others = (info for info in self._bus.providers(offer.spec.capability) if not self._is_ours(info))
        successor = next(others, None)
        self._announce(
            CapabilityWithdrawing,
            offer.spec,
            successor=successor.plugin_id if successor else "",
            successor_replica=successor.replica if successor else "",
        )
        return True

    def _is_ours(self, info: ProviderInfo) -> bool:
        return info.plugin_id == self._plugin_id and info.replica == self._bus.replica

    def _announce(self, kind: type[Event], spec: ProviderSpec, **more: object) -> None:
        fact = {
            "plugin_id": self._plugin_id,
            "version": self._version,
            "generation": self._generation,
            "replica": self._bus.replica,
            "capability": spec.capability,
            "rank": spec.rank,
        }
        self._notices.announce(kind.model_validate({**fact, **more}))
