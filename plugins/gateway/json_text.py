"""JSON from outside: read strictly, and cut into its own text, so that data are passed on as they are."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import JsonValue
from pydantic_core import from_json

from .attributes import malformed
from .problems import Problem

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def parse_json(body: bytes) -> JsonValue:
    """JSON as RFC 8259 has it: UTF-8, no NaN, nested at most 200 deep. Raises `Problem` (400)."""
    try:
        value: JsonValue = from_json(body, allow_inf_nan=False)
        body.decode()
    except ValueError as error:
        what = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise Problem(400, "malformed-json", f"the JSON cannot be read: {what}") from None
    return value


def members(body: bytes) -> dict[str, tuple[Any, str]]:
    """Name → (value, its own text) of the object in `body`.

    The text is kept because data are passed on as they are: numbers are not rounded on the way.
    """
    if not isinstance(parse_json(body), dict):
        malformed("the body is not a JSON object", fix="send one event as a JSON object")
    text = body.decode()
    found: dict[str, tuple[Any, str]] = {}
    at = _skip(text, _skip(text, 0) + 1)
    while text[at] != "}":
        name, at = _value(text, at)
        start = _skip(text, _skip(text, at) + 1)
        value, end = _value(text, start)
        if name in found:
            malformed(f"the member {name!r} is there twice", name)
        found[name] = (value, text[start:end])
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except ValueError as error:  # well-formed, but an integer of more digits than Python takes
        raise Problem(400, "malformed-json", f"the JSON cannot be read: {error}") from None


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def elements(body: bytes, most: int) -> list[bytes]:
    """The text of each element of the array in `body`; of more than `most` none is looked at."""
    array = parse_json(body)
    if not isinstance(array, list):
        malformed("the body is not a JSON array", fix="send a batch as an array of events")
    if len(array) > most:
        detail = f"{len(array):,} events are in the batch; at most {most:,} may be"
        raise Problem(413, "batch-too-large", detail, extensions={"limit": most})
    text = body.decode()
    found: list[bytes] = []
    at = _skip(text, _skip(text, 0) + 1)
    while text[at] != "]":
        _, end = _value(text, at)
        found.append(text[at:end].encode())
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found
