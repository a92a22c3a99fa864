"""`/metrics`: all figures of this kernel, for Prometheus."""

from __future__ import annotations

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

        text, media_type = exposed(await context.request(ShowMetrics()), request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": media_type})

    return router
