"""Redis Sentinel: the bus asks it for the master, follows a failover, and says what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import redis
from fault_tools.opening import EVENT, PASSWORD, check_message, opened, refusal_of, works
from fault_tools.servers import Server, binaries, binary, free_port
from fault_tools.storage_systems import check_log

from bus.conformance.rig import SOURCE, now
from bus.redis_streams import RedisBus, open_bus
from contracts.bus import SubscriptionSpec
from contracts.errors import InvalidOption
from contracts.message import PluginEvent

PATIENCE = 90.0
"""Seconds for an election: a sentinel that was not scheduled for two seconds does nothing for thirty."""
NEVER, SOON = 3_600_000, 4_000
"""Milliseconds of silence after which a sentinel takes a server for dead.

It promotes no replica that has been without its master for more than ten times as long before it saw that:
less than these thirty seconds, and one pause of the machine would mean that there is never a failover.
"""


class Sentinel(Server):
    """A Redis Sentinel: the same program under another name, watching `master` under the name `shop`.

    It takes nobody for dead until `may_promote`: a busy machine brings about no failover of its own.
    """

    def __init__(self, master: Server, config: dict[str, str] | None = None) -> None:
        super().__init__(master.binary)
        self._master = master
        self.config = dict(config or {})
        link = self.folder / "redis-sentinel"
        link.symlink_to(self.binary)
        self.binary = link

    def _lines(self) -> Iterator[str]:
        yield f'bind 127.0.0.1\nport {self.port}\ndir "{self.folder}"'
        yield f"sentinel monitor shop 127.0.0.1 {self._master.port} 1"
        yield f"sentinel down-after-milliseconds shop {NEVER}"
        yield "sentinel failover-timeout shop 3000"
        for name, value in self.config.items():
            yield f"{name} {value}"

    def may_promote(self) -> None:
        self.command("SENTINEL", "SET", "shop", "down-after-milliseconds", SOON)

    def is_followed_by(self, replica: Server) -> bool:
        """Whether it knows that replica, and that it is in touch with the master."""
        with self.client(decode_responses=True) as client:
            known: list[dict[str, Any]] = client.sentinel_slaves("shop")
        return any(one["port"] == replica.port and one["master-link-status"] == "ok" for one in known)

    def names(self, server: Server) -> bool:
        """Whether that is the master, says this sentinel."""
        found = self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop")
        return int(found[1]) == server.port


def url_of(*sentinels: Sentinel | int, service: str = "shop", login: str = "", query: str = "") -> str:
    ports = (one if isinstance(one, int) else one.port for one in sentinels)
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"redis+sentinel://{login}{hosts}/{service}{query}"


async def until(is_so: Callable[[], object], *heard: Server) -> None:
    """Fails with what was `heard` of servers meanwhile."""
    deadline = now() + PATIENCE
    while not is_so():
        assert now() < deadline, "\n\n".join(["waited in vain", *(server.log[-3_000:] for server in heard)])
        await asyncio.sleep(0.02)


@pytest.fixture(params=[label for label, _ in binaries()])
def master(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(binary(request.param)) as server:
        yield server


@pytest.fixture
async def replica(master: Server) -> AsyncIterator[Server]:
    async with Server(master.binary, {"replicaof": f"127.0.0.1 {master.port}"}) as server:
        yield server


@pytest.fixture
async def sentinel(master: Server) -> AsyncIterator[Sentinel]:
    async with Sentinel(master) as server:
        yield server


# --- finding the master -------------------------------------------------------------------------------------


async def test_a_sentinel_names_the_master(sentinel: Sentinel) -> None:
    """The first that answers of those in the URL; the database is part of it, as in other URLs."""
    async with opened(url_of(sentinel)) as bus:
        await works(bus)
    async with opened(url_of(free_port(), sentinel, service="shop/1")) as bus:
        await works(bus)
        assert (await bus.info()).connected


async def test_a_service_that_no_sentinel_knows(sentinel: Sentinel) -> None:
    """Its name is in the message, and where the names of services come from in the fix."""
    error = await refusal_of(url_of(sentinel, service="warehouse"))
    assert "warehouse" in error.message
    assert "service" in error.fix


async def test_where_no_sentinel_listens() -> None:
    """The addresses of all are in the message, and it may pass."""
    ports = free_port(), free_port()
    error = await refusal_of(url_of(*ports))
    assert all(str(port) in error.message for port in ports)
    assert not error.is_final


async def test_a_sentinel_that_says_nothing(sentinel: Sentinel, master: Server) -> None:
    """Known within seconds; where another one answers, that one is asked."""
    async with Sentinel(master) as silent:
        silent.pause()
        error = await refusal_of(url_of(silent))
        assert str(silent.port) in error.message
        async with opened(url_of(silent, sentinel)) as bus:
            await works(bus)


async def test_a_redis_is_taken_for_a_sentinel(master: Server) -> None:
    """The URL of the server itself, with the scheme of a sentinel."""
    error = await refusal_of(url_of(master.port))
    assert str(master.port) in error.message
    assert "sentinel" in error.explain().lower()


async def test_a_master_that_is_down_while_nobody_is_promoted(master: Server, sentinel: Sentinel) -> None:
    """Its address is in the message; when it is back, opening works."""
    master.kill()
    error = await refusal_of(url_of(sentinel))
    assert str(master.port) in error.message
    assert not error.is_final
    await master.start_async()
    async with opened(url_of(sentinel)) as bus:
        await works(bus)


async def test_a_replica_that_is_still_named_as_the_master(
    master: Server, replica: Server, sentinel: Sentinel
) -> None:
    """Nothing is read or written there: it is refused, and may pass."""
    await until(lambda: sentinel.is_followed_by(replica))
    replica.command("REPLICAOF", "NO", "ONE")
    master.command("REPLICAOF", "127.0.0.1", replica.port)
    await until(lambda: _role(master) == "slave")
    error = await refusal_of(url_of(sentinel))
    assert f"{master.port} is named as the master and is a replica" in error.message
    assert not error.is_final


@pytest.mark.parametrize("query", ["?nonsense=1", "?sentinel_nonsense=1"])
def test_an_option_that_nobody_knows(query: str) -> None:
    """Refused where it is written, like everywhere; it is not left out in silence."""
    with pytest.raises(InvalidOption) as caught:
        open_bus(url_of(26_379, query=query))
    check_message(caught.value)
    assert "nonsense" in caught.value.message


# --- passwords ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [label for label, _ in binaries()])
async def test_passwords_of_master_and_sentinel_are_two(label: str) -> None:
    """That before the `@` is the master's; `sentinel_password` the sentinel's. Wrong ones are final."""
    right, asked = f":{quote(PASSWORD, safe='')}@", "?sentinel_password=other"
    async with (
        Server(binary(label), {"requirepass": PASSWORD}) as master,
        Sentinel(master, {"requirepass": "other", "sentinel": f'auth-pass shop "{PASSWORD}"'}) as sentinel,
    ):
        async with opened(url_of(sentinel, login=right, query=asked)) as bus:
            await works(bus)
        for login in (":wrong@", ""):
            error = await refusal_of(url_of(sentinel, login=login, query=asked))
            assert error.is_final
            assert "password" in error.fix
        for query in ("?sentinel_password=wrong", ""):
            error = await refusal_of(url_of(sentinel, login=right, query=query))
            assert error.is_final
            assert "sentinel_password" in error.fix


@pytest.mark.parametrize("label", [label for label, _ in binaries()])
async def test_a_user_who_may_not_ask_the_sentinel(label: str) -> None:
    """Final, and it names the sentinel: asking again changes nothing."""
    async with (
        Server(binary(label)) as master,
        Sentinel(master, {"user": "guest on nopass ~* &* +@all -sentinel"}) as sentinel,
    ):
        error = await refusal_of(url_of(sentinel, query="?sentinel_username=guest&sentinel_password=any"))
        assert error.is_final
        assert "sentinel_username" in error.fix


# --- while it runs ------------------------------------------------------------------------------------------


class Shop:
    """A bus with a handler, and somebody who publishes one event after the other until told to stop."""

    def __init__(self, bus: RedisBus, master: Server) -> None:
        self._bus = bus
        self._master: Server | None = master
        self.handled: list[str] = []
        self.confirmed: list[str] = []
        self.replicated: list[str] = []
        """Confirmed, and then seen to be on the replica of the first master."""
        self._is_open = True
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        spec = SubscriptionSpec(
            group="shop.handle", plugin_id="shop", handler="handle", patterns=("orders.**",)
        )
        await self._bus.subscribe(spec, self._handle)
        self._task = asyncio.create_task(self._publish())

    async def _handle(self, event: PluginEvent) -> None:
        self.handled.append(event.id)

    async def _publish(self) -> None:
        while self._is_open:
            id = f"e{len(self.confirmed)}"
            await self._bus.publish(EVENT, source=SOURCE, key="one", id=id, timeout=PATIENCE)
            self.confirmed.append(id)
            if self._master is not None:
                self.replicated += [id] if _is_replicated(self._master) else []
            await asyncio.sleep(0)

    def gone(self) -> None:
        """The first master replicates nothing more."""
        self._master = None

    async def stop(self) -> None:
        """When everything that was published is settled."""
        self._is_open = False
        assert self._task is not None
        await asyncio.wait_for(self._task, PATIENCE)
        await asyncio.wait_for(self._bus.quiet(), PATIENCE)


def _is_replicated(master: Server) -> bool:
    """WAIT counts what its own connection wrote, so that writes something behind all else."""
    with master.client() as client:
        client.set("replicated", 1)
        return bool(client.wait(1, 5_000) >= 1)


def _role(server: Server) -> str:
    """Empty where the sentinel cuts all connections of the server just now, because its role changes."""
    with contextlib.suppress(redis.ConnectionError), server.client() as client:
        return str(client.info("replication")["role"])
    return ""


@contextlib.asynccontextmanager
async def shop_behind(sentinel: Sentinel, master: Server, replica: Server) -> AsyncIterator[Shop]:
    """Once the sentinel knows whom to promote, and events are coming through."""
    await until(lambda: sentinel.is_followed_by(replica), sentinel, replica)
    async with opened(url_of(sentinel)) as bus:
        shop = Shop(bus, master)
        await shop.start()
        await until(lambda: len(shop.replicated) >= 20)
        yield shop


def check_order(shop: Shop) -> None:
    """First completions of the one key come in the order of publishing, and nothing is missing."""
    assert list(dict.fromkeys(shop.handled)) == shop.confirmed


async def test_a_failover_is_followed_and_nothing_replicated_is_lost(
    master: Server, replica: Server, sentinel: Sentinel, caplog: pytest.LogCaptureFixture
) -> None:
    """kill -9 of the master amid publishing: each publish ends well, at the one that was promoted."""
    async with shop_behind(sentinel, master, replica) as shop:
        shop.gone()
        confirmed = len(shop.confirmed)
        master.kill()
        sentinel.may_promote()
        await until(lambda: sentinel.names(replica), sentinel, replica)
        await until(lambda: len(shop.confirmed) >= confirmed + 20)
        await shop.stop()
        assert set(shop.replicated) <= set(shop.handled)
        check_order(shop)
        assert _role(replica) == "master"
        check_log(caplog.records, most=6)


async def test_a_failover_that_an_operator_asks_for(
    master: Server, replica: Server, sentinel: Sentinel, caplog: pytest.LogCaptureFixture
) -> None:
    """`SENTINEL FAILOVER`: the former master lives on as a replica, and is written to no more."""
    async with shop_behind(sentinel, master, replica) as shop:
        shop.gone()
        sentinel.command("SENTINEL", "FAILOVER", "shop")
        await until(lambda: sentinel.names(replica), sentinel, replica)
        await until(lambda: _role(master) == "slave")
        confirmed = len(shop.confirmed)
        await until(lambda: len(shop.confirmed) >= confirmed + 20)
        await shop.stop()
        assert set(shop.replicated) <= set(shop.handled)
        since = shop.confirmed[confirmed:]
        assert len(since) >= 20
        assert set(since) <= set(shop.handled)
        assert [id for id in dict.fromkeys(shop.handled) if id in set(since)] == since
        check_log(caplog.records, most=6)


async def test_whoever_of_the_sentinels_lives_is_asked(master: Server, sentinel: Sentinel) -> None:
    """One is down while all connections are made again, and is the only one that is left the next time."""
    async with Sentinel(master) as other, opened(url_of(sentinel, other)) as bus:
        await works(bus)
        for dead, alive in ((sentinel, other), (other, sentinel)):
            if not alive.is_running:
                await alive.start_async()
            dead.kill()
            master.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await bus.publish(EVENT, source=SOURCE)
            await bus.quiet()
