"""Order: of a key, through retries, crashes and the lot; what goes on beside a key that waits."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.bus import RetryPolicy, RetryRule
from contracts.errors import InvalidOption

from .backend import Backend, needs
from .probe import Gate
from .rig import Rig
from .suite import Suite

Step = tuple[str, int]
_PLANS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 2)),
        st.tuples(st.sampled_from(["crash", "leave", "join", "turn"]), st.integers(0, 3)),
    ),
    min_size=4,
    max_size=24,
)
_FAILURES = st.dictionaries(st.integers(0, 23), st.integers(1, 3), max_size=8)
_numbers = itertools.count()


def soon(rig: Rig, **options: Any) -> RetryPolicy:
    """Comes again after a tick."""
    return RetryPolicy(**{"attempts": 5, "first_delay": rig.tick, "factor": 1, "jitter": 0, **options})


class Order(Suite):
    """Events of one key start in the order of publishing, and never two at once."""

    async def test_key_order_under_retry(self, rig: Rig) -> None:
        """While an event waits for its next attempt, later ones of its key wait behind it, others go on."""

        def act(n: int, attempt: int) -> None:
            if n == 1 and attempt < 3:
                raise ValueError("not yet")

        bus = await rig.open()
        probe = await rig.on(bus, act, retry=soon(rig))
        for n in range(1, 5):
            await rig.publish(bus, n, key="slow")
            await rig.publish(bus, 10 + n, key="fast")
        await rig.quiet(bus)
        assert [start for start in probe.starts if start[0] < 10] == [
            (1, 1),
            (1, 2),
            (1, 3),
            (2, 1),
            (3, 1),
            (4, 1),
        ]
        last = max(i for i, n in enumerate(probe.numbers) if n > 10)
        assert last < probe.starts.index((1, 3)), "other keys waited"
        rig.judge()

    async def test_retry_in_place_keeps_the_lane(self, rig: Rig) -> None:
        """With the action `retry` nothing else of the key starts between two attempts."""

        def act(n: int, attempt: int) -> None:
            if attempt == 1:
                raise ConnectionError

        rules = (RetryRule(errors=("ConnectionError",), action="retry", delay=0.05),)
        bus = await rig.open()
        probe = await rig.on(bus, act, retry=RetryPolicy(first_delay=60, rules=rules))
        await rig.publish(bus, 1, 2, key="k")
        await rig.quiet(bus)
        assert probe.starts == [(1, 1), (1, 2), (2, 1), (2, 2)]
        rig.judge()

    async def test_lanes_run_keys_side_by_side_and_never_one_key_twice(self, rig: Rig) -> None:
        """With four lanes, four keys run at once; a fifth event of a running key waits."""
        bus, gate = await rig.open(), Gate()
        probe = await rig.on(bus, gate, concurrency=4)
        for key in "abcd":
            await rig.publish(bus, 0, 1, 2, key=key)
        await rig.until(lambda: probe.running == 4)
        await rig.pause(2)
        assert probe.numbers == [0, 0, 0, 0]
        gate.open()
        await rig.quiet(bus)
        assert probe.most == 4
        rig.judge()

    async def test_one_key_is_one_order_across_the_types_of_a_topic(self, rig: Rig) -> None:
        """The topic, not the type, is the unit of order."""
        bus = await rig.open()
        probe = await rig.on(bus, lambda n, attempt: asyncio.sleep(0), "orders.*", concurrency=4)
        for n in range(60):
            await rig.publish(bus, n, key="k", type=f"orders.t{n % 3}")
        await rig.quiet(bus)
        assert probe.numbers == list(range(60))
        rig.judge()

    async def test_order_topic_treats_a_topic_as_one_key(self, rig: Rig) -> None:
        """Events of different keys, and without one, start one at a time, even behind one that failed."""

        def act(n: int, attempt: int) -> None:
            if n == 0 and attempt == 1:
                raise ValueError

        bus = await rig.open()
        probe = await rig.on(bus, act, order="topic", retry=soon(rig))
        for n in range(6):
            await rig.publish(bus, n, key=None if n % 3 == 0 else f"k{n}")
        await rig.quiet(bus)
        assert probe.starts == [(0, 1), (0, 2), *((n, 1) for n in range(1, 6))]
        rig.judge()

    async def test_order_none_gives_the_order_of_a_key_up(self, rig: Rig) -> None:
        """Each event is on its own: what waits for its retry holds nobody."""

        def act(n: int, attempt: int) -> None:
            if n == 0 and attempt == 1:
                raise ValueError

        bus = await rig.open()
        probe = await rig.on(bus, act, order="none", retry=soon(rig))
        await rig.publish(bus, 0, 1, 2, key="k")
        await rig.quiet(bus)
        assert probe.starts == [(0, 1), (1, 1), (2, 1), (0, 2)]
        rig.judge(unordered=["shop.handle"])

    @needs(partitions=4)
    async def test_order_topic_on_several_partitions_is_refused(self, rig: Rig) -> None:
        """It cannot be kept there; the error says how to mend it."""
        bus = await rig.open()
        with pytest.raises(InvalidOption) as caught:
            await rig.on(bus, order="topic")
        assert caught.value.fix

    async def test_poison_does_not_starve(self, rig: Rig) -> None:
        """An event that always fails becomes a dead letter; its key goes on behind it, other keys at once."""

        def act(n: int, attempt: int) -> None:
            if n == 0:
                raise ValueError("poison")

        bus = await rig.open()
        probe = await rig.on(bus, act, retry=soon(rig, attempts=3))
        await rig.publish(bus, 0, 1, key="k")
        await rig.publish(bus, 2, 3)
        await rig.quiet(bus)
        assert [start for start in probe.starts if start[0] < 2] == [(0, 1), (0, 2), (0, 3), (1, 1)]
        assert probe.numbers.index(3) < probe.starts.index((0, 3))
        assert [letter.envelope.id for letter in await bus.dead_letters()] == ["e1-0"]
        await rig.given_up(bus)
        rig.judge()

    async def test_key_order_through_a_retry_that_is_cut(self, rig: Rig) -> None:
        """Cancelled during its second attempt while others of its key wait: the heir begins with it."""
        gate = Gate()

        def act(n: int, attempt: int) -> Any:
            if n == 1 and attempt == 1:
                raise ValueError("not yet")
            return gate(n, attempt)

        a, b = await rig.open("a"), await rig.open("b")
        first = await rig.on(a, act, retry=soon(rig))
        await rig.publish(a, 1, 2, 3, key="k")
        await rig.until(lambda: (1, 2) in first.starts)
        await rig.publish(a, 4, key="k")
        assert not await first.subscription.drain(0)
        heir = await rig.on(b, retry=soon(rig))
        await rig.quiet(b)
        assert heir.starts == [(1, 2), (2, 1), (3, 1), (4, 1)]
        rig.judge(repeats=1)

    @needs(partitions=2, lease=1.0)
    async def test_key_order_through_a_crash(self, rig: Rig) -> None:
        """Killed while one event runs and one waits: the heir goes on with exactly these."""
        gate = Gate()

        def act(n: int, attempt: int) -> Any:
            if n == 1 and attempt == 1:
                raise ValueError
            return gate(n, attempt) if n == 10 and a.replica in rig.buses else None

        a, b = await rig.open("a"), await rig.open("b")
        first = await rig.on(a, act, concurrency=2, retry=soon(rig, first_delay=20 * rig.tick))
        await rig.publish(a, 1, 2, 3, key="x")
        await rig.publish(a, 10, 11, key="y")
        await rig.until(lambda: gate.waiting and (1, 1) in first.starts)
        await rig.pause(2)  # so that what became of the first attempt has arrived
        await rig.crash(a)
        heir = await rig.on(b, act, concurrency=2, retry=soon(rig, first_delay=20 * rig.tick))
        await rig.publish(b, 4, key="x")
        await rig.quiet(b)
        assert [n for n in heir.numbers if n < 10] == [1, 2, 3, 4]
        assert [n for n in heir.numbers if n >= 10] == [10, 11]
        assert dict(heir.starts)[1] == 2
        rig.judge(repeats=1)

    @settings(
        max_examples=30, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )  # fmt: skip
    @given(plan=_PLANS, failures=_FAILURES, lanes=st.integers(1, 3))
    @needs(lease=0.5, partitions=2)
    async def test_order_through_the_lot(
        self, backend: Backend, plan: list[Step], failures: dict[int, int], lanes: int
    ) -> None:
        """Keys, failures, crashes, newer events: none of a key starts before an earlier one has its end."""
        rig = Rig(backend)
        example = next(_numbers)
        topic, group = f"plan{example}", f"shop.plan{example}"
        published, replicas, cut = 0, itertools.count(), 0

        async def act(n: int, attempt: int) -> None:
            await asyncio.sleep(n % 3 * rig.tick / 10)
            if attempt <= failures.get(n, 0):
                raise ValueError("planned")

        async def join() -> None:
            bus = await rig.open(f"x{example}-{next(replicas)}")
            await rig.on(
                bus, act, f"{topic}.*", group=group, concurrency=lanes,
                retry=soon(rig, attempts=10, first_delay=rig.tick / 5),
            )  # fmt: skip

        publisher = await rig.open(f"x{example}")
        await join()
        for action, number in plan:
            hosts = [bus for bus in rig.buses.values() if bus is not publisher]
            if action == "publish":
                await rig.publish(publisher, published, key=f"k{number}", type=f"{topic}.item")
                published += 1
            elif action == "turn":
                await asyncio.sleep(number * rig.tick / 5)
            elif action == "join" and len(hosts) < 3:
                await join()
            elif action == "leave" and hosts:
                cut += number % 2
                await rig.close(hosts[number % len(hosts)], grace=0 if number % 2 else 10)
            elif action == "crash" and hosts:
                cut += 1
                await rig.crash(hosts[number % len(hosts)])
        await join()
        await rig.quiet(publisher)
        rig.judge(repeats=cut * lanes)
        await publisher.drop_group(group)
        await rig.end()
