"""One event on its way to Redis, and what Redis says of it."""

from __future__ import annotations

from contracts.errors import BusError, BusFull, PublishUnknown
from contracts.event import Receipt

from ..checks import check_unicode
from .layout import position_of
from .packing import Fields
from .prompt import Prompt

REPEATED, HANDLING, DELAYED = 1, 2, 4
"""Flags of an event: somebody may have sent it before; it may pass the limit (its handler is at work); it is
kept back."""

Place = tuple[str, int]
"""Topic and partition."""


class Item:
    """One event on its way."""

    __slots__ = (
        "deadline", "due", "fields", "flags", "future", "id", "is_lost", "is_refused", "name", "sent", "why",
    )  # fmt: skip

    def __init__(
        self, id: str, source: str, fields: Fields, flags: int, deadline: float,
        future: Prompt[Receipt], due: str = "",
    ) -> None:  # fmt: skip
        self.id = id
        try:
            self.name = f"{source}\n{id}".encode()
        except UnicodeEncodeError:
            check_unicode("source", source)  # ids were looked at, or are ours
            raise
        self.fields = fields
        self.flags = flags
        self.deadline = deadline
        self.due = due
        self.future = future
        self.sent = False
        """It may be in Redis already: it is on its way, or it is lost."""
        self.is_lost = False
        """An answer to it was lost, and none has come since that would tell."""
        self.is_refused = False
        """There was no room for it at twice the limit; room was looked for since."""
        self.why: BusError | None = None
        """Why Redis has not taken it."""

    def lose(self) -> None:
        """The answer to it is lost."""
        self.flags |= REPEATED
        self.sent = self.is_lost = True

    def is_not_there(self) -> None:
        """Redis has looked for it."""
        self.sent = self.is_lost = False

    def was_refused(self) -> None:
        """Unseen: what was sent before may be there."""
        self.sent = self.is_lost

    def confirm(self, place: Place, said: bytes) -> None:
        """`said`: its entry, or `d` (kept back); behind `=` where it is a repetition."""
        if self.future.done():
            return
        is_first = said[:1] != b"="
        entry = said if is_first else said[1:]
        position = "delayed" if entry == b"d" else position_of(*place, entry)
        self.future.set_result(Receipt(self.id, position, duplicate=not is_first))

    def refuse(self, error: Exception, address: str) -> None:
        """Redis takes it no more: `error`, unless it may have taken it before."""
        self.fail(unknown(self.id, "the answer was lost", address) if self.is_lost else error)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def end(self, error: Exception, address: str) -> None:
        """The bus is closed: it fails with `error`, unless Redis may have taken it."""
        self.fail(unknown(self.id, "the bus was closed", address) if self.sent else error)

    def give_up(self, address: str) -> None:
        """Its time is over. `address`: of the server, for people."""
        why = self.why
        if why is not None and not self.sent:
            self.fail(BusFull(why.message, where=why.where, fix=why.fix))
        else:
            why_not = "the answer was lost" if self.sent else "Redis cannot be reached"
            self.fail(unknown(self.id, why_not, address))


def unknown(id: str, why: str, address: str) -> PublishUnknown:
    """What a publisher is told who does not know whether his event was taken."""
    return PublishUnknown(
        f"event {id!r} was not confirmed: {why}",
        event_id=id,
        where=address,
        fix="publish it again with the same id: it will be one event",
    )
