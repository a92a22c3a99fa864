"""What was given up: dead letters and how they come back, discarded and expired deliveries; announced."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from contracts.bus import DeadLetter, DeadLetterSelection
from contracts.errors import ErrorInfo
from contracts.messages.delivery import DeadLettered, DeadLettersDropped, DeliveryDiscarded, Redriven

from .announce import Announcer
from .clock import Clock, Ids
from .dead_letters import DeadEntry
from .groups import Delivery
from .policy.causes import caused_by

if TYPE_CHECKING:
    from .group import Group

log = logging.getLogger("plugbus.bus")


class Losses:
    """Keeps the dead letters of all groups and tells of everything that is given up."""

    def __init__(self, groups: Mapping[str, Group], announcer: Announcer, clock: Clock, ids: Ids) -> None:
        self._groups = groups
        self._announcer = announcer
        self._clock = clock
        self._ids = ids

    def bury(
        self, group: Group, delivery: Delivery, reason: str, error: ErrorInfo | None, generation: int
    ) -> None:
        """Move a settled delivery to the dead letters of its group."""
        spec, message = group.spec, delivery.message
        entry = DeadEntry(
            self._ids(), delivery.part, message, spec.plugin_id, generation, reason, error,
            delivery.attempt, self._clock.time_ns(),
        )  # fmt: skip
        dropped = group.dead.add(entry)
        log.error(
            "%s: %s (id %s) is a dead letter (%s) after %d attempts: %s",
            spec.group, message.type, message.id, reason, delivery.attempt, error,
        )  # fmt: skip
        if group.is_silent:
            return
        self._announcer.say(
            DeadLettered(
                group=spec.group, plugin_id=spec.plugin_id, event_id=message.id, event_type=message.type,
                event_source=message.source, dead_letter_id=entry.id, generation=generation, reason=reason,
                error=str(error) if error else "", attempts=delivery.attempt,
            ),
            caused_by(message),
        )  # fmt: skip
        if dropped:
            self._announcer.say(DeadLettersDropped(group=spec.group, count=dropped))

    def give_up(self, group: Group, delivery: Delivery, reason: str) -> None:
        """Tell of a delivery that its handler discarded, or that had expired."""
        spec, message = group.spec, delivery.message
        log.info("%s: %s (id %s) is discarded: %s", spec.group, message.type, message.id, reason)
        if not group.is_silent:
            self._announcer.say(
                DeliveryDiscarded(
                    group=spec.group, plugin_id=spec.plugin_id, event_id=message.id, event_type=message.type,
                    event_source=message.source, reason=reason,
                ),
                caused_by(message),
            )  # fmt: skip

    def list(self, selection: DeadLetterSelection, limit: int) -> list[DeadLetter]:
        found = [entry for _, entry in self._select(selection)]
        found.sort(key=lambda entry: entry.last_ns, reverse=True)
        return [entry.letter() for entry in found[:limit]]

    def redrive(self, selection: DeadLetterSelection) -> int:
        """Back to the groups that failed, the oldest first."""
        moved: Counter[str] = Counter()
        for group, entry in reversed(list(self._select(selection))):
            group.dead.remove(entry)
            entry.part.redrive(entry.message)
            moved[group.spec.group] += 1
        for name, count in moved.items():
            self._announcer.say(Redriven(group=name, count=count))
        return moved.total()

    def discard(self, selection: DeadLetterSelection) -> int:
        chosen = list(self._select(selection))
        for group, entry in chosen:
            group.dead.remove(entry)
        return len(chosen)

    def _select(self, selection: DeadLetterSelection) -> Iterator[tuple[Group, DeadEntry]]:
        for group in self._groups.values():
            if selection.group in (None, group.spec.group):
                for entry in group.dead.select(selection):
                    yield group, entry
