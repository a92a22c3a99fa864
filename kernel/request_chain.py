"""The plugins that see each request of the web edge before it is routed, in their declared order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from contracts.logs import Quoted
from contracts.web import RequestInfo, ResponseInfo

Ask = Callable[[RequestInfo], Awaitable[ResponseInfo | None]]


@dataclass(frozen=True, eq=False)
class _Link:
    order: int
    plugin_id: str
    ask: Ask


class RequestPlugins:
    """See `contracts.web.RequestChain`. Changed by one assignment; a request goes by what there was."""

    def __init__(self, deadline: float, log: logging.Logger) -> None:
        """`deadline`: seconds that each plugin has for its answer."""
        self._deadline = deadline
        self._log = log
        self._links: tuple[_Link, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._links)

    def put(self, plugin_id: str, order: int, ask: Ask) -> Callable[[], None]:
        """Ask this plugin too, from now on; returns what ends that."""
        link = _Link(order, plugin_id, ask)
        self._links = tuple(sorted((*self._links, link), key=lambda each: (each.order, each.plugin_id)))

        def remove() -> None:
            self._links = tuple(each for each in self._links if each is not link)

        return remove

    async def first_answer(self, request: RequestInfo) -> ResponseInfo | None:
        for link in self._links:
            answer = await self._ask(link, request)
            if answer is not None:
                return answer
        return None

    async def _ask(self, link: _Link, request: RequestInfo) -> ResponseInfo | None:
        """Its answer; None where it fails or takes too long, which is logged."""
        # The path may be anybody's data, the method is what a client likes to say.
        asked = link.plugin_id, Quoted(request.method), Quoted(request.path)
        try:
            async with asyncio.timeout(self._deadline):
                return await link.ask(request)
        except TimeoutError:
            self._log.warning(
                "%s: handle_request of %s %s took longer than %g s; passed", *asked, self._deadline
            )
        except Exception:  # noqa: BLE001 - whatever it raises, the request goes on
            self._log.exception("%s: handle_request of %s %s failed; passed", *asked)
        return None
