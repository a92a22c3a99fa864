"""Retention: who trims which topic, groups that nobody handles, and room where a topic is full."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from contracts.errors import GroupNotFound
from contracts.patterns import matches

from .background import keep_on
from .packing import Undecodable, parse_kind
from .placement import highest
from .registry import GroupRecord
from .scripts import script
from .wire import Lost, Refused

if TYPE_CHECKING:
    from .core import Core

log = logging.getLogger("plugbus.bus")

_OFTEN, _SELDOM = 1.0, 60.0
"""Seconds between two looks at what changes, and at everything."""
_MANY = 100
"""Partitions for which a look costs nothing to speak of; of more, looks are as much rarer."""
_OBSERVED = 60.0
"""Seconds that a group must have been seen without a handler: a clock that jumps retires nothing."""

Place = tuple[str, int]


class Trimmer:
    """Each topic and partition is trimmed by one of the replicas that live; anybody may, when it is full."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._trims: dict[Place, asyncio.Future[str]] = {}
        self._numbers: dict[Place, Any] = {}
        """How far each was when it was trimmed last, and nothing more was to do."""
        self._dormant: dict[str, float] = {}
        """Since when (monotonic) we have seen nobody handle a group."""
        self._looked = -_SELDOM
        """When (monotonic) at everything."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(
            keep_on("trimming", self._turn, lambda: self._core.is_closed), name="plugbus:redis:trim"
        )

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        for future in self._trims.values():
            future.cancel()

    # --- room ---------------------------------------------------------------------------------------

    def make_room(self, topic: str, p: int) -> asyncio.Future[str]:
        """Trim now; who holds what might go (empty: nobody)."""
        future = self._trims.get((topic, p))
        if future is None:
            future = self._trims[topic, p] = asyncio.get_running_loop().create_future()
            self._core.spawn(self._make_room((topic, p), future), f"plugbus:redis:room:{topic}/{p}")
        return asyncio.shield(future)

    async def _make_room(self, place: Place, future: asyncio.Future[str]) -> None:
        holder = ""
        try:
            await self._core.link.ready(self._core.link.control)
            left, holder, _ = await self.trim(*place)
            if left < self._core.limits.limit:
                holder = ""
        except (Lost, Refused) as error:
            log.debug("no room in %s/%d: %s", *place, error)
        finally:
            self._trims.pop(place, None)
            if not future.done():
                future.set_result(holder)

    async def trim(self, topic: str, p: int) -> tuple[int, str, int]:
        """Entries left, who holds what might go, how many went. Raises `Lost`, `Refused`."""
        core, keys, limits = self._core, self._core.keys, self._core.limits
        left, holder, _, gone = await core.link.control.call(
            script("trim"), (keys.stream(topic, p), keys.numbers(topic, p), keys.low(topic, p)),
            limits.retain, int(limits.retain_seconds * 1e3), int(limits.young_seconds * 1e3), limits.limit,
        )  # fmt: skip
        group = holder.decode()
        if group and await self._skip(group, topic, p):
            return await self.trim(topic, p)
        return left, group, gone

    async def _skip(self, group: str, topic: str, p: int) -> bool:
        """A group that nobody handles must not hold events that it does not want; whether it went on."""
        core, view = self._core, self._core.registry.view
        record = view.groups.get(group)
        if record is None or view.hosts_of(group):
            return False
        stream = core.keys.stream(topic, p)
        skipped = False
        unwanted: set[bytes] = set()
        while True:
            _, unknown, moved = await core.link.control.call(
                script("skip"), (core.keys.own(p), stream), group, 500, *unwanted
            )
            skipped = skipped or bool(moved)
            if not unknown or selects(record, unknown):
                return skipped
            unwanted.add(unknown)

    # --- the loop -----------------------------------------------------------------------------------

    async def _turn(self) -> None:
        await asyncio.sleep(max(_OFTEN, _OFTEN * len(self._mine()) / _MANY))
        now = self._core.clock.monotonic()
        if now - self._looked >= _SELDOM:
            self._looked = now
            self._numbers.clear()
        try:
            await self._core.link.ready(self._core.link.control)
            await self._look()
        except (Lost, Refused) as error:
            log.debug("trimming: %s", error)

    async def _look(self) -> None:
        core, keys = self._core, self._core.keys
        mine = self._mine()
        if not mine:
            return
        numbers = await core.link.control.ask_all(*(("HGET", keys.numbers(*place), "n") for place in mine))
        for place, number in zip(mine, numbers, strict=True):
            if number is not None and self._numbers.get(place) != number:
                left, holder, gone = await self.trim(*place)
                is_over = left > core.limits.retain and (holder or gone)
                self._numbers[place] = None if is_over else number

    def _mine(self) -> list[Place]:
        view, me = self._core.registry.view, self._core.replica
        replicas = list(view.replicas)
        return [
            (topic, p) for topic, count in view.topics.items() for p in range(count)
            if len(replicas) <= 1 or highest(replicas, f"{topic}/{p}") == me
        ]  # fmt: skip

    # --- groups that nobody handles -------------------------------------------------------------------

    async def look_at_dormant(self) -> None:
        """Note since when, and retire what is dormant for too long."""
        core, view = self._core, self._core.registry.view
        now = core.clock.monotonic()
        now_ms = core.members.server_ms(now)
        for group, record in list(view.groups.items()):
            if record.spec.options.broadcast:
                continue
            is_dormant = not view.hosts_of(group)
            if not is_dormant:
                self._dormant.pop(group, None)
                if record.dormant_ms is not None and any(h.spec.group == group for h in core.hosted):
                    await self._note(group, _handled)
                continue
            seen = self._dormant.setdefault(group, now)
            if record.dormant_ms is None:
                if highest(list(view.replicas), group) == core.replica:
                    await self._note(group, lambda known: _dormant(known, now_ms))
                continue
            keep = record.spec.options.keep
            if now_ms - record.dormant_ms >= keep * 1e3 and now - seen >= min(keep, _OBSERVED):
                self._dormant.pop(group, None)
                await core.groups.drop(group, f"nobody handled it for {keep:g} s")

    async def _note(self, group: str, change: Callable[[GroupRecord], GroupRecord | None]) -> None:
        """Unless somebody has just dropped it."""
        with contextlib.suppress(GroupNotFound):
            await self._core.registry.change(group, change)


def selects(record: GroupRecord, kind: bytes) -> bool:
    try:
        name, _ = parse_kind(kind)
    except Undecodable:
        return True
    return any(matches(pattern, name) for pattern in record.spec.patterns)


def _handled(record: GroupRecord) -> GroupRecord | None:
    return None if record.dormant_ms is None else GroupRecord(record.spec, record.paused, None)


def _dormant(record: GroupRecord, now_ms: float) -> GroupRecord | None:
    return GroupRecord(record.spec, record.paused, int(now_ms)) if record.dormant_ms is None else None
