"""Events from outside against the catalogue: what a loaded plugin publishes has a schema to fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from contracts.bus import CatalogEntry
from contracts.errors import InvalidEvent
from contracts.event import EventData
from contracts.web import EdgeContext

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

_SHOWN = 10


class EventValidation:
    """Checks data of types that the catalogue knows. Validators are made once for each entry."""

    def __init__(self, context: EdgeContext) -> None:
        self._context = context
        self._made: dict[tuple[str, int, str], tuple[CatalogEntry, Draft202012Validator]] = {}

    def check(self, event: EventData) -> None:
        """Raise `InvalidEvent` if plugins publish the type, and the data fit none of their schemas."""
        entries = [
            e for e in self._context.event_types(event.type) if e.published and e.version == event.version
        ]
        if not entries:
            return
        value = json.loads(event.data)
        problems = [self._problems(entry, value) for entry in entries]
        if all(problems):
            raise InvalidEvent(
                f"{event.type} v{event.version} does not fit its schema",
                errors=problems[0][:_SHOWN],
                fix=f"GET /admin/events/types tells the schema of {event.type}",
            )

    def _problems(self, entry: CatalogEntry, value: object) -> list[str]:
        return [
            f"{error.json_path}: {error.message[:200]}" for error in self._validator(entry).iter_errors(value)
        ]

    def _validator(self, entry: CatalogEntry) -> Draft202012Validator:
        key = (entry.type, entry.version, entry.plugin_id)
        known, validator = self._made.get(key, (None, None))
        if known is entry and validator is not None:  # a reloaded plugin has made a new entry
            return validator
        from jsonschema import Draft202012Validator  # dear to import, and not every kernel needs it

        validator = Draft202012Validator(entry.json_schema)
        self._made[key] = (entry, validator)
        return validator
