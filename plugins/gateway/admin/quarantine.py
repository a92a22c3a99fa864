"""`/admin/quarantine`, and putting a plugin there."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from contracts.messages import (
    AddToQuarantine,
    ListQuarantine,
    QuarantineChange,
    QuarantineEntry,
    ReleaseFromQuarantine,
)
from contracts.web import EdgeContext

from ..access import Access, read_model
from ..config import GatewayConfig
from .common import COMMAND_TIMEOUT, IfMatch, body_schema, etags


class QuarantineReason(BaseModel):
    """Why a plugin is put into quarantine."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="an operator asked", min_length=1, max_length=500)


def quarantine_router(context: EdgeContext, config: GatewayConfig, access: Access) -> APIRouter:
    router = APIRouter(tags=["plugins"])
    reads, operates = Depends(access.needs("read")), Depends(access.needs("operate"))

    @router.get("/quarantine", dependencies=[reads])
    async def list_quarantine() -> tuple[QuarantineEntry, ...]:
        """The plugins that are not started until they are released, and what they did."""
        return await context.request(ListQuarantine())

    @router.post(
        "/plugins/{plugin_id}/quarantine",
        dependencies=[operates],
        openapi_extra=body_schema(QuarantineReason, required=False),
    )
    async def add_to_quarantine(
        plugin_id: str, request: Request, response: Response, if_match: IfMatch = None
    ) -> QuarantineChange:
        """Stop it, and do not start it until it is released. 202 where the outcome is only `accepted`."""
        body = await read_model(request, QuarantineReason, config.max_body_bytes, may_be_empty=True)
        command = AddToQuarantine(plugin_id=plugin_id, reason=body.reason, if_tags=etags(if_match))
        change = await context.request(command, timeout=COMMAND_TIMEOUT)
        response.status_code = 202 if change.outcome == "accepted" else 200
        return change

    @router.post("/plugins/{plugin_id}/quarantine/release", dependencies=[operates])
    async def release_from_quarantine(plugin_id: str, if_match: IfMatch = None) -> QuarantineChange:
        """Let it be started again, its failed starts forgotten; it is not started by that."""
        command = ReleaseFromQuarantine(plugin_id=plugin_id, if_tags=etags(if_match))
        return await context.request(command, timeout=COMMAND_TIMEOUT)

    return router
