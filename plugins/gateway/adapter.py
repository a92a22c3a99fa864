"""From what a plugin returns as its router to a `WebMount` that can be served.

The kernel finds `build` by its name, a setting, and calls it while it prepares a generation: what
cannot be built fails there and never reaches the table of mounts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute

from contracts.errors import PluginLoadError
from contracts.web import ASGIApp, StaticMount, WebMount

from .files import Files
from .later import LaterDocument
from .plain import are_plain
from .problems import PROBLEM_RESPONSES, install_problems

_PROBLEM: dict[int | str, dict[str, Any]] = {
    status: {"description": response["description"]} for status, response in PROBLEM_RESPONSES.items()
}
"""Stands for `PROBLEM_RESPONSES` while a document is made: FastAPI validates and copies each response of each
route, and these are larger than all the rest."""


def build(plugin_id: str, generation: int, router: ASGIApp, static: tuple[StaticMount, ...] = ()) -> WebMount:
    """A mount that serves `router` and the folders of `static`.

    A bare `APIRouter` becomes a FastAPI application that answers errors with problem documents; any
    other ASGI application is served as it is, without running its lifespan: a plugin acquires things in
    its own steps. Routes come before folders in a router, folders before an application. Raises
    `PluginLoadError`, with the cause, for what cannot be served or has no OpenAPI document.
    """
    app: ASGIApp
    document: Mapping[str, Any] | None
    try:
        if isinstance(router, APIRouter):
            app, document = _from_router(plugin_id, router, static)
        else:
            app, document = _application(router, static), _document(router)
    except Exception as error:
        raise PluginLoadError(
            f"the web routes of {plugin_id!r} cannot be built: {error}",
            where=f"plugin {plugin_id}",
            fix="get_api_router returns an APIRouter, or an ASGI application",
        ) from error
    return WebMount(plugin_id, generation, app, document, static)


def _application(router: Any, static: tuple[StaticMount, ...]) -> ASGIApp:
    if not callable(router) or isinstance(router, type):
        raise TypeError(f"{router!r} is not an ASGI application")
    if not static:
        return router  # type: ignore[no-any-return]  # any callable counts as an application
    app = Starlette(routes=[*(_folder(each) for each in static), Mount("", app=router)])
    install_problems(app)  # for the folders: the application's own answers pass as they are
    return app


def _from_router(
    plugin_id: str, router: APIRouter, static: tuple[StaticMount, ...]
) -> tuple[FastAPI, Mapping[str, Any]]:
    """What serves `router`, and its document.

    An included router has its routes made a second time for the document, and costs each request a second
    look through them. So it stands in the place of the application's own where nothing comes after its routes
    of its own, and is described there if it includes no others.
    """
    app = _in_place(plugin_id, router)
    if not static and all(isinstance(route, APIRoute | Route | WebSocketRoute) for route in router.routes):
        return app, _described_in_place(plugin_id, app)
    described = _bare(plugin_id)
    described.include_router(router, tags=[f"plugin:{plugin_id}"])
    described.router.routes.extend(_folder(each) for each in static)
    return described if static else app, _openapi(described)


def _in_place(plugin_id: str, router: APIRouter) -> FastAPI:
    app = _bare(plugin_id)
    app.router = router
    return app


def _described_in_place(plugin_id: str, app: FastAPI) -> Mapping[str, Any]:
    """The document of an application without included routers: made now if that could fail, else when it is
    first read."""
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    _told_of_problems(plugin_id, routes)
    if are_plain(routes, _PROBLEM):
        return LaterDocument(plugin_id, lambda: _openapi(app))
    return _openapi(app)


def _told_of_problems(plugin_id: str, routes: Iterable[APIRoute]) -> None:
    """What including a router would add to each of its `routes`; safe twice."""
    for route in routes:
        route.tags = list(dict.fromkeys([f"plugin:{plugin_id}", *route.tags]))
        route.responses = {**_PROBLEM, **route.responses}


def _bare(plugin_id: str) -> FastAPI:
    app = FastAPI(title=plugin_id, openapi_url=None, docs_url=None, redoc_url=None, responses=_PROBLEM)
    install_problems(app)
    return app


def _folder(static: StaticMount) -> Mount:
    path = static.path.rstrip("/")
    if path and not path.startswith("/"):
        raise ValueError(f"the static path {static.path!r} does not begin with '/'")
    return Mount(path, app=Files(directory=static.directory, html=static.html))


def _document(app: Any) -> Mapping[str, Any] | None:
    describe = getattr(app, "openapi", None)
    if not callable(describe):
        return None
    document = describe()
    if not isinstance(document, Mapping) or not isinstance(document.get("paths", {}), Mapping):
        raise TypeError("its openapi() does not return an OpenAPI document")
    return document


def _openapi(app: FastAPI) -> Mapping[str, Any]:
    """The document of `app`. Raises what is wrong with it, with the path of the route."""
    try:
        return _filled(app.openapi())
    except Exception as error:
        for route in app.routes:
            if (why := _failure(route)) is not None:
                raise ValueError(f"{getattr(route, 'path', 'an included router')}: {why}") from why
        raise ValueError(str(error)) from error


def _failure(route: Any) -> Exception | None:
    try:
        get_openapi(title="", version="", routes=[route])
    except Exception as error:  # noqa: BLE001 - whatever the types of the plugin raise
        return error
    return None


def _filled(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """`document` with the problem documents that `_PROBLEM` stands for."""
    for item in document.get("paths", {}).values():
        for operation in item.values():
            responses = operation.get("responses", {}) if isinstance(operation, dict) else {}
            for status, response in PROBLEM_RESPONSES.items():
                if responses.get(status) == _PROBLEM[status]:
                    responses[status] = response
    return document
