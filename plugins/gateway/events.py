"""`/events`: CloudEvents in, Server-Sent Events out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from pydantic import BaseModel
from starlette.requests import Request

from contracts.event import Receipt
from contracts.patterns import TYPE_FORM, TypePattern
from contracts.web import EdgeContext

from .access import Access, read_body
from .cloudevents import STRUCTURED, parse
from .config import GatewayConfig
from .stream import EventStream
from .validation import EventValidation

_EVENT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Structured: the event as JSON. Binary: attributes as `ce-` headers, data as body.",
        "content": {
            STRUCTURED: {
                "schema": {
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
                },
                "example": {
                    "specversion": "1.0",
                    "id": "1",
                    "source": "/shop",
                    "type": "orders.placed",
                    "data": {"order_id": "17"},
                },
            },
            "application/json": {"schema": {"type": "object"}},
        },
    }
}


class ReceiptDocument(BaseModel):
    """The bus has taken the event. `duplicate`: it had it already; `position` is that of the first."""

    id: str
    position: str
    duplicate: bool


def events_router(context: EdgeContext, config: GatewayConfig, access: Access) -> APIRouter:
    router = APIRouter(prefix="/events", tags=["events"])
    validation = EventValidation(context)

    @router.post("", status_code=202, dependencies=[Depends(access.needs("publish"))], openapi_extra=_EVENT)
    async def publish_event(request: Request) -> ReceiptDocument:
        """Publish one CloudEvent 1.0, in structured or binary mode."""
        body = await read_body(request, config.max_body_bytes)
        envelope, data = parse(request.scope["headers"], body, now=datetime.now(UTC))
        validation.check(data)
        return _document(await context.relay(envelope, data))

    @router.get(
        "/stream",
        status_code=200,
        dependencies=[Depends(access.needs("read"))],
        response_class=EventStream,
        response_model=None,
    )
    async def stream_events(
        pattern: Annotated[tuple[TypePattern, ...], Query(description="Repeatable.")] = ("**",),
        position: Annotated[str | None, Query(description="Go on after this one; `oldest` is one.")] = None,
        last_event_id: Annotated[str | None, Header(description="As `position`; wins over it.")] = None,
    ) -> EventStream:
        """Read along. Frames: `event` (its id is a position), `gap` (so many were missed), `bye`."""
        tail = context.tail(*pattern, position=last_event_id or position)
        return EventStream(tail, context.stopping, config.keep_alive_seconds)

    return router


def _document(receipt: Receipt) -> ReceiptDocument:
    return ReceiptDocument(id=receipt.id, position=receipt.position, duplicate=receipt.duplicate)
