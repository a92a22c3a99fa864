"""What a variable of the environment says, in the type that the plugin's schema wants. Pure.

A variable is text. Without a schema it counts as JSON where it is JSON: `8000` is a number. With one, a
secret that is made of digits stays text, and `yes` is a flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from ..settings_sources import KeyPath, json_or_text
from .places import Schema, kinds_at

_FLAGS = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip
_NUMBERS = {"integer", "number"}


def as_wanted(text: str, schema: Schema | None, path: KeyPath) -> JsonValue:
    """The value of a variable for the key at `path`."""
    found: JsonValue = json_or_text(text)
    kinds = kinds_at(schema, path)
    if isinstance(found, dict | list) and kinds & {"object", "array"}:
        return found
    if "string" in kinds and not (found is None and "null" in kinds):
        return text
    if "boolean" in kinds and not kinds & _NUMBERS:
        return _FLAGS.get(text.strip().lower(), found)
    return found


def with_variables(
    configuration: Mapping[str, JsonValue], texts: Mapping[KeyPath, str], schema: Schema | None
) -> dict[str, JsonValue]:
    """`configuration` with what variables say in it, as the schema wants it."""
    joined: dict[str, Any] = dict(configuration)
    for path, text in texts.items():
        joined = _replaced(joined, path, as_wanted(text, schema, path))
    return joined


def _replaced(table: dict[str, Any], path: KeyPath, value: JsonValue) -> dict[str, Any]:
    """The original is left alone; nothing is added where something else has taken the place."""
    first, *rest = path
    if first not in table or (rest and not isinstance(table[first], dict)):
        return table
    return {**table, first: _replaced(table[first], tuple(rest), value) if rest else value}
