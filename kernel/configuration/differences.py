"""What differs between two states of what is set live, as it may be shown. Pure."""

from __future__ import annotations

from pydantic import JsonValue

from contracts.messages import ChangedKey

from .live import LiveConfiguration, LiveValue
from .places import Schema
from .secrets import masked


def changed_keys(
    before: LiveConfiguration, after: LiveConfiguration, schema: Schema | None
) -> tuple[ChangedKey, ...]:
    """Every key that was set, changed or taken back; secrets are masked."""
    old, new = ({each.path: each for each in live.values} for live in (before, after))
    changed = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
    return tuple(
        ChangedKey(
            key=".".join(path), before=_shown(old.get(path), schema), after=_shown(new.get(path), schema)
        )
        for path in changed
    )


def _shown(value: LiveValue | None, schema: Schema | None) -> JsonValue:
    return None if value is None else masked(value.path, value.value, schema)
