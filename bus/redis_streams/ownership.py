"""Who owns which partition of the groups that are handled here: taking, looking up, giving up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .background import keep_on
from .errors import may_pass
from .layout import order_of, owner_of
from .place import Holding, RedisPlace
from .placement import only, spread
from .recovery import Gone, Recovery
from .scripts import script
from .wire import Lost, Refused

if TYPE_CHECKING:
    from .core import Core
    from .hosting import RedisHosting

log = logging.getLogger("plugbus.bus")

_PATIENCE = 1.5
"""Seconds that a partition which is to move waits for what runs."""
_AGAIN = 0.05
"""Seconds until what Redis would not do now is tried again."""
_AFTER_MISTAKE = 1.0
"""The same after a mistake of ours."""


class Ownership:
    """Moves partitions to whom the placement says, without a leader."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._wire = core.link.control
        self._keys = core.keys
        self._recovery = Recovery(core)
        self._wanted = asyncio.Event()
        self._tasks: dict[tuple[RedisHosting, int], asyncio.Task[None]] = {}
        self._debts: dict[tuple[str, int], None] = {}
        """Group, partition: Redis may have it under our name though nobody here holds it, and as long as we
        live nobody takes it over. An answer that was lost leaves it behind."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(
            keep_on("placing", self._turn, lambda: self._core.is_closed), name="plugbus:redis:own"
        )

    def place_soon(self) -> None:
        self._wanted.set()

    async def close(self) -> None:
        tasks = [task for task in (self._task, *self._tasks.values()) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- placing ------------------------------------------------------------------------------------

    async def _turn(self) -> None:
        await self._wanted.wait()
        self._wanted.clear()
        try:
            await self._core.link.ready(self._wire)
            await self._place_all()
        except (Lost, Refused) as error:
            log.debug("placing: %s", error)
            await asyncio.sleep(_AGAIN)
            self._wanted.set()
        except Exception:
            self._wanted.set()
            raise

    async def _place_all(self) -> None:
        for hosting in list(self._core.hosted):
            if not hosting.is_ending and not hosting.is_suspended:
                await self.place(hosting)
        for group, p in list(self._debts):
            await self._pay(group, p)

    async def place(self, hosting: RedisHosting) -> None:
        """Take what is to be ours, and let go of what is not."""
        view, group, me = self._core.registry.view, hosting.spec.group, self._core.replica
        record = view.groups.get(group)
        if record is None:
            return
        hosts = view.hosts_of(group)
        if me not in hosts:
            return  # our own beat has not told yet
        counts = {topic: view.topics[topic] for topic in view.topics_of(record.spec.patterns)}
        most = max(counts.values(), default=0)
        owner = None
        if hosting.spec.options.exclusive:
            owner = only(hosts, await self._owners(group, most, hosts), group)
        shares = spread(hosts, group, most)
        for p in range(most):
            wanted = me if hosting.is_ephemeral else owner or shares[p]
            self._settle_on(hosting, p, is_ours=wanted == me)
        for holding in list(hosting.holdings.values()):
            if holding.is_owned and not holding.is_leaving:
                try:
                    await self._add_topics(hosting, holding, counts)
                except Gone as gone:
                    self._core.lost(holding, gone.owner)

    async def settled(self, hosting: RedisHosting) -> None:
        """Return when everything that is being taken for it has been."""
        tasks = [task for (owner, _), task in self._tasks.items() if owner is hosting]
        if tasks:
            await asyncio.wait(tasks)

    def _settle_on(self, hosting: RedisHosting, p: int, *, is_ours: bool) -> None:
        holding = hosting.holdings.get(p)
        if holding is None:
            if is_ours and (hosting, p) not in self._tasks:
                self._begin(hosting, p, self._acquire(hosting, p))
        elif is_ours and holding.is_leaving:
            self._stay(hosting, holding)
        elif not is_ours and not holding.is_leaving:
            if self._core.clock.monotonic() >= holding.stays_until:
                self._leave(hosting, holding)
        elif not is_ours:
            hosting.let_go()  # the last that ran of it may have been handed back

    def _leave(self, hosting: RedisHosting, holding: Holding) -> None:
        """Start nothing more of it, so that it can move."""
        holding.is_leaving = True
        for place in holding.places.values():
            place.leave()
        hosting.make_way()
        holding.tried += 1
        self._core.later(_PATIENCE, self._go_on_meanwhile, hosting, holding, holding.tried)

    def _stay(self, hosting: RedisHosting, holding: Holding) -> None:
        """It does not move after all."""
        holding.is_leaving = False
        for place in holding.places.values():
            place.stay()
        self._core.reader.feed(hosting)

    def _go_on_meanwhile(self, hosting: RedisHosting, holding: Holding, tried: int) -> None:
        """A slow handler keeps it from moving: other keys must not stand still for so long.

        It is tried again, after pauses that grow. A newer version of the plugin is waited for. `tried`: which
        try this ends; a later one has its own time.
        """
        versions = self._core.registry.view.hosts_of(hosting.spec.group)
        is_outdated = versions.get(self._core.replica) != max(versions.values(), default=None)
        is_still = any(place.open for place in holding.places.values())
        is_this = holding.is_leaving and holding.tried == tried
        if not (is_this and holding.is_owned and is_still) or is_outdated or hosting.is_ending:
            return
        holding.waited += 1
        holding.stays_until = self._core.clock.monotonic() + _PATIENCE * 2 ** min(holding.waited, 5)
        self._stay(hosting, holding)
        self._core.later(holding.stays_until - self._core.clock.monotonic(), self.place_soon)

    def _begin(self, hosting: RedisHosting, p: int, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(
            work, name=f"plugbus:redis:take:{hosting.spec.group}:{p}"
        )
        self._tasks[hosting, p] = task
        task.add_done_callback(lambda _: self._done(hosting, p, task))

    def _done(self, hosting: RedisHosting, p: int, task: asyncio.Task[None]) -> None:
        self._tasks.pop((hosting, p), None)
        error = None if task.cancelled() else task.exception()
        if error is None or isinstance(error, Lost | Refused | Gone):
            pause = _AGAIN
        else:
            log.error("%s: partition %d cannot be taken", hosting.spec.group, p, exc_info=error)
            pause = _AFTER_MISTAKE
        if error is None:
            self._go_on(hosting, p)
        else:
            self._core.later(pause, self._go_on, hosting, p)

    def _go_on(self, hosting: RedisHosting, p: int) -> None:
        """What was asked for while a task was at work."""
        if self._core.is_closed:
            return
        holding = hosting.holdings.get(p)
        if holding is not None and holding.is_owned and holding.is_recovering:
            self.look_up(hosting, holding)
        hosting.let_go()  # whoever was to have it may have come while it was being taken
        self.place_soon()

    def is_at_work(self, holding: Holding) -> bool:
        return (holding.hosting, holding.p) in self._tasks

    # --- debts --------------------------------------------------------------------------------------

    def owe(self, hosting: RedisHosting, p: int) -> None:
        """It is not held here any more, and Redis may not know."""
        self._debts[hosting.spec.group, p] = None

    async def _pay(self, group: str, p: int) -> None:
        """Give back what nobody here holds, for somebody else to take."""
        if any((hosting.spec.group, number) == (group, p) for hosting, number in self._tasks):
            return
        if not self._is_held(group, p):
            own = self._keys.own(p)
            known = await self._wire.ask("HGET", own, group)
            if known and owner_of(known) == self._core.replica:
                await self._wire.call(script("release"), (own,), group, known)
                await self._core.registry.tell("own")
        self._debts.pop((group, p), None)

    def _is_held(self, group: str, p: int) -> bool:
        return any(hosting.spec.group == group and p in hosting.holdings for hosting in self._core.hosted)

    async def _owners(self, group: str, most: int, hosts: Iterable[str]) -> dict[int, str]:
        """Partition → replica that lives and owns it."""
        if not most:
            return {}
        found = await self._wire.ask_all(*(("HGET", self._keys.own(p), group) for p in range(most)))
        owners = {p: owner_of(value) for p, value in enumerate(found)}
        return {p: owner for p, owner in owners.items() if owner in hosts}

    async def count_of(self, replica: str) -> int:
        """Partitions of topics that it owns, of all groups that keep a place."""
        view = self._core.registry.view
        most = max(view.topics.values(), default=0)
        if not most:
            return 0
        count = 0
        for p, flat in enumerate(
            await self._wire.ask_all(*(("HGETALL", self._keys.own(p)) for p in range(most)))
        ):
            for group, value in zip(flat[::2], flat[1::2], strict=True):
                record = view.groups.get(group.decode())
                if owner_of(value) == replica and record is not None and not record.spec.options.broadcast:
                    count += sum(view.topics[topic] > p for topic in view.topics_of(record.spec.patterns))
        return count

    # --- taking -------------------------------------------------------------------------------------

    async def _acquire(self, hosting: RedisHosting, p: int) -> None:
        group, keys = hosting.spec.group, self._keys
        await self._core.link.ready(self._wire)
        self.owe(hosting, p)
        expected: Sequence[bytes] = (b"", b"")
        while True:
            answer = await self._wire.call(
                script("take"), (keys.own(p), keys.tally(group, p)), group, self._core.replica, *expected
            )
            if answer[0] == b"ok":
                break
            owner = owner_of(answer[1])
            if owner != self._core.replica:
                await self._core.registry.refresh()
                if owner in self._core.registry.view.replicas:
                    return  # it gives it up when it can, and tells
            if hosting.is_ending:
                return
            expected = answer[1:3]  # it is gone, unless it comes back before we take it
        holding = Holding(hosting, p)
        holding.fence = answer[1]
        if hosting.is_ending or hosting.is_over:
            return  # it is owed
        hosting.holdings[p] = holding
        try:
            await self._fill(hosting, holding, in_order=bool(answer[2]))
        except BaseException:
            if hosting.holdings.get(p) is holding:
                hosting.give_up(holding)
            raise

    async def _fill(self, hosting: RedisHosting, holding: Holding, *, in_order: bool) -> None:
        """Everything that the former owner left, and then it is ours."""
        view, p = self._core.registry.view, holding.p
        record = view.groups.get(hosting.spec.group)
        if record is None:
            raise Gone
        await self._recovery.load_settled(hosting, p)
        topics = [topic for topic in view.topics_of(record.spec.patterns) if view.topics[topic] > p]
        places = [await self._recovery.read_place(holding, topic, in_order=in_order) for topic in topics]
        if holding.is_lost:
            raise Gone
        # No await from here on: what starts before it is ours for certain would be started again.
        for place in places:
            self._open_place(hosting, holding, place)
        holding.is_owned = True
        self._core.owned(hosting, holding)

    async def _add_topics(self, hosting: RedisHosting, holding: Holding, counts: dict[str, int]) -> None:
        """Topics that were born, or that its patterns have come to select."""
        for topic, count in counts.items():
            if count > holding.p and topic not in holding.places:
                place = await self._recovery.read_place(holding, topic, in_order=True)
                if holding.is_lost:
                    return
                self._open_place(hosting, holding, place)
                self._core.owned(hosting, holding)

    def _open_place(self, hosting: RedisHosting, holding: Holding, place: RedisPlace) -> None:
        """It is ours: what waits in it may be started."""
        holding.places[place.topic] = place
        hosting.own(place)
        if holding.is_leaving:
            place.leave()
        if holding.is_recovering:  # we were away meanwhile: it may be somebody else's by now
            place.hold_back()
        self._debts.pop((place.group, place.number), None)
        hosting.replay()
        hosting.arm()

    # --- looking up, after a connection was lost or a lease was over -----------------------------------

    def look_up(self, hosting: RedisHosting, holding: Holding) -> None:
        """See whether it is still ours, and what was read without our knowing."""
        holding.doubt()
        if (hosting, holding.p) in self._tasks or not holding.is_owned:
            return  # when that has come to its end
        self._begin(hosting, holding.p, self._look_up(hosting, holding))

    async def _look_up(self, hosting: RedisHosting, holding: Holding) -> None:
        try:
            while holding.is_recovering and not holding.is_lost:
                doubts = holding.doubts
                try:
                    await self._core.link.ready(self._wire)
                    await self._renew(hosting, holding)
                    for place in list(holding.places.values()):
                        await self._look_up_place(holding, place)
                except Lost:
                    continue
                except Refused as error:  # e.g. that it is loading
                    log.debug("looking up %s: %s", hosting.spec.group, error)
                    await asyncio.sleep(_AGAIN)
                    continue
                holding.is_recovering = holding.doubts != doubts
        except Gone as gone:
            self._core.lost(holding, gone.owner)
            return
        for place in holding.places.values():
            place.trust()
        self._core.reader.feed(hosting)

    async def _renew(self, hosting: RedisHosting, holding: Holding) -> None:
        """We were taken for gone: whoever is about to take it must see that we are back. Raises `Gone`."""
        while holding.was_away:
            holding.was_away = False
            keys, group, p = self._keys, hosting.spec.group, holding.p
            try:
                answer = await self._wire.call(
                    script("renew"), (keys.own(p), keys.tally(group, p)), group, holding.fence
                )
            except BaseException:
                holding.was_away = True
                raise
            if answer[0] == b"lost":
                raise Gone(answer[1])

    async def _look_up_place(self, holding: Holding, place: RedisPlace) -> None:
        if place.is_ephemeral:
            place.is_dry = False
            return
        await self._core.reader.written(place)  # what was settled, perhaps without an answer, comes first
        while place.fetching and not holding.is_lost:  # noqa: ASYNC110 - rare; no other begins meanwhile
            await asyncio.sleep(_AGAIN)
        if holding.is_lost:
            return
        known = place.held()  # before and after: what is settled meanwhile is known as well
        taken, last, names = await self._recovery.read_taken(place)
        held = known | place.held()
        if place.early is not None and place.early in names:
            held.add(place.early)
            self._core.intake.found_early(place)
        orphans = [message for message, _ in taken if message.entry not in held]
        # Not `held`: what nobody here wants, or can read, `read_taken` has just settled.
        self._core.intake.look_for_missed(place, [entry for entry in names if entry not in known], last)
        for message in orphans:
            place.backlog.append(message)
        if order_of(last) > order_of(place.last):
            place.last = last
        place.is_dry = False
        if any(message.expires_ns is not None for message in orphans):
            place.expect_expiry()
        self._core.intake.offer(place)

    # --- giving up ----------------------------------------------------------------------------------

    def release_soon(self, hosting: RedisHosting, holding: Holding) -> None:
        if (hosting, holding.p) not in self._tasks:
            self._begin(hosting, holding.p, self._release(hosting, holding))

    async def _release(self, hosting: RedisHosting, holding: Holding) -> None:
        await self.release(hosting, holding)
        await self._core.registry.tell("own")

    async def _take_early(self, holding: Holding, place: RedisPlace) -> None:
        """What was handled before it was pending, its fetch being lost: whoever comes must not get it."""
        keys = (place.names.own, place.names.stream)
        while place.early is not None and not holding.is_lost:
            try:
                await self._core.link.ready(self._wire)
                await self._wire.call(script("fetch"), keys, place.group, holding.fence, 1)
            except Lost:
                continue
            except Refused as error:
                if not may_pass(str(error)):
                    raise
                await asyncio.sleep(_AGAIN)
                continue
            self._core.intake.found_early(place)

    async def release(self, hosting: RedisHosting, holding: Holding) -> None:
        """In order: what was settled is written, what was only read goes to whoever comes."""
        while True:
            for place in list(holding.places.values()):
                await self._core.reader.written(place)
                await self._take_early(holding, place)
            if holding.is_lost or not any(place.has_news for place in holding.places.values()):
                break  # else something has ended meanwhile
        if any(place.open for place in holding.places.values()) or holding.is_lost:
            return
        if holding.is_leaving or hosting.is_ending:
            fence, group, p = holding.fence, hosting.spec.group, holding.p
            hosting.give_up(holding)
            self.owe(hosting, p)
            await self._wire.call(script("release"), (self._keys.own(p),), group, fence)
            self._debts.pop((group, p), None)
