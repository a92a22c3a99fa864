"""What of a partition is still to be done for a group: asked by trimming, by `quiet`, by people. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from contracts.message import Message

from ..groups import Delivery, GroupPartition
from ..lot import Entry


def oldest_need(part: GroupPartition) -> int | None:
    """The lowest sequence of the log that is not settled and not in the lot."""
    if part.is_ephemeral:
        return None
    first = [message.sequence for message in itertools.islice(part.backlog, 1)]
    first += [
        entry.message.sequence for entry in _out_of_line(part) if entry.slot is None and not entry.replayed
    ]
    first += [delivery.message.sequence for delivery in _in_line(part)]
    return min(first, default=None)


def oldest_ns(part: GroupPartition) -> int | None:
    """When the oldest event without a final outcome was published."""
    return min((message.time_ns for message in _unsettled(part)), default=None)


def has_unsettled(part: GroupPartition, since: int) -> bool:
    """Whether an event with at least this sequence, or a replay, has no final outcome yet."""
    if part.replay is not None and part.replay.left:
        return True
    if any(message.sequence >= since for message in itertools.islice(reversed(part.backlog), 1)):
        return True
    if any(delivery.message.sequence >= since for delivery in _in_line(part)):
        return True
    entries = itertools.chain(_out_of_line(part), part.lot.entries())
    return any(entry.replayed or entry.message.sequence >= since for entry in entries)


def _unsettled(part: GroupPartition) -> Iterator[Message]:
    """The oldest of what waits, and everything else."""
    yield from itertools.islice(part.backlog, 1)
    for delivery in _in_line(part):
        yield delivery.message
    for entry in itertools.chain(_out_of_line(part), part.lot.entries()):
        yield entry.message


def _in_line(part: GroupPartition) -> Iterator[Delivery]:
    """In flight on the straight way."""
    return (delivery for delivery in part.in_flight if delivery.entry is None)


def _out_of_line(part: GroupPartition) -> Iterator[Entry]:
    """Neither waiting for the first time nor in the lot."""
    yield from part.returned
    yield from part.suspects
    for delivery in part.in_flight:
        if delivery.entry is not None:
            yield delivery.entry
