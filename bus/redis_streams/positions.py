"""Positions as text: of a receipt (`orders/0:1764301234567-17`), of a tail's item, of the bus. Pure."""

from __future__ import annotations

import json
import re

from contracts.errors import InvalidOption

OLDEST = "oldest"
Cursors = dict[str, bytes]
"""`topic/partition` → the last entry that was read. What is not named is read from its start."""
_ENTRY = re.compile(r"\d{1,19}-\d{1,19}")
_RECEIPT = re.compile(r"([a-z][a-z0-9_]*)/(\d{1,6}):(\d{1,19}-\d{1,19})")


def write_position(incarnation: str, cursors: Cursors, item: tuple[str, bytes] | None = None) -> str:
    """`item`: partition and entry of the event that it is given with."""
    at = {name: entry.decode() for name, entry in cursors.items()}
    parts: list[object] = [incarnation, at]
    if item is not None:
        parts += [item[0], item[1].decode()]
    return json.dumps(parts, separators=(",", ":"))


def read_position(text: str) -> tuple[str, Cursors, tuple[str, bytes] | None]:
    """Raises `InvalidOption` for a text that is no position."""
    try:
        incarnation, cursors, *item = json.loads(text)
        found = {str(name): _entry(entry) for name, entry in cursors.items()}
        return str(incarnation), found, (str(item[0]), _entry(item[1])) if item else None
    except (ValueError, TypeError, AttributeError, IndexError, RecursionError):
        raise InvalidOption(
            f"{text[:60]!r} is not a position of this bus", fix="use the position of an item that a tail gave"
        ) from None


def read_receipt(text: str) -> tuple[str, int, bytes] | None:
    """Topic, partition and entry of a receipt's position; None if it is none."""
    found = _RECEIPT.fullmatch(text)
    return None if found is None else (found[1], int(found[2]), found[3].encode())


def _entry(text: str) -> bytes:
    if not _ENTRY.fullmatch(text):
        raise ValueError(text)
    return text.encode()
