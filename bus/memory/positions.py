"""Positions in a memory bus, as text: of a receipt (`orders/0:17`), of a tail's item, of the bus. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable

from contracts.errors import InvalidOption

from .partition import Partition

OLDEST = "oldest"
_DIGITS = 19
"""No sequence has so many."""
Cursors = dict[str, int]
"""Prefix of a partition → the next sequence to read. A partition that is not named is read from its start."""


def write_position(incarnation: str, cursors: Cursors, item: str | None = None) -> str:
    """`item`: the prefix of the partition whose event was the last before it."""
    parts = [incarnation, cursors] if item is None else [incarnation, cursors, item]
    return json.dumps(parts, separators=(",", ":"))


def read_position(text: str) -> tuple[str, Cursors]:
    """Raises `InvalidOption` for a text that is no position."""
    incarnation, cursors, _ = _parsed(text)
    return incarnation, cursors


def read_item(text: str) -> tuple[str, Cursors]:
    """The same, but before the event that the position was given with."""
    incarnation, cursors, item = _parsed(text)
    return incarnation, {prefix: at - (prefix == item) for prefix, at in cursors.items()}


def read_receipt(text: str) -> tuple[str, int] | None:
    """Prefix and sequence of a receipt's position; None if it is none."""
    prefix, colon, number = text.rpartition(":")
    topic, slash, _ = prefix.partition("/")
    is_one = topic and slash and number.isdecimal() and len(number) < _DIGITS
    return (prefix + colon, int(number)) if is_one else None


def ends(partitions: Iterable[Partition]) -> Cursors:
    return {partition.prefix: partition.end for partition in partitions}


def _parsed(text: str) -> tuple[str, Cursors, str]:
    try:
        incarnation, cursors, *item = json.loads(text)
        found = {str(prefix): int(sequence) for prefix, sequence in cursors.items()}
        return str(incarnation), found, str(*item)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise InvalidOption(
            f"{text[:60]!r} is not a position of this bus", fix="use the position of an item that a tail gave"
        ) from None
