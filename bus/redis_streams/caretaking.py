"""Groups that drop what is too much for them, while nobody handles them: somebody must drop it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from contracts.messages.delivery import GroupOverflowed

from .layout import FIRST, Names, position_of
from .registry import GroupRecord
from .scripts import script
from .trimming import selects

if TYPE_CHECKING:
    from .core import Core

log = logging.getLogger("plugbus.bus")

_PAGE = 500


async def bound_dormant(core: Core) -> None:
    """Keep every such group to its bound. Raises `Lost`, `Refused`."""
    view = core.registry.view
    for group, record in list(view.groups.items()):
        options = record.spec.options
        if options.max_waiting is not None and not options.broadcast and not view.hosts_of(group):
            for topic, p in view.places_of(record.spec.patterns):
                await _bound(core, record, topic, p, options.max_waiting)


async def _bound(core: Core, record: GroupRecord, topic: str, p: int, most: int) -> None:
    """Own its partition for a moment: what waits is read, and what is too much is settled."""
    wire, group = core.link.control, record.spec.group
    names = core.keys.names(group, topic, p)
    stream = names.stream
    [pending] = await wire.send(("XPENDING", stream, group))
    read = await _read_up_to(core, group, stream)
    if read is None or not isinstance(pending, list):
        return
    _, _, *flat = await wire.call(script("census"), (stream,), read, "+", most + _PAGE)
    unread = sum(n for kind, n in zip(flat[::2], flat[1::2], strict=True) if kind and selects(record, kind))
    if not unread or unread + pending[0] <= most:
        return
    taken = await wire.call(script("take"), (names.own, names.tally), group, core.replica, b"", b"")
    if taken[0] != b"ok":
        return
    fence = taken[1]
    try:
        waiting = await _pending(core, names, group, fence)
        unwanted: list[bytes] = []
        while True:
            answer = await wire.call(script("fetch"), (names.own, stream), group, fence, _PAGE)
            entries: list[Any] = answer[1][0][1] if answer[0] == b"ok" and answer[1] else []
            for entry, fields in entries:
                wants = bool(fields) and (fields[0] != b"t" or selects(record, fields[1]))
                (waiting if wants else unwanted).append(entry)
            if len(entries) < _PAGE:
                break
        excess = max(0, len(waiting) - most)
        oldest = record.spec.options.overflow == "drop_oldest"
        dropped = (waiting[:excess] if oldest else waiting[most:]) if excess else []
        await _settle(core, names, group, fence, topic, unwanted, dropped)
    finally:
        await wire.call(script("release"), (names.own,), group, fence)
    if dropped:
        _tell(core, record, topic, p, dropped)


async def _read_up_to(core: Core, group: str, stream: str) -> bytes | None:
    [groups] = await core.link.control.send(("XINFO", "GROUPS", stream))
    if not isinstance(groups, list):
        return None
    for flat in groups:
        found = dict(zip(flat[::2], flat[1::2], strict=True))
        if found[b"name"] == group.encode():
            last: bytes = found[b"last-delivered-id"]
            return last
    return None


async def _pending(core: Core, names: Names, group: str, fence: bytes) -> list[bytes]:
    behind, found = FIRST, list[bytes]()
    while True:
        answer = await core.link.control.call(script("recover"), names.taken, group, fence, behind, _PAGE)
        page = answer[2] if answer[0] == b"ok" else []
        found += [entry for entry, _, _ in page]
        if len(page) < _PAGE:
            return found
        behind = page[-1][0]


async def _settle(
    core: Core,
    names: Names,
    group: str,
    fence: bytes,
    topic: str,
    unwanted: list[bytes],
    dropped: list[bytes],
) -> None:
    entries = unwanted + dropped
    for number, at in enumerate(range(0, len(entries), _PAGE)):
        page = entries[at : at + _PAGE]
        await core.link.control.call(
            script("settle"), names.settle, group, fence, topic, number + 1, 1, 1, 1, "ack", len(page), *page,
            "count", "dropped", len(set(page) & set(dropped)),
        )  # fmt: skip


def _tell(core: Core, record: GroupRecord, topic: str, p: int, dropped: list[bytes]) -> None:
    spec = record.spec
    first, last = position_of(topic, p, dropped[0]), position_of(topic, p, dropped[-1])
    policy = spec.options.overflow
    log.warning("%s: %d dropped (%s), %s to %s", spec.group, len(dropped), policy, first, last)
    if not record.is_silent:
        core.announcer.say(
            GroupOverflowed(
                group=spec.group, plugin_id=spec.plugin_id, topic=topic, partition=p, policy=policy,
                count=len(dropped), first_position=first, last_position=last,
            )
        )  # fmt: skip
