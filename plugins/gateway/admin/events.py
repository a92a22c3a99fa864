"""`/admin/events`: the catalogue of event types, and replays."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request

from contracts.messages import (
    CancelReplay,
    DiffEventType,
    EventDiff,
    EventTypeInfo,
    ListEventTypes,
    ReplayEvents,
    ReplayResult,
)
from contracts.patterns import TypePattern
from contracts.web import EdgeContext

from ..access import Access, read_model
from ..config import GatewayConfig
from .common import COMMAND_TIMEOUT, body_schema


def events_router(context: EdgeContext, config: GatewayConfig, access: Access) -> APIRouter:
    router = APIRouter(prefix="/events", tags=["events"])
    reads, operates = Depends(access.needs("read")), Depends(access.needs("operate"))

    @router.get("/types", dependencies=[reads])
    async def list_event_types(
        pattern: Annotated[TypePattern | None, Query(description="Only types that it selects.")] = None,
    ) -> tuple[EventTypeInfo, ...]:
        """The catalogue: each version with its schema, who publishes and who handles it."""
        return await context.request(ListEventTypes(pattern=pattern))

    @router.get("/types/{type}/diff", dependencies=[reads])
    async def diff_event_type(
        type: str,
        start: Annotated[
            int | None, Query(alias="from", ge=1, description="The version that is written.")
        ] = None,
        end: Annotated[int | None, Query(alias="to", ge=1, description="The version that reads it.")] = None,
    ) -> EventDiff:
        """Whether one version can read another, and each handler's model what each publisher writes."""
        return await context.request(DiffEventType(type=type, from_version=start, to_version=end))

    @router.post("/replay", dependencies=[operates], openapi_extra=body_schema(ReplayEvents))
    async def replay_events(request: Request) -> ReplayResult:
        """Deliver retained events to one group once more, beside live traffic."""
        asked = await read_model(request, ReplayEvents, config.max_body_bytes)
        return await context.request(asked, timeout=COMMAND_TIMEOUT)

    @router.post("/replay/cancel", dependencies=[operates], openapi_extra=body_schema(CancelReplay))
    async def cancel_replay(request: Request) -> ReplayResult:
        """End the replay of a group."""
        asked = await read_model(request, CancelReplay, config.max_body_bytes)
        return await context.request(asked)

    return router
