"""Groups as operators, rules and the storm guard deal with them: pausing, and the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from contracts.messages.delivery import GroupPaused, GroupRetired

from .inspection import look_at_group
from .registry import GroupRecord
from .wire import Lost, Refused

if TYPE_CHECKING:
    from .core import Core


class Groups:
    """What changes a group as a whole."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._pausing: dict[str, asyncio.Task[None]] = {}
        """Groups that a rule or the storm guard pauses, until it stands in Redis."""

    # --- pausing --------------------------------------------------------------------------------------

    def is_pausing(self, group: str) -> bool:
        return group in self._pausing

    def pause(self, group: str, reason: str) -> bool:
        """At once here, and soon everywhere; False: it was paused already."""
        record = self._core.registry.view.groups.get(group)
        if record is None or record.paused is not None or group in self._pausing:
            return False
        self._core.announcer.say(GroupPaused(group=group, plugin_id=record.spec.plugin_id, reason=reason))
        self._pausing[group] = self._core.spawn(self._pause(group, reason), f"plugbus:redis:pause:{group}")
        for hosting in self._core.hosted:
            if hosting.spec.group == group:
                hosting.set_paused(True)
        return True

    async def paused(self, group: str) -> None:
        """Return when a pause that is under way stands in Redis."""
        task = self._pausing.get(group)
        if task is not None:
            await asyncio.wait((task,))

    async def _pause(self, group: str, reason: str) -> None:
        try:
            while True:
                try:
                    await self._core.link.ready(self._core.link.control)
                    await self._core.registry.change(group, _paused(reason))
                except (Lost, Refused):
                    await asyncio.sleep(0.1)
                else:
                    return
        finally:
            self._pausing.pop(group, None)

    async def set_paused(self, group: str, reason: str) -> bool:
        """Raises `GroupNotFound`."""

        done = await self._core.registry.change(group, _paused(reason))
        if done:
            spec = self._core.registry.find(group).spec
            self._core.announcer.say(GroupPaused(group=group, plugin_id=spec.plugin_id, reason=reason))
        return done

    # --- the end --------------------------------------------------------------------------------------

    async def drop(self, group: str, reason: str | None = None) -> None:
        """Forget it, with everything that it keeps; announced where there is a reason."""
        view = await self._core.registry.refresh()
        record = view.groups.get(group)
        if record is None:
            return None
        given_up = await self._count(record) if reason is not None else Counter[str]()
        if not await self._core.registry.remove(record):
            return await self.drop(group, reason)
        await self._erase(record)
        await self._core.registry.refresh()
        if reason is not None:
            self._core.announcer.say(
                GroupRetired(group=group, plugin_id=record.spec.plugin_id, reason=reason, **given_up)
            )
        return None

    async def drop_ephemeral(self, replica: str) -> None:
        """The groups of a replica that is gone end with it."""
        for name, record in list(self._core.registry.view.groups.items()):
            if record.spec.options.broadcast and name.rpartition("@")[2] == replica:
                await self.drop(name)

    async def _count(self, record: GroupRecord) -> Counter[str]:
        info = await look_at_group(self._core, record)
        return Counter(waiting=info.waiting + info.in_flight, parked=info.parked, dead=info.dead)

    async def _erase(self, record: GroupRecord) -> None:
        keys, group, view = self._core.keys, record.spec.group, self._core.registry.view
        commands: list[tuple[bytes | str | int, ...]] = []
        most = max(view.topics.values(), default=0)
        for topic, count in view.topics.items():
            for p in range(count):
                commands.append(("XGROUP", "DESTROY", keys.stream(topic, p), group))
                commands.append(("HDEL", keys.low(topic, p), group))
                commands.append(
                    (
                        "UNLINK",
                        keys.lot(group, topic, p),
                        keys.slips(group, topic, p),
                        keys.suspects(group, topic, p),
                    )
                )
        for p in range(most):
            commands.append(("HDEL", keys.own(p), group))
            commands.append(
                ("UNLINK", keys.tally(group, p), keys.dead(group, p), keys.replay(group, p),
                 keys.done(group, p, 0), keys.done(group, p, 1))
            )  # fmt: skip
        if commands:
            await self._core.link.control.send(*commands)


def _paused(reason: str) -> Callable[[GroupRecord], GroupRecord | None]:
    def change(record: GroupRecord) -> GroupRecord | None:
        return None if record.paused is not None else GroupRecord(record.spec, reason, record.dormant_ms)

    return change
