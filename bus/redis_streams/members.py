"""Which replicas are there: each beats, and each judges the others by its own monotonic clock.

Nobody takes anything over from a replica that stands in the table of replicas. So a replica whose beat was
answered with "you were there already" knows that until one lease after it sent that beat nobody can have
taken anything of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING

from contracts.errors import BusError
from contracts.messages.delivery import OwnerLost

from .background import keep_on
from .registry import ReplicaRecord
from .scripts import script
from .wire import Lost, Refused

if TYPE_CHECKING:
    from .core import Core

log = logging.getLogger("plugbus.bus")

_JUMP_MS = 1_000.0
"""Milliseconds by which the server's clock may run off before that is said."""


class Members:
    """This replica's beat, and what it has seen of the others."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._wire = core.link.control
        self._lease = core.limits.lease
        self._monotonic = core.clock.monotonic
        self.incarnation = secrets.token_hex(8)
        self.until = -math.inf
        """Monotonic seconds: nobody has taken anything of ours over before."""
        self.is_overdue = False
        """Something waits for the next beat to be answered."""
        self._beats = 0
        self._seen: dict[str, tuple[str, int, float]] = {}
        self._looked = 0.0
        self._living: set[str] = set()
        """Replicas that have given a sign of life since we look."""
        self._offset_ms: float | None = None
        self._best = 0.0
        """Seconds that the answer took by which the offset is known."""
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.is_known = False

    # --- the server's clock ---------------------------------------------------------------------------

    def server_ms(self, monotonic: float) -> float:
        """What the server's clock says then."""
        return monotonic * 1e3 + (self._offset_ms or 0.0)

    def monotonic_of(self, server_ms: float) -> float:
        return (server_ms - (self._offset_ms or 0.0)) / 1e3

    # --- life -----------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Stand in the table under our name. Raises `BusError` if it is in use."""
        deadline, seen = self._monotonic() + self._lease, None
        while not await self._beat(is_first=True):
            record = self._core.registry.view.replicas.get(self._core.replica)
            if await self._answers() or (seen is not None and record is not None and record.beat != seen):
                raise self._taken()
            seen = record.beat if record is not None else seen
            if self._monotonic() >= deadline and record is not None:
                await self._evict(self._core.replica, record)  # it does not beat: it is gone
            await asyncio.sleep(min(0.1, self._lease / 10))
        self.is_known = True

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(
            keep_on("the beat", self._turn, lambda: self._core.is_closed), name="plugbus:redis:control"
        )

    def beat_now(self) -> None:
        self._wanted.set()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def leave(self) -> None:
        """The others need not wait."""
        keys = self._core.keys
        await self._wire.ask_all(
            ("HDEL", keys.replicas, self._core.replica),
            ("UNLINK", keys.inbox(self._core.replica)),
            ("XADD", keys.news, "MAXLEN", "~", 1_000, "*", "k", "replicas"),
        )

    # --- beating --------------------------------------------------------------------------------------

    async def _turn(self) -> None:
        try:
            await self._core.link.ready(self._wire)
            await self.beat()
            await self._core.after_beat()
        except Lost:
            return
        except Refused as error:
            log.debug("the beat was refused: %s", error)
            await asyncio.sleep(min(0.2, self._lease / 10))
            return
        self._wanted.clear()
        try:
            async with asyncio.timeout(self._lease / 3):
                await self._wanted.wait()
        except TimeoutError:
            return

    async def beat(self) -> None:
        """Raises `Lost`, `Refused`."""
        if not await self._beat():
            self.is_known = False
            raise BusError(
                f"replica {self._core.replica!r} was taken for gone, and another one has its name now",
                fix="give each bus its own name",
            )

    async def _beat(self, *, is_first: bool = False) -> bool:
        core, sent = self._core, self._monotonic()
        self._beats += 1
        record = ReplicaRecord(
            self.incarnation, self._beats, core.hosted_versions(), core.offered(), core.rates(), core.broken()
        )
        was, server_ms, replicas = await self._wire.call(
            script("beat"), (core.keys.replicas,), core.replica, self.incarnation, record.write()
        )
        now = self._monotonic()
        core.registry.view.replicas = core.registry.read_replicas(replicas)
        if was == -1:
            return False
        self._follow_clock(server_ms - (sent + now) * 500.0, now - sent)
        if was == 0 and not is_first:
            log.warning(
                "replica %s was taken for gone by the others; what it owned is looked up", core.replica
            )
            await core.returned()
        self.until = sent + self._lease
        if self.is_overdue or was == 0:
            self.is_overdue = False
            core.trust_all()
        await self._look_at_others(now)
        return True

    def _follow_clock(self, offset_ms: float, took: float) -> None:
        """The faster the answer, the better it tells; a slow one is heard only where the clock has jumped."""
        known = self._offset_ms
        if known is not None and took > 2 * self._best and abs(offset_ms - known) < _JUMP_MS:
            self._best *= 1.1  # so that a clock which drifts is followed in the end
            return
        self._offset_ms, self._best = offset_ms, took
        if known is not None and abs(offset_ms - known) > _JUMP_MS:
            log.warning("the clock of Redis has jumped by %+.1f s", (offset_ms - known) / 1e3)

    @property
    def is_alone(self) -> bool:
        """Whether no other replica stands in the table of replicas, as far as is known."""
        replicas = self._core.registry.view.replicas
        return not replicas or (len(replicas) == 1 and self._core.replica in replicas)

    async def living(self, replicas: Iterable[str]) -> set[str]:
        """Those that give a sign of life: whoever has not beaten since we look is asked."""
        names = set(replicas)
        unknown = names - self._living - {self._core.replica}
        answers = await asyncio.gather(*(self._core.knock(name) for name in unknown))
        self._living |= {name for name, answer in zip(unknown, answers, strict=True) if answer}
        return names & (self._living | {self._core.replica})

    # --- the others -----------------------------------------------------------------------------------

    async def _look_at_others(self, now: float) -> None:
        """Whose beat has not been seen for the lease is gone. Who did not look himself judges nobody."""
        slept = now - self._looked > self._lease
        self._looked = now
        replicas = self._core.registry.view.replicas
        for gone in [name for name in self._seen if name not in replicas]:
            del self._seen[gone]
            self._living.discard(gone)
            self._core.forsake(gone)
        for name, record in list(replicas.items()):
            incarnation, beat, when = self._seen.get(name, ("", -1, now))
            if beat >= 0 and (incarnation, beat) != (record.incarnation, record.beat):
                self._living.add(name)
            if (incarnation, beat) != (record.incarnation, record.beat) or slept:
                self._seen[name] = (record.incarnation, record.beat, now)
            elif now - when >= self._lease and name != self._core.replica:
                await self._evict(name, record)

    async def _evict(self, name: str, record: ReplicaRecord) -> None:
        """Only one of those who see it gone is the one who says so."""
        core = self._core
        owned = await core.ownership.count_of(name)
        [done] = await self._wire.call(
            script("swap"), (core.keys.replicas, core.keys.news), name, record.raw, b"", "replicas"
        )
        if done:
            log.warning("replica %s is gone: no sign of life for %g s", name, self._lease)
            self._seen.pop(name, None)
            core.registry.view.replicas.pop(name, None)
            await self._wire.ask("UNLINK", core.keys.inbox(name))
            await core.groups.drop_ephemeral(name)
            if owned:
                core.announcer.say(OwnerLost(replica=name, partitions=owned))
            core.forsake(name)
            core.place_soon()

    async def _answers(self) -> bool:
        """Whether somebody who lives has our name: he answers to a knock."""
        return await self._core.knock(self._core.replica)

    def _taken(self) -> BusError:
        found = BusError(
            f"replica {self._core.replica!r} is on this bus already",
            where=self._core.link.address,
            fix="give each bus its own name; that of one that was killed is free after its lease",
        )
        found.is_final = True
        return found
