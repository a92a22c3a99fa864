"""`/events`: CloudEvents in, Server-Sent Events out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from starlette.requests import Request

from contracts.patterns import TYPE_FORM, TypePattern
from contracts.web import EdgeContext

from .access import Access, read_body
from .cloudevents import BATCHED, STRUCTURED, is_batch
from .config import GatewayConfig
from .filters import parse_filter
from .intake import Intake, ReceiptDocument
from .stream import EventStream

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "format": "uri-reference"},
        "type": {"type": "string", "pattern": f"^{TYPE_FORM}$"},
        "partitionkey": {
            "type": ["string", "null"],
            "description": "Events of one key stay in order.",
        },
        "data": {"type": ["object", "null"]},
    },
}
_EXAMPLE = {
    "specversion": "1.0",
    "id": "1",
    "source": "/shop",
    "type": "orders.placed",
    "data": {"order_id": "17"},
}
_EVENT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": (
            "Structured: the event as JSON. Binary: attributes as `ce-` headers, data as body. "
            "Batched: an array of structured events."
        ),
        "content": {
            STRUCTURED: {"schema": _SCHEMA, "example": _EXAMPLE},
            BATCHED: {"schema": {"type": "array", "items": _SCHEMA}, "example": [_EXAMPLE]},
            "application/json": {"schema": {"type": "object"}},
        },
    }
}


def events_router(context: EdgeContext, config: GatewayConfig, access: Access) -> APIRouter:
    router = APIRouter(prefix="/events", tags=["events"])
    intake = Intake(context, config.max_batch_events)

    @router.post("", status_code=202, dependencies=[Depends(access.needs("publish"))], openapi_extra=_EVENT)
    async def publish_event(request: Request) -> ReceiptDocument | list[ReceiptDocument]:
        """Publish one CloudEvent 1.0, in structured or binary mode, or an array of them as a batch.

        Of a batch all events are checked first: one that is bad, and none is taken. Receipts are in order.
        """
        headers = request.scope["headers"]
        batched = is_batch(headers)
        body = await read_body(request, config.max_body_bytes)
        return await intake.batch(body) if batched else await intake.one(headers, body)

    @router.get(
        "/stream",
        status_code=200,
        dependencies=[Depends(access.needs("read"))],
        response_class=EventStream,
        response_model=None,
    )
    async def stream_events(
        pattern: Annotated[tuple[TypePattern, ...], Query(description="Repeatable.")] = ("**",),
        where: Annotated[
            tuple[str, ...],
            Query(
                alias="filter",
                description=(
                    "Repeatable; all must hold. `NAME=VALUE`, `!=` (not equal, or not there), "
                    "`^=` (begins with); NAME is type, source, subject, partitionkey or a field of the "
                    "data: `data.order.id`."
                ),
            ),
        ] = (),
        position: Annotated[str | None, Query(description="Go on after this one; `oldest` is one.")] = None,
        last_event_id: Annotated[str | None, Header(description="As `position`; wins over it.")] = None,
    ) -> EventStream:
        """Read along. Frames: `event` (its id is a position), `gap` (so many were missed), `bye`."""
        filters = tuple(parse_filter(each) for each in where)
        tail = context.tail(*pattern, position=last_event_id or position)
        return EventStream(tail, context.stopping, config.keep_alive_seconds, filters)

    return router
