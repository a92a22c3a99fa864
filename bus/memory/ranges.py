"""From where to where a replay goes, in each partition."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from contracts.errors import InvalidOption

from ..checks import nanoseconds
from .partition import Partition
from .positions import OLDEST, read_item, read_receipt

if TYPE_CHECKING:
    from .broker import MemoryBroker

Edge = dict[Partition, int]


def ranges(
    broker: MemoryBroker, start: str | datetime, end: str | datetime | None
) -> dict[Partition, tuple[int, int]]:
    """First sequence and the one behind the last. Raises `InvalidOption` for what is no position."""
    first = _edge(broker, start, "start")
    last = _newest(broker) if end is None else _edge(broker, end, "end")
    return {
        partition: (first[partition], min(last[partition], partition.end))
        for partition in broker.all_partitions()
        if partition in first and partition in last
    }


def _edge(broker: MemoryBroker, given: str | datetime, name: str) -> Edge:
    if isinstance(given, datetime):
        when_ns = nanoseconds(given, name)
        return {partition: partition.sequence_at(when_ns) for partition in broker.all_partitions()}
    if given == OLDEST:
        return {partition: partition.base for partition in broker.all_partitions()}
    receipt = read_receipt(given)
    if receipt is None:
        return _of_item(broker, given)
    partition = broker.partition(receipt[0])
    if partition is None:
        raise InvalidOption(
            f"{name} is {given!r}, and there is no such partition", fix="the position of a receipt"
        )
    return {partition: receipt[1]}


def _of_item(broker: MemoryBroker, text: str) -> Edge:
    incarnation, cursors = read_item(text)
    if incarnation != broker.incarnation:
        raise InvalidOption(
            "the position is of a memory bus that is gone, with its events", fix=f"start at {OLDEST!r}"
        )
    return {partition: cursors.get(partition.prefix, partition.base) for partition in broker.all_partitions()}


def _newest(broker: MemoryBroker) -> Edge:
    return {partition: partition.end for partition in broker.all_partitions()}
