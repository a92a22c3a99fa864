"""What a fetch has brought, sorted out. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .packing import Damaged, StoredMessage, Undecodable, is_intact, unpack_named


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


def sort_out(entries: list[Any], number: int, selects: Callable[[bytes], bool]) -> Sorted:
    """`number`: of the event before them; 0: not known. Raises `OutOfLine`."""
    _look_at_numbers(entries, number)
    # This runs for each event: what it calls, it calls for what is out of the ordinary.
    messages, skipped, gone, has_expiry = list[StoredMessage](), list[bytes](), 0, False
    add, kind, is_wanted = messages.append, b"", False  # neighbours mostly share their kind
    for at, (entry, fields) in enumerate(entries):
        if not fields:
            skipped.append(entry)
            gone += 1
            continue
        if fields[1] != kind:
            kind = fields[1]
            is_wanted = selects(kind)
        try:
            if not is_wanted and is_intact(fields):
                skipped.append(entry)
                continue
            message = unpack_named(fields, entry)
        except (Damaged, Undecodable):
            return Sorted(messages, skipped, gone, entries[at:], has_expiry)
        add(message)
        if message.expires_ns is not None:
            has_expiry = True
    return Sorted(messages, skipped, gone, [], has_expiry)


def _look_at_numbers(entries: list[Any], number: int) -> None:
    """All have names, and those of ours count on from `number`. Raises `OutOfLine`."""
    if not entries:
        return
    # All at once, which costs a third of looking at one after the other.
    names = b" ".join([entry for entry, _ in entries])
    halves = names.replace(b"-", b" ").split()
    dashes = b" ".join([b"-"] * len(entries))
    if names.translate(None, b"0123456789") != dashes or len(halves) != 2 * len(entries):
        raise OutOfLine
    numbers = list(map(int, halves[1::2]))
    if not number or numbers == list(range(number + 1, number + 1 + len(entries))):
        return
    for (_, fields), found in zip(entries, numbers, strict=True):
        if not fields or fields[0] != b"t":
            number = 0  # of a stranger, who numbers as he likes
        elif number:
            number += 1
            if found != number:
                raise OutOfLine
