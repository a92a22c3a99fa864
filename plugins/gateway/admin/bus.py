"""`/admin/bus`."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from contracts.messages import BusDetails, ShowBus
from contracts.web import EdgeContext

from ..access import Access


def bus_router(context: EdgeContext, access: Access) -> APIRouter:
    router = APIRouter(tags=["bus"], dependencies=[Depends(access.needs("read"))])

    @router.get("/bus")
    async def show_bus() -> BusDetails:
        """The backend and what is in force on it, this replica, what each topic keeps and who holds it."""
        return await context.request(ShowBus())

    return router
