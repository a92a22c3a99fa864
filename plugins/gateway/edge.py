"""The outermost application: which plugin a request is for, found by one look into a dict."""

from __future__ import annotations

import functools
import logging
from collections.abc import MutableMapping
from typing import Any

from starlette.websockets import WebSocketDisconnect

from contracts.errors import PlugbusError, PluginNotReady
from contracts.messages import ShowPlugin
from contracts.tracing import TRACING
from contracts.web import ASGIApp, EdgeContext

from .first import answered_first
from .problems import Problem, problem_of

_PREFIX = "/plugins/"
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013
"""Close codes of WebSockets (RFC 6455 and its registry)."""
_log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]


class Edge:
    """Hands what is below `/plugins/{id}` to that plugin's mount, and everything else to `own`.

    The mount is looked up for each request and held until it is answered, so a swap of generations
    neither waits for open requests nor cuts them. An error that an application lets through is logged
    and, if nothing was sent, answered with a problem document.
    """

    def __init__(self, context: EdgeContext, own: ASGIApp) -> None:
        self._context = context
        self._mounts = context.mounts
        self._requests = context.requests
        self._own = own

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        own_path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if self._requests and await answered_first(self._requests, own_path, scope, send):
            return
        app, scope = self._route(scope)
        scope["fastapi.telemetry"] = None  # newer FastAPIs would make SERVER spans of their own
        if scope["type"] == "http" and TRACING.is_on:
            from .tracing import QUIET, serve_quietly, serve_traced  # loads OpenTelemetry

            if own_path in QUIET:
                await serve_quietly(functools.partial(_guarded, app), scope, receive, send)
            else:
                await serve_traced(functools.partial(_guarded, app), scope, receive, send)
        elif scope["type"] == "http":
            await _guarded(app, scope, receive, send)
        elif scope["type"] == "websocket":
            await _opened(app, scope, receive, send)
        else:
            await app(scope, receive, send)

    def _route(self, scope: Scope) -> tuple[ASGIApp, Scope]:
        root = scope.get("root_path", "")
        path = scope.get("path", "")  # with the root path in front, as ASGI has it
        if not path.startswith(_PREFIX, len(root)):
            return self._own, scope
        plugin_id = path[len(root) + len(_PREFIX) :].partition("/")[0]
        mount = self._mounts.get(plugin_id)
        if mount is None:
            return _Nobody(self._context, plugin_id), scope
        return mount.app, {**scope, "root_path": f"{root}{_PREFIX}{plugin_id}"}


class _Nobody:
    """Answers for a plugin that has no mount: 503 where it is known but does not run, else 404."""

    def __init__(self, context: EdgeContext, plugin_id: str) -> None:
        self._context = context
        self._plugin_id = plugin_id

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        problem = await self._problem()
        if scope["type"] == "http":
            await problem.response(scope["path"])(scope, receive, send)
        else:
            await _refused(problem, POLICY_VIOLATION, scope, receive, send)

    async def _problem(self) -> Problem:
        try:
            plugin = await self._context.request(ShowPlugin(plugin_id=self._plugin_id), timeout=1)
        except PlugbusError as error:
            problem = problem_of(error)
            return self._unknown() if problem.status in (404, 422) else problem
        if plugin.status.value == "started":
            return Problem(404, "no-routes", f"the plugin {self._plugin_id!r} has no web routes")
        reason = f"the plugin {self._plugin_id!r} does not serve now: it is {plugin.status.value}"
        return Problem(503, "plugin-not-started", reason, fix="GET /admin/plugins/{id} tells why")

    def _unknown(self) -> Problem:
        detail = f"no plugin is called {self._plugin_id!r}"
        return Problem(404, "plugin-not-found", detail, fix="GET /admin/plugins lists those that there are")


async def _opened(app: ASGIApp, scope: Scope, receive: Any, send: Any) -> None:
    """A WebSocket; one that fails before it is opened is refused with a problem, as a request is."""
    answered = False

    async def watched(message: MutableMapping[str, Any]) -> None:
        nonlocal answered
        answered = True
        await send(message)

    try:
        await app(scope, receive, watched)
    except WebSocketDisconnect:
        return  # the client has left, or the plugin was stopped: an end, and no failure
    except Exception as error:
        if answered:
            raise
        _log.error("WebSocket %s failed", scope["path"], exc_info=error)
        await _refused(problem_of(error), TRY_AGAIN_LATER, scope, receive, send)


async def _refused(problem: Problem, code: int, scope: Scope, receive: Any, send: Any) -> None:
    """A WebSocket that is not opened: with the problem, where the server can say more than 403."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await problem.response(scope["path"])(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": code, "reason": problem.code})


async def _guarded(app: ASGIApp, scope: Scope, receive: Any, send: Any) -> None:
    started = complete = False

    async def watched(message: MutableMapping[str, Any]) -> None:
        nonlocal started, complete
        started = True
        complete = message["type"] != "http.response.start" and not message.get("more_body", False)
        await send(message)

    try:
        await app(scope, receive, watched)
    except Exception as error:
        if not isinstance(error, PluginNotReady):  # whoever stopped the plugin has said so
            _log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
        if not started:
            await problem_of(error).response(scope["path"])(scope, receive, send)
        elif not complete:
            raise  # the server cuts the connection, so that the client does not take it for whole
