"""What can be seen of one topic. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.bus import TopicInfo

from .partition import Partition


def topic_info(partitions: Sequence[Partition], limit: int, now_ns: int) -> TopicInfo:
    kept = [partition.messages[0].time_ns for partition in partitions if partition.messages]
    return TopicInfo(
        topic=partitions[0].topic,
        partitions=len(partitions),
        events=sum(len(partition.messages) for partition in partitions),
        peak=sum(partition.peak for partition in partitions),
        limit=limit,
        published=sum(partition.end for partition in partitions),
        rate=sum(partition.rate.per_second(now_ns / 1e9, partition.end) for partition in partitions),
        oldest_age=max(0.0, (now_ns - min(kept)) / 1e9) if kept else None,
        holder=_holder(partitions, now_ns),
    )


def _holder(partitions: Sequence[Partition], now_ns: int) -> str | None:
    """Of several, the one that holds the oldest event."""
    held = [
        (partition.messages[0].time_ns, holder.group)
        for partition in partitions
        if partition.messages and (holder := partition.holder_now(now_ns)) is not None
    ]
    return min(held)[1] if held else None
