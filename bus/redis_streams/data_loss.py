"""When all data are gone from Redis: everything that is declared here is declared again."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from contracts.errors import BusError

from .wire import Lost, Refused

if TYPE_CHECKING:
    from .core import Core

log = logging.getLogger("plugbus.bus")


class DataLoss:
    """See above."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._task: asyncio.Task[None] | None = None

    def noticed(self) -> None:
        """Redis is another one, or was emptied: said once, and everything is declared anew."""
        core = self._core
        if self._task is not None and not self._task.done():
            return
        for hosting in core.hosted:
            hosting.is_known = False  # nobody has dropped its group: it is to be declared again
        log.critical(
            "the data in Redis at %s, namespace %r, are gone; events that were confirmed and not handled are"
            " lost. Groups and topics are made anew", core.link.address, core.keys.namespace,
        )  # fmt: skip
        self._task = core.spawn(self._declare_anew(), "plugbus:redis:anew")

    async def _declare_anew(self) -> None:
        core = self._core
        topics = list(core.registry.view.topics)
        for hosting in core.hosted:
            for holding in list(hosting.holdings.values()):
                hosting.give_up(holding)
        core.publisher.ends.clear()
        while True:
            try:
                await core.link.ready(core.link.control)
                await self._declare_all(topics)
            except (Lost, Refused, BusError) as error:
                if core.is_closed or (isinstance(error, BusError) and error.is_final):
                    raise
                log.debug("beginning anew: %s", error)
                await asyncio.sleep(0.05)
            else:
                return

    async def _declare_all(self, topics: list[str]) -> None:
        core = self._core
        await core.registry.enter()
        core.catalog.forget()
        for hosting in list(core.hosted):
            if not hosting.is_ending:
                await core.registry.declare(hosting.spec)
        for topic in topics:
            await core.registry.make_topic(topic)
        await core.members.beat()
        await core.registry.tell("replicas")
