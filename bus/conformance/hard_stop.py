"""A hard stop of everything: what a persistent backend has afterwards, and another one has not."""

from __future__ import annotations

import asyncio

from .backend import needs
from .order import soon
from .ownership import LEASE
from .probe import Gate, fail_if
from .rig import Rig
from .suite import Suite


class HardStop(Suite):
    """All processes are killed with handles open; what is persistent is there again, else nothing is."""

    @needs(lease=LEASE)
    async def test_what_was_confirmed_is_there_at_once(self, rig: Rig) -> None:
        """Stopped right after the last receipt: every event, delayed ones, ids; in order, and only once."""
        bus = await rig.open()
        await bus.declare_group(rig.spec())
        await rig.publish(bus, 100, key="late", delay=20 * rig.tick)
        await rig.publish(bus, *range(20), key="k")
        await rig.publish(bus, 20, key="k", id="last")
        await rig.renew()
        later, is_kept = await rig.open("later"), rig.backend.features.persistent
        [again] = await rig.publish(later, 20, key="k", id="last")
        assert again.duplicate == is_kept
        probe = await rig.on(later)
        await rig.quiet(later)
        assert probe.numbers == ([*range(21), 100] if is_kept else [20])
        rig.judge(lossy=not is_kept)

    @needs(lease=LEASE)
    async def test_places_pauses_lots_and_dead_letters_are_there(self, rig: Rig) -> None:
        """Nothing settled is started again; what is parked, paused and dead is as it was."""

        def act(n: int, attempt: int) -> None:
            fail_if(n == 1 or (n == 2 and attempt < 3))

        bus = await rig.open()
        policy = soon(rig, attempts=3, first_delay=20 * rig.tick)
        first = await rig.on(bus, act, retry=policy)
        await rig.on(bus, act, group="mail.bad", retry=soon(rig, attempts=1))
        await bus.declare_group(rig.spec(group="mail.held"))
        await bus.pause_group("mail.held", reason="maintenance")
        await rig.publish(bus, 0, 1, 2, 3)
        await rig.until(lambda: len(first.starts) == 4)
        await rig.pause()
        await rig.renew()
        later = await rig.open("later")
        if not rig.backend.features.persistent:
            assert (await later.groups(), await later.topics(), await later.dead_letters()) == ([], [], [])
            return
        infos = {info.group: info for info in await later.groups()}
        assert {name: info.state for name, info in infos.items()} == dict.fromkeys(rig.groups, "dormant") | {
            "mail.held": "dormant"
        }
        assert (infos["shop.handle"].parked, infos["shop.handle"].waiting) == (2, 0)
        assert (infos["mail.held"].paused, infos["mail.held"].waiting) == ("maintenance", 4)
        assert [letter.envelope.id for letter in await later.dead_letters()] == ["e3-2", "e2-1"]
        second = await rig.on(later, act, retry=policy)
        held = await rig.on(later, group="mail.held")
        await rig.until(lambda: len(second.starts) == 4)
        await rig.pause()
        assert sorted(second.starts) == [(1, 2), (1, 3), (2, 2), (2, 3)]
        assert held.starts == []
        assert await later.resume_group("mail.held")
        await rig.quiet(later)
        assert sorted(held.numbers) == [0, 1, 2, 3]

    @needs(lease=LEASE)
    async def test_what_ran_is_suspect(self, rig: Rig) -> None:
        """It is started one at a time, before anything newer."""
        bus, gate = await rig.open(), Gate()
        first = await rig.on(bus, gate, concurrency=4)
        for n in range(8):
            await rig.publish(bus, n, key=f"k{n}")
        await rig.until(lambda: first.running == 4)
        await rig.pause()
        await rig.renew()
        assert first.running == 0
        running = list[int]()

        async def act(n: int, attempt: int) -> None:
            running.append(n)
            assert n not in first.numbers or running == [n]
            await asyncio.sleep(rig.tick / 2)
            running.remove(n)

        later, is_kept = await rig.open("later"), rig.backend.features.persistent
        heir = await rig.on(later, act, concurrency=4)
        await rig.quiet(later)
        assert sorted(heir.numbers[:4]) == (sorted(first.numbers) if is_kept else [])
        assert len(heir.starts) == (8 if is_kept else 0)
        assert (await rig.info(later)).failed == 0
        rig.judge(repeats=4, lossy=not is_kept)

    @needs(lease=LEASE)
    async def test_one_event_that_kills_everything_is_given_up_alone(self, rig: Rig) -> None:
        """Each start of a suspect is counted before it runs, so that also such an event has an end."""
        bus, gate, deaths = await rig.open(), Gate(), 0
        await bus.declare_group(rig.spec())
        await rig.publish(bus, *range(20))
        while deaths < 10:
            await rig.on(bus, lambda n, attempt: gate(n) if n == 7 else None, retry=soon(rig, attempts=3))
            quiet = asyncio.ensure_future(bus.quiet())
            await rig.until(lambda: quiet.done() or gate.waiting)  # noqa: B023 - awaited here
            if quiet.done():
                break
            quiet.cancel()
            await rig.pause()
            await rig.renew()
            deaths += 1
            bus = await rig.open(f"r{deaths}")
        is_kept = rig.backend.features.persistent
        assert 1 <= deaths <= 4
        assert [letter.envelope.id for letter in await bus.dead_letters()] == (["e8-7"] if is_kept else [])
        await rig.given_up(bus)
        rig.judge(repeats=deaths, lossy=not is_kept)
