"""A process dies, or stands still, before or after each script call, in each state: others go on from there.

All of these run side by side, once for each server, before the first test; each test looks at one.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
from fault_tools.servers import Server, binaries
from fault_tools.worker import KILLED
from fault_tools.workers import Bench, Nursery, Worker, namespace_on, retries

from bus.conformance.checker import Verdict
from bus.conformance.rig import SOURCE, Rig, now
from bus.redis_streams import core
from bus.redis_streams.layout import Keys
from contracts.bus import DeadLetter, DeadLetterSelection, EventBus, GroupInfo

LEASE = 0.5
AT_ONCE = 24
"""Cases side by side."""
GROUP = "shop.handle"
TRIGGER = 9
"""Number of the event during whose handling the process dies."""
SLOW = 2.0
"""Seconds until what has failed is tried again: until somebody else has it."""

STATES = {
    "idle": (),
    "running": (),
    "retrying": ("fail {attempt}",),
    "dead-lettering": ("dead",),
    "returning": ("make",),
}
"""What the subscription is about, and what the trigger does in the end."""
ALONE = ("publish", "fetch", "settle", "mark", "release")
"""Calls of one process."""
SECOND = ("take", "fill", "recover")
"""Calls of one that takes over what another has left, which died in that state before it could settle."""


class Case(NamedTuple):
    point: str
    state: str
    stops: bool = False
    """It stands still there, longer than its lease, and goes on; else it dies."""

    @property
    def what(self) -> str:
        return self.point.partition(":")[2]

    @property
    def when(self) -> str:
        return self.point.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.point}-{self.state}"


POINTS = [f"{when}:{what}" for what, when in itertools.product(ALONE + SECOND, ("before", "after"))]
DEATHS = [Case(point, state) for point in POINTS for state in STATES]
STANDSTILLS = [Case(point, state, stops=True) for point in POINTS for state in ("running", "returning")]


@dataclass
class Outcome:
    """What was found when everything was quiet again."""

    reached: str
    codes: list[int | None]
    verdict: Verdict
    history: str
    at_end: GroupInfo
    """The group, when the process was dead or stood still, and nobody had come yet."""
    running: int
    """Handlers that it was in the middle of."""
    has_ended: bool
    """Its handler of the trigger."""
    seconds: float
    """From then until it had another owner."""
    letters: list[DeadLetter]
    effects: list[int]
    left: dict[str, int] = field(default_factory=dict)
    """What ought to be empty, and is not."""


# --- carrying out -------------------------------------------------------------------------------------------


async def carry_out(case: Case, work: Bench, server: Server) -> Outcome:
    rig = work.rig
    bus = await rig.open("witness")
    effects = await rig.on(bus, None, "effects.*", group="audit.effects")
    await bus.declare_group(rig.spec(concurrency=2, retry=retries(SLOW)))
    rig.groups[GROUP] = ("orders.**",)
    worker = await (second_end if case.what in SECOND else first_end)(case, work, bus)
    ended_at, at_end, running = now(), await rig.info(bus), worker.running()
    has_ended = any(one.has_ended(trigger_id(rig)) for one in work.workers)
    await work.host(bus, concurrency=2, retry=retries(SLOW))
    await rig.until(lambda: owns(rig, bus))
    seconds = now() - ended_at
    await rig.quiet(bus)
    if case.stops:
        await go_on(work, bus, worker)
    letters = await bus.dead_letters()
    await rig.given_up(bus)
    work.collect()
    return Outcome(
        reached=worker.reached, codes=[one.code for one in work.workers],
        verdict=rig.verdict(repeats=allowed(case)), history="\n".join(map(str, rig.history)),
        at_end=at_end, running=running, has_ended=has_ended, seconds=seconds, letters=letters,
        effects=sorted(effects.numbers), left=leftovers(server, work.namespace),
    )  # fmt: skip


async def owns(rig: Rig, bus: EventBus) -> bool:
    return (await rig.info(bus)).owners == {bus.replica: 1}


async def first_end(case: Case, work: Bench, bus: EventBus) -> Worker:
    """One process, which comes to the point when everything is prepared."""
    worker = await work.up("first", point=case.point, stops=case.stops, concurrency=2, retry=retries(SLOW))
    await prepare(case, work, bus, worker)
    await trigger(case, work, bus, worker)
    await (worker.stood_still() if case.stops else worker.died())
    return worker


async def second_end(case: Case, work: Bench, bus: EventBus) -> Worker:
    """A first dies before it has settled; this one while it takes over what that one has left."""
    await first_end(Case("before:settle", case.state), work, bus)
    worker = work.start(
        "second", point=case.point, stops=case.stops, is_armed=True, concurrency=2, retry=retries(SLOW)
    )
    await (worker.stood_still() if case.stops else worker.died())
    return worker


async def go_on(work: Bench, bus: EventBus, worker: Worker) -> None:
    """It wakes and does not know that time has passed; then there is more to do, of the same keys."""

    async def is_back() -> bool:
        return worker.name in (await bus.info()).replicas

    worker.tell("go")
    worker.go_on()
    await work.rig.until(is_back)
    for n, key in enumerate(("held", "trigger") * 2):
        await work.publish(bus, 20 + n, key=key)
    await work.rig.quiet(bus)


async def prepare(case: Case, work: Bench, bus: EventBus, worker: Worker) -> None:
    """Bring the subscription into the state, and arm the point."""
    rig = work.rig
    if case.state == "running":
        await work.publish(bus, 1, "hold", key="held")
        await rig.until(lambda: worker.running() == 1)
    if case.state == "retrying":
        await work.publish(bus, 1, "fail 1", key="waits")
        await work.publish(bus, 2, key="waits")

        async def is_parked() -> bool:
            return (await rig.info(bus)).parked == 2

        await rig.until(is_parked)
    if case.what != "release":
        await worker.arm()


async def trigger(case: Case, work: Bench, bus: EventBus, worker: Worker) -> None:
    """One event that comes to the point."""
    does = [word.format(attempt=2 if case.what == "mark" else 1) for word in STATES[case.state]]
    if case.what == "publish" and case.state != "returning":
        does.insert(0, "say")
    if case.what == "mark":
        does.insert(0, "again 1")
    await work.publish(bus, TRIGGER, *does, key="trigger")
    if case.what == "release":
        await work.rig.until(lambda: worker.has_ended(trigger_id(work.rig)))
        await worker.arm()
        worker.tell("drain")


def trigger_id(rig: Rig) -> str:
    return next(one.id for one in rig.history if one.kind == "invoked" and one.id.endswith(f"-{TRIGGER}"))


def allowed(case: Case) -> int:
    """Starts of what had not failed: of what ran, and of what was handled and not settled."""
    running = case.state == "running"
    is_settled = case.what in ("fetch", "release") or case.point == "after:settle"
    is_cut = case.what == "release" and case.state == "returning"  # while what it returned was published
    is_ahead = case.point == "after:fetch"  # it came with the news, and is handled meanwhile
    return running + (is_cut or is_ahead or not is_settled)


def leftovers(server: Server, namespace: str) -> dict[str, int]:
    """Deliveries that are pending, waiting in a lot, or suspect."""
    keys, topic = Keys(namespace), "orders"
    with server.client() as client:
        found = {
            "pending": int(client.xpending(keys.stream(topic, 0), GROUP)["pending"]),
            "lot": int(client.hlen(keys.lot(GROUP, topic, 0))),
            "slips": int(client.hlen(keys.slips(GROUP, topic, 0))),
            "suspects": int(client.hlen(keys.suspects(GROUP, topic, 0))),
            "consumers": int(client.xinfo_groups(keys.stream(topic, 0))[0]["consumers"]) - 1,
        }
    return {name: count for name, count in found.items() if count}


# --- errands: what a replica does that handles nothing ------------------------------------------------------


async def release_delayed(work: Bench, when: str) -> None:
    """An event that was kept back comes out once."""
    bus = await work.rig.open("publisher")
    await bus.declare_group(work.rig.spec())
    await work.publish(bus, 1, delay=1.0)
    await work.rig.close(bus)
    await has_died(work.start("errand", groups=(), point=f"{when}:undelay", is_armed=True))
    heir = await work.rig.open("heir")
    handler = await work.host(heir)
    await work.rig.until(lambda: handler.numbers)
    await work.rig.quiet(heir)


async def redrive(work: Bench, when: str) -> None:
    """A dead letter is with its group, or still a dead letter: never neither, nor both."""
    bus = await work.rig.open("owner")
    handler = await work.host(bus, retry=retries(SLOW, attempts=1))
    await work.publish(bus, 1, "fail 1", key="k")
    await work.rig.until(bus.count_dead_letters)
    worker = await work.up("errand", groups=(), point=f"{when}:redrive", is_armed=True)
    worker.tell("redrive")
    await has_died(worker)
    if when == "before":
        assert await bus.redrive(DeadLetterSelection()) == 1
    await work.rig.until(lambda: len(handler.starts) == 2)
    await work.rig.until(bus.count_dead_letters)
    await work.rig.quiet(bus)
    assert handler.numbers == [1, 1]
    await work.rig.given_up(bus)


async def pause(work: Bench, when: str) -> None:
    """A group is paused everywhere, or nowhere."""
    bus = await work.rig.open("owner")
    handler = await work.host(bus)
    worker = await work.up("errand", groups=(), point=f"{when}:swap", is_armed=True)
    worker.tell(f"pause {GROUP}")
    await has_died(worker)
    is_paused = when == "after"
    assert (await work.rig.info(bus)).paused == ("" if is_paused else None)
    await work.publish(bus, 1)
    if is_paused:
        await work.rig.pause()
        assert handler.numbers == []
        assert await bus.resume_group(GROUP)
    await work.rig.quiet(bus)


async def trim(work: Bench, when: str) -> None:
    """What every group has settled may be gone; what one still needs is there."""
    bus = await work.rig.open("publisher")
    await bus.declare_group(work.rig.spec(group="mail.later"))
    handler = await work.host(bus)
    for n in range(8):
        await work.publish(bus, n, key="k")
    await work.rig.until(lambda: len(handler.numbers) == 8)
    await work.rig.close(bus)  # else it might trim
    worker = await work.up("errand", groups=(), point=f"{when}:trim", is_armed=True)
    await has_died(worker)
    heir = await work.rig.open("heir")
    late = await work.host(heir, group="mail.later")
    await work.host(heir)
    await work.rig.quiet(heir)
    assert late.numbers == list(range(8))


async def take_care(work: Bench, when: str) -> None:
    """Who drops what is too much for a group that nobody handles owns it for a moment, and no longer."""
    with patch.object(core, "CARE", math.inf):  # else the publisher might do it
        bus = await work.rig.open("publisher")
        await bus.declare_group(work.rig.spec(max_waiting=3, overflow="drop_oldest"))
        for n in range(8):
            await work.publish(bus, n, key="k")
        await work.rig.close(bus)
    worker = work.start("errand", groups=(), point=f"{when}:take", is_armed=True)
    await has_died(worker)
    died_at, heir = now(), await work.rig.open("heir")
    handler = await work.host(heir, max_waiting=3, overflow="drop_oldest")
    await work.rig.until(lambda: handler.numbers)
    assert now() - died_at < LEASE + 5
    await work.rig.quiet(heir)
    assert handler.numbers == [5, 6, 7]
    for n in range(5):
        work.rig.history.add("given_up", now(), source=SOURCE, id=f"e{n + 1}-{n}", group=GROUP)


async def beat(work: Bench, when: str) -> None:
    """It is gone for the others when its lease is over, and its name is free."""
    bus = await work.rig.open("witness")
    worker = await work.up("errand", groups=(), point=f"{when}:beat#3", is_armed=True)
    await has_died(worker)

    async def is_gone() -> bool:
        return worker.name not in (await bus.info()).replicas

    await work.rig.until(is_gone)
    again = await work.rig.open("errand")
    work.rig.history.add("back", now(), replica="errand")
    await work.host(again)
    await work.publish(bus, 1)
    await work.rig.quiet(bus)


async def has_died(worker: Worker) -> None:
    await worker.died()
    assert (worker.code, worker.reached) == (KILLED, worker.job.point)


class Errand(NamedTuple):
    when: str
    does: Callable[[Bench, str], Awaitable[None]]

    def __str__(self) -> str:
        return f"{self.when}-{self.does.__name__}"


ERRANDS = [
    Errand(when, does)
    for does in (release_delayed, redrive, pause, trim, take_care, beat) for when in ("before", "after")
]  # fmt: skip


async def run_errand(errand: Errand, work: Bench, server: Server) -> None:
    work.rig.groups[GROUP] = ("orders.**",)
    await errand.does(work, errand.when)
    work.collect()
    work.rig.judge()
    assert leftovers(server, work.namespace) == {}


# --- all of them, side by side ------------------------------------------------------------------------------

Found = dict[Case | Errand, Outcome | BaseException | None]


async def carry_out_all(server: Server, nursery: Nursery, folder: Path) -> Found:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, which: Case | Errand) -> Outcome | None:
        async with places:
            own = folder / str(number)
            own.mkdir()
            rig = Rig(namespace_on(server, lease=LEASE, retain=2, young_seconds=0.0))
            async with Bench(rig, nursery, own, server, is_alone=False) as work:
                if isinstance(which, Case):
                    return await carry_out(which, work, server)
                await run_errand(which, work, server)
                return None

    everything: list[Case | Errand] = [*ERRANDS, *DEATHS, *STANDSTILLS]
    found = await asyncio.gather(*map(one, itertools.count(), everything), return_exceptions=True)
    return dict(zip(everything, found, strict=True))


@pytest.fixture(scope="module", params=[label for label, _ in binaries()])
def outcomes(
    request: pytest.FixtureRequest, shared_servers: dict[str, Server], nursery: Nursery,
    tmp_path_factory: pytest.TempPathFactory,
) -> Found:  # fmt: skip
    """Every case, carried out on one server."""
    server = shared_servers[request.param]
    server.reset()
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:  # not that of any test
        return runner.run(carry_out_all(server, nursery, tmp_path_factory.mktemp("points")))


# --- judging ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", DEATHS, ids=str)
def test_a_death_costs_nothing_but_what_ran(outcomes: Found, case: Case) -> None:
    """Wherever it dies: nothing is lost, out of order, buried twice or effected twice [B14 B27 F11]."""
    found = looked_at(outcomes[case], case)
    assert found.codes == [KILLED] * len(found.codes)
    judge(found, case)


@pytest.mark.parametrize("case", STANDSTILLS, ids=str)
def test_who_stood_still_starts_and_settles_nothing_of_what_others_have(outcomes: Found, case: Case) -> None:
    """Wherever it stops for longer than its lease and goes on: the same as if it had died [B9 F15]."""
    judge(looked_at(outcomes[case], case), case)


@pytest.mark.parametrize("errand", ERRANDS, ids=str)
def test_a_death_on_an_errand_leaves_nothing_half_done(outcomes: Found, errand: Errand) -> None:
    """A replica that releases, redrives, pauses, trims, cares, beats dies at it: it is done or not [B27]."""
    found = outcomes[errand]
    if isinstance(found, BaseException):
        raise found


def looked_at(found: Outcome | BaseException | None, case: Case) -> Outcome:
    """It came to an end, at the point, in the state."""
    if isinstance(found, BaseException):
        raise found
    assert found is not None
    assert found.reached == case.point
    if case.what not in (*SECOND, "release"):
        is_handling = not found.has_ended and case.what != "fetch"
        assert found.running == (case.state == "running") + is_handling
    if case.what in ("settle", "release"):
        assert found.has_ended
    if case.state == "retrying":
        assert found.at_end.parked >= 2
    return found


def judge(found: Outcome, case: Case) -> None:
    assert found.verdict, f"{found.verdict}\n{found.history}"
    dead = [letter.envelope.id.partition("-")[2] for letter in found.letters]
    assert dead == ([str(TRIGGER)] if case.state == "dead-lettering" else [])
    is_effective = case.state == "returning" or case.what == "publish"
    assert found.effects == ([TRIGGER] if is_effective else [])
    assert found.left == {}
    assert found.seconds < LEASE + 5
