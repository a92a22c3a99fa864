"""`/admin/groups`."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from contracts.bus import GroupInfo
from contracts.messages import DropGroup, ListGroups, PauseGroup, ResumeGroup, ShowGroup
from contracts.web import EdgeContext

from ..access import Access, read_model
from ..config import GatewayConfig
from .common import COMMAND_TIMEOUT, IfMatch, body_schema, etags, tell_etag


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
    async def show_group(group: str, response: Response) -> GroupInfo:
        """The ETag is that of who handles it and whether it is paused."""
        return _told(await context.request(ShowGroup(group=group)), response)

    @router.post("/{group}/pause", dependencies=[operates], openapi_extra=pausing)
    async def pause_group(
        group: str, request: Request, response: Response, if_match: IfMatch = None
    ) -> GroupInfo:
        """Start nothing more of it, on all replicas, until it is resumed; what runs finishes."""
        asked = await read_model(request, Pause, config.max_body_bytes, may_be_empty=True)
        command = PauseGroup(group=group, reason=asked.reason, if_tags=etags(if_match))
        return _told(await context.request(command), response)

    @router.post("/{group}/resume", dependencies=[operates])
    async def resume_group(group: str, response: Response, if_match: IfMatch = None) -> GroupInfo:
        """Go on where it was."""
        command = ResumeGroup(group=group, if_tags=etags(if_match))
        return _told(await context.request(command), response)

    @router.post("/{group}/drop", dependencies=[operates])
    async def drop_group(group: str, if_match: IfMatch = None) -> GroupInfo:
        """Give up its place, its lot and its dead letters; 409 while somebody handles it. What it was."""
        command = DropGroup(group=group, if_tags=etags(if_match))
        return await context.request(command, timeout=COMMAND_TIMEOUT)

    return router


def _told(group: GroupInfo, response: Response) -> GroupInfo:
    tell_etag(response, group.tag)
    return group
