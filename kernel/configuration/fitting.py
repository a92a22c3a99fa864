"""Whether a configuration certainly fits its JSON Schema, without the library that knows all about them.

Most schemas are a flat table of keys with a type and bounds, and importing that library takes longer than
starting several plugins. Whatever is not certain here is asked there: each misfit, and every other keyword.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from .places import Schema

_TABLE = frozenset(("type", "properties", "additionalProperties", "title", "description"))
_TEXTS = ("title", "description")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_RULE = frozenset(("type", "enum", "default", *_TEXTS, *_BOUNDS))
_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,), "boolean": (bool,), "integer": (int,), "number": (int, float),
}  # fmt: skip


def certainly_fits(schema: Schema, configuration: Mapping[str, JsonValue]) -> bool:
    properties = schema.get("properties", {})
    return (
        schema.keys() <= _TABLE
        and schema.get("type") == "object"
        and isinstance(schema.get("additionalProperties", True), bool)
        and isinstance(properties, Mapping)
        and _has_texts(schema)
        and all(map(_is_plain, properties.values()))
        and configuration.keys() <= properties.keys()
        and all(_fits(properties[key], value) for key, value in configuration.items())
    )


def _is_plain(rule: Any) -> bool:
    """Whether it is a schema that all is known of."""
    return (
        isinstance(rule, Mapping)
        and rule.keys() <= _RULE
        and _KINDS.get(str(rule.get("type"))) is not None
        and all(type(rule.get(bound, 0)) in _KINDS["number"] for bound in _BOUNDS)
        and isinstance(rule.get("enum", []), list)
        and all(isinstance(value, str) for value in rule.get("enum", []))
        and _has_texts(rule)
    )


def _has_texts(schema: Mapping[str, Any]) -> bool:
    return all(isinstance(schema.get(text, ""), str) for text in _TEXTS)


def _fits(rule: Mapping[str, Any], value: Any) -> bool:
    if type(value) not in _KINDS[rule["type"]]:  # exactly: true is no number
        return False
    if "enum" in rule and value not in rule["enum"]:
        return False
    return isinstance(value, str) or (
        value >= rule.get("minimum", value)
        and value <= rule.get("maximum", value)
        and ("exclusiveMinimum" not in rule or value > rule["exclusiveMinimum"])
        and ("exclusiveMaximum" not in rule or value < rule["exclusiveMaximum"])
    )
