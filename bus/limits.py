"""What the limits of a broker mean for one topic, and for who orders by topics. Pure."""

from __future__ import annotations

from contracts.bus import BusLimits, SubscriptionSpec
from contracts.errors import InvalidOption
from contracts.patterns import RESERVED_TOPICS, is_type_name, topic_of

ROUTE_CACHE = 10_000
"""Event types whose readers are remembered."""


def merged(limits: BusLimits | None, partitions: int | dict[str, int] | None) -> BusLimits:
    """`limits` with so many partitions, where that is given."""
    limits = limits or BusLimits()
    return limits if partitions is None else limits.model_copy(update={"partitions": partitions})


def partitions_of(limits: BusLimits, topic: str) -> int:
    """How many a topic has, or will have."""
    if topic in RESERVED_TOPICS:
        return 1
    return limits.partitions if isinstance(limits.partitions, int) else limits.partitions.get(topic, 1)


def check_partitions(limits: BusLimits) -> BusLimits:
    """Raises `InvalidOption` for what is no number of partitions."""
    given = limits.partitions
    counts = {"every topic": given} if isinstance(given, int) else given
    for topic in given if isinstance(given, dict) else ():
        if topic_of(topic) != topic or not is_type_name(topic):
            raise InvalidOption(f"{topic!r} is no topic", fix="the first word of a type name: 'orders'")
    for topic, count in counts.items():
        if count < 1 or (count > 1 and topic in RESERVED_TOPICS):
            wanted = "1: it is reserved" if topic in RESERVED_TOPICS else "from 1"
            raise InvalidOption(f"{topic} has {count} partitions", fix=wanted)
    return limits


def check_order(spec: SubscriptionSpec, limits: BusLimits) -> None:
    """Raises `InvalidOption` if a topic that `spec` wants in order may have several partitions."""
    if spec.options.order != "topic":
        return
    for pattern in spec.patterns:
        topic, count = _widest(pattern, limits)
        if count > 1:
            raise InvalidOption(
                f"group {spec.group!r} wants {pattern!r} in the order of the topic, but {topic} has"
                f" {count} partitions",
                fix="order='key', or one partition for the topic",
            )


def _widest(pattern: str, limits: BusLimits) -> tuple[str, int]:
    """The topic that `pattern` may select with the most partitions."""
    if pattern != "**":
        topic = topic_of(pattern)
        return f"topic {topic!r}", partitions_of(limits, topic)
    if isinstance(limits.partitions, int):
        return "every topic", limits.partitions
    counts = limits.partitions or {"every topic": 1}
    topic = max(counts, key=lambda name: counts[name])
    return f"topic {topic!r}", counts[topic]
