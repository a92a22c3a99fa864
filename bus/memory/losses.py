"""What was given up: dead letters and how they come back, discarded and expired deliveries; announced."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from contracts.bus import DeadLetter, DeadLetterSelection
from contracts.envelope import moment_of
from contracts.errors import DeadLetterNotFound, ErrorInfo, InvalidOption
from contracts.message import Message
from contracts.messages.delivery import Redriven

from ..announce import Announcer
from ..clock import Clock, Ids
from ..groups import Delivery, GroupPartition
from ..tidings import tell_dead, tell_dropped, tell_given_up
from .dead_letters import DeadEntry

if TYPE_CHECKING:
    from .group import Group


class Losses:
    """Keeps the dead letters of all groups and tells of everything that is given up."""

    def __init__(self, groups: Mapping[str, Group], announcer: Announcer, clock: Clock, ids: Ids) -> None:
        self._groups = groups
        self._announcer = announcer
        self._clock = clock
        self._ids = ids
        self._numbers = itertools.count()

    def bury(
        self, group: Group, delivery: Delivery, reason: str, error: ErrorInfo | None, generation: int
    ) -> None:
        """Move a settled delivery to the dead letters of its group."""
        spec, message = group.spec, delivery.message
        entry = DeadEntry(
            self._ids(), delivery.part, message, spec.plugin_id, generation, reason, error,
            delivery.attempt, self._clock.time_ns(), next(self._numbers),
        )  # fmt: skip
        dropped = group.dead.add(entry)
        tell_dead(self._announcer, spec, delivery, reason, error, letter_id=entry.id, generation=generation)
        tell_dropped(self._announcer, spec, dropped)

    def give_up(self, group: Group, delivery: Delivery, reason: str) -> None:
        """Tell of a delivery that its handler discarded, or that had expired."""
        tell_given_up(self._announcer, group.spec, delivery, reason)

    def list(self, selection: DeadLetterSelection, limit: int, after: str | None = None) -> list[DeadLetter]:
        """The newest first. Raises `DeadLetterNotFound` if `after` is gone."""
        found = [entry for _, entry in self._select(selection)]
        found.sort(key=lambda entry: entry.number, reverse=True)
        if after is not None:
            bound = self._find(after).number
            found = [entry for entry in found if entry.number < bound]
        return [entry.letter() for entry in found[:limit]]

    def count(self, selection: DeadLetterSelection) -> int:
        return sum(1 for _ in self._select(selection))

    def redrive(self, selection: DeadLetterSelection, rate: float | None = None) -> int:
        """Back to the groups that failed, the oldest first, `rate` of them a second."""
        if rate is not None and not 0 < rate < math.inf:
            raise InvalidOption(f"rate is {rate!r}", fix="dead letters a second, more than 0")
        chosen = sorted(self._select(selection), key=lambda found: found[1].age_key)
        moved, now = Counter[str](), self._clock.monotonic()
        for number, (group, entry) in enumerate(chosen):
            group.dead.remove(entry)
            due = now + number / rate if rate is not None and number else None
            entry.part.redrive(entry.message, due)
            moved[group.name] += 1
        for name, count in moved.items():
            self._announcer.say(Redriven(group=name, count=count))
        return len(chosen)

    def discard(self, selection: DeadLetterSelection) -> int:
        chosen = list(self._select(selection))
        for group, entry in chosen:
            group.dead.remove(entry)
        return len(chosen)

    def add(self, letters: Sequence[DeadLetter], part_for: Callable[[str, Message], GroupPartition]) -> int:
        """Letters from elsewhere, to groups that exist; how many were new. Raises `GroupNotFound`."""
        fresh = [
            (part_for(letter.group, message), letter, message) for letter, message in map(_read, letters)
        ]
        added, dropped = 0, Counter[str]()
        for part, letter, message in fresh:
            dead = self._groups[letter.group].dead
            if letter.id not in dead:
                dropped[letter.group] += dead.add(DeadEntry.of(letter, message, part, next(self._numbers)))
                added += 1
        for name, count in dropped.items():
            tell_dropped(self._announcer, self._groups[name].spec, count)
        return added

    def _select(self, selection: DeadLetterSelection) -> Iterator[tuple[Group, DeadEntry]]:
        now = moment_of(self._clock.time_ns())
        for group in self._groups.values():
            if selection.group in (None, group.name):
                for entry in group.dead.select(selection, now):
                    yield group, entry

    def _find(self, id: str) -> DeadEntry:
        for _, entry in self._select(DeadLetterSelection(ids=(id,))):
            return entry
        raise DeadLetterNotFound(
            f"there is no dead letter {id!r} any more to go on behind", fix="begin again, without `after`"
        )


def _read(letter: DeadLetter) -> tuple[DeadLetter, Message]:
    return letter, Message.from_envelope(letter.envelope, letter.raw, version=letter.version)
