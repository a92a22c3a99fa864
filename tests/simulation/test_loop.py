"""The simulated loop: time is a number, order is a seed, and asyncio's own promises hold."""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random

import pytest
from bus_simulation.loop import Deadlock, Endless, SimulatedLoop


def _append(numbers: list[int], number: int, _: object) -> None:
    numbers.append(number)


def loop_of(seed: int, **options: float) -> SimulatedLoop:
    return SimulatedLoop(Random(seed), **options)  # type: ignore[abstract,arg-type]  # noqa: S311 - to be repeatable


def test_a_day_passes_at_once() -> None:
    """Time jumps to the next timer when nobody is ready."""
    loop = loop_of(0)
    began = loop.time()

    async def main() -> None:
        await asyncio.gather(asyncio.sleep(3_600), asyncio.sleep(86_400))

    loop.run(main())
    assert loop.time() - began == 86_400
    assert loop.unfinished == []
    assert loop.timers == []


def test_a_deadlock_names_who_waits() -> None:
    """Nobody is ready and no timer is set."""

    async def stuck() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="main"):
        loop_of(0).run(stuck())


def test_a_run_without_end_is_given_up() -> None:
    """A task that turns in circles does not hang the suite."""

    async def nothing() -> None:
        await asyncio.sleep(0)

    async def circles() -> None:
        while True:
            await nothing()

    with pytest.raises(Endless):
        loop_of(0).run(circles())


def order_of_tasks(seed: int, in_turn: float = 0.0) -> list[str]:
    seen: list[str] = []

    async def worker(name: str) -> None:
        for step in range(3):
            seen.append(f"{name}{step}")
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(worker(name) for name in "abc"))

    loop_of(seed, in_turn=in_turn).run(main())
    return seen


def test_tasks_overtake_one_another_as_the_seed_says() -> None:
    """Many orders, the same one for the same seed, and each task's own steps in turn."""
    orders = {seed: order_of_tasks(seed) for seed in range(50)}
    assert len({tuple(order) for order in orders.values()}) > 40
    for seed, order in orders.items():
        assert order == order_of_tasks(seed)
        for name in "abc":
            assert [step for step in order if step[0] == name] == [f"{name}{number}" for number in range(3)]


def test_in_turn_is_the_order_of_asyncio() -> None:
    """With `in_turn=1` the oldest callback always goes first."""
    assert order_of_tasks(1, in_turn=1.0) == [f"{name}{step}" for step in range(3) for name in "abc"]


@pytest.mark.parametrize("seed", range(20))
def test_what_asyncio_promises_keeps_its_order(seed: int) -> None:
    """Callbacks of one future, callbacks handed to call_soon, and timers of different times."""
    seen: dict[str, list[int]] = {"future": [], "soon": [], "timer": []}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        for number in range(5):
            future.add_done_callback(partial(_append, seen["future"], number))
            loop.call_soon(seen["soon"].append, number)
            loop.call_later(1 + number / 10, seen["timer"].append, number)
        future.set_result(None)
        await asyncio.sleep(10)

    loop_of(seed).run(main())
    assert list(seen.values()) == [list(range(5))] * 3
