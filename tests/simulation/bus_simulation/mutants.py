"""Planted mistakes: each is one way in which a bus like this could be wrong, in a few lines.

The simulation is worth what it finds of them.
"""

from __future__ import annotations

import inspect
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import bus.delivery
import bus.memory.group
import bus.memory.placement
from bus.groups import Delivery, GroupPartition, acknowledge
from bus.lot import Entry, Lot, Slot
from bus.memory import MemoryBus
from bus.memory.dead_letters import DeadLetters
from bus.memory.group import Group
from bus.memory.hosting import Hosting
from bus.memory.members import Heart
from bus.policy.timeout import NEVER, Lane
from bus.window import IdWindow
from contracts.bus import Handler
from contracts.event import EventResult
from contracts.message import PluginEvent

Mutant = Callable[[], "Plants"]
Plants = Iterator[tuple[Any, str, Any]]
MUTANTS: dict[str, Mutant] = {}


def mutant(make: Mutant) -> Mutant:
    MUTANTS[make.__name__] = make
    return make


@contextmanager
def planted(name: str) -> Iterator[None]:
    """With this mistake in the bus."""
    with ExitStack() as stack:
        for where, attribute, instead in MUTANTS[name]():
            stack.enter_context(patch.object(where, attribute, instead))
        yield


def _around_handlers(wrap: Callable[[Handler], Handler]) -> Plants:
    subscribe = MemoryBus.subscribe

    async def wrapped(self: MemoryBus, spec: Any, handler: Handler, **options: Any) -> Any:
        return await subscribe(self, spec, wrap(handler), **options)

    yield MemoryBus, "subscribe", wrapped


def _after_take_over(change: Callable[[GroupPartition, list[Delivery]], object]) -> Plants:
    take_over = GroupPartition.take_over

    def changed(self: GroupPartition, owner: Any) -> None:
        left = self.in_flight
        take_over(self, owner)
        change(self, left)

    yield GroupPartition, "take_over", changed


def _rewritten(where: type, name: str, old: str, new: str) -> tuple[Any, str, Any]:
    """A function with other words in it: for a mistake in the middle of a long one."""
    source = textwrap.dedent(inspect.getsource(getattr(where, name)))
    assert old in source
    found: dict[str, Any] = {}
    exec(source.replace(old, new), vars(sys.modules[where.__module__]), found)  # noqa: S102 - our own source
    return where, name, found[name]


# --- outcomes -------------------------------------------------------------------------------------------


@mutant
def acknowledged_before_it_is_handled() -> Plants:
    def wrap(handler: Handler) -> Handler:
        async def early(event: PluginEvent) -> EventResult | None:
            acknowledge(event)  # type: ignore[arg-type]
            return await handler(event)

        return early

    return _around_handlers(wrap)


@mutant
def timeouts_never_cancel() -> Plants:
    def interrupt(self: Lane, now: float) -> None:
        self.deadline = NEVER

    yield Lane, "interrupt", interrupt


@mutant
def expired_events_are_started() -> Plants:
    yield GroupPartition, "expect_expiry", lambda self: None


@mutant
def fetching_counts_as_an_attempt() -> Plants:
    give_back = GroupPartition.give_back

    def counted(self: GroupPartition, delivery: Delivery) -> None:
        delivery.attempt += delivery.is_open
        give_back(self, delivery)

    yield GroupPartition, "give_back", counted


@mutant
def returned_events_get_new_ids() -> Plants:
    numbers = itertools.count()
    yield PluginEvent, "derived_id", lambda self, index: f"{self.id}-{next(numbers)}"


@mutant
def the_window_forgets_at_once() -> Plants:
    yield IdWindow, "remember", lambda self, *event: None


# --- the lot, order -------------------------------------------------------------------------------------


@mutant
def a_parked_key_is_not_blocked() -> Plants:
    yield GroupPartition, "is_blocked", lambda self, delivery: False


@mutant
def the_lot_is_reordered() -> Plants:
    def put_last(self: Lot, entry: Entry, key: Any) -> Slot:
        slot = self._slot(entry, key)
        slot.entries.append(entry)
        self.parked += 1
        return slot

    yield Lot, "_put_first", put_last


@mutant
def lanes_do_not_look_at_keys() -> Plants:
    yield bus.delivery.DeliveryLoop, "_lane_key", lambda self, delivery: None


@mutant
def what_is_handed_back_goes_to_the_end() -> Plants:
    give_back = GroupPartition.give_back

    def disordered(self: GroupPartition, delivery: Delivery) -> None:
        before = list(self.returned)
        give_back(self, delivery)
        self.returned.sort(key=lambda entry: entry not in before)

    yield GroupPartition, "give_back", disordered


@mutant
def the_dead_keep_their_key() -> Plants:
    remove = GroupPartition.remove

    def stuck(self: GroupPartition, delivery: Delivery) -> bool:
        delivery.entry = None
        return remove(self, delivery)

    yield GroupPartition, "remove", stuck


@mutant
def a_full_lot_drops() -> Plants:
    queue_behind = GroupPartition.queue_behind

    def dropping(self: GroupPartition, delivery: Delivery) -> bool:
        is_full = self.lot.parked >= self.lot_limit
        return self.remove(delivery) if is_full else queue_behind(self, delivery)

    yield GroupPartition, "queue_behind", dropping


@mutant
def what_is_due_is_not_released() -> Plants:
    yield Hosting, "arm", lambda self: None


# --- ownership ------------------------------------------------------------------------------------------


@mutant
def no_fence() -> Plants:
    """What a former owner settles is accepted."""

    def open_again(part: GroupPartition, left: list[Delivery]) -> None:
        for delivery in left:
            delivery.is_open = True

    return _after_take_over(open_again)


@mutant
def a_crash_loses_what_was_fetched() -> Plants:
    return _after_take_over(lambda part, left: part.suspects.clear())


@mutant
def a_hand_over_loses_what_was_handed_back() -> Plants:
    return _after_take_over(lambda part, left: part.returned.clear())


@mutant
def suspects_run_side_by_side() -> Plants:
    def mix(part: GroupPartition, left: list[Delivery]) -> None:
        part.returned[:0] = part.suspects
        part.suspects.clear()

    return _after_take_over(mix)


@mutant
def newer_events_run_beside_the_last_suspect() -> Plants:
    take = GroupPartition.take

    def hasty(self: GroupPartition, limit: int) -> list[Delivery]:
        batch = take(self, limit)
        if self.open and self.backlog and not (batch or self.suspects or self.leaving):
            self._take_waiting(1, batch)
            self._remember(batch)
        return batch

    yield GroupPartition, "take", hasty


@mutant
def starts_of_suspects_are_not_counted() -> Plants:
    def wrap(handler: Handler) -> Handler:
        async def uncounted(event: PluginEvent) -> EventResult | None:
            entry = getattr(event, "entry", None)
            if entry is not None and entry.suspect:
                entry.attempts -= 1
            return await handler(event)

        return uncounted

    return _around_handlers(wrap)


@mutant
def partitions_move_while_handlers_run() -> Plants:
    def place(self: Group, part: GroupPartition) -> None:
        if self._best(part) is not part.owner:
            self.hand_over(part)

    yield Group, "place", place


@mutant
def a_dead_owner_keeps_its_partitions() -> Plants:
    def crash(self: Hosting) -> list[Any]:
        self._leave()
        self._ended(self)
        return self.loop.kill()

    yield Hosting, "crash", crash


# --- operators ------------------------------------------------------------------------------------------


@mutant
def redrive_reaches_all_groups() -> Plants:
    redrive, put_back = MemoryBus.redrive, GroupPartition.redrive

    async def everywhere(self: MemoryBus, *what: Any, **options: Any) -> int:
        def spread(part: GroupPartition, *what: Any) -> None:
            put_back(part, *what)
            for other in _places_of(self, part):
                put_back(other, *what)

        with patch.object(GroupPartition, "redrive", spread):
            return await redrive(self, *what, **options)

    yield MemoryBus, "redrive", everywhere


def _places_of(bus: MemoryBus, part: GroupPartition) -> Iterator[GroupPartition]:
    """Of the other groups in the same partition."""
    for group in bus.broker.groups.values():
        for other in group.parts.values():
            if other is not part and (other.topic, other.number) == (part.topic, part.number):
                yield other


@mutant
def redriven_dead_letters_stay() -> Plants:
    yield DeadLetters, "remove", lambda self, entry: None


@mutant
def paused_groups_go_on() -> Plants:
    yield GroupPartition, "pause", lambda self, is_paused: None


@mutant
def replay_is_forgotten_at_a_hand_over() -> Plants:
    return _after_take_over(lambda part, left: part.end_replay())


# --- replicas -------------------------------------------------------------------------------------------


@mutant
def the_silent_are_never_given_up() -> Plants:
    yield Heart, "_silent", lambda self, now: []


@mutant
def who_was_given_up_starts_what_it_has_fetched() -> Plants:
    yield _rewritten(bus.delivery.DeliveryLoop, "_run_plain", "not delivery.is_open", "False")


@mutant
def exclusive_groups_are_shared() -> Plants:
    yield bus.memory.group, "only", lambda hosts, parts, group: None


@mutant
def older_versions_handle_too() -> Plants:
    yield bus.memory.placement, "candidates", list


@mutant
def predicates_are_not_asked() -> Plants:
    subscribe = MemoryBus.subscribe

    async def indifferent(self: MemoryBus, spec: Any, handler: Handler, **_: Any) -> Any:
        return await subscribe(self, spec, handler)

    yield MemoryBus, "subscribe", indifferent
