"""What of a configuration may be shown. Pure.

A key is secret by its name or a name above it, or because its schema says so (`writeOnly`, or
`format: password`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from ..settings_problems import MASK, SECRET_WORD, without_password
from ..settings_sources import KeyPath
from .places import Schema, along

_SHORT = 4
"""Secrets below this length are hidden only where they stand as a word: `a` is part of every sentence."""


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Each value of nested tables with its path; an empty table is a value."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*path, str(name)))
    elif path:
        yield path, value


def is_secret(path: KeyPath, schema: Schema | None) -> bool:
    if any(SECRET_WORD.search(word) for word in path):
        return True
    return any(
        node.get("writeOnly") is True or node.get("format") == "password"
        for nodes in along(schema, path)
        for node in nodes
    )


def masked(path: KeyPath, value: JsonValue, schema: Schema | None) -> JsonValue:
    """`value` as it may be shown, with whatever in it is secret masked."""
    if isinstance(value, dict):
        return {name: masked((*path, name), inner, schema) for name, inner in value.items()}
    if value is None:
        return None
    if is_secret(path, schema):
        return MASK
    if isinstance(value, list):
        return [masked((*path, str(index)), inner, schema) for index, inner in enumerate(value)]
    return _without_password(value) if isinstance(value, str) else value


def scrubbed(text: str, configuration: Mapping[str, JsonValue], schema: Schema | None) -> str:
    """A sentence of the plugin's own without any of the secrets that it was given."""
    secrets = {str(value) for path, value in _scalars(configuration) if value and is_secret(path, schema)}
    for secret in sorted(secrets, key=len, reverse=True):
        found = re.escape(secret)
        text = re.sub(found if len(secret) >= _SHORT else rf"(?<!\w){found}(?!\w)", MASK, text)
    return text


def _scalars(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, Mapping | list):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, inner in pairs:
            yield from _scalars(inner, (*path, str(name)))
    else:
        yield path, value


def _without_password(text: str) -> str:
    try:
        return without_password(text) if "://" in text else text
    except ValueError:  # no URL after all
        return text
