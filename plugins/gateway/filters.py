"""What a client wants of an event stream: `NAME=VALUE`, read once, held against each event. Pure functions.

`NAME` is an attribute (`type`, `source`, `subject`, `partitionkey`) or a field of the data (`data.order.id`);
in place of `=` there may be `!=` (not equal, or not there) and `^=` (begins with).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue
from pydantic_core import from_json

from contracts.bus import TailItem

from .problems import Problem

ATTRIBUTES = ("type", "source", "subject", "partitionkey")
_FORM = re.compile(r"(?P<name>[^=!^]+)(?P<operator>!=|\^=|=)(?P<value>.*)", re.DOTALL)


@dataclass(frozen=True)
class Filter:
    """One condition. Data fields compare by their text in JSON, numbers by their value."""

    path: tuple[str, ...]
    operator: str
    value: str

    def holds(self, found: JsonValue) -> bool:
        """`found` is what the event has at `path`; None where it has nothing."""
        if self.operator == "!=":
            return not self._equals(found)
        return self._begins(found) if self.operator == "^=" else self._equals(found)

    def _begins(self, found: JsonValue) -> bool:
        return isinstance(found, str) and found.startswith(self.value)

    def _equals(self, found: JsonValue) -> bool:
        if isinstance(found, str):
            return found == self.value
        if isinstance(found, bool):
            return json.dumps(found) == self.value
        if isinstance(found, int | float):
            return _number(self.value) == found
        return False


def _number(text: str) -> float | None:
    try:
        return int(text) if text.lstrip("-").isdecimal() and len(text) < 40 else float(text)
    except ValueError:
        return None


def parse_filter(text: str) -> Filter:
    """Raises `Problem` (422) for what is none; a misspelled one would let nothing through."""
    match = _FORM.fullmatch(text)
    name = match["name"] if match else text
    path = tuple(name.split("."))
    if match and (name in ATTRIBUTES or (path[0] == "data" and len(path) > 1 and all(path))):
        return Filter(path, match["operator"], match["value"])
    near = difflib.get_close_matches(name, ATTRIBUTES, n=1)
    names = f"{', '.join(ATTRIBUTES)} or data.FIELD"
    fix = (
        f"did you mean {near[0]}?"
        if near and near[0] != name
        else f"NAME=VALUE, NAME!=VALUE or NAME^=VALUE; NAME is {names}"
    )
    raise Problem(422, "invalid-filter", f"{text!r} is no filter", fix=fix)


def wanted(filters: Sequence[Filter], item: TailItem) -> bool:
    """Whether all of them hold. Data are read only if one asks for them."""
    data: JsonValue = None
    for each in filters:
        if each.path[0] != "data":
            found: JsonValue = getattr(item.envelope, each.path[0])
        else:
            data = _read(item.data) if data is None else data
            found = _at(data, each.path[1:])
        if not each.holds(found):
            return False
    return True


def _read(text: str) -> JsonValue:
    try:
        data: JsonValue = from_json(text)
    except ValueError:  # a number of more digits than can be read: it has no field that anybody asks for
        data = {}
    return data


def _at(value: JsonValue, path: Sequence[str]) -> JsonValue:
    for word in path:
        if not isinstance(value, dict):
            return None
        value = value.get(word)
    return value
