"""`/admin`: each address is one of the kernel's queries, its answer as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, JsonValue
from starlette.requests import Request
from starlette.responses import Response

from contracts.bus import CatalogEntry, DeadLetter, DeadLetterSelection, GroupInfo
from contracts.messages import (
    CapabilityInfo,
    CommandResult,
    DiscardDeadLetters,
    ListCapabilities,
    ListDeadLetters,
    ListEventTypes,
    ListGroups,
    ListPlugins,
    PluginDetails,
    PluginInfo,
    RedriveDeadLetters,
    ShowDeadLetter,
    ShowPlugin,
    StartPlugin,
    StopPlugin,
)
from contracts.web import EdgeContext

from .access import Access, read_model, read_object
from .config import GatewayConfig
from .problems import Problem

_COMMAND_TIMEOUT = 120.0
"""Seconds that a start or stop may take; each step has a deadline of the kernel's own."""

Limit = Annotated[int, Query(ge=1, le=1_000)]
Timeout = Annotated[float, Query(gt=0, le=300, description="Seconds until the answer must be there.")]


class Count(BaseModel):
    """How many it were."""

    count: int


def admin_router(context: EdgeContext, config: GatewayConfig, access: Access) -> APIRouter:
    router = APIRouter(prefix="/admin")
    for part in (_plugins(context, access), _bus(context, access)):
        router.include_router(part)
    router.include_router(_dead_letters(context, config, access))
    router.include_router(_capabilities(context, config, access))
    return router


def _plugins(context: EdgeContext, access: Access) -> APIRouter:
    router = APIRouter(prefix="/plugins", tags=["plugins"])
    reads, operates = Depends(access.needs("read")), Depends(access.needs("operate"))

    @router.get("", dependencies=[reads])
    async def list_plugins() -> tuple[PluginInfo, ...]:
        """All plugins that were found, refused ones included, in start order."""
        return await context.request(ListPlugins())

    @router.get("/{plugin_id}", dependencies=[reads])
    async def show_plugin(plugin_id: str) -> PluginDetails:
        return await context.request(ShowPlugin(plugin_id=plugin_id))

    @router.post("/{plugin_id}/start", dependencies=[operates])
    async def start_plugin(plugin_id: str, response: Response) -> CommandResult:
        """202 where the outcome is only `accepted`: the lifecycle events tell the rest."""
        command = StartPlugin(plugin_id=plugin_id)
        return _outcome(await context.request(command, timeout=_COMMAND_TIMEOUT), response)

    @router.post("/{plugin_id}/stop", dependencies=[operates])
    async def stop_plugin(plugin_id: str, response: Response) -> CommandResult:
        """202 where the outcome is only `accepted`: the lifecycle events tell the rest."""
        command = StopPlugin(plugin_id=plugin_id)
        return _outcome(await context.request(command, timeout=_COMMAND_TIMEOUT), response)

    return router


def _outcome(result: CommandResult, response: Response) -> CommandResult:
    response.status_code = 202 if result.outcome == "accepted" else 200
    return result


def _bus(context: EdgeContext, access: Access) -> APIRouter:
    router = APIRouter(tags=["bus"], dependencies=[Depends(access.needs("read"))])

    @router.get("/groups")
    async def list_groups() -> tuple[GroupInfo, ...]:
        """All groups with what waits, runs, is parked and dead."""
        return await context.request(ListGroups())

    @router.get("/events/types")
    async def list_event_types() -> tuple[CatalogEntry, ...]:
        """The catalogue of event types."""
        return await context.request(ListEventTypes())

    return router


def _dead_letters(context: EdgeContext, config: GatewayConfig, access: Access) -> APIRouter:
    router = APIRouter(prefix="/dead-letters", tags=["dead letters"])
    reads, operates = Depends(access.needs("read")), Depends(access.needs("operate"))
    selecting = _body_schema(DeadLetterSelection)

    @router.get("", dependencies=[reads])
    async def list_dead_letters(group: str | None = None, limit: Limit = 100) -> tuple[DeadLetter, ...]:
        """Dead letters, the newest first."""
        return await context.request(ListDeadLetters(group=group, limit=limit))

    @router.get("/{id}", dependencies=[reads])
    async def show_dead_letter(id: str) -> DeadLetter:
        return await context.request(ShowDeadLetter(id=id))

    @router.post("/redrive", dependencies=[operates], openapi_extra=selecting)
    async def redrive(request: Request) -> Count:
        """Put dead letters back to the group that failed; an empty object means all."""
        chosen = await read_model(request, DeadLetterSelection, config.max_body_bytes)
        return Count(count=await context.request(RedriveDeadLetters(selection=chosen)))

    @router.post("/discard", dependencies=[operates], openapi_extra=selecting)
    async def discard(request: Request) -> Count:
        """Give dead letters up for good; an empty object means all."""
        chosen = await read_model(request, DeadLetterSelection, config.max_body_bytes)
        return Count(count=await context.request(DiscardDeadLetters(selection=chosen)))

    return router


def _capabilities(context: EdgeContext, config: GatewayConfig, access: Access) -> APIRouter:
    router = APIRouter(prefix="/capabilities", tags=["capabilities"])
    reads, operates = Depends(access.needs("read")), Depends(access.needs("operate"))

    @router.get("", dependencies=[reads])
    async def list_capabilities() -> tuple[CapabilityInfo, ...]:
        """All capabilities that can be requested here."""
        return await context.request(ListCapabilities())

    @router.get("/{name}", dependencies=[reads])
    async def show_capability(name: str) -> CapabilityInfo:
        found = await context.request(ListCapabilities(name=name))
        if not found:
            raise Problem(404, "no-provider", f"nobody provides {name!r}", fix="GET /admin/capabilities")
        return found[0]

    @router.post("/{name}", dependencies=[operates], openapi_extra=_body_schema())
    async def request_capability(request: Request, name: str, timeout: Timeout = 5.0) -> JsonValue:
        """Ask the capability; the body is its query, the answer its answer."""
        query = await read_object(request, config.max_body_bytes)
        return await context.request_data(name, query, timeout=timeout)

    return router


def _body_schema(model: type[BaseModel] | None = None) -> dict[str, Any]:
    schema = model.model_json_schema() if model else {"type": "object"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
