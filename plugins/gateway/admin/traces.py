"""`/admin/traces`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from contracts.errors import NoProvider
from contracts.messages import RecentSpans, ShowTrace, TraceRecord
from contracts.web import EdgeContext

from ..access import Access
from ..problems import Problem


def _joined(known: Sequence[TraceRecord], more: Sequence[TraceRecord]) -> list[TraceRecord]:
    """One for each kernel, each step once."""
    found = {record.replica: record for record in known}
    for record in more:
        former = found.get(record.replica)
        steps = {step.span_id: step for one in (former, record) if one is not None for step in one.steps}
        found[record.replica] = record.model_copy(update={"steps": tuple(steps.values())})
    return list(found.values())


def _not_traced() -> Problem:
    return Problem(
        404, "not-traced", "no kernel traces flows: the plugin `telemetry` does not run",
        fix="plugbus plugin start telemetry, or PLUGBUS_PLUGINS__TELEMETRY__ENABLED=true",
    )  # fmt: skip


def traces_router(context: EdgeContext, access: Access) -> APIRouter:
    router = APIRouter(tags=["traces"], dependencies=[Depends(access.needs("read"))])

    @router.get("/traces")
    async def recent_spans(limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000) -> TraceRecord:
        """The last spans that this kernel keeps, of whatever trace. 404 where flows are not traced."""
        try:
            return await context.request(RecentSpans(limit=limit))
        except NoProvider:
            raise _not_traced() from None

    @router.get("/traces/{id}")
    async def show_trace(id: str) -> tuple[TraceRecord, ...]:
        """What each kernel keeps of a trace, by its id (32 hexadecimal digits) or that of an event in it.

        404 where none of them has anything of it.
        """
        try:
            records = await context.request_all(ShowTrace(id=id))
            # Who has not seen that event may have seen others of its traces.
            for trace_id in sorted({step.trace_id for record in records for step in record.steps} - {id}):
                records = _joined(records, await context.request_all(ShowTrace(id=trace_id)))
        except NoProvider:
            raise _not_traced() from None
        if not any(record.steps for record in records):
            dropped = sum(record.dropped for record in records)
            raise Problem(
                404, "trace-not-found", f"nothing of {id!r} is kept: it was not sampled, not traced"
                + (f", or it was among the {dropped:,} older spans that were dropped" if dropped else ""),
                fix="name a trace, or an event that was published while `telemetry` ran",
            )  # fmt: skip
        return tuple(records)

    return router
