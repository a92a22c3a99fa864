"""`/admin/dead-letters`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.requests import Request

from contracts.bus import DeadLetter, DeadLetterSelection
from contracts.messages import (
    DiscardDeadLetters,
    ImportDeadLetters,
    ListDeadLetters,
    RedriveDeadLetters,
    ShowDeadLetter,
)
from contracts.web import EdgeContext

from ..access import Access, read_model
from ..config import GatewayConfig
from .common import COMMAND_TIMEOUT, Count, body_schema


class DiscardOptions(BaseModel):
    """How to settle; a misspelt `dry_run` is refused, not passed over."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(default=False, description="Only count.")


class RedriveOptions(DiscardOptions):
    rate: float | None = Field(default=None, gt=0, description="At most so many a second are let go.")


_TEXTS = {"type": "array", "items": {"type": "string"}}
"""A query has no null: what is left out is left out."""


class DeadLetterPage(DeadLetterSelection):
    """Which dead letters to list, and where the page begins and ends."""

    ids: Annotated[tuple[str, ...] | None, WithJsonSchema(_TEXTS)] = None
    limit: int = Field(default=100, ge=1, le=1_000)
    after: str | None = None
    """Go on behind the dead letter with this id."""

    def query(self) -> ListDeadLetters:
        given = self.model_dump(exclude={"limit", "after"}, exclude_unset=True)
        return ListDeadLetters(selection=DeadLetterSelection(**given), limit=self.limit, after=self.after)


def dead_letters_router(context: EdgeContext, config: GatewayConfig, access: Access) -> APIRouter:
    router = APIRouter(prefix="/dead-letters", tags=["dead letters"])
    reads, operates = Depends(access.needs("read")), Depends(access.needs("operate"))
    selecting = body_schema(DeadLetterSelection)

    async def selected(request: Request) -> DeadLetterSelection:
        return await read_model(request, DeadLetterSelection, config.max_body_bytes)

    @router.get("", dependencies=[reads])
    async def list_dead_letters(page: Annotated[DeadLetterPage, Query()]) -> tuple[DeadLetter, ...]:
        """Those that fit everything that is given, the newest first; `after` an id, the next page."""
        return await context.request(page.query())

    @router.get("/{id}", dependencies=[reads])
    async def show_dead_letter(id: str) -> DeadLetter:
        return await context.request(ShowDeadLetter(id=id))

    @router.post("/redrive", dependencies=[operates], openapi_extra=selecting)
    async def redrive(request: Request, options: Annotated[RedriveOptions, Query()]) -> Count:
        """Put dead letters back to the group that failed; an empty object means all."""
        chosen = await selected(request)
        command = RedriveDeadLetters(selection=chosen, dry_run=options.dry_run, rate=options.rate)
        return Count(count=await context.request(command, timeout=COMMAND_TIMEOUT))

    @router.post("/discard", dependencies=[operates], openapi_extra=selecting)
    async def discard(request: Request, options: Annotated[DiscardOptions, Query()]) -> Count:
        """Give dead letters up for good; an empty object means all."""
        command = DiscardDeadLetters(selection=await selected(request), dry_run=options.dry_run)
        return Count(count=await context.request(command, timeout=COMMAND_TIMEOUT))

    @router.post("/import", dependencies=[operates], openapi_extra=body_schema(ImportDeadLetters))
    async def import_dead_letters(request: Request) -> Count:
        """Add dead letters that were exported elsewhere, all or none; how many were new."""
        command = await read_model(request, ImportDeadLetters, config.max_import_bytes)
        return Count(count=await context.request(command, timeout=COMMAND_TIMEOUT))

    return router
