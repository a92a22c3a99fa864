"""Plugins on the web: what a router becomes, and what the edge may do that others may not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

if TYPE_CHECKING:
    from .bus import CatalogEntry, Tail
    from .envelope import Envelope
    from .event import EventData, Receipt
    from .plugin import PluginContext

    class _Context(PluginContext, Protocol): ...
else:

    class _Context(Protocol): ...


ASGIApp = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]
"""Any ASGI 3 application; a FastAPI `APIRouter` is one for both type checkers."""


class StaticMount(BaseModel):
    """A folder of files. `directory` is relative to the plugin's own folder and must lie within it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Below the plugin's address, e.g. `/static`."""
    directory: Path
    html: bool = False
    """Whether `index.html` answers for a folder."""


@dataclass(frozen=True)
class WebMount:
    """One generation's web face, ready to serve: what the swap puts into the table."""

    plugin_id: str
    generation: int
    app: ASGIApp
    """Serves everything below `/plugins/{plugin_id}`; sees paths without that prefix."""
    openapi: Mapping[str, Any] | None = None
    """OpenAPI document with paths relative to the mount, perhaps made when it is first read; None for
    applications that have none."""
    static: tuple[StaticMount, ...] = field(default=())


class MountTable(Protocol):
    """Plugin id → mount. Written by the kernel alone, read for each request."""

    @property
    def version(self) -> int:
        """Grows with each change; what is derived from the table is remade when it moved."""

    def get(self, plugin_id: str) -> WebMount | None: ...

    def __iter__(self) -> Iterator[WebMount]: ...


WebAdapter = Callable[[str, int, ASGIApp, "tuple[StaticMount, ...]"], WebMount]
"""(plugin id, generation, router or application, checked static mounts) → mount. Found by name."""


def _encodable(text: str) -> str:
    text.encode()  # UnicodeEncodeError is a ValueError, which pydantic tells
    return text


_HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
_HeaderValue = Annotated[str, Field(pattern=r"^[\t\x20-\x7e\x80-\xff]*$")]
_Body = Annotated[str, AfterValidator(_encodable)]


class RequestInfo(BaseModel):
    """A request as data, for `IRequestPlugin`."""

    model_config = ConfigDict(frozen=True)

    method: str
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    """Names in lower case."""
    client: str = ""
    """The address of whoever asks."""


class ResponseInfo(BaseModel):
    """An answer as data."""

    model_config = ConfigDict(frozen=True)

    status: int = Field(default=200, ge=200, le=599)
    headers: tuple[tuple[_HeaderName, _HeaderValue], ...] = ()
    """Without a Content-Type the body is plain text."""
    body: _Body = ""


@runtime_checkable
class IRequestPlugin(Protocol):
    """A plugin that sees requests of the web edge before they are routed, bodies aside.

    That is what goes to plugins and to `/events`, WebSocket handshakes included; never what operators need
    (`/admin`, `/livez`, `/readyz`, `/metrics`), and of `/events` not the `Authorization`. Where an
    application embeds the kernel with `PluginManager(app, requests="all")`, also what goes to its own
    routes, without `Authorization` and `Cookie`.
    """

    async def handle_request(self, request: RequestInfo) -> ResponseInfo | None:
        """Answer the request in place of whoever it is for, or let it pass with None.

        Plugins are asked one after the other, by the class attribute `request_order` (an int, 0 where it
        says nothing; the lowest first, then by plugin id), until one answers. One that raises, or takes
        longer than `deadlines.request`, is logged and passed. A WebSocket is refused by any answer.
        """


class RequestChain(Protocol):
    """All request plugins in their order; false where there are none."""

    def __bool__(self) -> bool: ...

    async def first_answer(self, request: RequestInfo) -> ResponseInfo | None:
        """None: it may pass. Never raises for what a plugin does."""


@dataclass(frozen=True)
class EdgeApplication:
    """The web edge without a server, for an application that embeds the kernel."""

    app: ASGIApp
    """Serves the edge's own addresses and `/plugins/{plugin_id}`."""
    describe: Callable[[Mapping[str, Any], str, Sequence[str]], Mapping[str, Any]]
    """(OpenAPI document of the application, prefix, addresses that are served) → the same with ours in it."""
    ask_first: Callable[[str, Any, Any], Awaitable[bool]]
    """(path, ASGI scope, ASGI send) of a request to the application's own → whether a plugin has answered."""


class EdgeContext(_Context, Protocol):
    """The context of a plugin that stands at the edge; granted by the operator's policy, by name."""

    @property
    def mounts(self) -> MountTable: ...

    @property
    def requests(self) -> RequestChain: ...

    def hand_over(self, edge: EdgeApplication) -> bool:
        """Have the application that embeds the kernel serve `edge` until this plugin stops.

        False where the kernel is embedded in none: then the plugin listens by itself.
        """

    @property
    def state_dir(self) -> Path:
        """Where the command line looks for the address (`endpoint.json`)."""

    def rights(self, token: str) -> frozenset[str]:
        """What a bearer token may do (`read`, `publish`, `operate`, `admin`); empty: unknown token."""

    def check_relay(self, envelope: Envelope, event: EventData) -> None:
        """Raise what `relay` refuses by itself: `PermissionDeniedError`, `PayloadTooLarge`."""

    async def relay(self, envelope: Envelope, event: EventData, *, timeout: float = ...) -> Receipt:
        """Publish a whole envelope from outside.

        Raises `PermissionDeniedError` for a reserved type or a source of ours (`/plugins/…`, `/kernel`,
        `/bus`), and as `PluginContext.publish`.
        """

    def event_types(self, type_name: str) -> Sequence[CatalogEntry]:
        """What the catalogue knows of a type: an entry for each plugin that declares it."""

    async def request_data(
        self, capability: str, data: Mapping[str, JsonValue], *, timeout: float = ...
    ) -> JsonValue:
        """Ask any capability with plain data; errors as `PluginContext.request`."""

    def tail(self, *patterns: str, position: str | datetime | None = None) -> Tail:
        """Read along; see `contracts.bus`."""
