"""`kernel.group.*`: what each handler's group holds; pausing, resuming and dropping it."""

from __future__ import annotations

from contracts.bus import Call, GroupInfo
from contracts.errors import GroupConflict, GroupNotFound
from contracts.inspection import check_tag
from contracts.messages import DropGroup, ListGroups, PauseGroup, ResumeGroup, ShowGroup

from .desk import CommandDesk, did_you_mean


class GroupCommands:
    def __init__(self, desk: CommandDesk) -> None:
        self._desk = desk

    async def open(self) -> None:
        await self._desk.provide(ListGroups, self._list)
        await self._desk.provide(ShowGroup, self._show)
        await self._desk.provide(PauseGroup, self._pause)
        await self._desk.provide(ResumeGroup, self._resume)
        await self._desk.provide(DropGroup, self._drop)

    async def _list(self, query: ListGroups, call: Call) -> tuple[GroupInfo, ...]:
        return tuple(await self._desk.bus.groups())

    async def _show(self, query: ShowGroup, call: Call) -> GroupInfo:
        return await find_group(self._desk, query.group)

    async def _pause(self, query: PauseGroup, call: Call) -> GroupInfo:
        await self._as_seen(query)
        reason = query.reason or f"paused by {call.source}"
        changed = await self._desk.bus.pause_group(query.group, reason=reason)
        self._desk.audit(call, "group.pause", query.group, reason=reason, changed=changed)
        return await find_group(self._desk, query.group)

    async def _resume(self, query: ResumeGroup, call: Call) -> GroupInfo:
        await self._as_seen(query)
        changed = await self._desk.bus.resume_group(query.group)
        self._desk.audit(call, "group.resume", query.group, changed=changed)
        return await find_group(self._desk, query.group)

    async def _drop(self, query: DropGroup, call: Call) -> GroupInfo:
        group = await self._as_seen(query)
        if group.state != "dormant":
            raise GroupConflict(
                f"group {group.group!r} is in use: dropping it would leave its handler without events",
                fix=f"plugbus plugin stop {group.plugin_id}, and then drop it",
            )
        await self._desk.bus.drop_group(group.group, reason=f"dropped by {call.source}")
        self._desk.audit(
            call, "group.drop", group.group, waiting=group.waiting, parked=group.parked, dead=group.dead
        )
        return group

    async def _as_seen(self, query: PauseGroup | ResumeGroup | DropGroup) -> GroupInfo:
        """The group as it is now, if it is as the asker has seen it. Between this and the change the bus is
        asked, so a second kernel on it may come in between."""
        group = await find_group(self._desk, query.group)
        check_tag(f"group {group.group!r}", group.tag, query.if_tags)
        return group


async def find_group(desk: CommandDesk, name: str) -> GroupInfo:
    """The group of that name. Raises `GroupNotFound` with those that are near."""
    groups = {group.group: group for group in await desk.bus.groups()}
    if name not in groups:
        raise GroupNotFound(
            f"there is no group {name!r}", fix=did_you_mean(name, groups, "plugbus group list")
        )
    return groups[name]
