"""The values that CloudEvents attributes may have, and how they are read. Pure functions.

Everything that is refused here is a 400, raised as `Problem`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from .problems import Problem

Attribute = str | int | bool
Attributes = dict[str, Attribute]

_NAME = re.compile(r"[a-z0-9]+")
_URI_REFERENCE = re.compile(r"(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_BROKEN_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_IN_HEADER = re.compile(r"[^\x20-\x7e]")
_NONCHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
_NOT_IN_STRING = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]")
_INT32 = 2**31


def malformed(detail: str, attribute: str = "", *, fix: str = "") -> NoReturn:
    """Refuse what is not a CloudEvent; `attribute` names the culprit where there is one."""
    extensions = {"attribute": attribute} if attribute else None
    raise Problem(400, "malformed-cloudevent", detail, fix=fix, extensions=extensions)


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name) or name == "data":
        malformed(f"{name!r} is not an attribute name", name, fix="a-z and 0-9 only, and not 'data'")
    return name


def from_header(name: str, raw: bytes) -> str:
    """The value of a `ce-` header: quotes of older senders undone, then percent-decoded once."""
    text = raw.decode("latin-1").strip(" \t")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    if _NOT_IN_HEADER.search(text) or _BROKEN_PERCENT.search(text):
        fix = "encode every byte of UTF-8 outside 0x21-0x7E, and '%' itself, as %25"
        malformed(f"the header ce-{name} is not percent-encoded", name, fix=fix)
    try:
        return _text(name, unquote_to_bytes(text).decode())
    except UnicodeDecodeError:
        malformed(f"the header ce-{name} is not UTF-8 after percent-decoding", name)


def from_json_value(name: str, value: Any) -> Attribute:
    """The value of a JSON member: a string, a boolean, or an integer of 32 bits."""
    if isinstance(value, str):
        return _text(name, value)
    if not isinstance(value, int) or not -_INT32 <= value < _INT32:
        expected = "a string, a boolean or an integer of 32 bits; put anything else into data"
        malformed(f"the attribute {name!r} has a value that CloudEvents does not know", name, fix=expected)
    return value


def _text(name: str, value: str) -> str:
    if _NOT_IN_STRING.search(value):
        malformed(f"the attribute {name!r} contains a control character or noncharacter", name)
    return value


# Each of these takes one attribute out, so that what is left are the extensions that nobody knows.


def take(attributes: Attributes, name: str) -> str | None:
    """A non-empty string, or None where the attribute is absent."""
    value = attributes.pop(name, None)
    if value is not None and (not isinstance(value, str) or not value):
        malformed(f"the attribute {name!r} is not a non-empty string", name)
    return value


def take_required(attributes: Attributes, name: str) -> str:
    value = take(attributes, name)
    if value is None:
        malformed(f"the attribute {name!r} is missing", name, fix="required: specversion, id, source, type")
    return value


def take_source(attributes: Attributes) -> str:
    return _uri(take_required(attributes, "source"), "source")


def take_schema(attributes: Attributes) -> str | None:
    """`dataschema`, an absolute URI."""
    value = take(attributes, "dataschema")
    if value is not None and not _SCHEME.match(_uri(value, "dataschema")):
        malformed("dataschema is not an absolute URI", "dataschema")
    return value


def take_time(attributes: Attributes, name: str) -> datetime | None:
    """A time in UTC."""
    value = take(attributes, name)
    if value is None:
        return None
    moment = _moment(value) if _TIME.fullmatch(value) else None
    if moment is None or not 1 < moment.year < 9999:  # not every time zone has the first and the last year
        malformed(f"the attribute {name!r} is not an RFC 3339 time", name, fix="like 2026-01-31T08:00:00Z")
    return moment


def _moment(value: str) -> datetime | None:
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):  # the thirteenth month; the year 0
        return None


def _uri(value: str, name: str) -> str:
    if not _URI_REFERENCE.fullmatch(value):
        malformed(f"the attribute {name!r} is not a URI reference", name, fix="for example '/shop/checkout'")
    return value
