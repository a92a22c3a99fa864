"""What a plugin at the edge may do beyond others: relay whole envelopes, read along, see the mounts.

Granted by the operator's settings (`edge_plugins`), by name; no manifest key asks for it.
"""

from __future__ import annotations

import dataclasses
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from contracts.bus import DEFAULT_TIMEOUT, MAX_PAYLOAD, CatalogEntry, EventBus, Tail
from contracts.envelope import Envelope
from contracts.errors import PayloadTooLarge, PermissionDeniedError
from contracts.event import EventData, Receipt
from contracts.patterns import RESERVED_TOPICS, topic_of
from contracts.security import Permission
from contracts.web import EdgeApplication

from .hosts import HostPort, RequestData, Setup
from .hosts.context import HostContext
from .hosts.declarations import Compiled
from .mounts import WebMounts
from .open_requests import OpenRequests
from .request_chain import RequestPlugins

ALL_RIGHTS = frozenset({"read", "publish", "operate", "admin"})
OUR_SOURCES = ("/plugins/", "/kernel", "/bus")
"""Sources that nobody outside may claim."""


class EdgeSlot:
    """Where an application that embeds the kernel finds the edge, while there is one."""

    def __init__(self, grace: float) -> None:
        self.edge: EdgeApplication | None = None
        self._grace = grace

    def put(self, edge: EdgeApplication) -> Callable[[], Awaitable[None]]:
        """Serve `edge`; returns what ends that, when its open requests are answered."""
        requests = OpenRequests(edge.app)
        served = self.edge = dataclasses.replace(edge, app=requests)

        async def remove() -> None:
            if self.edge is served:
                self.edge = None
            await requests.close(self._grace)

        return remove


@dataclass(frozen=True)
class Edge:
    """The kernel's half, the same for every edge plugin."""

    bus: EventBus
    mounts: WebMounts
    requests: RequestPlugins
    state_dir: Path
    token: str
    slot: EdgeSlot | None = None
    """None where no application embeds the kernel."""

    def make_context(
        self, setup: Setup, port: HostPort, compiled: Compiled, log: logging.Logger
    ) -> HostContext:
        return EdgeHostContext(self, setup, port, compiled, log)


class EdgeHostContext(HostContext):
    """See `contracts.web.EdgeContext`, which this implements."""

    def __init__(
        self, edge: Edge, setup: Setup, port: HostPort, compiled: Compiled, log: logging.Logger
    ) -> None:
        super().__init__(setup, port, compiled, log)
        self._permissions.check_permission(Permission.NETWORK_ACCESS, why="the edge context")
        self._edge = edge

    @property
    def mounts(self) -> WebMounts:
        return self._edge.mounts

    @property
    def requests(self) -> RequestPlugins:
        return self._edge.requests

    @property
    def state_dir(self) -> Path:
        return self._edge.state_dir

    def hand_over(self, edge: EdgeApplication) -> bool:
        if self._edge.slot is None:
            return False
        self.scope.push("the edge in the application", self._edge.slot.put(edge))
        return True

    def rights(self, token: str) -> frozenset[str]:
        # Compared as bytes in constant time: a token may hold any character.
        known = hmac.compare_digest(token.encode(), self._edge.token.encode())
        return ALL_RIGHTS if known else frozenset()

    def check_relay(self, envelope: Envelope, event: EventData) -> None:
        if topic_of(envelope.type) in RESERVED_TOPICS:
            self._refuse(
                "relay an event of type", envelope.type, "a type that is not of the kernel or the bus"
            )
        if envelope.source.startswith(OUR_SOURCES):
            self._refuse(
                "relay an event from", envelope.source, "a source of your own, e.g. https://example.com/shop"
            )
        if len(event.data) > MAX_PAYLOAD // 4 and (size := len(event.data.encode())) > MAX_PAYLOAD:
            raise PayloadTooLarge(
                f"{event.type} carries {size:,} bytes of data; the bus takes {MAX_PAYLOAD:,}",
                fix="publish where the data lie, not the data",
            )

    async def relay(
        self, envelope: Envelope, event: EventData, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Receipt:
        self.check_relay(envelope, event)
        return await self._edge.bus.relay(envelope, event, timeout=timeout)

    def event_types(self, type_name: str) -> Sequence[CatalogEntry]:
        return [entry for entry in self._edge.bus.types() if entry.type == type_name]

    def _refuse(self, action: str, subject: str, fix: str) -> None:
        raise PermissionDeniedError(
            f"nobody outside may {action} {subject!r}",
            plugin_id=self.metadata.plugin_id,
            action=action,
            fix=fix,
        )

    async def request_data(
        self, capability: str, data: Mapping[str, JsonValue], *, timeout: float = DEFAULT_TIMEOUT
    ) -> JsonValue:
        text = to_json(dict(data)).decode()
        replies = await self._port.request(RequestData(capability=capability, data=text, timeout=timeout))
        answer: JsonValue = from_json(replies[0].data)
        return answer

    def tail(self, *patterns: str, position: str | None = None) -> Tail:
        return self._edge.bus.tail(*patterns, position=position)
