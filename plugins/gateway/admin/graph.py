"""`/admin/graph`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from contracts.messages import PluginGraph, ShowGraph
from contracts.messages.graph import GraphPart
from contracts.web import EdgeContext

from ..access import Access


def graph_router(context: EdgeContext, access: Access) -> APIRouter:
    router = APIRouter(tags=["graph"], dependencies=[Depends(access.needs("read"))])

    @router.get("/graph")
    async def show_graph(
        what: Annotated[GraphPart, Query(description="Which part of it.")] = "all",
    ) -> PluginGraph:
        """How plugins, events and capabilities hang together, and what does not meet its other side."""
        return await context.request(ShowGraph(what=what))

    return router
