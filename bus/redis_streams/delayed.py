"""Events that were published for later, by the clock of Redis. Every replica looks; a script publishes."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from .place import RedisPlace
from .scripts import script
from .unreadable import stored_message
from .wire import Lost, Refused

if TYPE_CHECKING:
    from .core import Core

_MOST = 100
_NO_ROOM = 1.0
"""Seconds until what found no room is tried again."""
_TELL = 0.1
"""Seconds between two hints to the others."""


class Delayed:
    """Wakes when something is due."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._due: float | None = None
        """Monotonic seconds: when it looks next."""
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._told = 0.0

    def start(self) -> None:
        self.look()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def expect(self, seconds: float) -> None:
        """Something was kept back for so long."""
        due = self._core.clock.monotonic() + seconds
        if self._due is None or due < self._due:
            self._wait(seconds)
            now = self._core.clock.monotonic()
            if now - self._told > _TELL:
                self._told = now
                self._core.spawn(self._core.registry.tell("delayed"), "plugbus:redis:tell")

    def look(self) -> None:
        """Now."""
        if (self._task is None or self._task.done()) and not self._core.is_closed:
            self._task = self._core.spawn(self._look(), "plugbus:redis:delayed")

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._core.clock.monotonic() + seconds
        self._timer = asyncio.get_running_loop().call_later(max(0.001, seconds), self._ring)

    def _ring(self) -> None:
        self._timer, self._due = None, None
        self.look()

    async def _look(self) -> None:
        core, keys = self._core, self._core.keys
        most = max(core.registry.view.topics.values(), default=0)
        following: list[float] = []
        try:
            await core.link.ready(core.link.control)
            kept = (
                await core.link.control.ask_all(
                    *(("ZRANGE", keys.delayed(p), 0, 0, "WITHSCORES") for p in range(most))
                )
                if most
                else []
            )
            now_ms = core.members.server_ms(core.clock.monotonic())
            for p, first in enumerate(kept):
                if not first:
                    continue
                left = (float(first[1]) - now_ms) / 1e3
                if left > 0:
                    following.append(left)
                    continue
                _, due, refused = await core.link.control.call(
                    script("undelay"), (keys.delayed(p), keys.kept_back(p)),
                    _MOST, core.limits.limit, keys.of_partition(p),
                )  # fmt: skip
                core.bell.hurry()
                if refused:
                    following.append(_NO_ROOM)
                elif due:
                    following.append(max(0.0, (float(due) - now_ms) / 1e3))
        except (Lost, Refused):
            following.append(_NO_ROOM)
        if following:
            self._wait(min(following) + 0.001)

    # --- dead letters that were put back ----------------------------------------------------------------

    async def take_redriven(self, place: RedisPlace) -> None:
        """Others have put them into the lot; from now on the owner knows of them."""
        core, keys = self._core, self._core.keys
        key = keys.again(place.group, place.topic, place.number)
        names = await core.link.control.ask("LRANGE", key, 0, -1)
        if not names or place.holding.is_lost:
            return
        known = place.lot_names()
        now, now_ms = core.clock.monotonic(), core.members.server_ms(core.clock.monotonic())
        for name in names:
            if name not in known:
                slip, text = await core.link.control.ask_all(
                    ("HGET", keys.slips(place.group, place.topic, place.number), name),
                    ("HGET", keys.lot(place.group, place.topic, place.number), name),
                )
                if slip is not None and text is not None and not place.holding.is_lost:
                    found = json.loads(slip)
                    due = now + (found["t"] - now_ms) / 1e3 if "t" in found else None
                    place.add_redriven(name, found, stored_message(text, name), due)
            await core.link.control.ask("LREM", key, 1, name)
        hosting = place.holding.hosting
        core.reader.settle_soon(place)
        hosting.arm()
