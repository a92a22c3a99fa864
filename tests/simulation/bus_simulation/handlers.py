"""What handlers do: succeed, fail, sleep, hang, disobey, publish. Chance chooses at each start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from contracts.event import EventResult
from contracts.message import PluginEvent

from . import history as h
from .plan import FOREVER, PAUSES

if TYPE_CHECKING:
    from .world import Replica, World

DEPTH = 2
"""Events that cause one another, at most."""
MORE = 2.0
"""Seconds for which a stubborn handler goes on after its cancellation."""


class Outage(Exception):
    """What handlers raise."""


class Attempt:
    """One start of a handler."""

    def __init__(self, world: World, replica: Replica, host: str, event: PluginEvent) -> None:
        self.world = world
        self.replica = replica
        self.event = event
        self.host = host
        self.name: str = event.message.event.name  # type: ignore[union-attr]  # immutable: handed over as it is
        self.number = next(world.numbers)
        self.returns: tuple[str, ...] = ()
        self.interrupted: float | None = None

    async def run(self) -> EventResult | None:
        self._note_start()
        how = "failed"
        try:
            result = await ACTS[self._choose()](self)
            how = self._ending(result)
        except asyncio.CancelledError:
            self.interrupt()
            how = "cancelled"
            raise
        else:
            return result
        finally:
            self.world.note(h.Ended(self.number, how, self.interrupted, self.returns))

    def interrupt(self) -> None:
        if self.interrupted is None:
            self.interrupted = self.world.loop.time()

    async def pause(self) -> None:
        await asyncio.sleep(self.world.random.choice(PAUSES))

    @property
    def can_go_on(self) -> bool:
        """Whether it may cause further events."""
        return self.name.count(">") + self.name.count("+") < DEPTH

    def _choose(self) -> str:
        world = self.world
        if world.is_calm or self.event.replayed:
            return "ok"
        return world.random.choices(world.acts, cum_weights=world.weights)[0]

    def _note_start(self) -> None:
        message, world = self.event.message, self.world
        topic, _, _ = message.type.partition(".")
        identity, place = f"{message.source} {message.id}", world.partition_of(message)
        world.note(
            h.Started(
                self.number, self.host, self.name, identity, message.key, self.event.attempt,
                topic, place, message.sequence, world.clock.wall(), self.event.replayed,
            )
        )  # fmt: skip

    def _ending(self, result: EventResult | None) -> str:
        if result is None:
            return "ok"
        return {"ok": "returned", "retry": "failed", "discard": "discarded", "dead_letter": "dead"}[
            result.action
        ]


Act = Callable[[Attempt], Awaitable[EventResult | None]]


async def ok(attempt: Attempt) -> None:
    """At once, without an await."""


async def nap(attempt: Attempt) -> None:
    await attempt.pause()


async def fail(attempt: Attempt) -> None:
    await attempt.pause()
    raise Outage(attempt.name)


async def ask(attempt: Attempt) -> EventResult:
    return EventResult.retry("not now", after=attempt.world.random.choice(PAUSES))


async def dead(attempt: Attempt) -> EventResult:
    await attempt.pause()
    return EventResult.dead_letter("of no use")


async def discard(attempt: Attempt) -> EventResult:
    await attempt.pause()
    return EventResult.discard("not wanted")


async def hang(attempt: Attempt) -> None:
    await asyncio.sleep(FOREVER)


async def stubborn(attempt: Attempt) -> None:
    """Goes on for a while although it is cancelled."""
    try:
        await asyncio.sleep(attempt.world.random.choice((0.1, 1.0, 5.0, FOREVER)))
    except asyncio.CancelledError:
        attempt.interrupt()
        await asyncio.sleep(attempt.world.random.choice((0.0, 0.5, MORE)))


async def give(attempt: Attempt) -> EventResult | None:
    """Return events: the same at each attempt."""
    await attempt.pause()
    if not attempt.can_go_on:
        return None
    group = attempt.host.partition(".")[0]
    events = [attempt.world.make_event(f"{attempt.name}>{group}.{index}", index) for index in range(2)]
    for event in events:
        attempt.world.note(
            h.Published(event.name, event.__event_type__, attempt.event.message.key, None, from_handler=True)
        )
    attempt.returns = tuple(event.name for event in events)
    return EventResult.ok(*events)


async def publish(attempt: Attempt) -> None:
    """Publish by hand: another event at each attempt."""
    world = attempt.world
    if attempt.can_go_on:
        event = world.make_event(f"{attempt.name}+{attempt.number}", attempt.number)
        key = attempt.event.message.key
        await world.publish(attempt.replica.bus, event, "/by-hand", key=key)
    await attempt.pause()
    if world.random.random() < 0.3:
        raise Outage(attempt.name)


ACTS: dict[str, Act] = {
    "ok": ok, "nap": nap, "fail": fail, "ask": ask, "dead": dead, "discard": discard, "hang": hang,
    "stubborn": stubborn, "return": give, "publish": publish,
}  # fmt: skip
