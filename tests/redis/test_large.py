"""Large events go out in pieces, each as soon as it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import hiredis
import pytest
import redis
from fault_tools.servers import Server, binaries, binary

from bus.redis_streams import RedisBus
from bus.redis_streams.wire import pieces_of
from contracts.bus import BusLimits
from contracts.event import Event

EVENTS, SIZE = 60, 20_000


class Scanned(Event, type="large.scanned"):
    page: str


@pytest.fixture(scope="module", params=[label for label, _ in binaries()])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with Server(binary(request.param)) as server:
        yield server.url


def calls(url: str) -> int:
    """How many scripts the server has run."""
    with redis.Redis.from_url(url) as client:
        return sum(
            int(client.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0))
            for name in ("evalsha", "eval")
        )


async def test_a_burst_of_large_events_is_several_calls_in_order(url: str) -> None:
    """While Redis takes the first, the next are made; nobody overtakes."""
    async with RedisBus(url, namespace="large", limits=BusLimits(partitions=1)) as bus:
        await bus.publish(Scanned(page=""), source="/large")
        before = calls(url)
        async with asyncio.timeout(20):
            receipts = await asyncio.gather(
                *(bus.publish(Scanned(page="x" * SIZE), source="/large") for _ in range(EVENTS))
            )
        used = calls(url) - before
    entries = [receipt.position.rpartition(":")[2] for receipt in receipts]
    numbers = [int(entry.partition("-")[2]) for entry in entries]
    assert numbers == list(range(numbers[0], numbers[0] + EVENTS))
    assert EVENTS * SIZE / 200_000 <= used < EVENTS / 3


@pytest.mark.parametrize("words", [1, 59, 60, 61, 120, 121, 1000])
def test_what_is_packed_in_pieces_is_the_same_command(words: int) -> None:
    """Whatever the kind of its words."""
    command = tuple((b"\x00\r\n", "wörd", 17, b"*3\r\n")[n % 4] for n in range(words))
    assert b"".join(pieces_of(command)) == hiredis.pack_command(command)
