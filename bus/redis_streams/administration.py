"""Beginning and ending replays: written into Redis, and taken up by whoever owns the places."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from contracts.errors import InvalidOption

from ..checks import nanoseconds
from .layout import entry_of, order_of
from .positions import OLDEST, read_position, read_receipt
from .registry import GroupRecord
from .replaying import restore_replay
from .scripts import script
from .trimming import selects

if TYPE_CHECKING:
    from .core import Core

Edge = dict[tuple[str, int], bytes]
"""Topic and partition → the first entry that is meant."""
_PAGE = 1_000
_END = b"18446744073709551615-18446744073709551615"


async def replay(core: Core, group: str, start: str | datetime, end: str | datetime | None) -> int:
    """How many events it has to go through."""
    view = await core.registry.refresh()
    record = core.registry.find(group)
    places = view.places_of(record.spec.patterns)
    first = _edge(core, places, start, "start")
    last = dict.fromkeys(places, _END) if end is None else _edge(core, places, end, "end")
    total = 0
    for place in places:
        if place in first and place in last:
            total += await _begin(core, record, place, first[place], last[place], start, end)
        else:
            await core.link.control.ask("HDEL", core.keys.replay(group, place[1]), place[0])
    await _taken_up(core, group)
    return total


async def cancel_replay(core: Core, group: str) -> int:
    view = await core.registry.refresh()
    record = core.registry.find(group)
    left = 0
    for topic, p in view.places_of(record.spec.patterns):
        key = core.keys.replay(group, p)
        raw, _ = await core.link.control.ask_all(("HGET", key, topic), ("HDEL", key, topic))
        left += json.loads(raw)["left"] if raw else 0
    await _taken_up(core, group)
    return left


async def _taken_up(core: Core, group: str) -> None:
    for hosting in list(core.hosted):
        if hosting.spec.group == group:
            for place in list(hosting.owned()):
                if place.holding.is_owned:
                    await restore_replay(core, hosting, place)
    await core.registry.tell("replay")


async def _begin(
    core: Core, record: GroupRecord, place: tuple[str, int], first: bytes, last: bytes,
    start: str | datetime, end: str | datetime | None,
) -> int:  # fmt: skip
    """Events of one partition from `first` on, before `last`."""
    topic, p = place
    stream = core.keys.stream(topic, p)
    oldest, newest = await core.link.control.ask_all(
        ("XRANGE", stream, "-", "+", "COUNT", 1), ("XREVRANGE", stream, "+", "-", "COUNT", 1)
    )
    key = core.keys.replay(record.spec.group, p)
    if not oldest:
        await core.link.control.ask("HDEL", key, topic)
        return 0
    behind = entry_of(max(order_of(first), order_of(oldest[0][0])) - 1)
    until = entry_of(min(order_of(last) - 1, order_of(newest[0][0])))
    missed = 0
    if not isinstance(start, datetime) and start != OLDEST and order_of(first) < order_of(oldest[0][0]):
        missed = max(0, (order_of(oldest[0][0]) - order_of(first)) & 0xFFFFFFFF)
    count, at = 0, behind
    while order_of(at) < order_of(until):
        at, looked, *flat = await core.link.control.call(script("census"), (stream,), at, until, _PAGE)
        count += sum(
            number
            for kind, number in zip(flat[::2], flat[1::2], strict=True)
            if kind and selects(record, kind)
        )
        if looked < _PAGE:
            break
    if not count and not missed:
        await core.link.control.ask("HDEL", key, topic)
        return 0
    note: dict[str, Any] = {
        "id": core.ids(), "at": behind.decode(), "to": until.decode(), "left": count, "missed": missed
    }  # fmt: skip
    await core.link.control.ask("HSET", key, topic, json.dumps(note))
    return count


def _edge(core: Core, places: list[tuple[str, int]], given: str | datetime, name: str) -> Edge:
    if isinstance(given, datetime):
        millisecond = -(-nanoseconds(given, name) // 1_000_000)
        return {place: b"%d-0" % max(0, millisecond) for place in places}
    if given == OLDEST:
        return dict.fromkeys(places, b"0-0")
    receipt = read_receipt(given)
    if receipt is not None:
        topic, p, entry = receipt
        if (topic, p) not in places:
            raise InvalidOption(
                f"{name} is {given!r}, and there is no such partition", fix="the position of a receipt"
            )
        return {(topic, p): entry}
    incarnation, cursors, item = read_position(given)
    if incarnation != core.registry.incarnation:
        raise InvalidOption(
            "the position is of data that are gone, with their events", fix=f"start at {OLDEST!r}"
        )
    edge: Edge = {}
    for topic, p in places:
        read = cursors.get(f"{topic}/{p}", b"0-0")
        is_item = item is not None and item == (f"{topic}/{p}", read)
        edge[topic, p] = read if is_item else entry_of(order_of(read) + 1)
    return edge
