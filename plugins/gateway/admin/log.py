"""`/admin/log`."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from contracts.messages import LogLines, ShowLog
from contracts.web import EdgeContext

from ..access import Access


def log_router(context: EdgeContext, access: Access) -> APIRouter:
    router = APIRouter(tags=["log"], dependencies=[Depends(access.needs("read"))])

    @router.get("/log")
    async def show_log() -> LogLines:
        """What this kernel has logged last, without data of events; none where an application has the log."""
        return await context.request(ShowLog())

    return router
