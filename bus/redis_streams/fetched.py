"""What a fetch has brought, sorted out. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .layout import order_of
from .packing import Damaged, StoredMessage, Undecodable, fields_of, is_intact, unpack


class OutOfLine(Exception):
    """Numbers do not follow: something is missing, or a name was changed on its way."""


class Sorted(NamedTuple):
    """Entries by what is to be done with them."""

    messages: list[StoredMessage]
    skipped: list[bytes]
    """Names of what nobody wants."""
    gone: int
    """How many of those somebody else has deleted."""
    rest: list[Any]
    """What lies behind an entry that cannot be read, that one included."""
    has_expiry: bool
    """A message among them has an expiry."""


def sort_out(  # noqa: C901 - one loop: each call less is felt
    entries: list[Any], number: int, selects: Callable[[bytes], bool]
) -> Sorted:
    """`number`: of the event before them; 0: not known. Raises `OutOfLine`."""
    # This runs for each event: what it calls, it calls for what is out of the ordinary. Neighbours mostly
    # share their millisecond and their kind.
    messages, skipped, gone, has_expiry = list[StoredMessage](), list[bytes](), 0, False
    kind, is_wanted, millisecond, base = b"", False, b"", 0
    for at, (entry, fields) in enumerate(entries):
        when, _, said = entry.partition(b"-")
        try:
            if when != millisecond:
                millisecond, base = when, order_of(when + b"-0")
            order = base + int(said)
        except ValueError as error:
            raise OutOfLine from error
        if not fields or fields[0] != b"t":
            number = 0  # of a stranger, who numbers as he likes
        elif number:
            number += 1
            if order != base + number:
                raise OutOfLine
        if not fields:
            skipped.append(entry)
            gone += 1
            continue
        if fields[1] != kind:
            kind = fields[1]
            is_wanted = fields[0] != b"t" or selects(kind)
        try:
            if not is_wanted and is_intact(fields):
                skipped.append(entry)
                continue
            message = unpack(fields_of(fields), entry, order)
        except (Damaged, Undecodable):
            return Sorted(messages, skipped, gone, entries[at:], has_expiry)
        messages.append(message)
        if message.expires_ns is not None:
            has_expiry = True
    return Sorted(messages, skipped, gone, [], has_expiry)
