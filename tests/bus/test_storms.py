"""The storm guard: chains of events that cause one another are bounded, named and stopped."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.bus import BusLimits, RetryPolicy
from contracts.envelope import Envelope
from contracts.errors import StormDetected
from contracts.event import Event, EventResult
from contracts.message import PluginEvent


class Ping(Event, type="game.ping"):
    n: int = 0


class Pong(Event, type="game.pong"):
    n: int = 0


class Player:
    """Answers one kind of event with another, by publishing it or by returning it."""

    def __init__(self, bus: Any, answer: type[Ping | Pong], returns: bool = False, **options: Any) -> None:
        self.bus = bus
        self.answer = answer
        self.returns = returns
        self.options = options
        self.seen: list[tuple[int, tuple[str, ...]]] = []
        self.attempts: list[int] = []
        self.errors: list[StormDetected] = []

    async def __call__(self, event: PluginEvent) -> EventResult | None:
        self.seen.append((event.message.depth, event.message.path))
        self.attempts.append(event.attempt)
        answer = self.answer(n=len(self.seen))
        if self.returns:
            return EventResult.ok(answer)
        try:
            await self.bus.publish(answer, source="/game", **self.options)
        except StormDetected as error:
            self.errors.append(error)
            raise
        return None


async def play(rig: Any, bus: Any, **more: Any) -> tuple[Player, Player]:
    """Two groups that answer each other for ever."""
    a, b = Player(bus, Pong, **more), Player(bus, Ping, **more)
    await rig.on(bus, a, "game.ping", group="a.play")
    await rig.on(bus, b, "game.pong", group="b.play")
    await bus.publish(Ping(), source="/test")
    return a, b


async def test_events_carry_the_depth_and_the_path_of_their_chain(rig: Any) -> None:
    """The groups that it went through, the first one first."""
    rig.make_broker(limits=BusLimits(depth=3))
    bus = await rig.open()
    a, b = await play(rig, bus)
    await asyncio.sleep(1)
    assert a.seen == [(0, ()), (2, ("a.play", "b.play"))]
    assert b.seen == [(1, ("a.play",)), (3, ("a.play", "b.play", "a.play"))]


@pytest.mark.parametrize("returns", [False, True])
@pytest.mark.parametrize(
    ("limits", "starts", "says"),
    [({"depth": 6}, 7, "7 events caused one another (at most 6)"),
     ({"loops": 4}, 9, "events came to a.play 5 times (at most 4)")],
)  # fmt: skip
async def test_a_storm_is_stopped_at_its_limit(
    rig: Any, caplog: pytest.LogCaptureFixture, returns: bool, limits: dict[str, int], starts: int, says: str
) -> None:
    """Published or returned: the group that would go on is paused, the delivery is parked, not dead."""
    rig.make_broker(limits=BusLimits(**limits))
    bus = await rig.open()
    with caplog.at_level(logging.ERROR):
        a, b = await play(rig, bus, returns=returns)
        await asyncio.sleep(10_000)
    assert len(a.seen) + len(b.seen) == starts
    info = await rig.info("a.play")
    assert (info.parked, info.dead, info.in_flight) == (1, 0, 0)
    assert says in info.paused
    assert (await rig.info("b.play")).paused is None
    [line] = [record.getMessage() for record in caplog.records]
    assert "a.play → b.play → a.play" in line
    assert says in line


async def test_a_storm_is_told_with_its_path(rig: Any, recorder: Any) -> None:
    """To the publisher as an error, to everybody else as `bus.storm`, once."""
    rig.make_broker(limits=BusLimits(depth=3))
    bus, told = await rig.open(), recorder()
    await rig.on(bus, told, "bus.storm", group="x.told")
    _, b = await play(rig, bus)
    await asyncio.sleep(10)
    path = ("a.play", "b.play", "a.play", "b.play")
    assert [error.path for error in b.errors] == [path]
    assert "depth 4" in str(b.errors[0])
    [storm] = told.events
    assert storm.data["group"] == "b.play"
    assert storm.data["plugin_id"] == "b"
    assert storm.data["event_type"] == "game.pong"
    assert (storm.data["depth"], tuple(storm.data["path"])) == (4, path)


async def test_a_storm_never_makes_a_dead_letter(rig: Any) -> None:
    """However often the group is resumed: the attempt does not count, and the storm is found again."""
    rig.make_broker(limits=BusLimits(depth=1))
    bus, player = await rig.open(), Player(None, Ping)
    player.bus = bus
    await rig.on(bus, player, "game.ping", group="a.play", retry=RetryPolicy(attempts=2))
    await bus.publish(Ping(), source="/test")
    await asyncio.sleep(1)
    for _ in range(5):
        assert await bus.resume_group("a.play")
        await asyncio.sleep(1)
    info = await rig.info("a.play")
    assert (info.parked, info.dead) == (1, 0)
    assert info.paused is not None
    assert player.attempts == [1] * 7


@pytest.mark.parametrize("ahead", ["delay", "at"])
async def test_a_second_of_delay_begins_a_new_chain(rig: Any, ahead: str) -> None:
    """A handler that schedules its own next run may do so for ever; what caused it is still known."""
    rig.make_broker(limits=BusLimits(depth=3, loops=2))
    bus = await rig.open()
    runs: list[PluginEvent] = []

    async def again(event: PluginEvent) -> None:
        runs.append(event)
        if len(runs) < 50:
            at = datetime.fromtimestamp(rig.clock.time_ns() / 1e9 + 1.001, UTC)
            when: dict[str, Any] = {"delay": 1.0} if ahead == "delay" else {"at": at}
            await bus.publish(Ping(), source="/game", **when)

    await rig.on(bus, again, "game.ping", group="a.play")
    first = await bus.publish(Ping(), source="/test")
    await bus.quiet()
    assert len(runs) == 50
    assert {(event.message.depth, event.message.path) for event in runs} == {(0, ())}
    assert {event.envelope.correlationid for event in runs} == {first.id}


async def test_a_short_delay_does_not(rig: Any) -> None:
    """A storm with small pauses is a storm."""
    rig.make_broker(limits=BusLimits(loops=2))
    bus = await rig.open()
    a, b = await play(rig, bus, delay=0.9)
    await asyncio.sleep(1_000)
    assert len(a.seen) + len(b.seen) == 5
    assert (await rig.info("a.play")).paused is not None


async def test_what_others_publish_meanwhile_is_not_concerned(rig: Any) -> None:
    """Events that nothing caused, and chains through other groups, are as free as before."""
    rig.make_broker(limits=BusLimits(loops=1, depth=2))
    bus = await rig.open()
    await play(rig, bus)
    await asyncio.sleep(10)
    receipts = [await bus.publish(Ping(n=n), source="/test") for n in range(10)]
    assert len({receipt.position for receipt in receipts}) == 10


async def test_an_event_relayed_while_another_is_handled_continues_its_chain(rig: Any) -> None:
    """A bridge can be part of a storm."""
    rig.make_broker(limits=BusLimits(loops=3))
    bus = await rig.open()
    count = 0

    async def bridge(event: PluginEvent) -> None:
        nonlocal count
        count += 1
        envelope = Envelope(id=f"r{count}", source="/outside", type="game.ping", time=event.envelope.time)
        await bus.relay(envelope, Ping(n=count))

    await rig.on(bus, bridge, "game.ping", group="a.bridge")
    await bus.publish(Ping(), source="/test")
    await asyncio.sleep(10)
    assert count == 4
    assert (await rig.info("a.bridge")).paused is not None


async def test_a_storm_in_the_background_pauses_the_group_too(rig: Any) -> None:
    """A task that a handler leaves behind publishes in the name of its delivery."""
    rig.make_broker(limits=BusLimits(loops=3))
    bus = await rig.open()
    errors: list[StormDetected] = []

    async def publish(n: int) -> None:
        try:
            await bus.publish(Ping(n=n), source="/game")
        except StormDetected as error:
            errors.append(error)

    tasks = []

    async def handle(event: PluginEvent) -> None:
        tasks.append(asyncio.create_task(publish(len(tasks))))

    await rig.on(bus, handle, "game.ping", group="a.play")
    await bus.publish(Ping(), source="/test")
    await asyncio.sleep(10)
    assert (len(tasks), len(errors)) == (4, 1)
    assert (await rig.info("a.play")).paused is not None
