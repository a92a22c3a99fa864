"""Plugbus inside an existing FastAPI (or Starlette) application: its lifespan, its requests, its addresses.

`PluginManager(app)` does all of it. `get_plugin_manager` and `get_plugin` are dependencies for the routes of
that application; a plugin's own router uses its context.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, cast
from urllib.parse import quote

from fastapi import routing
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.errors import InvalidOption, PluginNotFound, SettingsError
from contracts.plugin import PluginHandle, PluginStatus

from .edge import EdgeSlot
from .embedded_edge import STATE, AskPluginsFirst, EdgeDocument, EdgeRoute
from .manager import PluginManager

ADDRESSES = ("/events", "/admin", "/livez", "/readyz", "/metrics", "/asyncapi.json")
"""Of the gateway, beside `/plugins/{id}`: what `serve` may name."""
_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[^/?#{}\s]+)*")
"""As a client asks for it: no parameters, nothing that is taken away on the way."""


# --- for the routes of the application ------------------------------------------------------------------


class PluginUnavailable(HTTPException):
    """A plugin that a route needs is not there: 404 unknown, 503 not started, as a problem document."""

    def __init__(self, status: int, code: str, detail: str, fix: str = "") -> None:
        super().__init__(status, detail, {"Retry-After": "1"} if status == 503 else None)
        self.code = code
        self.fix = fix

    def response(self, path: str) -> Response:
        document = {
            "type": f"/problems/{self.code}",
            "title": self.code.replace("-", " ").capitalize(),
            "status": self.status_code,
            "detail": self.detail,
            "instance": quote(path, safe="/!$&'()*+,;=:@~"),
            **({"fix": self.fix} if self.fix else {}),
        }
        return JSONResponse(document, self.status_code, self.headers, "application/problem+json")


class PluginMiddleware:
    """Adds the manager to the state of each request: `request.state.plugin_manager`.

    `PluginManager(app)` adds it by itself; alone it serves an application that runs its manager by hand.
    """

    def __init__(self, app: ASGIApp, manager: PluginManager) -> None:
        self._app = app
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scope.setdefault("state", {})[STATE] = self._manager
        await self._app(scope, receive, send)


async def get_plugin_manager(connection: HTTPConnection) -> PluginManager:
    """The manager of this application: `manager: Annotated[PluginManager, Depends(get_plugin_manager)]`."""
    manager: PluginManager | None = getattr(connection.state, STATE, None)
    if manager is None:
        raise RuntimeError("no plugin manager serves this application; make one: PluginManager(app)")
    return manager


def get_plugin(plugin_id: str) -> Callable[[HTTPConnection], Awaitable[PluginHandle]]:
    """A dependency that gives the handle of a started plugin: `Depends(get_plugin("billing"))`.

    Refuses the request with 404 where no plugin has this id, with 503 where it is not started.
    """

    async def plugin(connection: HTTPConnection) -> PluginHandle:
        manager = await get_plugin_manager(connection)
        try:
            handle = manager.get_plugin(plugin_id)
        except PluginNotFound as error:
            raise PluginUnavailable(404, error.code, error.message, error.fix) from None
        if handle.status is not PluginStatus.STARTED:
            raise _not_started(f"the plugin {plugin_id!r} does not work now: it is {handle.status.value}")
        return handle

    return plugin


def _not_started(detail: str, fix: str = "") -> PluginUnavailable:
    return PluginUnavailable(503, "plugin-not-started", detail, fix)


def _absent(path: str) -> Response:
    return _not_started(
        "plugins do not serve now: the kernel does not run, or its gateway does not",
        "run the application with its lifespan, and leave the plugin gateway on",
    ).response(path)


async def _refuse(connection: HTTPConnection, error: Exception) -> Response:
    assert isinstance(error, PluginUnavailable)  # noqa: S101 - what it is registered for
    return error.response(connection.scope["path"])


# --- into the application ---------------------------------------------------------------------------------


class Embedding:
    """Ties a manager to `app`: made once, before the application starts; see `PluginManager`."""

    def __init__(
        self, app: Starlette, manager: PluginManager, slot: EdgeSlot, *, serve: Sequence[str], prefix: str,
        requests: Literal["plugins", "all"],
    ) -> None:  # fmt: skip
        _check(app, serve, prefix, requests)
        self._app = app
        self._manager = manager
        self._lifespan = app.router.lifespan_context
        self._route = EdgeRoute(slot, serve, prefix, _absent)
        self._document = EdgeDocument(manager.mounts, slot, serve, prefix)
        setattr(app.state, STATE, manager)
        if requests == "all":
            app.add_middleware(AskPluginsFirst, slot=slot, route=self._route)
        app.add_middleware(PluginMiddleware, manager=manager)
        app.add_exception_handler(PluginUnavailable, _refuse)
        app.router.routes.insert(0, self._route)  # found by its beginning, before any route is tried
        app.router.lifespan_context = cast(Any, self.lifespan)
        if describe := getattr(app, "openapi", None):
            app.openapi = lambda: self._document(describe())  # type: ignore[attr-defined]

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[Mapping[str, Any] | None]:
        """The application's own begins before the manager starts, and ends after it has stopped."""
        async with self._lifespan(app) as state:
            self._check_routes()
            self._manager.begin_again()
            async with self._manager:
                yield state

    def _check_routes(self) -> None:
        for path in _paths([route for route in self._app.routes if route is not self._route]):
            if self._route.serves(path):
                raise SettingsError(
                    f"the application has {path!r} of its own, where the plugins would answer",
                    where="PluginManager(app)",
                    fix='PluginManager(app, prefix="/plugbus") puts all of theirs below another address',
                )


def _check(app: Starlette, serve: Sequence[str], prefix: str, requests: str) -> None:
    if hasattr(app.state, STATE):
        raise InvalidOption("this application has a plugin manager already", fix="one is enough")
    if not isinstance(serve, Iterable):
        raise InvalidOption(f"serve={serve!r} is no list of addresses", fix='for example serve=("/events",)')
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
        raise InvalidOption(f"prefix={prefix!r} is no beginning of a path", fix='prefix="/plugbus"')
    if requests not in ("plugins", "all"):
        raise InvalidOption(f"requests={requests!r} is neither 'plugins' nor 'all'", fix='requests="all"')
    for address in [serve] if isinstance(serve, str) else serve:
        if address not in ADDRESSES or address is serve:
            near = difflib.get_close_matches(str(address), ADDRESSES, n=1)
            hint = f"serve=({near[0]!r},)" if near else f"any of {', '.join(ADDRESSES)}"
            raise InvalidOption(f"serve={serve!r}: {address!r} cannot be served", fix=hint)


def _paths(routes: Sequence[BaseRoute]) -> Iterator[str]:
    contexts = getattr(routing, "iter_route_contexts", iter)  # newer FastAPIs keep included routers whole
    for route in contexts(routes):
        if path := getattr(route, "path", None):
            is_mount = isinstance(getattr(route, "original_route", route), Mount)
            yield f"{path}/" if is_mount else path  # a mount has what is below it
