"""Order through the lot, under everything that can happen: judged on every start."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bus.clock import Ids
from bus.memory import MemoryBroker, MemoryBus
from contracts.bus import DeadLetterSelection, RetryPolicy, SubscriptionOptions, SubscriptionSpec
from contracts.event import Event, EventResult
from contracts.message import PluginEvent

KEYS = ["a", "b", None]
NOW = datetime(2030, 1, 1, tzinfo=UTC)
EVERYTHING = DeadLetterSelection()


class Step(Event, type="orders.step"):
    n: int


class Judge:
    """Knows what was published and what began and ended; objects to every start that breaks the promise."""

    def __init__(self, dead: Callable[[], set[int]]) -> None:
        self.dead = dead
        self.redriven: set[int] = set()
        self.order: dict[str, list[int]] = {}
        self.final: set[int] = set()
        """Acknowledged or dead; what killed its owners too often is found among the dead letters only."""
        self.running: dict[str, tuple[str, int]] = {}
        self.broken: list[str] = []

    def published(self, key: str | None, n: int) -> None:
        if key is not None:
            self.order.setdefault(key, []).append(n)

    def starts(self, replica: str, key: str | None, n: int) -> None:
        if key is None:
            return
        if key in self.running:
            self.broken.append(f"{n} of {key} started beside {self.running[key]}")
        earlier = self.order[key][: self.order[key].index(n)]
        settled = self.final | self.dead() | self.redriven
        waiting = [other for other in earlier if other not in settled]
        if waiting and n not in self.redriven:
            self.broken.append(f"{n} of {key} started before {waiting}")
        self.running[key] = replica, n

    def ends(self, replica: str, key: str | None, n: int, final: bool) -> None:
        if self.running.get(key or "") == (replica, n):
            del self.running[key or ""]
        if final:
            self.final.add(n)

    def died(self, replica: str) -> None:
        """Its handlers do not run any more, whatever is left of their tasks."""
        self.running = {key: value for key, value in self.running.items() if value[0] != replica}


actions = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(KEYS), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("pass"), st.integers(0, 40)),
        st.tuples(st.just("kill")),
        st.tuples(st.just("drain"), st.integers(0, 20)),
        st.tuples(st.just("redrive")),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(actions=actions, lanes=st.integers(1, 3), partitions=st.integers(1, 3))
def test_each_key_is_in_order_through_failures_crashes_and_hand_overs(
    actions: list[tuple[Any, ...]], lanes: int, partitions: int, make_loop: Callable[[], Any], make_clock: Any
) -> None:
    """Random failures, crashes, hand-overs and redrives: no start breaks the order of its key."""
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(play(actions, lanes, partitions, make_clock()))


async def play(  # noqa: C901, PLR0915 - one scene, told from top to bottom
    actions: list[tuple[Any, ...]], lanes: int, partitions: int, clock: Any
) -> None:
    failures, slow = dict[int, int](), set[int]()
    broker = MemoryBroker(clock=clock, ids=Ids("t"), random=Random(1), partitions=partitions)  # noqa: S311 - to be repeatable
    options = SubscriptionOptions(
        concurrency=lanes, retry=RetryPolicy(attempts=3, first_delay=5, factor=2, jitter=0.5)
    )
    spec = SubscriptionSpec(group="p.h", plugin_id="p", handler="h", patterns=("**",), options=options)

    def dead() -> set[int]:
        group = broker.groups.get("p.h")
        return (
            {json.loads(entry.message.data)["n"] for entry in group.dead.select(EVERYTHING, NOW)}
            if group
            else set()
        )

    judge = Judge(dead)

    async def handle(replica: str, event: PluginEvent) -> EventResult | None:
        n, key = event.data["n"], event.message.key
        judge.starts(replica, key, n)
        final = False
        try:
            if n in slow:
                await asyncio.sleep(7)
            if failures[n] > 0:
                failures[n] -= 1
                final = event.attempt >= 3
                raise ValueError(n)
            final = True
        finally:
            judge.ends(replica, key, n, final)
        return None

    async def start(name: str) -> tuple[MemoryBus, Any]:
        bus = MemoryBus(broker, replica=name)
        await bus.open()
        return bus, await bus.subscribe(spec, functools.partial(handle, name))

    publisher = MemoryBus(broker, replica="publisher")
    await publisher.open()
    buses, count = [await start("0"), await start("1")], 2
    numbers = iter(range(1_000))
    for action, *arguments in actions:
        if action == "publish":
            key, fails, is_slow = arguments
            n = next(numbers)
            failures[n] = fails
            if is_slow:
                slow.add(n)
            judge.published(key, n)
            await publisher.publish(Step(n=n), source="/test", key=key)
        elif action == "pass":
            await asyncio.sleep(arguments[0])
        elif action == "redrive":
            judge.redriven |= dead()
            await publisher.redrive(EVERYTHING)
        else:
            bus, subscription = buses.pop(0)
            if action == "kill":
                bus.kill()
                judge.died(bus.replica)
            else:
                await subscription.drain(arguments[0])
            await bus.close(grace=0)
            buses.append(await start(str(count)))
            count += 1
    await publisher.quiet()
    for bus in [*(bus for bus, _ in buses), publisher]:
        await bus.close()
    assert judge.broken == []
    assert judge.final | dead() == set(failures)


async def test_a_hot_key_does_not_keep_the_other_lanes_from_what_comes_behind_it(rig: Any, bus: Any) -> None:
    """They hold back so many of its events, and look further as soon as these become fewer."""
    started: dict[str, float] = {}

    async def handle(event: PluginEvent) -> None:
        started.setdefault(event.message.key or "", asyncio.get_running_loop().time())
        await asyncio.sleep(1)

    for n in range(1_100):
        await rig.publish(bus, n, key="hot")
    await rig.publish(bus, 0, key="other")
    await rig.on(bus, handle, concurrency=2)
    await bus.quiet()
    assert started["other"] - started["hot"] < 200
