"""What `provide` hands out on Redis: the others are told when it goes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..calls import Offer


class RedisOffer:
    """See `contracts.bus.ProviderSubscription`."""

    def __init__(self, offer: Offer, tell: Callable[[], Awaitable[None]]) -> None:
        self._offer = offer
        self._tell = tell

    @property
    def id(self) -> str:
        return self._offer.id

    async def drain(self, grace: float) -> bool:
        finished = await self._offer.drain(grace)
        await self._tell()
        return finished

    async def remove(self) -> None:
        await self._offer.remove()
        await self._tell()
