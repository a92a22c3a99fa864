"""The short way of the reader's turns: one transaction of plain commands, fenced by WATCH.

A script has everything that passes through it copied into Lua and back, which costs several times what
XREADGROUP and XACK do themselves. So each turn ends with a WATCH of the ownerships that it was about and with
a look at them: if they were still ours *behind* the WATCH, the next turn may do without the comparison, for
the server drops a transaction as a whole when something that is watched has changed since
(https://redis.io/docs/latest/develop/interact/transactions/). What is not plain (parking, dead letters,
starts of suspects), or not sure, goes by the scripts, which compare for themselves.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hiredis

from .errors import is_denied
from .layout import CONSUMER, Keys
from .place import Holding, RedisPlace
from .wire import Answer, Command, Refused, Wire, pack

log = logging.getLogger("plugbus.bus")

_RECENT = 64
"""Turns for which an ownership stays watched that had nothing to do with them: each costs a look."""
_PAUSE = 1.0
"""Seconds for which the scripts are left alone with it when the server takes no transaction."""
_BEGIN, _END = pack(("MULTI",)), pack(("EXEC",))

Done = Callable[[list[Answer] | None], None]


class Transactions:
    """See above. Only the reader sends them."""

    def __init__(self, wire: Wire, keys: Keys, monotonic: Callable[[], float]) -> None:
        self._wire = wire
        self._keys = keys
        self._monotonic = monotonic
        self._wanted: dict[Holding, int] = {}
        """What is watched from the end of each turn on, and in which it had to do with one last."""
        self._turn = 0
        self._look: tuple[bytes, list[Holding]] | None = None
        """The commands for that, and whom their answers tell of."""
        self._sure: set[Holding] = set()
        """What was ours behind the WATCH that is in force."""
        self._is_looking = False
        self._opened = 0
        """Of which connection that is."""
        self._paused_until = 0.0

    def covers(self, settling: Iterable[RedisPlace], hungry: Iterable[RedisPlace]) -> bool:
        """Whether a turn with these settlements, as they are noted, and these fetches can go this way."""
        sure = self._sure
        if not sure or self._opened != self._wire.opened or self._monotonic() < self._paused_until:
            return False
        return all(place.journal.is_plain and place.holding in sure for place in settling) and all(
            place.holding in sure for place in hungry
        )

    def watch(self, places: Iterable[RedisPlace]) -> None:
        """Behind a turn of scripts: from now on these as well."""
        self._want(places)
        is_sure = self._opened == self._wire.opened and self._wanted.keys() <= self._sure
        if self._wanted and not (is_sure or self._is_looking) and self._monotonic() >= self._paused_until:
            self._send(b"", 0, lambda replies: None)

    def send(self, settling: Sequence[RedisPlace], hungry: Sequence[RedisPlace], done: Done) -> None:
        """One turn that is covered. `done` gets the answers that the scripts would give, or None where they
        are lost; an empty list: the server has dropped it, nothing was done."""
        commands, parts = list[Command](), list[tuple[int, list[int]]]()
        for place in settling:
            ours, positions = place.journal.commands(place.names, place.group, place.holding.fence)
            parts.append((len(commands), positions))
            commands += ours
        fetches = len(commands)
        for place in hungry:
            group = ("XREADGROUP", "GROUP", place.group, CONSUMER, "COUNT", place.wanted)
            commands.append((*group, "STREAMS", place.names.stream, ">"))

        def answered(replies: list[Any] | None) -> None:
            if replies is None:
                done(None)
                return
            results = replies[len(commands) + 1]
            if replies[0] != b"OK":  # it was none: what followed may have been carried out one by one
                self._refused(replies[0])
                self._wire.close()
                done(None)
                return
            if not isinstance(results, list):
                if results is not None:  # e.g. its memory is full: nothing of a transaction passes then
                    self._refused(results)
                done([])
                return
            if len(results) != len(commands):  # something between us and the server has left a command out
                self._wire.close()
                done(None)
                return
            answers: list[Answer] = [_settled(results[at:], positions) for at, positions in parts]
            answers += [_fetched(result) for result in results[fetches:]]
            done(answers)

        self._want((*settling, *hungry))
        packed = [pack(one) for one in commands]
        self._send(b"".join((_BEGIN, *packed, _END)), len(commands) + 2, answered)

    def _refused(self, why: object) -> None:
        """The scripts go on alone; for good, where the server does not know the command or forbids it."""
        log.debug("no transaction: %s", why)
        is_final = is_denied(why) or "unknown command" in str(why)
        self._sure = set()
        self._paused_until = math.inf if is_final else self._monotonic() + _PAUSE

    # --- watching -----------------------------------------------------------------------------------

    def _want(self, places: Iterable[RedisPlace]) -> None:
        wanted = self._wanted
        self._turn += 1
        for place in places:
            if not place.is_ephemeral:
                if place.holding not in wanted:
                    self._look = None
                wanted[place.holding] = self._turn
        if self._look is None or self._turn % _RECENT == 0:
            least = self._turn - _RECENT
            for holding in [one for one, turn in wanted.items() if one.is_lost or turn < least]:
                del wanted[holding]
                self._look = None

    def _send(self, turn: bytes, count: int, answered: Callable[[list[Any] | None], None]) -> None:
        """The turn, and with it the WATCH for the next one and the look at what is watched."""
        if self._look is None:
            self._look = self._looks()
        look, asked = self._look
        opened = self._wire.opened

        def done(replies: list[Any] | None) -> None:
            self._is_looking = False
            if replies is not None and replies[count] == b"OK":  # else nothing is watched
                self._opened = opened
                fences = replies[count + 1 :]
                self._sure = {one for one, fence in zip(asked, fences, strict=True) if fence == one.fence}
            answered(replies)

        self._sure, self._is_looking = set(), True  # nothing is sure while it is on its way
        self._wire.submit(turn + look, count + 1 + len(asked), done)

    def _looks(self) -> tuple[bytes, list[Holding]]:
        asked = list(self._wanted)
        owns = [self._keys.own(holding.p) for holding in asked]
        commands: list[Command] = [("WATCH", *dict.fromkeys(owns))]
        for own, holding in zip(owns, asked, strict=True):
            commands.append(("HGET", own, holding.hosting.spec.group))
        return b"".join(map(pack, commands)), asked


def _settled(results: list[Any], positions: list[int]) -> Answer:
    """As `settle.lua` says it: which operations failed, and why. The last result is that of the number."""
    failed: list[Any] = []
    for result, position in zip(results, positions, strict=False):
        if isinstance(result, hiredis.ReplyError):
            failed += (position, str(result).encode())
    return [b"ok", 0, failed]


def _fetched(result: Any) -> Answer:
    if isinstance(result, hiredis.ReplyError):
        return Refused(str(result))
    return [b"ok", result or []]
