"""What `provide` hands out on Redis: the others are told when it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..calls import Offer


class RedisOffer:
    """See `contracts.bus.Provision`."""

    def __init__(self, offer: Offer, tell: Callable[[], Awaitable[None]]) -> None:
        self._offer = offer
        self._tell = tell

    @property
    def id(self) -> str:
        return self._offer.id

    async def drain(self, grace: float) -> bool:
        """The others hear of it while what runs here may finish; where they cannot, it does all the same."""
        offer = self._offer
        offer.directory.discard(offer)  # before anybody is told what there is
        ending = asyncio.ensure_future(offer.withdraw(grace, asyncio.current_task()))
        try:
            await self._tell()
        finally:
            finished = await ending
        return finished

    async def remove(self) -> None:
        await self._offer.remove()
        await self._tell()
