"""What asks for no token: health, the API document and the page that shows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount

from contracts.errors import PlugbusError
from contracts.messages import GetReadiness, Readiness
from contracts.web import EdgeContext, MountTable

from .access import Access, Credentials
from .files import Files
from .openapi import merge
from .problems import MEDIA_TYPE, PROBLEM_SCHEMA, Problem

_STATIC = Path(__file__).parent / "static"
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Alive(BaseModel):
    """The process answers."""

    status: str = "alive"


def health_router(context: EdgeContext, access: Access) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/livez")
    async def live() -> Alive:
        return Alive()

    @router.get("/readyz", responses={503: _NOT_READY}, openapi_extra={"security": [{}]})  # or the token
    async def ready(credentials: Credentials = None) -> Readiness:
        """200 while the kernel can take work, even degraded; 503 otherwise, also while the bus does not
        answer. Reasons and notes are told to known tokens only."""
        readiness = await _readiness(context)
        if not access.holds(credentials, "read"):
            readiness = readiness.model_copy(update={"reasons": (), "notes": ()})
        if readiness.status != "not_ready":
            return readiness
        told = readiness.model_dump(mode="json", exclude={"status"})
        raise Problem(503, "not-ready", "the kernel cannot take work now", extensions=told)

    return router


_NOT_READY: dict[str, Any] = {
    "description": "Not ready: a problem document that tells of the bus, and why, besides.",
    "content": {
        MEDIA_TYPE: {
            "schema": {
                **PROBLEM_SCHEMA,
                "required": [*PROBLEM_SCHEMA["required"], "bus", "durability", "reasons", "notes"],
                "properties": {
                    **PROBLEM_SCHEMA["properties"],
                    "bus": {"enum": ["connected", "unreachable", None]},
                    "durability": {"enum": ["none", "weak", "strong", None]},
                    "reasons": {"type": "array", "items": {"type": "string"}},
                    "notes": {"type": "array", "items": {"type": "string"}},
                },
            }
        }
    },
}


async def _readiness(context: EdgeContext) -> Readiness:
    try:
        return await context.request(GetReadiness(), timeout=2)
    except PlugbusError as error:
        return Readiness(status="not_ready", reasons=(str(error),))


def docs_router(describe: Callable[[], Awaitable[bytes]]) -> APIRouter:
    """`/docs` and `/openapi.json`; `describe` gives the document as it is now."""
    router = APIRouter(include_in_schema=False)
    page = (_STATIC / "docs.html").read_text(encoding="utf-8")

    @router.get("/")
    async def start(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")

    @router.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    @router.get("/openapi.json")
    async def document() -> Response:
        return Response(await describe(), media_type="application/json")

    return router


def docs_files() -> Mount:
    return Mount("/docs/static", app=Files(directory=_STATIC))


class MergedDocument:
    """Our document and that of every mount in one; made again only when the table of mounts moved."""

    def __init__(self, own: Callable[[], Mapping[str, Any]], mounts: MountTable) -> None:
        self._own = own
        self._mounts = mounts
        self._version: int | None = None
        self._text = b""

    async def __call__(self) -> bytes:
        if self._version != self._mounts.version:
            for mount in self._mounts:  # one after the other: other requests are answered in between
                if self._mounts.get(mount.plugin_id) is mount:  # libraries would remember one that has gone
                    len(mount.openapi or ())  # now it is made, if it was not
                await asyncio.sleep(0)
            version = self._mounts.version
            self._text = json.dumps(merge(self._own(), self._mounts), ensure_ascii=False).encode()
            self._version = version
        return self._text
