"""`/metrics`: all figures of this kernel, for Prometheus."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from contracts.messages import ShowMetrics
from contracts.web import EdgeContext

from .access import Access


def metrics_router(context: EdgeContext, access: Access) -> APIRouter:
    router = APIRouter(tags=["metrics"], dependencies=[Depends(access.needs("read"))])

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def show_metrics(request: Request) -> Response:
        """Figures of this kernel, and of the bus as a whole, in Prometheus' text format or as OpenMetrics."""
        from .prometheus import exposed  # loads a library that not everybody needs

        record = await context.request(ShowMetrics())
        # Of a big system these are megabytes: the event loop goes on meanwhile.
        text, media_type = await asyncio.to_thread(exposed, record, request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": media_type})

    return router
