"""Who is told that his event was taken goes on at once, in the middle of reading the answers.

Whatever he does then takes nothing away from the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
from fault_tools.servers import Server, binaries, binary

from bus.redis_streams import RedisBus
from bus.redis_streams.link import STALL
from contracts.bus import BusLimits
from contracts.errors import BusClosed, PublishUnknown
from contracts.event import Event, Receipt

NUMBER: ContextVar[int] = ContextVar("number")
PUBLISHERS = 12


class Made(Event, type="confirming.made"):
    number: int


class MadeElsewhere(Event, type="elsewhere.made"):
    number: int


@pytest.fixture(scope="module", params=[label for label, _ in binaries()])
def one_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(binary(request.param)) as server:
        yield server


@pytest.fixture
def url(one_server: Server) -> str:
    return one_server.url


@pytest.fixture
async def bus(url: str, request: pytest.FixtureRequest) -> AsyncIterator[RedisBus]:
    bus = RedisBus(url, namespace=request.node.name)
    async with bus:
        await publish(bus, 0)  # the topic is made
        yield bus


async def publish(bus: RedisBus, number: int, kind: type[Made | MadeElsewhere] = Made) -> Receipt:
    return await bus.publish(kind(number=number), source="/confirming")


async def all_of(publisher: Callable[[int], Coroutine[Any, Any, Any]]) -> list[Any]:
    """What became of so many at once, which go out in one write."""
    tasks = [asyncio.create_task(publisher(number)) for number in range(PUBLISHERS)]
    async with asyncio.timeout(10):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_each_goes_on_as_himself_and_in_turn(bus: RedisBus) -> None:
    told = list[tuple[int, int, str]]()

    async def publisher(number: int) -> None:
        NUMBER.set(number)
        task = asyncio.current_task()
        assert task is not None
        for _ in range(3):
            await publish(bus, number)
            assert asyncio.current_task() is task
            told.append((number, NUMBER.get(), task.get_name()))

    assert await all_of(publisher) == [None] * PUBLISHERS
    assert all(number == own for number, own, _ in told)
    assert len({name for _, _, name in told}) == PUBLISHERS
    assert len(told) == 3 * PUBLISHERS


async def test_one_ends_the_others_while_they_are_being_told(bus: RedisBus) -> None:
    """What Redis has taken of theirs is taken; they are cancelled all the same."""
    tasks = dict[int, asyncio.Task[Any]]()

    async def publisher(number: int) -> Receipt:
        receipt = await publish(bus, number)
        for other in tasks.values():
            if other is not asyncio.current_task():
                other.cancel()
        return receipt

    for number in range(PUBLISHERS):
        tasks[number] = asyncio.create_task(publisher(number))
    async with asyncio.timeout(10):
        ended = await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert any(isinstance(one, Receipt) for one in ended)
    assert all(isinstance(one, Receipt | asyncio.CancelledError) for one in ended)
    assert (await publish(bus, 99)).position  # and the bus goes on


async def test_who_waits_behind_many_that_were_cancelled_is_sent(bus: RedisBus) -> None:
    """What nobody wants any more takes nobody's turn: more of it lies there than goes into one call."""
    publishes = (bus.publish(Made(number=number), source="/confirming", key="one") for number in range(650))
    tasks = [asyncio.create_task(publish) for publish in publishes]
    await asyncio.sleep(0)  # the first is under way, the others wait for its answer
    for task in tasks[1:601]:
        task.cancel()
    async with asyncio.timeout(3):
        receipts = await asyncio.gather(tasks[0], *tasks[601:])
    assert len({receipt.position for receipt in receipts}) == 50
    assert all(task.cancelled() for task in tasks[1:601])


@pytest.mark.parametrize("end", [lambda bus: bus.close(0), lambda bus: bus.kill()], ids=["close", "kill"])
async def test_who_waits_to_be_sent_is_told_when_the_bus_ends(
    bus: RedisBus, one_server: Server, end: Callable[[RedisBus], Coroutine[Any, Any, None]]
) -> None:
    """There and then: there is nobody any more who could send it, and nobody who would see his deadline. What
    was sent may have been taken."""
    made = (Made(number=number) for number in range(PUBLISHERS))
    publishes = (bus.publish(one, source="/confirming", key="one", timeout=60) for one in made)
    one_server.pause()
    try:
        tasks = [asyncio.create_task(publish) for publish in publishes]
        await asyncio.sleep(0)  # the first is under way, the others wait for its answer
        async with asyncio.timeout(10):
            await end(bus)
            told = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        one_server.resume()
    assert [type(one) for one in told] == [PublishUnknown] + [BusClosed] * (PUBLISHERS - 1)


async def test_who_publishes_on_while_the_bus_is_closed_is_told_at_once(bus: RedisBus) -> None:
    """Not at his deadline, which nobody watches any more."""
    told = list[type[BaseException]]()

    async def publisher(number: int) -> None:
        while len(told) < 10 * PUBLISHERS:
            try:
                await publish(bus, number)
            except (BusClosed, PublishUnknown) as error:
                told.append(type(error))

    tasks = [asyncio.create_task(publisher(number)) for number in range(PUBLISHERS)]
    await publish(bus, 0)
    async with asyncio.timeout(5):  # a publish has 30 s
        await bus.close(0)
        await asyncio.gather(*tasks)
    assert told.count(PublishUnknown) <= PUBLISHERS


async def test_one_closes_the_bus_while_the_others_are_being_told(bus: RedisBus) -> None:
    async def publisher(number: int) -> Receipt:
        receipt = await publish(bus, number)
        await bus.close(0.1)
        return receipt

    assert all(isinstance(one, Receipt) for one in await all_of(publisher))
    with pytest.raises(BusClosed):
        await publish(bus, 1)


async def test_one_fails(bus: RedisBus) -> None:
    async def publisher(number: int) -> Receipt:
        receipt = await publish(bus, number)
        if number == 3:
            raise ValueError("no more")
        return receipt

    ended = await all_of(publisher)
    assert [type(one) for one in ended].count(ValueError) == 1
    assert [type(one) for one in ended].count(Receipt) == PUBLISHERS - 1


async def kept(bus: RedisBus) -> None:
    """Suspend the bus, and return when an answer has come that it must not read."""
    bus.suspend()
    async with asyncio.timeout(10):
        while not bus._core.link.events._unread:  # noqa: ASYNC110 - nobody but the wire knows
            await asyncio.sleep(0.001)


async def test_one_goes_on_where_a_task_has_had_the_answers_read(bus: RedisBus) -> None:
    """Who wakes the bus is a task, which cannot be interrupted by another."""
    publishing = asyncio.create_task(publish(bus, 1))
    await asyncio.sleep(0)  # it is sent
    await kept(bus)
    assert not publishing.done()
    bus.wake()
    async with asyncio.timeout(10):
        assert (await publishing).position


async def test_one_goes_on_where_his_context_is_in_use(bus: RedisBus) -> None:
    """A callback that runs within it has the answers read."""
    context = copy_context()
    publishing = asyncio.create_task(publish(bus, 1), context=context)
    await asyncio.sleep(0)  # it is sent
    await kept(bus)
    asyncio.get_running_loop().call_soon(bus.wake, context=context)
    async with asyncio.timeout(10):
        assert (await publishing).position


def test_one_ends_the_event_loop_and_the_others_are_confirmed(url: str) -> None:
    """Such an exception comes out of the loop, as from any other task; who runs it again finds order.

    Answers of other partitions may have been read behind that one.
    """
    bus = RedisBus(url, namespace="ends-the-loop", limits=BusLimits(partitions=1))

    async def publisher(number: int) -> Receipt:
        receipt = await publish(bus, number, Made if number < PUBLISHERS // 2 else MadeElsewhere)
        if number == 3:
            raise SystemExit(7)
        return receipt

    async def begin() -> list[asyncio.Task[Receipt]]:
        await bus.open()
        for kind in (Made, MadeElsewhere):
            await publish(bus, 0, kind)
        return [asyncio.create_task(publisher(number)) for number in range(PUBLISHERS)]

    loop = asyncio.new_event_loop()
    try:
        tasks = loop.run_until_complete(begin())
        with pytest.raises(SystemExit):
            loop.run_until_complete(asyncio.wait(tasks))
        _, pending = loop.run_until_complete(asyncio.wait(tasks, timeout=STALL / 2))
        loop.run_until_complete(bus.close())
    finally:
        loop.close()
    assert not pending
    assert [type(task.exception()) for task in tasks].count(SystemExit) == 1
    assert [type(task.exception()) for task in tasks].count(type(None)) == PUBLISHERS - 1
