"""The storm guard: events that cause one another without end are stopped, and the way they went is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contracts.bus import BusLimits
from contracts.errors import StormDetected
from contracts.message import Message

if TYPE_CHECKING:
    from ..groups import Delivery

SCHEDULE_NS = 10**9
"""What is published so many nanoseconds ahead begins a new chain: a schedule, not a storm."""
_SHOWN = 6
"""Groups of a path that the text of the error shows."""


def follow(message: Message, parent: Delivery, limits: BusLimits) -> None:
    """`message` is published while `parent` is handled: it continues its chain.

    Raises `StormDetected` where the chain is too deep, or passes the group too often.
    """
    group = parent.part.group
    message.depth = parent.message.depth + 1
    message.path = path = (*parent.message.path, group)
    if message.depth > limits.depth or path.count(group) > limits.loops:
        raise _storm(message, group, limits)


def begin_anew(message: Message) -> None:
    """It keeps its causes, but is the first of its chain."""
    message.depth, message.path = 0, ()


def _storm(message: Message, group: str, limits: BusLimits) -> StormDetected:
    path = message.path
    if message.depth > limits.depth:
        what = f"{message.depth} events caused one another (at most {limits.depth})"
    else:
        what = f"events came to {group} {path.count(group)} times (at most {limits.loops})"
    return StormDetected(
        f"{what}, at depth {message.depth}, when {message.type} was to be published: {_shown(path)}",
        path=path,
        where=group,
        fix="break the circle between these handlers, or publish with a delay of a second;"
        f" then: plugbus group resume {group}",
    )


def _shown(path: tuple[str, ...]) -> str:
    """The part that repeats itself, else the end of the path."""
    last = path[-1]
    before = [index for index, name in enumerate(path[:-1]) if name == last]
    start = max(before[-1] if before else 0, len(path) - 1 - _SHOWN)
    shown = " → ".join(path[start:])
    return shown if start == 0 else f"… → {shown}"
