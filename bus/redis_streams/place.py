"""The place of one group in one partition, as its owner holds it; and the ownership itself.

Whoever owns a partition of a group is alone with it, so the whole state of the place is in his memory, as on
the memory bus (`bus.groups`), and Redis is its journal: each settlement is written down, fenced, and a call
of `settle` is one transaction. Whoever comes next reads back exactly what was written.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contracts.errors import ErrorInfo
from contracts.message import Message

from ..groups import Delivery, GroupPartition
from ..lot import Entry
from .packing import StoredMessage, pack, packed
from .replaying import RedisReplay

if TYPE_CHECKING:
    from .hosting import RedisHosting

COUNTERS = (
    "handled", "failed", "discarded", "expired", "filtered", "repeated", "dropped", "taken", "peak", "stale"
)  # fmt: skip
"""What a place counts and Redis adds up."""
_BLOCK = 500
"""Entries of one XACK."""


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
        "fence", "hosting", "is_leaving", "is_lost", "is_owned", "is_recovering", "p", "places",
        "replica_until", "retry_at",
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
        """What was read must be looked up first: nothing new is fetched."""
        self.is_leaving = False
        """Another replica is to have it, as soon as nothing runs."""
        self.is_lost = False
        self.retry_at = 0.0

    @property
    def is_settled(self) -> bool:
        """Nothing runs, and Redis knows of everything."""
        return not any(place.open or place.has_news for place in self.places.values())


class RedisPlace(GroupPartition):
    """`GroupPartition`, written down."""

    __slots__ = (
        "_acks", "_counted", "_done", "_late", "_marks", "_moves", "_next_rank", "_progress", "calls", "fetching", "waiters",
        "holding", "is_dry", "is_in_doubt", "last", "reads_from_start", "taken_at", "unconfirmed", "wanted",
    )  # fmt: skip

    def __init__(self, holding: Holding, topic: str, lot_limit: int, order: str, handler: str) -> None:
        group = holding.hosting.spec.group
        super().__init__(group, topic, holding.p, handler, order=order, lot_limit=lot_limit)
        self.is_in_doubt = False
        self.holding = holding
        self.irregular = True
        """Every delivery asks before it starts: the lease may be over."""
        self.last = b"0-0"
        """The last entry that was read."""
        self.reads_from_start = False
        """It began before the first entry of its stream: if that is missing, it was trimmed."""
        self.is_dry = False
        """There was nothing more to read; the bell tells when there is."""
        self.fetching = False
        self.wanted = 16
        """Entries that are read at once; grows while they are handled fast."""
        self.taken_at = 0.0
        self.calls = 0
        """Numbers the settlements: a repetition is known by it."""
        self.unconfirmed: list[bytes | str | int] | None = None
        """A settlement whose answer has not come."""
        self._acks: list[bytes] = []
        self._moves: list[tuple[bytes | str, ...]] = []
        self._late: list[tuple[bytes | str, ...]] = []
        """Acknowledged, or out of the lot, only if what was moved has arrived."""
        self._marks: dict[bytes, str] = {}
        self._done: list[str] = []
        self._counted = dict.fromkeys(COUNTERS, 0)
        self._next_rank = 0
        self._progress: str | None = None
        """How far a replay has come."""
        self.waiters: list[asyncio.Future[None]] = []
        """Who waits until what is noted here is written."""

    @property
    def until(self) -> float:  # type: ignore[override]
        return self.holding.hosting.until

    def _regulate(self) -> None:
        super()._regulate()
        self.irregular = True

    def hold_back(self) -> None:
        """Nothing is taken until it is sure that it is still ours."""
        self.is_in_doubt = True
        self.hold()

    def trust(self) -> None:
        """It is ours."""
        self.is_in_doubt = False
        self.hold()

    def hold(self) -> None:
        super().hold()
        if self.is_in_doubt and not self.leaving:
            self.leaving = True
            self._regulate()

    @property
    def has_news(self) -> bool:
        """Whether Redis does not know of everything yet."""
        return (
            self.unconfirmed is not None
            or bool(self._acks or self._moves or self._late or self._marks or self._done or self._progress)
        )

    @property
    def is_changed(self) -> bool:
        """The same, counters included."""
        return self.has_news or any(self._counts().values())

    # --- what is written down ------------------------------------------------------------------------

    def acknowledge(self, delivery: Delivery) -> bool:
        if not delivery.is_open:
            self.stale += 1
            return False
        delivery.is_open = False
        entry = delivery.entry
        if entry is None:
            self._acks.append(delivery.message.entry)  # type: ignore[attr-defined]  # it came from a stream
        else:
            self._strike(entry)
            self.leave_line(entry)
        return True

    def remove(self, delivery: Delivery) -> bool:
        entry = delivery.entry
        if not super().remove(delivery):
            return False
        if entry is None:
            self._acks.append(delivery.message.entry)  # type: ignore[attr-defined]
        else:
            self._strike(entry)
        return True

    def bury(self, delivery: Delivery, meta: dict[str, Any]) -> bool:
        """It becomes a dead letter, and only if that is written may its place go."""
        entry, message = delivery.entry, delivery.message
        if not super().remove(delivery):
            return False
        stored = entry.stored if entry is not None else None
        in_lot = stored is not None and stored.name is not None
        name = stored.name if in_lot else message.entry  # type: ignore[union-attr, attr-defined]
        self._move("bury", json.dumps({"of": name.decode(), "lot": in_lot, **meta}), packed_message(message))
        if in_lot:
            self._late.append(("leave", name))
        elif entry is not None and entry.replayed:
            self._tell_replay(entry)
        else:
            self._late.append(("ack", name))
            if stored is not None and stored.is_noted:
                self._marks[name] = ""
        return True

    def bury_unread(self, entry: bytes, meta: dict[str, Any], raw: bytes) -> None:
        """The same for what could not even be read."""
        self._move("bury", json.dumps({"of": entry.decode(), "lot": False, **meta}), raw)
        self._late.append(("ack", entry))

    def skip(self, entries: Iterable[bytes]) -> None:
        """Nobody here wants them."""
        self._acks += entries

    def park(self, delivery: Delivery, due: float, error: ErrorInfo | None) -> bool:
        if not super().park(delivery, due, error):
            return False
        self._keep(delivery, self._first_of_slot(delivery))
        return True

    def queue_behind(self, delivery: Delivery) -> bool:
        if not delivery.is_open:
            return super().queue_behind(delivery)
        if delivery.entry is None:
            delivery.entry = Entry(delivery.message)
        super().queue_behind(delivery)
        self._keep(delivery, delivery.entry)
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
            self._move("keep", stored.name, self._slip(entry), b"")
        elif stored.is_noted:
            self._marks[entry.message.entry] = self._note(entry)  # type: ignore[attr-defined]

    def begin_again(self, failed: Delivery) -> Delivery:
        following = super().begin_again(failed)
        entry = following.entry
        if entry is not None and not entry.replayed and _stored(entry).name is None:
            self._mark(entry)
        return following

    def replay_came(self, note: str) -> None:
        """How far it is."""
        self._progress = note

    def settled(self, key: str) -> None:
        """For dedupe."""
        self._done.append(key)

    # --- starts that must be known before they happen -------------------------------------------------

    def note_start(self, entry: Entry) -> bool:
        """Have it written down; whether there is something to write."""
        stored = _stored(entry)
        if stored.name is not None:
            if not stored.is_out or entry.suspect:
                stored.is_out = True
                self._move("keep", stored.name, self._slip(entry), b"")
                return True
        elif entry.suspect and not entry.replayed:
            self._mark(entry)
            return True
        return False

    def _mark(self, entry: Entry) -> None:
        _stored(entry).is_noted = True
        self._marks[entry.message.entry] = self._note(entry)  # type: ignore[attr-defined]

    # --- coming back from what is written --------------------------------------------------------------

    def restore_lot(self, items: list[tuple[bytes, dict[str, Any], StoredMessage]], now: float, now_ms: float) -> None:
        """What waits in the lot; what had been started from it is suspect."""
        items.sort(key=lambda item: (item[1].get("x", 0), item[1]["r"], item[2].sequence))
        out: list[Entry] = []
        for name, slip, message in items:
            entry = Entry(
                message, slip["a"], None, ErrorInfo.model_validate(slip["e"]) if "e" in slip else None,
                redriven=slip.get("d", False), replayed=slip.get("p", False),
            )  # fmt: skip
            self._next_rank = max(self._next_rank, slip["r"] + 1)
            entry.stored = Stored(name, slip["r"])
            due = slip.get("t")
            moment = None if due is None else float("inf") if due == "held" else now + (due - now_ms) / 1e3
            self.lot.append(entry, self._key(message), moment)
            if slip.get("o"):
                entry.stored.is_out, entry.suspect = True, True
                out.append(entry)
        for entry in out:
            self.lot.take_out(entry, self._key(entry.message))
            self.suspects.append(entry)
        self._regulate()

    def add_redriven(self, name: bytes, slip: dict[str, Any], message: StoredMessage, due: float | None) -> None:
        """A dead letter that somebody has put back; it is in the lot already."""
        entry = Entry(message, redriven=True)
        entry.stored = Stored(name, self._rank())
        self.lot.append(entry, self._key(message), due)
        self._move("keep", name, self._slip(entry), b"")
        self._regulate()

    def restore_taken(self, items: list[tuple[StoredMessage, str | None]], *, in_order: bool) -> None:
        """What was read and not settled: of an owner who died, suspect; else simply next."""
        for message, note in items:
            found = json.loads(note) if note else {}
            entry = Entry(message, found.get("a", 0))
            if "e" in found:
                entry.error = ErrorInfo.model_validate(found["e"])
            entry.stored = Stored(is_noted=note is not None)
            if in_order:
                self.returned.append(entry)
            else:
                entry.suspect = True
                self.suspects.append(entry)
        ordered = sorted(self.suspects, key=lambda entry: entry.message.sequence)
        self.suspects.clear()
        self.suspects.extend(ordered)
        self.returned.sort(key=lambda entry: entry.message.sequence)
        if any(message.expires_ns is not None for message, _ in items):
            self.expect_expiry()
        self._regulate()

    def lot_names(self) -> set[bytes]:
        """What is in the lot, or was started from it, by its names."""
        entries = [*self.lot.entries(), *self.suspects, *(one.entry for one in self.in_flight if one.entry)]
        return {entry.stored.name for entry in entries if entry.stored is not None and entry.stored.name}

    def held(self) -> set[bytes]:
        """Entries that are known here and not settled."""
        names = {delivery.message.entry for delivery in self.in_flight}  # type: ignore[attr-defined]
        names |= {message.entry for message in self.backlog}  # type: ignore[attr-defined]
        names |= {entry.message.entry for entry in self.returned}  # type: ignore[attr-defined]
        names |= {entry.message.entry for entry in self.suspects}  # type: ignore[attr-defined]
        return names | set(self._acks) | {move[1] for move in self._late}  # type: ignore[arg-type]

    @property
    def unsent(self) -> int:
        """Settlements that have not been sent: if it is not ours any more, nobody but us can count them."""
        again = sum(move[0] == "keep" and not move[3] for move in self._moves)
        return len(self._acks) + len(self._late) + again

    # --- the journal -----------------------------------------------------------------------------------

    def next_call(self) -> list[bytes | str | int] | None:
        """Operations that Redis does not know of; the same again until they are confirmed."""
        if self.unconfirmed is None and self.is_changed:
            self.calls += 1
            self.unconfirmed = [self.topic, self.calls, *self._limits(), *self._operations()]
        return self.unconfirmed

    def confirmed(self, failed: list[Any]) -> list[str]:
        """They are done, but for those that failed: they come again. Why."""
        call, self.unconfirmed = self.unconfirmed or [], None
        whys = []
        for at, why in zip(failed[::2], failed[1::2], strict=True):
            whys.append(why.decode())
            self._again(call, at - 4)  # behind nonce, group, fence; and Lua counts from 1
        return whys

    def _again(self, call: list[bytes | str | int], at: int) -> None:
        match call[at]:
            case "keep":
                self._moves.append((call[at], *call[at + 1 : at + 4]))  # type: ignore[arg-type]
                name = call[at + 1]
                if call[at + 3] and name[:1] != b"r":  # type: ignore[index]
                    self._late.append(("ack", name))  # type: ignore[arg-type]
            case "bury":
                self._moves.append((call[at], *call[at + 1 : at + 3]))  # type: ignore[arg-type]
                meta = json.loads(call[at + 1])  # type: ignore[arg-type]
                self._late.append(("leave" if meta["lot"] else "ack", meta["of"].encode()))
            case "replay":
                self._progress = self._progress or call[at + 2]  # type: ignore[assignment]
            case "mark":
                self._marks.setdefault(call[at + 1], call[at + 2])  # type: ignore[arg-type]
            case "count":
                self._counted[call[at + 1]] -= int(call[at + 2])  # type: ignore[index]
            case "ack":
                self._acks += call[at + 2 : at + 2 + int(call[at + 1])]  # type: ignore[arg-type]
            case "done":
                self._done += call[at + 2 : at + 2 + int(call[at + 1])]  # type: ignore[arg-type]
            case _:
                self._late.append(("leave", call[at + 1]))  # type: ignore[arg-type]

    def _limits(self) -> tuple[int, int, int]:
        limits = self.holding.hosting.limits
        return self.holding.hosting.dead_limit, int(limits.dedupe_seconds * 1e3), limits.dedupe

    def _operations(self) -> list[bytes | str | int]:
        call: list[bytes | str | int] = []
        acks, self._acks = self._acks, []
        for block in _blocks(acks):
            call += ["ack", len(block), *block]
        moves, self._moves = self._moves, []
        for move in moves:
            call += move
        late, self._late = self._late, []
        for block in _blocks([name for op, name in late if op == "ack"]):
            call += ["ack", len(block), *block]
        for op, name in late:
            if op == "leave":
                call += ["leave", name]
        marks, self._marks = self._marks, {}
        for entry, note in marks.items():
            call += ["mark", entry, note]
        done, self._done = self._done, []
        for block in _blocks(done):
            call += ["done", len(block), *block]
        if self._progress is not None:
            call += ["replay", self.topic, self._progress]
            self._progress = None
        for name, by in self._counts().items():
            if by:
                self._counted[name] += by
                call += ["count", name, by]
        return call

    def _counts(self) -> dict[str, int]:
        return {name: getattr(self, name) - self._counted[name] for name in COUNTERS}

    def uncount(self, name: str, by: int) -> None:
        """It was counted elsewhere."""
        self._counted[name] += by

    # --- details -----------------------------------------------------------------------------------------

    def _strike(self, entry: Entry) -> None:
        """It is final: out of the lot, or out of what was read."""
        stored = entry.stored
        if stored is not None and stored.name is not None:
            self._late.append(("leave", stored.name))
        elif entry.replayed:
            self._tell_replay(entry)
        else:
            self._acks.append(entry.message.entry)  # type: ignore[attr-defined]
            if stored is not None and stored.is_noted:
                self._marks[entry.message.entry] = ""  # type: ignore[attr-defined]

    def _tell_replay(self, entry: Entry) -> None:
        """A replayed delivery is final, or in the lot: the replay need not begin there again."""
        if isinstance(self.replay, RedisReplay):
            self.replay.settled(entry.message.entry)  # type: ignore[attr-defined]
            self._progress = self.replay.note()

    def _keep(self, delivery: Delivery, entry: Entry) -> None:
        """It is in the lot from now on, or it is again."""
        stored, message = _stored(entry), entry.message
        if stored.name is not None:
            stored.is_out = False
            self._move("keep", stored.name, self._slip(entry), b"")
            return
        name: bytes = message.entry  # type: ignore[attr-defined]
        stored.name = b"r" + name if entry.replayed else name
        stored.is_out = False
        self._move("keep", stored.name, self._slip(entry), packed_message(message))
        if entry.replayed:
            self._tell_replay(entry)
        else:
            self._late.append(("ack", name))
            if stored.is_noted:
                stored.is_noted = False
                self._marks[name] = ""

    def _first_of_slot(self, delivery: Delivery) -> Entry:
        """The entry that was just parked, with a rank before those behind it."""
        slot = self.lot.slot_of(self._key(delivery.message))
        entry = slot.entries[0]
        following = slot.entries[1].stored if len(slot.entries) > 1 else None
        if entry.stored is None or entry.stored.name is None:
            _stored(entry).rank = self._rank() if following is None else (following.rank or 0) - 1
        return entry

    def _slip(self, entry: Entry) -> bytes:
        stored = _stored(entry)
        if stored.rank is None:
            stored.rank = self._rank()
        slip: dict[str, Any] = {"r": stored.rank, "a": entry.attempts}
        if entry.due is not None:
            slip["t"] = "held" if entry.due == float("inf") else round(self.holding.hosting.wall_ms(entry.due))
        if entry.error is not None:
            slip["e"] = entry.error.model_dump(mode="json", exclude_defaults=True)
        for name, is_so in (("o", stored.is_out), ("d", entry.redriven), ("p", entry.replayed)):
            if is_so:
                slip[name] = 1
        return json.dumps(slip).encode()

    def _note(self, entry: Entry) -> str:
        note: dict[str, Any] = {"a": entry.attempts}
        if entry.error is not None:
            note["e"] = entry.error.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(note)

    def _rank(self) -> int:
        self._next_rank += 1
        return self._next_rank

    def _move(self, *operation: bytes | str) -> None:
        self._moves.append(operation)


def packed_message(message: Message) -> bytes:
    entry: bytes = getattr(message, "entry", b"0-0")
    return packed(pack(message), entry)


def _stored(entry: Entry) -> Stored:
    if entry.stored is None:
        entry.stored = Stored()
    stored: Stored = entry.stored
    return stored


def _blocks(items: list[Any]) -> Iterator[list[Any]]:
    for at in range(0, len(items), _BLOCK):
        yield items[at : at + _BLOCK]
