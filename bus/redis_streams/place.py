"""The place of one group in one partition, as its owner holds it; and the ownership itself.

Whoever owns a partition of a group is alone with it, so the whole state of the place is in his memory, as on
the memory bus (`bus.groups`), and Redis is its journal (`journal.py`). Whoever comes next reads back exactly
what was written.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contracts.errors import ErrorInfo
from contracts.message import Message

from ..groups import Delivery, GroupPartition
from ..lot import Entry
from .journal import Journal, Word
from .layout import order_of
from .packing import StoredMessage, pack, packed
from .replaying import RedisReplay

if TYPE_CHECKING:
    from .hosting import RedisHosting

COUNTERS = (
    "handled", "failed", "discarded", "expired", "filtered", "repeated", "dropped", "taken", "peak", "stale"
)  # fmt: skip
"""What a place counts and Redis adds up."""
_FIRST_FETCH = 32
_MOST_AT_ONCE = 500


@dataclass(slots=True)
class Stored:
    """What Redis knows of a delivery that is out of line."""

    name: bytes | None = None
    """In the lot; None: it is among what was read and not settled."""
    rank: int | None = None
    """Its place among those of its key in the lot."""
    is_out: bool = False
    """Redis knows that it was started from the lot."""
    is_noted: bool = False
    """It stands among the suspects."""


class Holding:
    """A partition of a group that a replica owns: all topics of that number together."""

    __slots__ = (
        "doubts", "fence", "hosting", "is_leaving", "is_lost", "is_owned", "is_recovering", "p", "places",
        "stays_until", "tried", "waited", "was_away",
    )  # fmt: skip

    def __init__(self, hosting: RedisHosting, p: int) -> None:
        self.hosting = hosting
        self.p = p
        self.fence = b""
        """Epoch and replica, as Redis has it."""
        self.places: dict[str, RedisPlace] = {}
        """By topic."""
        self.is_owned = False
        self.is_recovering = False
        """What was read must be looked up first: nothing new is fetched until that has ended."""
        self.doubts = 0
        """How often there was a reason for it."""
        self.was_away = False
        """Its replica was taken for gone, and nobody knows yet that it is back."""
        self.is_leaving = False
        """Another replica is to have it, as soon as nothing runs."""
        self.is_lost = False
        self.stays_until = 0.0
        """Monotonic seconds: what ran took too long to move it, so it goes on here until then."""
        self.tried = self.waited = 0
        """How often it was to move; how often what ran took too long for that."""

    def doubt(self) -> None:
        """Something may have been read that is not known here."""
        self.is_recovering = True
        self.doubts += 1


class RedisPlace(GroupPartition):
    """`GroupPartition`, written down."""

    __slots__ = (
        "_ahead", "_counted", "_next_rank", "early", "fetching", "filled_at", "holding", "is_dry",
        "is_in_doubt", "is_promised", "journal", "last", "most", "names", "number_read", "waiters", "wanted",
    )  # fmt: skip

    def __init__(self, holding: Holding, topic: str, lot_limit: int, order: str, handler: str) -> None:
        self.is_in_doubt = False
        self.holding = holding
        group = holding.hosting.spec.group
        super().__init__(group, topic, holding.p, handler, order=order, lot_limit=lot_limit)
        self.lease = holding.hosting.core.members
        self.irregular = True
        """Every delivery asks before it starts: the lease may be over."""
        self.journal = Journal(topic)
        self.names = holding.hosting.core.keys.names(group, topic, holding.p)
        self.last = b"0-0"
        """The last entry that was read."""
        self.number_read: int | None = None
        """The number of the last event that was read; None: not known. What comes next must follow it."""
        self.is_dry = False
        """There was nothing more to read; the bell tells when there is."""
        self.fetching = self.is_promised = False
        """A fetch is under way; since it was sent, something was published here that it may not see."""
        self.early: bytes | None = None
        """An entry that came with the news and was handed on, until a fetch has brought it as well."""
        self.wanted = _FIRST_FETCH
        """Entries that are read at once; grows while they are handled fast."""
        self.filled_at = 0.0
        """When (monotonic) a full fetch came; 0: the last was none."""
        self.most = _MOST_AT_ONCE
        """Entries that may be read at once, by their size."""
        self.waiters: list[asyncio.Future[None]] = []
        """Who waits until what is noted here is written."""
        self._counted = dict.fromkeys(COUNTERS, 0)
        self._next_rank = 0
        self._ahead: frozenset[bytes] = frozenset()
        """Entries in the lot that are read once more, because the group was made anew before them."""

    # --- may it take ------------------------------------------------------------------------------------

    def _regulate(self) -> None:
        super()._regulate()
        self.irregular = True

    def hold_back(self) -> None:
        """Nothing is taken until it is sure that it is still ours."""
        self.is_in_doubt = True
        self.hold()

    def trust(self) -> None:
        """It is ours."""
        if self.is_in_doubt:
            self.is_in_doubt = False
            self.hold()

    def hold(self) -> None:
        super().hold()
        if self.is_in_doubt and not self.leaving:
            self.leaving = True
            self._regulate()

    # --- how deliveries end -----------------------------------------------------------------------------

    def acknowledge(self, delivery: Delivery) -> bool:
        if not delivery.is_open:
            self.stale += 1
            return False
        delivery.is_open = False
        entry = delivery.entry
        if entry is None:
            self.journal.ack(delivery.message.entry)  # type: ignore[attr-defined]  # it came from a stream
        else:
            self._strike(entry)
            self.leave_line(entry)
        return True

    def remove(self, delivery: Delivery) -> bool:
        entry = delivery.entry
        if not super().remove(delivery):
            return False
        self._strike(entry or Entry(delivery.message))
        return True

    def bury(self, delivery: Delivery, meta: dict[str, Any]) -> bool:
        """It becomes a dead letter."""
        entry, message = delivery.entry or Entry(delivery.message), delivery.message
        if not super().remove(delivery):
            return False
        stored = _stored(entry)
        name: bytes = stored.name or message.entry  # type: ignore[attr-defined]
        self.journal.bury(name, meta, packed_message(message), in_lot=stored.name is not None)
        if stored.name is not None:
            self.journal.leave(name)
        else:
            self._leave_taken(entry)
        return True

    def bury_unread(self, entry: bytes, meta: dict[str, Any], raw: bytes) -> None:
        """The same for what could not even be read."""
        self.journal.bury(entry, meta, raw, in_lot=False)
        self.journal.ack_moved(entry)

    def skip(self, entries: Iterable[bytes]) -> None:
        """Nobody here wants them."""
        self.journal.ack_all(entries)

    def settle_moved(self, entries: Iterable[bytes]) -> None:
        """The same for what may be on its way into the lot, or to the dead letters."""
        for entry in entries:
            self.journal.ack_moved(entry)

    def park(self, delivery: Delivery, due: float, error: ErrorInfo | None) -> bool:
        if not super().park(delivery, due, error):
            return False
        self._keep(self._first_of_slot(delivery))
        return True

    def queue_behind(self, delivery: Delivery) -> bool:
        if not delivery.is_open:
            return super().queue_behind(delivery)
        if delivery.message.entry in self._ahead:  # type: ignore[attr-defined]
            return self.remove(delivery)  # it waits there already
        if delivery.entry is None:
            delivery.entry = Entry(delivery.message)
        super().queue_behind(delivery)
        self._keep(delivery.entry)
        return True

    def give_back(self, delivery: Delivery) -> None:
        if not delivery.is_open:
            return
        entry = delivery.entry
        super().give_back(delivery)
        stored = entry.stored if entry is not None else None
        if entry is None or stored is None:
            return
        if stored.name is not None and stored.is_out:
            stored.is_out = False
            self.journal.keep(stored.name, self._slip(entry))
        elif stored.is_noted:
            self._mark(entry)

    def begin_again(self, failed: Delivery) -> Delivery:
        following = super().begin_again(failed)
        entry = following.entry
        if entry is not None and not entry.replayed and _stored(entry).name is None:
            self._mark(entry)
        return following

    def note_start(self, entry: Entry) -> bool:
        """It is about to be started; whether that must be written down before."""
        stored = _stored(entry)
        if stored.name is not None:
            if stored.is_out and not entry.suspect:
                return False
            stored.is_out = True
            self.journal.keep(stored.name, self._slip(entry))
            return True
        if entry.suspect and not entry.replayed:
            self._mark(entry)
            return True
        return False

    # --- coming back from what is written ---------------------------------------------------------------

    def restore_lot(
        self, items: list[tuple[bytes, dict[str, Any], StoredMessage]], now: float, now_ms: float
    ) -> None:
        """What waits in the lot; what had been started from it is suspect."""
        items.sort(key=lambda item: (item[1].get("x", 0), item[1]["r"], item[2].sequence))
        last = order_of(self.last)
        self._ahead = frozenset(item[2].entry for item in items if order_of(item[2].entry) > last)
        out: list[Entry] = []
        for name, slip, message in items:
            entry = Entry(
                message, slip["a"], None, _error(slip), redriven="d" in slip, replayed="p" in slip
            )  # fmt: skip
            self._next_rank = max(self._next_rank, slip["r"])
            entry.stored = Stored(name, slip["r"], is_out="o" in slip)
            self.lot.append(entry, self._key(message), _due(slip, now, now_ms))
            if "o" in slip:
                entry.suspect = True
                out.append(entry)
        for entry in out:
            self.lot.take_out(entry, self._key(entry.message))
            self.suspects.append(entry)
        self._regulate()

    def add_redriven(
        self, name: bytes, slip: dict[str, Any], message: StoredMessage, due: float | None
    ) -> None:
        """A dead letter that somebody has put back; it is in the lot already."""
        entry = Entry(message, redriven=True)
        entry.stored = Stored(name)
        self.lot.append(entry, self._key(message), due)
        self.journal.keep(name, self._slip(entry))
        self._regulate()

    def restore_taken(self, items: list[tuple[StoredMessage, str | None]], *, in_order: bool) -> None:
        """What was read and not settled: of an owner who died, suspect; else simply next."""
        for message, note in items:
            found = json.loads(note) if note else {}
            entry = Entry(message, found.get("a", 0), error=_error(found))
            entry.stored = Stored(is_noted=note is not None)
            entry.suspect = not in_order
            (self.returned if in_order else self.suspects).append(entry)
        self.suspects = type(self.suspects)(sorted(self.suspects, key=_sequence))
        self.returned.sort(key=_sequence)
        if any(message.expires_ns is not None for message, _ in items):
            self.expect_expiry()
        self._regulate()

    def lot_names(self) -> set[bytes]:
        """What is in the lot, or was started from it, by its names."""
        entries = [*self.lot.entries(), *self.suspects, *(one.entry for one in self.in_flight if one.entry)]
        return {entry.stored.name for entry in entries if entry.stored is not None and entry.stored.name}

    def held(self) -> set[bytes]:
        """Entries that are known here and not settled, or settled without Redis knowing."""
        messages: list[Any] = [delivery.message for delivery in self.in_flight]
        messages += self.backlog
        messages += [entry.message for entry in (*self.returned, *self.suspects)]
        return {message.entry for message in messages} | self.journal.entries()

    def in_hand(self) -> set[bytes]:
        """Entries that are pending in the stream: read, and neither settled nor in the lot."""
        out = [delivery.entry or Entry(delivery.message) for delivery in self.in_flight]
        entries = [entry for entry in (*out, *self.returned, *self.suspects) if _is_pending(entry)]
        messages: list[Any] = [*self.backlog, *(entry.message for entry in entries)]
        return {message.entry for message in messages}

    # --- the journal --------------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether Redis does not know of everything yet."""
        return self.journal.is_open

    @property
    def is_changed(self) -> bool:
        """The same, counters included."""
        return self.journal.is_open or bool(self._counts())

    def next_call(self) -> list[Word] | None:
        """What `settle` is to be told; None: nothing."""
        journal = self.journal
        if journal.unconfirmed is None:
            counts = self._counts()
            call = journal.call(self.holding.hosting.journal_limits, counts)
            for name, by in counts.items():
                self._counted[name] += by
            return call
        return journal.unconfirmed

    def confirmed(self, failed: list[Any]) -> list[str]:
        """The call is done, but for operations that failed: why."""
        whys, counts = self.journal.confirmed(failed)
        for name, by in counts.items():
            self._counted[name] -= by
        return whys

    def uncount(self, name: str, by: int) -> None:
        """It was counted elsewhere."""
        self._counted[name] += by

    def _counts(self) -> dict[str, int]:
        counted = self._counted
        return {name: by for name in COUNTERS if (by := getattr(self, name) - counted[name])}

    # --- details ------------------------------------------------------------------------------------------

    def _strike(self, entry: Entry) -> None:
        """It is final: out of the lot, or out of what was read."""
        stored = entry.stored
        if stored is not None and stored.name is not None:
            self.journal.leave(stored.name)
        elif entry.replayed:
            self._tell_replay(entry)
        else:
            self.journal.ack(entry.message.entry)  # type: ignore[attr-defined]
            self._unmark(entry)

    def _leave_taken(self, entry: Entry) -> None:
        """It is no longer among what was read, once it has arrived where it goes."""
        if entry.replayed:
            self._tell_replay(entry)
        else:
            self.journal.ack_moved(entry.message.entry)  # type: ignore[attr-defined]
            self._unmark(entry)

    def _tell_replay(self, entry: Entry) -> None:
        """The replay need not begin there again."""
        if isinstance(self.replay, RedisReplay):
            self.replay.settled(entry.message.entry)
            self.journal.replay_came(self.replay.note())

    def _mark(self, entry: Entry) -> None:
        _stored(entry).is_noted = True
        note: dict[str, Any] = {"a": entry.attempts, **_written_error(entry)}
        self.journal.mark(entry.message.entry, json.dumps(note))  # type: ignore[attr-defined]

    def _unmark(self, entry: Entry) -> None:
        stored = entry.stored
        if stored is not None and stored.is_noted:
            stored.is_noted = False
            self.journal.mark(entry.message.entry, "")  # type: ignore[attr-defined]

    def _keep(self, entry: Entry) -> None:
        """It is in the lot from now on, or it is again."""
        stored, message = _stored(entry), entry.message
        stored.is_out = False
        if stored.name is not None:
            self.journal.keep(stored.name, self._slip(entry))
            return
        name: bytes = message.entry  # type: ignore[attr-defined]
        stored.name = b"r" + name if entry.replayed else name
        self.journal.keep(stored.name, self._slip(entry), packed_message(message))
        self._leave_taken(entry)

    def _first_of_slot(self, delivery: Delivery) -> Entry:
        """The entry that was just parked, with a rank before those behind it."""
        slot = self.lot.slot_of(self._key(delivery.message))
        entry = slot.entries[0]
        following = slot.entries[1].stored if len(slot.entries) > 1 else None
        if _stored(entry).name is None:
            _stored(entry).rank = self._rank() if following is None else (following.rank or 0) - 1
        return entry

    def _slip(self, entry: Entry) -> bytes:
        stored = _stored(entry)
        if stored.rank is None:
            stored.rank = self._rank()
        slip: dict[str, Any] = {"r": stored.rank, "a": entry.attempts, **_written_error(entry)}
        if entry.due is not None:
            held = entry.due == math.inf
            slip["t"] = "held" if held else round(self.holding.hosting.wall_ms(entry.due))
        for name, is_so in (("o", stored.is_out), ("d", entry.redriven), ("p", entry.replayed)):
            if is_so:
                slip[name] = 1
        return json.dumps(slip).encode()

    def _rank(self) -> int:
        self._next_rank += 1
        return self._next_rank


def packed_message(message: Message) -> bytes:
    entry: bytes = getattr(message, "entry", b"0-0")
    return packed(pack(message), entry)


def _stored(entry: Entry) -> Stored:
    if entry.stored is None:
        entry.stored = Stored()
    stored: Stored = entry.stored
    return stored


def _is_pending(entry: Entry) -> bool:
    return not entry.replayed and (entry.stored is None or entry.stored.name is None)


def _sequence(entry: Entry) -> int:
    return entry.message.sequence


def _error(found: dict[str, Any]) -> ErrorInfo | None:
    return ErrorInfo.model_validate(found["e"]) if "e" in found else None


def _written_error(entry: Entry) -> dict[str, Any]:
    return {} if entry.error is None else {"e": entry.error.model_dump(mode="json", exclude_defaults=True)}


def _due(slip: dict[str, Any], now: float, now_ms: float) -> float | None:
    """A moment of the server's clock as one of ours (monotonic)."""
    due = slip.get("t")
    if due is None:
        return None
    return math.inf if due == "held" else now + (due - now_ms) / 1e3
