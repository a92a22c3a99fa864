"""The state of one group in one partition: what waits, what runs, who owns it.

Pure: no event loop, no clock, nobody is called but the owner that asked to be roused. Times come in as
arguments. What the event loop does with it stands in `delivery.py`.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from contracts.bus import SubscriptionSpec
from contracts.errors import ErrorInfo
from contracts.message import Message, PluginEvent
from contracts.patterns import topic_of

from .lot import Entry, Lot, SlotKey
from .replay import Replay

if TYPE_CHECKING:
    from .owner import Owner

_WHOLE = -1
"""The slot of everything in one partition of a group with `order="topic"`."""


class Delivery(PluginEvent):
    """One attempt: what the loop settles, and what a handler sees. Made by `GroupPartition`.

    `is_open` is also the fence: a takeover closes all deliveries of the former owner, and what is closed
    cannot be settled.
    """

    __slots__ = ("_entry", "is_open", "part")

    _entry: Entry | None
    """Not set on the straight way."""
    part: GroupPartition
    is_open: bool
    """In flight: neither settled nor handed back nor taken over."""

    @property
    def handled_by(self) -> tuple[str, int]:
        owner = self.part.owner
        return self.part.group.partition(".")[0], 0 if owner is None else owner.spec.generation

    @property
    def entry(self) -> Entry | None:
        """None on the straight way."""
        return getattr(self, "_entry", None)

    @entry.setter
    def entry(self, entry: Entry | None) -> None:
        self._entry = entry


class StraightDelivery(Delivery):
    """The first attempt of what comes straight from the backlog: nearly all that is ever delivered.

    Made of three values; the others are what they are in this case, unless somebody sets them.
    """

    __slots__ = ()

    @property
    def handler(self) -> str:  # type: ignore[override]  # read-only: nobody writes it
        return self.part.handler


class Lease(Protocol):
    """For how long a partition is its owner's, whatever happens."""

    @property
    def until(self) -> float:
        """Monotonic seconds: so long nobody can have taken it over."""


class Forever:
    """Of a backend in which nobody takes over what is not given up."""

    until = math.inf


FOREVER = Forever()


def is_sure(delivery: Delivery, now: float) -> bool:
    """Nothing but its lease is to be looked at before it starts, and that holds: the way of most."""
    part = delivery.part
    return type(delivery) is StraightDelivery and not part.held_back and part.lease.until >= now


class GroupPartition:
    """One group's place in one partition.

    `order`: as in `SubscriptionOptions`. `is_ephemeral`: needs nothing of the log, misses what is trimmed.

    Taken in this order: suspects (one at a time, nothing beside them), what is due in the lot, what was
    handed back, what waits. Within a key that is the order of publishing.
    """

    __slots__ = (
        "_by_topic", "_expiring", "_forget_at", "_is_alone", "_taken", "_total", "_unhandled", "backlog",
        "discarded", "dropped", "epoch", "expired", "failed", "filtered", "group", "handler", "held_back",
        "idle", "irregular", "is_ephemeral", "is_paused", "lease", "leaving", "lot", "lot_limit", "missed",
        "moving", "number", "ordered", "owner", "peak", "repeated", "replay", "returned", "stale",
        "suspects", "topic",
    )  # fmt: skip

    def __init__(
        self, group: str, topic: str, number: int, handler: str,
        *, order: str, lot_limit: int, is_ephemeral: bool = False,
    ) -> None:  # fmt: skip
        self.group = group
        self.topic = topic
        self.number = number
        self.handler = handler
        self.lot_limit = lot_limit
        self.is_ephemeral = is_ephemeral
        self.order_by(order)
        self.owner: Owner | None = None
        self.epoch = 0
        """Counts the owners; with the owner, what a fence compares."""
        self.idle = False
        """The owner has found nothing to take, and wants to be roused."""
        self.moving = False
        """Ownership moves on as soon as nothing is in flight."""
        self.is_paused = False
        """The group is."""
        self.leaving = False
        """Nothing is taken: it moves, it is paused, or its owner is suspended."""
        self.held_back = False
        """Something may hold deliveries back: an earlier one of the key, an expiry, a suspect, a move."""
        self.lease: Lease = FOREVER
        self.irregular = False
        """Each must ask before it starts: for that reason, or because its lease may be over."""
        self.backlog: deque[Message] = deque()
        self.returned: list[Entry] = []
        self.suspects: deque[Entry] = deque()
        self._is_alone = False  # a suspect is in flight, or was the last to be taken
        self.lot = Lot()
        self.replay: Replay | None = None
        """What is delivered once more."""
        self.missed = 0
        """Trimmed before its turn, and not yet told."""
        self.failed = self.stale = self.peak = self.discarded = self.expired = 0
        self.filtered = self.repeated = self.dropped = 0
        self._taken: list[Delivery] = []  # whoever is in flight, and some who are not any more
        self._forget_at = 0  # length of it; what is settled goes when it has doubled
        self._total = self._unhandled = 0
        self._expiring = False

    # --- taking -----------------------------------------------------------------------------------

    def take(self, limit: int) -> list[Delivery]:
        """Up to `limit` deliveries, in flight from now on. Only the owner asks."""
        waiting = len(self.backlog)
        self.peak = max(self.peak, waiting)
        if self.irregular:
            batch = self._take_irregular(limit)
        else:
            batch = []
            self._take_waiting(min(limit, waiting), batch)
        self._remember(batch)
        return batch

    def _take_waiting(self, count: int, batch: list[Delivery]) -> None:
        # `_out`, written out: one of these is made for each message and group, and a call to an `__init__`
        # would cost half as much again.
        kind, new, following, add = StraightDelivery, object.__new__, self.backlog.popleft, batch.append
        for _ in range(count):
            delivery = new(kind)
            delivery.message = following()
            delivery.part = self
            delivery.is_open = True
            add(delivery)

    def _remember(self, batch: list[Delivery]) -> None:
        if len(self._taken) > self._forget_at:
            self.forget_settled()
        self._taken += batch
        self._total += len(batch)

    def forget_settled(self) -> None:
        """Let go of what is not in flight any more."""
        self._taken = self.in_flight
        self._forget_at = 2 * len(self._taken)

    def _may_go_on(self) -> bool:
        """Nothing runs beside a suspect: whether there is none in flight, and then what is next."""
        if self.open:
            return False
        self._is_alone = bool(self.suspects)
        self._regulate()
        return True

    def _take_irregular(self, limit: int) -> list[Delivery]:
        """Something is held back, or comes before what waits."""
        if self.leaving or ((self.suspects or self._is_alone) and not self._may_go_on()):
            return []
        if self._is_alone:
            return [self._out(self.suspects.popleft())]
        batch = self._take_from_the_line(limit) if self.lot.has_ready or self.returned else []
        if self.backlog and self.lot.parked < self.lot_limit:
            self._take_waiting(min(limit - len(batch), len(self.backlog)), batch)
        return batch

    def _take_from_the_line(self, limit: int) -> list[Delivery]:
        """What is due in the lot, then what was handed back."""
        entries = self.lot.take(limit)
        handed_back = self.returned[: limit - len(entries)]
        del self.returned[: len(handed_back)]
        return [self._out(entry) for entry in entries + handed_back]

    def _out(self, entry: Entry) -> Delivery:
        delivery = Delivery(entry.message, self.handler, entry.attempts + 1)
        delivery.part, delivery.entry, delivery.is_open = self, entry, True
        if entry.replayed:
            delivery._replayed = True
        return delivery

    def begin_again(self, failed: Delivery) -> Delivery:
        """Its next attempt, in flight in its stead: what a handler has seen of the first does not change."""
        entry = failed.entry or Entry(failed.message)
        entry.attempts = failed.attempt
        following = self._out(entry)
        failed.is_open = False
        self._taken.append(following)
        return following

    def add_retained(self, messages: Iterable[Message]) -> None:
        """What was published before the group was there."""
        self.backlog.extend(messages)
        if any(message.expires_ns is not None for message in self.backlog):
            self.expect_expiry()

    def take_replayed(self, limit: int) -> list[Delivery]:
        """Up to `limit` deliveries of the replay that is under way."""
        if self.replay is None or self.leaving or self.lot.parked >= self.lot_limit:
            return []
        if self.suspects or self.returned or (self._is_alone and self.open):
            return []  # among what was handed back may be the earlier ones of this replay
        batch = [self._out(Entry(message, replayed=True)) for message in self.replay.take(limit)]
        if any(delivery.message.expires_ns is not None for delivery in batch):
            self.expect_expiry()
        self._remember(batch)
        return batch

    @property
    def has_work(self) -> bool:
        """Whether `take` or `take_replayed` would find something."""
        if self.leaving:
            return False
        if (self.suspects or self._is_alone) and self.open:
            return False
        if self.suspects:
            return True
        if self.lot.has_ready or self.returned:
            return True
        is_replaying = self.replay is not None and self.replay.left > 0
        return (bool(self.backlog) or is_replaying) and self.lot.parked < self.lot_limit

    def expect_expiry(self) -> None:
        """An event with an expiry waits: from now on every delivery asks."""
        self._expiring = self.held_back = self.irregular = True

    # --- before a start ---------------------------------------------------------------------------

    def is_blocked(self, delivery: Delivery) -> bool:
        """Whether an earlier event of its key is in the lot."""
        if self.lot.is_empty or (delivery.entry is not None and delivery.entry.slot is not None):
            return False
        return self.lot.is_blocked(self._key(delivery.message))

    # --- settling: each answers whether the delivery was still this owner's -----------------------

    def remove(self, delivery: Delivery) -> bool:
        """It is dead, discarded or expired; its key goes on."""
        if not self._land(delivery):
            return False
        if delivery.entry is not None:
            self.leave_line(delivery.entry)
        return True

    def park(self, delivery: Delivery, due: float, error: ErrorInfo | None) -> bool:
        """Into the lot, before everything of its key, until `due`."""
        if not self._land(delivery):
            return False
        entry = delivery.entry or Entry(delivery.message)
        entry.attempts, entry.error, entry.suspect = delivery.attempt, error, False
        self.lot.park(entry, self._key(delivery.message), due)
        self._regulate()
        return True

    def queue_behind(self, delivery: Delivery) -> bool:
        """Into the lot, behind the earlier event of its key."""
        if not self._land(delivery):
            return False
        self._queue(delivery.entry or Entry(delivery.message))
        return True

    def give_back(self, delivery: Delivery) -> None:
        """No outcome: it is taken again, in its place, and this start does not count."""
        if not delivery.is_open:
            return
        self._land(delivery)
        entry = delivery.entry or Entry(delivery.message)
        entry.attempts = delivery.attempt - 1
        if entry.suspect:
            self.suspects.appendleft(entry)  # it was the first of them, and alone
        elif entry.slot is not None:
            self.lot.put_back(entry, self._key(entry.message))
        else:
            bisect.insort(self.returned, entry, key=_sequence)
        self._regulate()

    def redrive(self, message: Message, due: float | None = None) -> None:
        """A dead letter comes back, not before `due`: through the lot, so that its key waits for it."""
        self._queue(Entry(message, redriven=True), due)
        if due is not None and self.owner is not None:
            self.owner.arm()

    def _land(self, delivery: Delivery) -> bool:
        if not delivery.is_open:
            self.stale += 1
            return False
        delivery.is_open = False
        self._unhandled += 1
        return True

    def leave_line(self, entry: Entry) -> None:
        """A delivery that was out of line is final."""
        self.lot.leave(entry)
        self._regulate()

    def release_due(self, now: float) -> None:
        """Let go what is due in the lot by `now`."""
        self.lot.release_due(now)
        self._rouse()

    def drop(self, *, oldest: bool) -> Message:
        """Give up the oldest or the newest of what waits."""
        if self.backlog and not (oldest and self.returned):
            return self.backlog.popleft() if oldest else self.backlog.pop()
        entry = self.returned.pop(0 if oldest else -1)
        self._regulate()
        return entry.message

    def begin_replay(self, replay: Replay) -> None:
        """Deliver it beside what else is taken."""
        if replay.left or self.missed:
            self.replay = replay
            if self.owner is not None:
                self.owner.replay()

    def end_replay(self) -> int:
        """How many were still to be taken."""
        replay, self.replay = self.replay, None
        if self.owner is not None:
            self.owner.replay()
        return 0 if replay is None else replay.left

    def trimmed(self, before: int) -> None:
        """What is below `before` is about to go from the log."""
        if self.is_ephemeral:
            while self.backlog and self.backlog[0].sequence < before:
                self.backlog.popleft()
                self.missed += 1
                self.dropped += 1
        if self.replay is not None:
            self.missed += self.replay.skip_to(before)

    def release_held(self) -> None:
        """Let go what was parked until the group goes on."""
        self.lot.release_held()
        self._rouse()

    def _queue(self, entry: Entry, due: float | None = None) -> None:
        self.lot.append(entry, self._key(entry.message), due)
        self._regulate()

    def _key(self, message: Message) -> SlotKey:
        if self._by_topic:
            return _WHOLE
        return message.key if message.key is not None and self.ordered else message.sequence

    def _regulate(self) -> None:
        waits = self.suspects or self._is_alone or self.returned or not self.lot.is_empty
        self.held_back = self.irregular = bool(waits) or self.leaving or self._expiring
        self._rouse()

    def _rouse(self) -> None:
        if self.idle and self.owner is not None and self.has_work:
            self.idle = False
            self.owner.rouse(self)

    # --- ownership --------------------------------------------------------------------------------

    def take_over(self, owner: Owner | None) -> None:
        """From now on `owner` takes (None: nobody). What the former one had in flight is suspect."""
        self._suspect()
        self.owner, self.moving, self.idle = owner, False, owner is not None
        self.epoch += 1
        self.hold()

    def leave(self) -> None:
        """Take nothing more; ownership moves when nothing is in flight."""
        self.moving = True
        self.hold()

    def stay(self) -> None:
        """Ownership does not move after all."""
        self.moving = False
        self.hold()

    def pause(self, is_paused: bool) -> None:
        """Take nothing more until it is called again."""
        self.is_paused = is_paused
        self.hold()

    def hold(self) -> None:
        """Whether anything may be taken has changed."""
        stopped = self.owner is not None and self.owner.is_suspended
        self.leaving = self.moving or self.is_paused or stopped
        self._regulate()

    def order_by(self, order: str) -> None:
        self.ordered, self._by_topic = order == "key", order == "topic"

    def _suspect(self) -> None:
        """Unsettled deliveries of a dead owner come first, in order, one at a time."""
        left = [delivery.entry or Entry(delivery.message) for delivery in self.in_flight]
        for delivery in self.in_flight:
            self._land(delivery)
        for entry in left:
            entry.suspect = True
        self.suspects = deque(sorted([*left, *self.suspects], key=_sequence))

    # --- questions --------------------------------------------------------------------------------

    @property
    def in_flight(self) -> list[Delivery]:
        """What was taken and is not settled."""
        return [delivery for delivery in self._taken if delivery.is_open]

    @property
    def open(self) -> int:
        """How many deliveries are in flight. Counted when asked: settling is the more frequent."""
        return len(self.in_flight)

    @property
    def handled(self) -> int:
        """How many were acknowledged."""
        return self._total - self._unhandled - self.open

    @property
    def waiting(self) -> int:
        return len(self.backlog) + len(self.returned) + len(self.suspects)

    @property
    def taken(self) -> int:
        """How many deliveries were ever taken."""
        return self._total

    @property
    def replayed(self) -> int:
        """How many replayed deliveries are in flight."""
        return sum(delivery.replayed for delivery in self.in_flight)


def acknowledge(delivery: Delivery) -> bool:
    """Settle the straight way. A function, not a method: one call less for each message and group."""
    part = delivery.part
    if not delivery.is_open:
        part.stale += 1
        return False
    delivery.is_open = False
    if part.irregular and delivery.entry is not None:
        part.leave_line(delivery.entry)
    return True


def is_handling(current: PluginEvent | None) -> bool:
    """Whether this is code of a handler that runs (not of something that it left behind)."""
    return isinstance(current, Delivery) and current.is_open


def is_silent(spec: SubscriptionSpec) -> bool:
    """What the bus says of this group's failures would come back to it: it says nothing."""
    return any(topic_of(pattern) == "bus" for pattern in spec.patterns)


def _sequence(entry: Entry) -> int:
    return entry.message.sequence
