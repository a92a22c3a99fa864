"""A process dies before or after each script call, in each state: what comes next goes on from there.

All of these run side by side, once for each server, before the first test; each test looks at one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
from fault_tools.servers import Server, binaries
from fault_tools.worker import KILLED
from fault_tools.workers import Bench, Nursery, Worker, bench, namespace_on, retries, settled_loop

from bus.conformance.checker import Verdict
from bus.conformance.rig import Rig, now
from bus.redis_streams.layout import Keys
from contracts.bus import DeadLetter, EventBus, GroupInfo
from contracts.event import EventResult

LEASE = 0.5
AT_ONCE = 24
"""Cases side by side."""
GROUP = "shop.handle"
TRIGGER = 9
"""Number of the event during whose handling the process dies."""
SLOW = 1.0
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

    @property
    def what(self) -> str:
        return self.point.partition(":")[2]

    @property
    def when(self) -> str:
        return self.point.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.point}-{self.state}"


CASES = [
    Case(f"{when}:{what}", state)
    for what, when, state in itertools.product(ALONE + SECOND, ("before", "after"), STATES)
]


@dataclass
class Outcome:
    """What was found when everything was quiet again."""

    reached: str
    codes: list[int | None]
    verdict: Verdict
    history: str
    at_death: GroupInfo
    """The group, when the process was dead and nobody had come yet."""
    running: int
    """Handlers that it was in the middle of."""
    has_ended: bool
    """Its handler of the trigger."""
    seconds: float
    """From the death until somebody else was at work or had nothing to do."""
    letters: list[DeadLetter]
    effects: list[int]
    left: dict[str, int] = field(default_factory=dict)
    """What ought to be empty, and is not."""


# --- carrying out ---------------------------------------------------------------------------------------------


async def carry_out(case: Case, work: Bench, server: Server) -> Outcome:
    rig = work.rig
    bus = await rig.open("witness")
    effects = await rig.on(bus, None, "effects.*", group="audit.effects")
    await bus.declare_group(rig.spec(concurrency=2, retry=retries(SLOW)))
    rig.groups[GROUP] = ("orders.**",)
    if case.what in SECOND:
        worker = await second_death(case, work, bus)
    else:
        worker = await begin(work, "first", case.point)
        await prepare(case, work, bus, worker)
        await trigger(case, work, bus, worker)
        await worker.died()
    died_at = now()
    at_death = await rig.info(bus)
    await work.host(bus, concurrency=2, retry=retries(SLOW))
    await rig.until(lambda: owns(rig, bus))
    seconds = now() - died_at
    await rig.quiet(bus)
    letters = await bus.dead_letters()
    await rig.given_up(bus)
    work.collect()
    return Outcome(
        reached=worker.reached, codes=[one.code for one in work.workers],
        verdict=rig.verdict(repeats=allowed(case)), history="\n".join(map(str, rig.history)),
        at_death=at_death, running=worker.running(),
        has_ended=any(one.has_ended(trigger_id(rig)) for one in work.workers), seconds=seconds,
        letters=letters, effects=sorted(effects.numbers), left=leftovers(server, work.namespace),
    )  # fmt: skip


async def owns(rig: Rig, bus: EventBus) -> bool:
    return (await rig.info(bus)).owners == {bus.replica: 1}


async def begin(work: Bench, name: str, point: str, *, is_armed: bool = False) -> Worker:
    worker = work.start(name, point=point, is_armed=is_armed, concurrency=2, retry=retries(SLOW))
    if not is_armed:
        await worker.fact("up")
    return worker


async def second_death(case: Case, work: Bench, bus: EventBus) -> Worker:
    """The first dies before it has settled; the second while it takes over what that one has left."""
    first = await begin(work, "first", "before:settle")
    await prepare(case, work, bus, first)
    await trigger(case._replace(point="before:settle"), work, bus, first)
    await first.died()
    second = await begin(work, "second", case.point, is_armed=True)
    await second.died()
    return second


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
    return running + (not is_settled)


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


async def carry_out_all(
    server: Server, nursery: Nursery, folder: Path, cases: list[Case]
) -> dict[Case, Outcome | BaseException]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> Outcome:
        async with places:
            own = folder / str(case)
            own.mkdir()
            async with bench(
                namespace_on(server, lease=LEASE), server, nursery, own, alone=False
            ) as work:
                return await carry_out(case, work, server)

    found = await asyncio.gather(*map(one, cases), return_exceptions=True)
    return dict(zip(cases, found, strict=True))


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module", params=[label for label, _ in binaries()])
def outcomes(
    request: pytest.FixtureRequest, shared_servers: dict[str, Server], nursery: Nursery,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[Case, Outcome | BaseException]:  # fmt: skip
    """Every case, carried out on one server."""
    server = shared_servers[request.param]
    server.reset()
    with settled_loop() as runner:
        return runner.run(carry_out_all(server, nursery, tmp_path_factory.mktemp("points"), CASES))


# --- judging --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_death_at_any_point_costs_nothing_but_what_ran(
    outcomes: dict[Case, Outcome | BaseException], case: Case
) -> None:
    """It dies at the point, in the state; then nothing is lost, out of order, buried or effected twice [B14 B27 F11]."""
    found = outcomes[case]
    if isinstance(found, BaseException):
        raise found
    assert (found.reached, found.codes) == (case.point, [KILLED] * len(found.codes))
    if case.what not in (*SECOND, "release"):
        assert found.running == (case.state == "running") + (not found.has_ended and case.what != "fetch")
    if case.state == "retrying":
        assert found.at_death.parked >= 2
    if case.what in ("settle", "release"):
        assert found.has_ended
    assert found.verdict, f"{found.verdict}\n{found.history}"
    dead = [letter.envelope.id.partition("-")[2] for letter in found.letters]
    assert dead == ([str(TRIGGER)] if case.state == "dead-lettering" else [])
    is_effective = case.state == "returning" or case.what == "publish"
    assert found.effects == ([TRIGGER] if is_effective else [])
    assert found.left == {}
    assert found.seconds < LEASE + 5
