"""The catalogue in Redis: what is written when, and what becomes of it when somebody else meddles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from fault_tools.opening import AT_ONCE, EVENT, LIMITS, opened, works
from fault_tools.servers import Server
from fault_tools.storage_systems import check_log, said

from bus.conformance.rig import SOURCE
from bus.redis_streams import RedisBus
from bus.redis_streams.catalog import REVISION
from bus.redis_streams.layout import Keys
from contracts.bus import CatalogEntry

KEYS = Keys("plugbus")
ITEM = CatalogEntry(type="orders.item", version=1, plugin_id="shop", json_schema={"type": "object"})
BILL = CatalogEntry(type="bills.item", version=3, plugin_id="bills")


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(AT_ONCE * 2):
        while not is_so():  # noqa: ASYNC110 - Redis, or another replica, is looked at
            await asyncio.sleep(0.01)


def names(bus: RedisBus) -> list[str]:
    return [entry.type for entry in bus.types()]


def written(server: Server) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = server.command("HGETALL", KEYS.types)
    return found


async def test_only_what_is_new_is_written(server: Server) -> None:
    """Not the same type again, and nothing for the events of a type."""
    async with opened(server.url) as bus, opened(server.url) as other:
        bus.add_types([ITEM])
        await until(lambda: names(other) == ["orders.item"])
        await until(lambda: len(written(server)) == 1)
        revision = server.command("HGET", KEYS.meta, REVISION)
        remove = bus.add_types([ITEM])
        await works(bus)
        for _ in range(20):
            await bus.publish(EVENT, source=SOURCE)
        await bus.quiet()
        assert server.command("HGET", KEYS.meta, REVISION) == revision
        remove()
        bus.add_types([BILL])
        await until(lambda: names(other) == ["bills.item", "orders.item"])
        assert len(written(server)) == 2
        assert server.command("HGET", KEYS.meta, REVISION) != revision


async def test_what_is_declared_before_it_is_opened_is_written_then(server: Server) -> None:
    """And what is taken out before is not."""
    async with opened(server.url) as other:
        bus = RedisBus(server.url)
        bus.add_types([ITEM])
        bus.add_types([BILL])()
        assert names(bus) == ["orders.item"]
        await bus.open()
        try:
            assert len(written(server)) == 1
            await until(lambda: names(other) == ["orders.item"])
        finally:
            await bus.close(0)


async def test_the_same_replica_again_keeps_what_it_had_left_behind(server: Server) -> None:
    """Started anew under its name after a kill, until its plugin says what it declares now."""
    async with opened(server.url) as other:
        first = RedisBus(server.url, replica="one")
        await first.open()
        first.add_types([ITEM, ITEM.model_copy(update={"version": 2}), BILL])
        await until(lambda: len(other.types()) == 3)
        await first.kill()
        async with opened(server.url, replica="one") as again:
            assert len(again.types()) == len(other.types()) == 3
            again.add_types([ITEM])
            await until(lambda: [entry.version for entry in other.types()] == [3, 1])


async def test_what_a_dead_replica_leaves_goes_with_its_own_plugin_alone(server: Server) -> None:
    """Another plugin's types come and go meanwhile; its own clear up when they are declared anew, even as
    they were."""
    bill_of_two = BILL.model_copy(update={"version": 4})
    async with opened(server.url) as bus, opened(server.url) as other:
        bus.add_types([BILL])
        gone = RedisBus(server.url, limits=LIMITS)
        await gone.open()
        gone.add_types([bill_of_two])
        await until(lambda: [entry.version for entry in other.types()] == [3, 4])
        await gone.kill()
        async with asyncio.timeout(AT_ONCE):
            while len((await bus.info()).replicas) > 2:  # noqa: ASYNC110 - until it is taken for gone
                await asyncio.sleep(0.05)
        remove = bus.add_types([ITEM])
        await until(lambda: len(other.types()) == 3)
        remove()
        await until(lambda: len(other.types()) == 2)
        assert [entry.version for entry in bus.types()] == [3, 4]
        bus.add_types([BILL])
        await until(lambda: [entry.version for entry in other.types()] == [3])
        assert len(written(server)) == 1


async def test_after_all_data_were_lost_everything_is_written_again(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """What lives is declared anew; what a replica that is gone had left is gone too."""
    async with opened(server.url) as bus, opened(server.url) as other:
        gone = RedisBus(server.url)
        await gone.open()
        gone.add_types([BILL])
        bus.add_types([ITEM])
        await until(lambda: len(other.types()) == 2)
        await gone.kill()
        server.command("FLUSHALL")
        await until(lambda: names(other) == names(bus) == ["orders.item"])
        assert len(written(server)) == 1


async def test_what_is_no_type_is_left_alone(server: Server) -> None:
    """A field of somebody else: not shown, not removed."""
    async with opened(server.url) as bus, opened(server.url) as other:
        server.command("HSET", KEYS.types, "\xff", "no type", "a@1 b c", "{}")
        bus.add_types([ITEM])
        await until(lambda: names(other) == ["orders.item"])
        assert len(written(server)) == 3


async def test_a_hash_of_types_that_becomes_something_else(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once; events go on, and so does the catalogue when the key is gone."""
    async with opened(server.url) as bus, opened(server.url) as other:
        server.command("SET", KEYS.types, "of somebody else")
        bus.add_types([ITEM])
        await works(bus)
        await until(lambda: said(caplog.records, logging.ERROR, "types"))
        assert names(bus) == ["orders.item"]
        assert server.command("GET", KEYS.types) == b"of somebody else"
        server.command("DEL", KEYS.types)
        await until(lambda: names(other) == ["orders.item"])
        check_log(caplog.records, most=2, speakers=2)


async def test_an_entry_stays_the_same_object_while_it_is_the_same(server: Server) -> None:
    """So that the gateway does not make its validators anew."""
    async with opened(server.url) as bus, opened(server.url) as other:
        bus.add_types([ITEM])
        await until(lambda: names(other) == ["orders.item"])
        [before] = other.types()
        bus.add_types([BILL])
        await until(lambda: len(other.types()) == 2)
        assert other.types()[1] is before
