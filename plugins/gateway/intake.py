"""Taking events in: everything of a request is checked before the first event goes to the bus."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from contracts.envelope import Envelope
from contracts.errors import PlugbusError
from contracts.event import EventData
from contracts.web import EdgeContext

from .cloudevents import Headers, parse, parse_batch
from .problems import Problem, problem_of
from .validation import EventValidation

Parsed = tuple[Envelope, EventData]

_SHOWN = 100
"""So many bad events of a batch are told one by one."""


class ReceiptDocument(BaseModel):
    """The bus has taken the event. `duplicate`: it had it already; `position` is that of the first."""

    id: str
    position: str
    duplicate: bool


class Intake:
    """From the body of a request to receipts."""

    def __init__(self, context: EdgeContext, max_batch_events: int) -> None:
        self._context = context
        self._validation = EventValidation(context)
        self._most = max_batch_events

    async def one(self, headers: Headers, body: bytes) -> ReceiptDocument:
        envelope, data = parse(headers, body, now=datetime.now(UTC))
        self._validation.check(data)
        return await self._relay(envelope, data)

    async def batch(self, body: bytes) -> list[ReceiptDocument]:
        """A receipt for each, in order.

        One that is bad, and none is taken; where the bus stops half-way, the problem says what it has taken.
        """
        found = parse_batch(body, most=self._most, now=datetime.now(UTC))
        events = self._sound(found)
        receipts: list[ReceiptDocument] = []
        for envelope, data in events:
            try:
                receipts.append(await self._relay(envelope, data))
            except Exception as error:
                raise _stopped(problem_of(error), receipts, len(events)) from error
        return receipts

    def _sound(self, found: Sequence[Parsed | Problem]) -> list[Parsed]:
        judged = [each if isinstance(each, Problem) else self._judge(*each) for each in found]
        bad = {index: problem for index, problem in enumerate(judged) if problem is not None}
        if bad:
            raise _refused(bad, len(found))
        return [each for each in found if not isinstance(each, Problem)]

    def _judge(self, envelope: Envelope, data: EventData) -> Problem | None:
        try:
            self._context.check_relay(envelope, data)
            self._validation.check(data)
        except PlugbusError as error:
            return problem_of(error)
        return None

    async def _relay(self, envelope: Envelope, data: EventData) -> ReceiptDocument:
        receipt = await self._context.relay(envelope, data)
        return ReceiptDocument(id=receipt.id, position=receipt.position, duplicate=receipt.duplicate)


def _refused(bad: dict[int, Problem], count: int) -> Problem:
    """Of the kind that all have in common, else a 422."""
    kinds = {(problem.status, problem.code) for problem in bad.values()}
    status, code = kinds.pop() if len(kinds) == 1 else (422, "invalid-batch")
    first, problem = next(iter(bad.items()))
    return Problem(
        status,
        code,
        f"{len(bad)} of the {count} events cannot be taken, so none was; event {first}: {problem.detail}",
        fix="mend or leave out the events that `errors` names, and send the batch again",
        extensions={"errors": [_told(*each) for each in list(bad.items())[:_SHOWN]], "refused": len(bad)},
    )


def _told(index: int, problem: Problem) -> dict[str, Any]:
    document = problem.document("/events")
    return {"event": index, **{name: value for name, value in document.items() if name != "instance"}}


def _stopped(problem: Problem, receipts: Sequence[ReceiptDocument], count: int) -> Problem:
    """The problem of one event, and how far the batch had come."""
    return Problem(
        problem.status,
        problem.code,
        f"{problem.detail} (event {len(receipts)} of {count}, from 0; those before it are taken)",
        fix=problem.fix or "send the whole batch again soon: what was taken is not taken twice",
        headers=problem.headers,
        extensions={**problem.extensions, "taken": [receipt.model_dump() for receipt in receipts]},
    )
