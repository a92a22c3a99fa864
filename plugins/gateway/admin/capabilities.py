"""`/admin/capabilities`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import JsonValue
from starlette.requests import Request

from contracts.messages import CapabilityInfo, ListCapabilities, ShowCapability
from contracts.web import EdgeContext

from ..access import Access, read_object
from ..config import GatewayConfig
from .common import body_schema

Timeout = Annotated[float, Query(gt=0, le=300, description="Seconds until the answer must be there.")]


def capabilities_router(context: EdgeContext, config: GatewayConfig, access: Access) -> APIRouter:
    router = APIRouter(prefix="/capabilities", tags=["capabilities"])
    reads, operates = Depends(access.needs("read")), Depends(access.needs("operate"))

    @router.get("", dependencies=[reads])
    async def list_capabilities() -> tuple[CapabilityInfo, ...]:
        """All capabilities that can be requested here."""
        return await context.request(ListCapabilities())

    @router.get("/{name}", dependencies=[reads])
    async def show_capability(name: str) -> CapabilityInfo:
        """Who provides it, in the order in which they are asked, and how to ask."""
        return await context.request(ShowCapability(name=name))

    @router.post("/{name}", dependencies=[operates], openapi_extra=body_schema())
    async def request_capability(request: Request, name: str, timeout: Timeout = 5.0) -> JsonValue:
        """Ask the capability; the body is its query, the answer its answer."""
        query = await read_object(request, config.max_body_bytes)
        return await context.request_data(name, query, timeout=timeout)

    return router
