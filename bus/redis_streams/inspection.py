"""What can be seen of groups and topics, as it stands in Redis; and whether everything is quiet."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import hiredis

from contracts.bus import GroupInfo, TopicInfo

from ..group_state import state_of
from .layout import order_of, owner_of, sequence_of
from .registry import GroupRecord
from .scripts import script
from .trimming import selects
from .wire import Command

if TYPE_CHECKING:
    from .core import Core

T = TypeVar("T")

_SHOWN = ("handled", "failed", "discarded", "expired", "filtered", "repeated", "dropped", "stale")
_EXACTLY = 2_000
"""Events behind a group up to which those that it selects are counted one by one."""


class _Sum:
    """What adds up over the places of a group."""

    def __init__(self) -> None:
        self.waiting = self.in_flight = self.parked = self.dead = self.replaying = 0
        self.counters = Counter[str]()
        self.owners = Counter[str]()
        self.read = Counter[int]()
        """Read and not settled, by partition."""
        self.oldest: list[float] = []
        """Milliseconds of the server's clock: of what has no final outcome."""


async def all_of(looks: Iterable[Coroutine[Any, Any, T]], at_once: int) -> list[T]:
    """What they give. Several at once, because their commands travel together; the first error is raised."""
    found: list[T] = []
    todo = iter(looks)
    while some := list(itertools.islice(todo, at_once)):
        for one in await asyncio.gather(*some, return_exceptions=True):
            if isinstance(one, BaseException):
                raise one
            found.append(one)
    return found


async def look_at_group(core: Core, record: GroupRecord) -> GroupInfo:
    """Raises `Lost`, `Refused`."""
    view, group = core.registry.view, record.spec.group
    places = view.places_of(record.spec.patterns)
    found = _Sum()
    await _add_places(core, record, places, found)
    await _add_partitions(core, record, places, found)
    is_ephemeral = record.spec.options.broadcast
    local = {hosting.spec.group: hosting for hosting in core.hosted}.get(group)
    if is_ephemeral and local is not None:
        found.waiting = sum(place.waiting for place in local.owned())
        found.in_flight = sum(place.open for place in local.owned())
        found.parked = sum(place.lot.parked for place in local.owned())
    hosts = view.hosts_of(group)
    living = await core.members.living(hosts)
    others = [record for name, record in view.replicas.items() if name != core.replica]
    rate = sum(replica.rates.get(group, 0.0) for replica in others)
    broken = {name for name, replica in view.replicas.items() if group in replica.broken} - {core.replica}
    if local is not None:
        rate += local.per_second
        broken |= {core.replica} if local.is_broken else set()
    now_ms = core.members.server_ms(core.clock.monotonic())
    counted = {name: found.counters[name] for name in _SHOWN}
    return GroupInfo(
        group=group,
        plugin_id=record.spec.plugin_id,
        patterns=record.spec.patterns,
        state=state_of(record.spec, [hosts[name] for name in living]),
        paused=record.paused,
        waiting=found.waiting,
        peak=max(found.counters["peak"], found.waiting),
        oldest_age=max(0.0, (now_ms - min(found.oldest)) / 1e3) if found.oldest else None,
        in_flight=found.in_flight,
        parked=found.parked,
        dead=found.dead,
        rate=rate,
        replaying=found.replaying,
        open_breakers=tuple(sorted(broken)),
        owners=dict(found.owners),
        **counted,
    )


async def _add_places(core: Core, record: GroupRecord, places: list[tuple[str, int]], found: _Sum) -> None:
    """Topic by topic: what lies in the streams and the lots."""
    keys, group, commands = core.keys, record.spec.group, list[Command]()
    for topic, p in places:
        stream = keys.stream(topic, p)
        commands += [
            ("XINFO", "GROUPS", stream), ("XINFO", "STREAM", stream), ("XPENDING", stream, group),
            ("HLEN", keys.slips(group, topic, p)), _some_of(keys.slips(group, topic, p)),
            ("HGET", keys.replay(group, p), topic),
        ]  # fmt: skip
    replies = await core.link.control.send(*commands) if commands else []
    for at, (topic, p) in enumerate(places):
        groups, info, pending, parked, some, replay = replies[6 * at : 6 * at + 6]
        found.parked += parked if isinstance(parked, int) else 0
        found.oldest += [when for name in _names(some) if (when := _ms(name))]
        if isinstance(pending, list) and pending[0]:
            found.read[p] += pending[0]
            found.oldest.append(_ms(pending[1]))
        if isinstance(replay, bytes):
            found.replaying += json.loads(replay)["left"]
        if not record.spec.options.broadcast:
            lag, first = await _waiting(core, record, topic, p, groups, info)
            found.waiting += lag
            found.oldest += [_ms(first)] if first else []


async def _add_partitions(
    core: Core, record: GroupRecord, places: list[tuple[str, int]], found: _Sum
) -> None:
    """Partition by partition: who owns it, what was counted, what is dead."""
    keys, group, commands = core.keys, record.spec.group, list[Command]()
    most = max((p + 1 for _, p in places), default=0)
    for p in range(most):
        commands += [
            ("HGET", keys.own(p), group), ("HGETALL", keys.tally(group, p)), ("XLEN", keys.dead(group, p))
        ]  # fmt: skip
    replies = await core.link.control.send(*commands) if commands else []
    for p in range(most):
        owner, tally, letters = replies[3 * p : 3 * p + 3]
        found.dead += letters if isinstance(letters, int) else 0
        found.counters.update(_tally(tally))
        name = owner_of(owner if isinstance(owner, bytes) else None)
        if name in core.registry.view.replicas:
            found.in_flight += found.read[p]
            found.owners[name] += sum(1 for _, number in places if number == p)
        else:
            found.waiting += found.read[p]  # read once, and nobody has it now


async def _waiting(
    core: Core, record: GroupRecord, topic: str, p: int, groups: Any, info: Any
) -> tuple[int, bytes]:
    """Events that it selects and has not read, and the first that it has not read (empty: none)."""
    place = _place(groups, record.spec.group)
    if place is None or not isinstance(info, list):
        return 0, b""
    read, last = place[b"last-delivered-id"], _fields(info)[b"last-generated-id"]
    lag = sequence_of(last) - sequence_of(read)
    if order_of(read) >= order_of(last):
        return 0, b""
    if lag > _EXACTLY:
        return lag, b""
    _, _, *flat = await core.link.control.call(
        script("census"), (core.keys.stream(topic, p),), read, "+", _EXACTLY
    )
    count = sum(
        number
        for kind, number in zip(flat[::2], flat[1::2], strict=True)
        if not kind or selects(record, kind)
    )
    first = (
        await core.link.control.ask("XRANGE", core.keys.stream(topic, p), b"(" + read, "+", "COUNT", 1)
        if count
        else []
    )
    return count, first[0][0] if first else b""


async def look_at_topic(core: Core, topic: str, count: int) -> TopicInfo:
    keys, wire = core.keys, core.link.control
    commands: list[Command] = []
    for p in range(count):
        stream = keys.stream(topic, p)
        commands += [
            ("XLEN", stream), ("HMGET", keys.numbers(topic, p), "n", "peak"),
            ("XRANGE", stream, "-", "+", "COUNT", 1),
        ]  # fmt: skip
    replies = await wire.ask_all(*commands)
    events = published = peak = 0
    oldest: list[float] = []
    for p in range(count):
        length, numbers, first = replies[3 * p : 3 * p + 3]
        events += length
        published += int(numbers[0] or 0)
        peak += max(length, int(numbers[1] or 0))
        if first:
            oldest.append(_ms(first[0][0]))
    holder = ""
    for p in range(count):
        if replies[3 * p]:
            _, held, _ = await core.trimmer.trim(topic, p)
            holder = holder or held
    now_ms = core.members.server_ms(core.clock.monotonic())
    others = [record for name, record in core.registry.view.replicas.items() if name != core.replica]
    rate = core.publisher.per_second(topic) + sum(record.rates.get(f"/{topic}", 0.0) for record in others)
    return TopicInfo(
        topic=topic,
        partitions=count,
        events=events,
        peak=peak,
        limit=core.limits.limit,
        published=published,
        rate=rate,
        oldest_age=max(0.0, (now_ms - min(oldest)) / 1e3) if oldest else None,
        holder=holder or None,
    )


async def is_quiet(core: Core, since: dict[str, bytes]) -> bool:
    """Whether everything behind `since` has a final outcome in every group, and nothing is to come."""
    if not (core.announcer.is_silent and core.overflow.is_silent and core.publisher.is_idle):
        return False
    view, keys = await core.registry.refresh(), core.keys
    most = max(view.topics.values(), default=0)
    if most and any(await core.link.control.ask_all(*(("ZCARD", keys.delayed(p)) for p in range(most)))):
        return False
    for hosting in core.hosted:
        if hosting.is_ephemeral and any(
            place.open or place.has_work or place.lot.parked for place in hosting.owned()
        ):
            return False
    for topic, count in view.topics.items():
        records = [
            record for record in view.groups.values()
            if topic in view.topics_of(record.spec.patterns) and not record.spec.options.broadcast
        ]  # fmt: skip
        if records:
            for p in range(count):
                if not await _is_quiet(core, topic, p, records, since.get(f"{topic}/{p}", b"0-0")):
                    return False
    return True


async def _is_quiet(core: Core, topic: str, p: int, records: list[GroupRecord], since: bytes) -> bool:
    keys, wire = core.keys, core.link.control
    stream = keys.stream(topic, p)
    commands: list[Command] = [("XINFO", "GROUPS", stream), ("XINFO", "STREAM", stream)]
    for record in records:
        group = record.spec.group
        commands += [
            ("XPENDING", stream, group), _some_of(keys.slips(group, topic, p)),
            ("HGET", keys.replay(group, p), topic),
        ]  # fmt: skip
    groups, info, *rest = await wire.send(*commands)
    if not isinstance(info, list) or isinstance(groups, hiredis.ReplyError):
        return True  # nothing was ever published there
    last = _fields(info)[b"last-generated-id"]
    for at, record in enumerate(records):
        place = _place(groups, record.spec.group)
        pending, some, replay = rest[3 * at : 3 * at + 3]
        if place is None or _is_busy(pending, some, replay, since):
            return False
        read = max(place[b"last-delivered-id"], since, key=order_of)
        if order_of(read) < order_of(last) and await _has_selected(core, record, stream, read):
            return False
    return True


def _some_of(slips: str) -> Command:
    """Names in a lot: all of a small one, hundreds of one that is not."""
    return ("HSCAN", slips, 0, "COUNT", 500)


def _names(some: Any) -> list[bytes]:
    return some[1][::2] if isinstance(some, list) else []


def _is_busy(pending: Any, some: Any, replay: Any, since: bytes) -> bool:
    """Whether something behind `since` was read and not settled, waits in the lot, or is replayed."""
    if isinstance(replay, bytes):
        return True
    if isinstance(pending, list) and pending[0] and order_of(pending[2]) > order_of(since):
        return True
    is_more = isinstance(some, list) and some[0] != b"0"
    return is_more or any(not name[:1].isdigit() or order_of(name) > order_of(since) for name in _names(some))


async def _has_selected(core: Core, record: GroupRecord, stream: str, read: bytes) -> bool:
    """Whether there is an event behind `read` that the group wants."""
    while True:
        read, looked, *flat = await core.link.control.call(script("census"), (stream,), read, "+", 500)
        if any(not kind or selects(record, kind) for kind in flat[::2]):
            return True
        if looked < 500:
            return False


def _place(groups: Any, group: str) -> dict[bytes, Any] | None:
    if not isinstance(groups, list):
        return None
    return next((found for found in map(_fields, groups) if found[b"name"] == group.encode()), None)


def _fields(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _tally(flat: Any) -> dict[str, int]:
    if not isinstance(flat, list):
        return {}
    return {
        name.decode(): int(value) for name, value in zip(flat[::2], flat[1::2], strict=True)
        if value.isdigit() and b":" not in name and name not in (b"turn", b"began", b"known")
    }  # fmt: skip


def _ms(entry: bytes) -> float:
    """When it was written; 0: its name does not tell."""
    first = entry.lstrip(b"rd").partition(b"-")[0]
    return float(first) if first.isdigit() and entry[:1] != b"d" else 0.0
