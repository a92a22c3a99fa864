"""`/admin/groups`."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

from contracts.bus import GroupInfo
from contracts.messages import DropGroup, ListGroups, PauseGroup, ResumeGroup, ShowGroup
from contracts.web import EdgeContext

from ..access import Access, read_model
from ..config import GatewayConfig
from .common import COMMAND_TIMEOUT, body_schema


class Pause(BaseModel):
    """Why a group is paused; shown to whoever finds it so."""

    model_config = ConfigDict(extra="forbid")

    reason: str = ""


def groups_router(context: EdgeContext, config: GatewayConfig, access: Access) -> APIRouter:
    router = APIRouter(prefix="/groups", tags=["groups"])
    reads, operates = Depends(access.needs("read")), Depends(access.needs("operate"))
    pausing = body_schema(Pause, required=False)

    @router.get("", dependencies=[reads])
    async def list_groups() -> tuple[GroupInfo, ...]:
        """All groups with what waits, runs, is parked and dead."""
        return await context.request(ListGroups())

    @router.get("/{group}", dependencies=[reads])
    async def show_group(group: str) -> GroupInfo:
        return await context.request(ShowGroup(group=group))

    @router.post("/{group}/pause", dependencies=[operates], openapi_extra=pausing)
    async def pause_group(group: str, request: Request) -> GroupInfo:
        """Start nothing more of it, on all replicas, until it is resumed; what runs finishes."""
        asked = await read_model(request, Pause, config.max_body_bytes, may_be_empty=True)
        return await context.request(PauseGroup(group=group, reason=asked.reason))

    @router.post("/{group}/resume", dependencies=[operates])
    async def resume_group(group: str) -> GroupInfo:
        """Go on where it was."""
        return await context.request(ResumeGroup(group=group))

    @router.post("/{group}/drop", dependencies=[operates])
    async def drop_group(group: str) -> GroupInfo:
        """Give up its place, its lot and its dead letters; 409 while somebody handles it. What it was."""
        return await context.request(DropGroup(group=group), timeout=COMMAND_TIMEOUT)

    return router
