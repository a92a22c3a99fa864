"""The edge within an application that embeds the kernel: one route, and its part of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import ASGIApp, Receive, Scope, Send

from .edge import EdgeSlot
from .mounts import WebMounts

STATE = "plugin_manager"
"""Where the state of requests and of the application has the manager."""
_ROUTING = frozenset({"app", "app_root_path", "endpoint", "path_params", "route", "router"})


class EdgeRoute(BaseRoute):
    """A route of the application behind which the edge is, whichever there is now."""

    name = "plugbus"

    def __init__(
        self, slot: EdgeSlot, serve: Sequence[str], prefix: str, absent: Callable[[str], Response]
    ) -> None:
        """`absent` makes the answer to a path while there is no edge."""
        self._slot = slot
        self._prefix = prefix
        self._absent = absent
        self.path = f"{prefix}/plugins/{{plugin_id}}"
        self._exact = frozenset(prefix + address for address in serve)
        self._below = tuple(f"{prefix}{address}/" for address in ("/plugins", *serve))

    def serves(self, path: str) -> bool:
        return path.startswith(self._below) or path in self._exact

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] in ("http", "websocket") and self.serves(_own_path(scope)):
            return Match.FULL, {}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        edge = self._slot.edge
        if edge is not None:
            await edge.app(self._beneath(scope), receive, send)
        elif scope["type"] == "http":
            await self._absent(scope["path"])(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1013, "reason": "plugins do not serve now"})

    def _beneath(self, scope: Scope) -> MutableMapping[str, Any]:
        """What a server would hand over: nothing that the application's routing has written down, the path
        whole, with the root path in front; and the manager is not for plugins."""
        clean = {
            key: value
            for key, value in scope.items()
            if key not in _ROUTING and not key.startswith("fastapi")
        }
        if state := clean.get("state"):
            clean["state"] = {key: value for key, value in state.items() if key != STATE}
        root = scope.get("root_path", "")
        return {**clean, "path": root + _own_path(scope), "root_path": root + self._prefix}

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        raise NoMatchFound(name, path_params)


def _own_path(scope: Scope) -> str:
    """The path below the root path, which a proxy in front may have taken away."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path


class AskPluginsFirst:
    """Has plugins see the requests to the application's own routes; what goes to the edge asks them there."""

    def __init__(self, app: ASGIApp, slot: EdgeSlot, route: EdgeRoute) -> None:
        self._app = app
        self._slot = slot
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        edge = self._slot.edge
        if edge is not None and scope["type"] in ("http", "websocket"):
            path = _own_path(scope)
            if not self._route.serves(path) and await edge.ask_first(path, scope, send):
                return
        await self._app(scope, receive, send)


class EdgeDocument:
    """The application's OpenAPI document with those of the plugins; made again only when one has changed."""

    def __init__(self, mounts: WebMounts, slot: EdgeSlot, serve: Sequence[str], prefix: str) -> None:
        self._mounts = mounts
        self._slot = slot
        self._serve = tuple(serve)
        self._prefix = prefix
        self._made_of: tuple[Any, ...] = ()
        self._made: Mapping[str, Any] = {}

    def __call__(self, own: Mapping[str, Any]) -> Mapping[str, Any]:
        edge = self._slot.edge
        if edge is None:
            return own
        made_of = (own, edge, self._mounts.version)
        if not self._made_of or any(a is not b for a, b in zip(made_of, self._made_of, strict=True)):
            self._made, self._made_of = edge.describe(own, self._prefix, self._serve), made_of
        return self._made
