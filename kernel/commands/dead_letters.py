"""`kernel.dlq.*`: the deliveries that were given up, and what becomes of them."""

from __future__ import annotations

from contracts.bus import Call, DeadLetter, DeadLetterSelection
from contracts.errors import DeadLetterNotFound, InvalidOption, PluginNotFound
from contracts.inspection import DEAD_LETTER_REASONS
from contracts.messages import (
    DiscardDeadLetters,
    ImportDeadLetters,
    ListDeadLetters,
    RedriveDeadLetters,
    ShowDeadLetter,
)
from contracts.patterns import check_pattern

from .desk import CommandDesk, did_you_mean
from .groups import find_group


class DeadLetterCommands:
    def __init__(self, desk: CommandDesk) -> None:
        self._desk = desk

    async def open(self) -> None:
        await self._desk.provide(ListDeadLetters, self._list)
        await self._desk.provide(ShowDeadLetter, self._show)
        await self._desk.provide(RedriveDeadLetters, self._redrive)
        await self._desk.provide(DiscardDeadLetters, self._discard)
        await self._desk.provide(ImportDeadLetters, self._import)

    async def _list(self, query: ListDeadLetters, call: Call) -> tuple[DeadLetter, ...]:
        await self._check(query.selection)
        found = await self._desk.bus.dead_letters(query.selection, limit=query.limit, after=query.after)
        return tuple(found)

    async def _show(self, query: ShowDeadLetter, call: Call) -> DeadLetter:
        found = await self._desk.bus.dead_letters(DeadLetterSelection(ids=(query.id,)), limit=1)
        if not found:
            raise DeadLetterNotFound(f"there is no dead letter {query.id!r}", fix="plugbus dlq list")
        return found[0]

    async def _redrive(self, query: RedriveDeadLetters, call: Call) -> int:
        await self._check(query.selection)
        if query.dry_run:
            return await self._desk.bus.count_dead_letters(query.selection)
        count = await self._desk.bus.redrive(query.selection, rate=query.rate)
        return self._settled(call, "redrive", query.selection, count)

    async def _discard(self, query: DiscardDeadLetters, call: Call) -> int:
        await self._check(query.selection)
        if query.dry_run:
            return await self._desk.bus.count_dead_letters(query.selection)
        return self._settled(call, "discard", query.selection, await self._desk.bus.discard(query.selection))

    async def _import(self, query: ImportDeadLetters, call: Call) -> int:
        for group in sorted({letter.group for letter in query.letters}):
            await find_group(self._desk, group)
        count = await self._desk.bus.import_dead_letters(query.letters)
        self._desk.audit(call, "dlq.import", "dead letters", given=len(query.letters), count=count)
        return count

    async def _check(self, selection: DeadLetterSelection) -> None:
        """A name that nobody has is a slip of the pen, not a selection of nothing."""
        if selection.group is not None:
            await find_group(self._desk, selection.group)
        if selection.plugin_id is not None:
            await self._check_plugin(selection.plugin_id)
        if selection.type is not None:
            check_pattern(selection.type)
        if selection.reason not in (None, *DEAD_LETTER_REASONS):
            known = DEAD_LETTER_REASONS
            raise InvalidOption(
                f"{selection.reason!r} is no reason of a dead letter",
                fix=did_you_mean(str(selection.reason), known, f"one of {', '.join(known)}"),
            )

    async def _check_plugin(self, plugin_id: str) -> None:
        """One that was removed is known as long as a group of it is left."""
        known = {record.plugin_id for record in self._desk.kernel.registry}
        known |= {group.plugin_id for group in await self._desk.bus.groups()}
        if plugin_id not in known:
            raise PluginNotFound(
                f"there is no plugin {plugin_id!r}",
                plugin_id=plugin_id,
                fix=did_you_mean(plugin_id, known, "plugbus plugin list"),
            )

    def _settled(self, call: Call, verb: str, selection: DeadLetterSelection, count: int) -> int:
        if selection.ids and not count:
            raise DeadLetterNotFound(
                f"no dead letter has the id {selection.ids[0]!r}", fix="plugbus dlq list"
            )
        self._desk.audit(call, f"dlq.{verb}", _described(selection), count=count)
        return count


def _described(selection: DeadLetterSelection) -> str:
    """The selection in a few words, for the audit log."""
    given = selection.model_dump(exclude_none=True, mode="json")
    ids = given.pop("ids", ())
    return " ".join([*ids, *(f"{name}={value}" for name, value in given.items())]) or "all"
