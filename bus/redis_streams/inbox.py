"""Calls between replicas: each has a stream of letters; a question goes to one, its answer to another.

Letters are read once and are not kept for those who come later: a call is executed at most once, and whoever
waits has a deadline.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from contracts.bus import Call, CallReply, ProviderSpec
from contracts.errors import (
    BusClosed,
    CallError,
    CallRefused,
    CallTimeout,
    ErrorInfo,
    NoProvider,
    ProviderFailed,
    ProviderLost,
)

from ..caller import Caller
from ..calls import Answer, Offer
from .layout import order_of
from .registry import OfferRecord
from .wire import Lost, Refused

if TYPE_CHECKING:
    from .core import Core

log = logging.getLogger("plugbus.bus")

_PAGE = 500
_UNREAD = 100_000
"""Letters that may wait for one replica: it reads them as they come, so it is long gone before."""
_LOOK = 1.0
"""Seconds in which the table of replicas is to be read again."""
_KNOCK = 0.5
"""Seconds in which a replica that lives answers to a knock."""
_ERRORS = {error.code: error for error in (NoProvider, CallTimeout, ProviderLost, CallRefused)}


class RemoteOffer(Offer):
    """A provider on another replica; `bus.calls.Offer` for the directory, and a letter for each call."""

    inbox: Inbox

    def serve(self, call: Call, deadline: float, answer: Any) -> None:
        self.inbox.ask(self, call, deadline)


class Inbox:
    """What this replica offers, what it knows of the offers of others, and the letters."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.ids = core.ids
        self.clock = core.clock
        self.directory = core.directory
        self.awake = asyncio.Event()
        self.awake.set()
        self.caller = Caller(self, core.replica, self.awake)
        self._remote: dict[tuple[str, str], RemoteOffer] = {}
        self._reading: asyncio.Task[None] | None = None

    def offered(self) -> tuple[OfferRecord, ...]:
        """What others may ask of this replica."""
        return tuple(
            OfferRecord(
                offer.id, offer.spec.capability, offer.spec.plugin_id, offer.spec.timeout, offer.spec.rank
            )
            for offer in self.caller.offers if offer.spec.reach == "shared" and offer in self.directory
        )  # fmt: skip

    def changed(self) -> None:
        """The table of replicas was read: offers that came, and that went."""
        there: dict[tuple[str, str], OfferRecord] = {}
        for replica, record in self._core.registry.view.replicas.items():
            if replica != self._core.replica:
                there |= {(replica, offer.id): offer for offer in record.offers}
        for key in [key for key in self._remote if key not in there]:
            self.directory.discard(self._remote.pop(key))
        for key, offered in there.items():
            if key not in self._remote:
                self._remote[key] = self._add(key[0], offered)

    def _add(self, replica: str, offered: OfferRecord) -> RemoteOffer:
        spec = ProviderSpec(
            capability=offered.capability, plugin_id=offered.plugin_id, provider="",
            timeout=offered.timeout, rank=offered.rank,
        )  # fmt: skip
        offer = RemoteOffer(offered.id, spec, _nobody, replica, self.directory, self.clock, self.awake)
        offer.inbox = self
        self.directory.add(offer)
        return offer

    async def look_again(self) -> None:
        with suppress(Lost, Refused, TimeoutError):
            async with asyncio.timeout(_LOOK):
                await self._core.registry.refresh()

    # --- asking -------------------------------------------------------------------------------------

    def ask(self, offer: RemoteOffer, call: Call, deadline: float) -> None:
        left = deadline - self.clock.monotonic()
        if left <= 0:
            return
        asked, me = call.model_dump(mode="json"), self._core.replica
        self._send(offer.replica, {"call": asked, "offer": offer.id, "to": me, "left": left})

    def _send(self, replica: str, letter: dict[str, Any]) -> None:
        self._core.spawn(self._write(replica, letter), f"plugbus:redis:letter:{replica}")

    async def _write(self, replica: str, letter: dict[str, Any]) -> None:
        link = self._core.link
        began = self.clock.monotonic()
        await link.ready(link.control)
        if "left" in letter:
            letter["left"] -= self.clock.monotonic() - began
        while True:
            try:
                inbox, text = self._core.keys.inbox(replica), json.dumps(letter)
                await link.control.ask("XADD", inbox, "MAXLEN", "~", _UNREAD, "*", "l", text)
            except Lost:
                if "call" in letter:
                    raise  # it may have arrived: executed at most once
                await link.ready(link.control)  # an answer may come twice: the second is dropped
            else:
                return

    # --- letters ------------------------------------------------------------------------------------

    def deliver(self, entries: list[Any]) -> None:
        """One came; there may be more."""
        self._open(entries)
        if self._reading is None or self._reading.done():
            self._reading = self._core.spawn(self._read_on(), "plugbus:redis:inbox")

    async def _read_on(self) -> None:
        """To the end; what was read is not needed any more."""
        link, key, bell = self._core.link, self._core.keys.inbox(self._core.replica), self._core.bell
        found: list[Any] = [None] * _PAGE
        while len(found) == _PAGE:
            await link.ready(link.control)
            found = await link.control.ask("XRANGE", key, b"(" + bell.inbox_at, "+", "COUNT", _PAGE)
            self._open(found)
        await link.control.ask("XTRIM", key, "MINID", bell.inbox_at)

    def _open(self, entries: list[Any]) -> None:
        """Each once, whoever has read it."""
        bell = self._core.bell
        for entry, fields in entries:
            if order_of(entry) <= order_of(bell.inbox_at):
                continue
            bell.inbox_at = entry
            try:
                self._handle(json.loads(fields[1]))
            except Exception:  # noqa: BLE001 - a letter of a stranger must not keep the others
                log.warning("a letter that cannot be read: %.200r", fields)

    def _handle(self, letter: dict[str, Any]) -> None:
        if "knock" in letter:
            self._send(letter["to"], {"here": letter["knock"]})
        elif "call" in letter:
            self._serve(letter)
        else:
            self.caller.pending.answer(letter["id"], _answer(letter))

    def _serve(self, letter: dict[str, Any]) -> None:
        call, to = Call.model_validate(letter["call"]), letter["to"]
        offer = next((one for one in self.caller.offers if one.id == letter["offer"]), None)
        if offer is None or offer not in self.directory:
            capability = call.capability
            gone = offer.gone if offer else NoProvider(f"gone: {capability}", capability=capability)
            self._reply(to, call.id, gone)
            return
        left = float(letter["left"])
        call = call.model_copy(update={"timeout": left, "provider": offer.spec.provider})
        deadline = self.clock.monotonic() + left
        offer.serve(call, deadline, lambda call_id, answer: self._reply(to, call_id, answer))

    def _reply(self, to: str, id: str, answer: Answer) -> None:
        if not self._core.is_closed:
            self._send(to, {"id": id, **_letter(answer)})

    # --- is somebody there ----------------------------------------------------------------------------

    async def knock(self, replica: str) -> bool:
        """Whether a bus of that name lives, which has not our connection."""
        core, token = self._core, f"{self._core.members.incarnation}-{time.monotonic_ns()}"
        answers = core.keys.inbox(f"knock:{token}")
        await core.link.control.ask(
            "XADD", core.keys.inbox(replica), "MAXLEN", "~", 1_000, "*", "l",
            json.dumps({"knock": token, "to": f"knock:{token}"}),
        )  # fmt: skip
        deadline = self.clock.monotonic() + _KNOCK
        try:
            while self.clock.monotonic() < deadline:
                if await core.link.control.ask("XLEN", answers):
                    return True
                await asyncio.sleep(0.01)
            return False
        finally:
            await core.link.control.ask("UNLINK", answers)


def _letter(answer: Answer) -> dict[str, Any]:
    if isinstance(answer, CallReply):
        return {"reply": answer.model_dump(mode="json")}
    letter = {"text": answer.message, "where": answer.where, "fix": answer.fix}
    if isinstance(answer, BusClosed):
        return {**letter, "code": ProviderLost.code, "of": ""}
    if isinstance(answer, ProviderFailed):
        return {**letter, "failed": answer.info.model_dump(mode="json"), "of": answer.capability}
    return {**letter, "code": answer.code, "of": answer.capability}


def _answer(letter: dict[str, Any]) -> Answer:
    if "reply" in letter:
        return CallReply.model_validate(letter["reply"])
    more = {"capability": letter["of"], "where": letter["where"], "fix": letter["fix"]}
    if "failed" in letter:
        return ProviderFailed(letter["text"], info=ErrorInfo.model_validate(letter["failed"]), **more)
    kind: type[CallError] = _ERRORS.get(letter["code"], ProviderLost)
    return kind(letter["text"], **more)


async def _nobody(call: Call) -> CallReply:
    raise ProviderLost("it is on another replica", capability=call.capability)
