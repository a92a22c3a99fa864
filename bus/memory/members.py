"""Which replicas are there: each beats, and each judges the others by its own clock.

Nobody beats while there is one bus alone.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from contracts.messages.delivery import OwnerLost

from ..announce import Announcer
from ..clock import Clock


class Member(Protocol):
    """One bus, as the others see it."""

    @property
    def replica(self) -> str: ...

    def lose(self) -> int:
        """It was silent for too long: others take over. How many partitions it owned."""

    def rejoin(self) -> None:
        """It was lost, and is back."""


class Members:
    """Those that are present. A member that is silent for `lease` seconds is lost until it beats again."""

    def __init__(self, clock: Clock, lease: float, announcer: Announcer) -> None:
        self.clock = clock
        self.lease = lease
        self.hearts: dict[str, Heart] = {}
        """Of those that are present."""
        self._announcer = announcer

    def join(self, heart: Heart) -> None:
        self.hearts[heart.replica] = heart
        if len(self.hearts) > 1:
            for one in list(self.hearts.values()):
                one.start()

    def leave(self, heart: Heart) -> None:
        heart.stop()
        if self.hearts.get(heart.replica) is heart:
            del self.hearts[heart.replica]
        if len(self.hearts) == 1:
            for one in self.hearts.values():
                one.stop()

    def lose(self, heart: Heart) -> None:
        self.leave(heart)
        count = heart.member.lose()
        self._announcer.say(OwnerLost(replica=heart.replica, partitions=count))


class Heart:
    """One member's beat, and what it has seen of the others."""

    def __init__(self, members: Members, member: Member) -> None:
        self.member = member
        self.replica = member.replica
        self.count = 0
        """Beats so far: what the others look at."""
        self._members = members
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_suspended = False

    def start(self) -> None:
        """Beat and watch from now on."""
        if self._timer is None and not self._is_suspended:
            self._seen.clear()
            self._beat()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def suspend(self) -> None:
        """Neither beat nor watch."""
        self._is_suspended = True
        self.stop()

    def wake(self) -> None:
        """The beat that is overdue comes at once."""
        self._is_suspended = False
        loop, members = asyncio.get_running_loop(), self._members
        if len(members.hearts) > 1 or self.replica not in members.hearts:
            self._timer = loop.call_at(loop.time(), self._beat)

    def _beat(self) -> None:
        self._timer = None
        members, self.count = self._members, self.count + 1
        if self.replica not in members.hearts:
            members.join(self)  # which beats, where there are others
            self.member.rejoin()
            return
        for heart in self._silent(members.clock.monotonic()):
            members.lose(heart)
        if len(members.hearts) > 1 and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(members.lease / 3, self._beat)

    def _silent(self, now: float) -> list[Heart]:
        """Whose beat has not been seen for the lease. Who did not look himself judges nobody."""
        lease, slept = self._members.lease, now - self._looked > self._members.lease
        self._looked = now
        silent = []
        for replica, heart in self._members.hearts.items():
            count, when = self._seen.get(replica, (-1, now))
            if heart.count != count or slept:
                self._seen[replica] = (heart.count, now)
            elif now - when >= lease and heart is not self:
                silent.append(heart)
        return silent
