"""What one bus offers to others, and what it asks of them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from pydantic import BaseModel

from contracts.bus import Call, CallReply, Provider, ProviderInfo, ProviderSpec
from contracts.errors import BusClosed, CallError
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
        pending = [self._ask(offer, data, source, timeout, deadline, trace) for offer in offers]
        try:
            await asyncio.wait(pending, timeout=max(0.0, timeout))
        finally:
            for future in pending:
                future.cancel()  # an answer that comes now is late
        answers = [future.result() for future in pending if not future.cancelled()]
        return _replies(capability, timeout, answers)

    def providers(self) -> list[ProviderInfo]:
        """All that this replica can reach."""
        return [offer.info for offer in self._broker.directory.reachable(self._replica)]

    def _ask(
        self, offer: Offer, data: str, source: str, timeout: float, deadline: float, trace: str | None
    ) -> asyncio.Future[Answer]:
        spec = offer.spec
        call = Call(
            id=self._broker.ids(), capability=spec.capability, provider=spec.provider,
            source=source, data=data, timeout=timeout, trace=trace,
        )  # fmt: skip
        future = self.pending.expect(call.id, offer)
        offer.serve(call, deadline, self.pending.answer)
        return future


def _replies(capability: str, timeout: float, answers: list[Answer]) -> list[CallReply]:
    """The replies that came; what went wrong only where there is none."""
    replies = [answer for answer in answers if isinstance(answer, CallReply)]
    if replies:
        return replies
    raise next(
        (answer for answer in answers if isinstance(answer, CallError | BusClosed)), None
    ) or timed_out(capability, timeout)
