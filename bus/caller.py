"""What one bus offers to others, and what it asks of them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel

from contracts.bus import Call, CallReply, Provider, ProviderInfo, ProviderSpec
from contracts.errors import BusClosed, CallError, CallTimeout, NoProvider
from contracts.event import dump_event
from contracts.patterns import check_type_name
from contracts.tracing import TRACING

from .calls import Answer, Offer, PendingCalls, timed_out
from .clock import Clock, Ids
from .directory import Directory


class Hub(Protocol):
    """What a backend gives those who ask and answer."""

    ids: Ids
    clock: Clock
    directory: Directory

    async def look_again(self) -> None:
        """Learn of offers that came and went meanwhile. Nothing to do where all know the same."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked, of whomever it will be."""

    capability: str
    source: str
    data: str
    timeout: float
    deadline: float
    trace: str | None

    @property
    def timed_out(self) -> CallTimeout:
        return timed_out(self.capability, self.timeout)


class Caller:
    """Offers and requests of one replica. `awake`: set unless the replica is suspended."""

    def __init__(self, broker: Hub, replica: str, awake: asyncio.Event) -> None:
        self._broker = broker
        self._replica = replica
        self._awake = awake
        self.offers: list[Offer] = []
        self.pending = PendingCalls()

    def provide(self, spec: ProviderSpec, provider: Provider) -> Offer:
        check_type_name(spec.capability)
        broker = self._broker
        offer = Offer(
            broker.ids(), spec, provider, self._replica, broker.directory, broker.clock, self._awake
        )  # fmt: skip
        broker.directory.add(offer)
        self.offers = [*(known for known in self.offers if known.is_live), offer]
        return offer

    async def request(
        self, capability: str, query: BaseModel | str, *, source: str, timeout: float, target: str
    ) -> list[CallReply]:
        if TRACING.is_on:
            from .tracing import Asking  # loads OpenTelemetry

            with Asking(capability) as asking:
                return await self._request(capability, query, source, timeout, target, asking.trace)
        return await self._request(capability, query, source, timeout, target, None)

    async def _request(
        self, capability: str, query: BaseModel | str, source: str, timeout: float, target: str,
        trace: str | None,
    ) -> list[CallReply]:  # fmt: skip
        offers = self._broker.directory.choose(capability, self._replica, target)
        deadline = self._broker.clock.monotonic() + timeout
        data = query if isinstance(query, str) else dump_event(query).decode()
        question = _Question(capability, source, data, timeout, deadline, trace)
        answers: list[Answer] = []
        gone: set[Offer] = set()
        while offers:
            came = await self._ask_all(offers, question)
            answers += came.values()
            late = [offer for offer, answer in came.items() if isinstance(answer, NoProvider)]
            if not late:
                break
            gone.update(late)
            await self._broker.look_again()
            offers = self._next(capability, target, late, gone)
        return _replies(answers)

    def providers(self, capability: str | None = None) -> list[ProviderInfo]:
        """All that this replica can reach, the best of each capability first."""
        return [offer.info for offer in self._broker.directory.reachable(self._replica, capability)]

    async def _ask_all(self, offers: list[Offer], question: _Question) -> dict[Offer, Answer]:
        """What each answered, in time or not."""
        left = question.deadline - self._broker.clock.monotonic()
        pending = {offer: self._ask(offer, question, left) for offer in offers}
        try:
            await asyncio.wait(pending.values(), timeout=max(0.0, left))
        finally:
            for future in pending.values():
                future.cancel()  # an answer that comes now is late
        return {
            offer: question.timed_out if future.cancelled() else future.result()
            for offer, future in pending.items()
        }

    def _next(self, capability: str, target: str, late: list[Offer], gone: set[Offer]) -> list[Offer]:
        """Whom to ask instead of offers that were gone before the call was begun."""
        found = []
        for whom in ["any"] if target == "any" else [offer.replica for offer in late]:
            with suppress(NoProvider):
                found += self._broker.directory.choose(capability, self._replica, whom, gone)
        return found

    def _ask(self, offer: Offer, question: _Question, left: float) -> asyncio.Future[Answer]:
        call = Call(
            id=self._broker.ids(), capability=question.capability, provider=offer.spec.provider,
            source=question.source, data=question.data, timeout=left, trace=question.trace,
        )  # fmt: skip
        future = self.pending.expect(call.id, offer)
        offer.serve(call, question.deadline, self.pending.answer)
        return future


def _replies(answers: list[Answer]) -> list[CallReply]:
    """The replies that came; what went wrong only where there is none, and there what says most."""
    replies = [answer for answer in answers if isinstance(answer, CallReply)]
    if replies:
        return replies
    errors = [answer for answer in answers if isinstance(answer, CallError | BusClosed)]
    raise min(errors, key=lambda error: (isinstance(error, NoProvider), isinstance(error, CallTimeout)))
