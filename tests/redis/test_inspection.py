"""What is seen of many topics at once: their commands travel together."""

from __future__ import annotations

import asyncio

import pytest
from fault_tools.opening import opened
from fault_tools.servers import Server

from bus.conformance.rig import SOURCE
from bus.redis_streams.inspection import all_of
from contracts.event import EventData

TOPICS = 120


async def test_many_topics_are_told_by_their_names(server: Server) -> None:
    """All of them, more than are asked for at once."""
    async with opened(server.url) as bus:
        await bus.publish_many(
            [EventData(type=f"t{number:03}.x", data="{}") for number in range(TOPICS)], source=SOURCE
        )
        found = [topic for topic in await bus.topics() if topic.topic.startswith("t")]
        assert [topic.topic for topic in found] == [f"t{number:03}" for number in range(TOPICS)]
        assert {(topic.events, topic.published) for topic in found} == {(1, 1)}


async def test_no_more_than_so_many_are_looked_at_at_once() -> None:
    """In their order; an error is raised, and nothing goes on behind it."""
    running, most = 0, 0

    async def look(number: int, broken: int = -1) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        if number == broken:
            raise ValueError(number)
        return number

    assert await all_of((look(number) for number in range(10)), 4) == list(range(10))
    assert most == 4
    with pytest.raises(ValueError, match="5"):
        await all_of((look(number, broken=5) for number in range(10)), 4)
    assert running == 0
