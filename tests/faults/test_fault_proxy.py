"""The proxy does what the fault tests believe it does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest
import redis
import redis.asyncio
from fault_tools.faults import (
    Answer,
    Corrupt,
    CutAfter,
    CutBefore,
    CutWaiting,
    CutWithin,
    Delay,
    Drop,
    Duplicate,
    Fault,
    FlipByte,
    Hold,
    Stall,
    Trickle,
    WrongLength,
)
from fault_tools.proxy import Exchange, FaultProxy
from fault_tools.resp import Frames, arguments, command
from fault_tools.servers import Server

PATIENCE = 5.0
QUIET = 0.05
"""Seconds in which nothing may come."""


class Client:
    """One connection that says exactly what it is told, and hands out replies as they came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.frames, self.ready = Frames(), deque[bytes]()

    @classmethod
    async def to(cls, proxy: FaultProxy) -> Self:
        return cls(*await asyncio.open_connection(*proxy.address))

    def send(self, *commands: str) -> None:
        """Commands of words without spaces, in one write."""
        self.writer.write(b"".join(command(*line.split()) for line in commands))

    async def read(self) -> bytes:
        """The next bytes; empty at the end of the connection."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read(1 << 16)

    async def reply(self) -> bytes:
        """The next whole reply; empty at the end of the connection."""
        while not self.ready:
            data = await self.read()
            if not data:
                return b""
            self.ready += self.frames.feed(data)
        return self.ready.popleft()

    async def ask(self, line: str) -> bytes:
        self.send(line)
        return await self.reply()

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(QUIET):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self.writer.close()


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: FaultProxy) -> AsyncIterator[Client]:
    client = await Client.to(proxy)
    yield client
    client.close()


# --- the protocol ---------------------------------------------------------------------------------------

MESSAGES = [
    b"+OK\r\n", b"-ERR no\r\n", b":1\r\n", b"$-1\r\n", b"$0\r\n\r\n", b"$4\r\n\r\n$1\r\n",
    b"*-1\r\n", b"*0\r\n", b"*2\r\n*2\r\n:1\r\n$1\r\na\r\n$-1\r\n",
    b"%1\r\n+k\r\n*1\r\n:2\r\n", b"~2\r\n:1\r\n:2\r\n", b"_\r\n", b"#t\r\n", b"=5\r\ntxt:a\r\n",
    b"|1\r\n+ttl\r\n:3\r\n$1\r\nv\r\n", b">2\r\n+message\r\n+x\r\n", b"PING\r\n",
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_messages_are_found_however_the_stream_is_torn(size: int) -> None:
    """Each whole message once, as soon as it is complete, byte by byte or all together."""
    stream, frames, found = b"".join(MESSAGES), Frames(), []
    for start in range(0, len(stream), size):
        found += frames.feed(stream[start : start + size])
    assert found == MESSAGES


def test_words_of_commands_are_told() -> None:
    """Of both forms; a word may hold anything."""
    assert arguments(command("SET", b"\r\n$1\r\n", 3)) == [b"SET", b"\r\n$1\r\n", b"3"]
    assert arguments(b"set k v\r\n") == [b"set", b"k", b"v"]


# --- the proxy without faults ---------------------------------------------------------------------------


async def test_without_rules_everything_passes(proxy: FaultProxy, client: Client) -> None:
    """Single commands, pipelines, inline commands, large values; and each is counted."""
    client.send("SET k v", "GET k", "GET none", "LRANGE k 0 1")
    replies = [await client.reply() for _ in range(4)]
    assert replies[:3] == [b"+OK\r\n", b"$1\r\nv\r\n", b"$-1\r\n"]
    assert replies[3].startswith(b"-WRONGTYPE")
    client.writer.write(b"PING\r\n")
    assert await client.reply() == b"+PONG\r\n"
    large = "x" * 3_000_000
    assert await client.ask(f"SET large {large}") == b"+OK\r\n"
    assert await client.ask("GET large") == b"$3000000\r\n" + large.encode() + b"\r\n"
    assert proxy.sent == {"SET": 2, "GET": 3, "LRANGE": 1, "PING": 1}
    assert proxy.connections[0].sent == proxy.sent


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_real_client_works_through_it_subscriptions_included(
    proxy: FaultProxy, protocol: int
) -> None:
    """With both protocols; what is published to subscribers is no reply to anything."""
    rule = proxy.on("PUBLISH", Fault())
    async with (
        redis.asyncio.Redis.from_url(proxy.url, protocol=protocol, client_name="me") as one,
        one.pubsub(ignore_subscribe_messages=True) as channel,
    ):
        await channel.subscribe("news")
        async with one.pipeline(transaction=True) as pipeline:
            pipeline.xadd("s", {"a": "1"})
            pipeline.xlen("s")
            assert (await pipeline.execute())[1] == 1
        assert await one.publish("news", "hello") == 1
        async with asyncio.timeout(PATIENCE):
            messages = [message async for message in _first(channel)]
        assert messages[0]["data"] == b"hello"
    await rule.fired
    assert {connection.name for connection in proxy.connections} <= {"me"}


async def _first(channel: Any) -> AsyncIterator[dict[str, Any]]:
    async for message in channel.listen():
        yield message
        return


# --- one command and its reply --------------------------------------------------------------------------


async def test_cut_before_a_command_it_has_no_effect(
    server: Server, proxy: FaultProxy, client: Client
) -> None:
    """Those before it in the pipeline were executed and answered; those behind it were not."""
    rule = proxy.on("INCR", CutBefore(), nth=2)
    client.send("INCR a", "GET a", "INCR b", "INCR c")
    assert [await client.reply() for _ in range(3)] == [b":1\r\n", b"$1\r\n1\r\n", b""]
    await rule.fired
    assert server.command("MGET", "a", "b", "c") == [b"1", None, None]
    assert (rule.matched, rule.count) == (2, 1)


async def test_cut_after_a_command_it_has_its_effect(
    server: Server, proxy: FaultProxy, client: Client
) -> None:
    """The reply is lost; those to the commands before it are not."""
    rule = proxy.on("INCR", CutAfter(), containing="b")
    client.send("INCR a", "INCR b", "GET b")
    assert [await client.reply() for _ in range(2)] == [b":1\r\n", b""]
    await rule.fired
    assert server.command("MGET", "a", "b") == [b"1", b"1"]


async def test_cut_while_a_command_waits(server: Server, proxy: FaultProxy, client: Client) -> None:
    """A read that blocks is cut at once; the server has it."""
    rule = proxy.on("XREAD", CutWaiting(), where=lambda exchange: exchange.connection.is_blocking_reader)
    client.send("XREAD BLOCK 0 STREAMS s $")
    assert await client.reply() == b""
    await rule.fired


@pytest.mark.parametrize(("at", "rest"), [(None, b"$10\r\n012"), (1, b"$"), (0, b"")])
async def test_cut_within_a_reply(proxy: FaultProxy, client: Client, at: int | None, rest: bytes) -> None:
    """A part of it comes, then the end of the connection."""
    await client.ask("SET k 0123456789")
    proxy.on("GET", CutWithin(at))
    client.send("GET k")
    received = b""
    while data := await client.read():
        received += data
    assert received == rest


async def test_a_reset_is_told_from_an_end(proxy: FaultProxy, client: Client) -> None:
    """RST, where it is asked for."""
    proxy.on("PING", CutAfter(reset=True))
    client.send("PING")
    with pytest.raises(ConnectionResetError):
        await client.reply()


async def test_a_held_command_is_executed_when_its_client_has_long_come_back(
    server: Server, proxy: FaultProxy, client: Client
) -> None:
    """Not before it is released; what came behind it on its connection goes with it."""
    rule = proxy.on("APPEND", Hold(cut=True))
    late = proxy.seen("GET")
    client.send("APPEND k first", "GET k")
    assert await client.reply() == b""
    await rule.fired
    again = await Client.to(proxy)
    assert await again.ask("APPEND k second") == b":6\r\n"
    assert [one.is_answered for one in rule.taken] == [False]
    rule.release()
    await late
    assert [one.is_answered for one in rule.taken] == [True]
    assert server.command("GET", "k") == b"secondfirst"
    again.close()


async def test_a_client_that_leaves_does_not_take_a_held_command_along(
    server: Server, proxy: FaultProxy, client: Client
) -> None:
    """That it has gone is not noticed until then."""
    rule = proxy.on("SET", Hold())
    client.send("SET k v")
    await rule.fired
    client.close()
    await client.writer.wait_closed()
    assert server.command("GET", "k") is None
    with server.client() as watcher, watcher.monitor() as monitor:
        rule.release()
        seen = await asyncio.to_thread(next, (one for one in monitor.listen() if "SET k v" in one["command"]))
    assert seen
    assert server.command("GET", "k") == b"v"


async def test_a_command_can_be_held_for_a_time(proxy: FaultProxy, client: Client) -> None:
    """And then goes on by itself; so does a reply that is delayed."""
    for fault in (Hold(QUIET), Delay(QUIET)):
        loop = asyncio.get_running_loop()
        before = loop.time()
        proxy.on("PING", fault)
        assert await client.ask("PING") == b"+PONG\r\n"
        assert loop.time() - before + 0.001 >= QUIET


async def test_a_delayed_reply_delays_those_behind_it(proxy: FaultProxy, client: Client) -> None:
    """Replies stay in order; other connections are not concerned."""
    rule = proxy.on("SET", Delay())
    client.send("SET k v", "GET k")
    await rule.fired
    other = await Client.to(proxy)
    assert await other.ask("GET k") == b"$1\r\nv\r\n"
    assert await client.hears_nothing()
    rule.release()
    assert [await client.reply(), await client.reply()] == [b"+OK\r\n", b"$1\r\nv\r\n"]
    other.close()


@pytest.mark.parametrize("executed", [False, True])
async def test_a_stalled_connection_is_half_open(
    server: Server, proxy: FaultProxy, client: Client, executed: bool
) -> None:
    """Nothing comes, not even that the server has gone; released, everything comes."""
    rule = proxy.on("SET", Stall(executed=executed))
    client.send("SET k v")
    await rule.fired
    client.send("GET k")
    assert server.command("EXISTS", "k") == executed
    if executed:
        server.command("CLIENT", "KILL", "TYPE", "normal")
    assert await client.hears_nothing()
    rule.release()
    assert await client.reply() == b"+OK\r\n"
    assert await client.reply() == (b"" if executed else b"$1\r\nv\r\n")


async def test_a_stalled_client_that_leaves_stays_with_the_server(
    server: Server, proxy: FaultProxy, client: Client
) -> None:
    """Its end does not pass either, until the release."""
    number = (await client.ask("CLIENT ID"))[1:].strip()
    connection = proxy.connections[0]
    rule = proxy.on("PING", Stall())
    client.send("PING")
    await rule.fired
    client.close()
    await client.writer.wait_closed()
    await asyncio.sleep(QUIET)
    assert server.command("CLIENT", "LIST", "ID", number)
    rule.release()
    async with asyncio.timeout(PATIENCE):
        await connection.ended
    assert not server.command("CLIENT", "LIST", "ID", number)


@pytest.mark.parametrize(
    ("fault", "sent", "received"),
    [
        (Corrupt(), "GET k", b"?5\r\nvalue\r\n"),
        (WrongLength(), "GET k", b"$6\r\nvalue\r\n"),
        (WrongLength(-2), "MGET k none", b"*2\r\n$3\r\nvalue\r\n$-1\r\n"),
        (WrongLength(3), "LRANGE none 0 1", b"*3\r\n"),
        (FlipByte(), "GET k", b"$5\r\nvamue\r\n"),
        (FlipByte("va"), "GET k", b"$5\r\nv`lue\r\n"),
        (Duplicate(), "GET k", b"$5\r\nvalue\r\n$5\r\nvalue\r\n"),
        (Drop(), "GET k", b""),
        (Trickle(0.0), "GET k", b"$5\r\nvalue\r\n"),
        (Answer("-LOADING wait\r\n"), "DEL k", b"-LOADING wait\r\n"),
    ],
)
async def test_replies_are_garbled(
    proxy: FaultProxy, client: Client, fault: Fault, sent: str, received: bytes
) -> None:
    """As asked, once; what follows on the connection is as it should be."""
    await client.ask("SET k value")
    proxy.on(sent.split(maxsplit=1)[0], fault)
    expected = received + b"+PONG\r\n$5\r\nvalue\r\n"
    client.send(sent, "PING", "GET k")
    found = b""
    while len(found) < len(expected) and (data := await client.read()):
        found += data
    assert found == expected


async def test_a_command_is_garbled_on_its_way(server: Server, proxy: FaultProxy, client: Client) -> None:
    """The server keeps what was made of it."""
    proxy.on("SET", FlipByte("v", in_request=True))
    assert await client.ask("SET k v") == b"+OK\r\n"
    assert server.command("GET", "k") == b"w"


# --- which command --------------------------------------------------------------------------------------


async def test_scripts_are_told_apart_by_what_they_are_given(proxy: FaultProxy, client: Client) -> None:
    """The nth that fits is counted over all connections."""
    sha = (await client.ask("SCRIPT LOAD return(KEYS[1])")).split()[1].decode()
    rule = proxy.on("EVALSHA", Answer(":0\r\n"), containing="orders", nth=2)
    other = await Client.to(proxy)
    asked = [(client, "orders"), (client, "bills"), (other, "orders"), (client, "orders")]
    replies = [await one.ask(f"EVALSHA {sha} 1 {key}") for one, key in asked]
    assert replies == [b"$6\r\norders\r\n", b"$5\r\nbills\r\n", b":0\r\n", b"$6\r\norders\r\n"]
    assert rule.matched == 2
    other.close()


async def test_rules_may_happen_again_and_be_taken_away(proxy: FaultProxy, client: Client) -> None:
    """So many times in a row, or for ever; the first rule that takes a command has it."""
    twice = proxy.on("PING", Answer("+1\r\n"), nth=2, times=2)
    always = proxy.on(None, Answer("+2\r\n"), times=None)
    assert [await client.ask("PING") for _ in range(5)] == [
        b"+2\r\n",
        b"+1\r\n",
        b"+1\r\n",
        b"+2\r\n",
        b"+2\r\n",
    ]
    assert (twice.count, always.count) == (2, 3)
    always.remove()
    assert await client.ask("PING") == b"+PONG\r\n"
    proxy.on("PING", Drop(), times=None)
    proxy.clear()
    assert await client.ask("PING") == b"+PONG\r\n"


async def test_connections_are_told_apart_by_what_they_did(proxy: FaultProxy, client: Client) -> None:
    """By a read that blocks, by name, by commands."""

    def by_reader(exchange: Exchange) -> bool:
        return exchange.connection.is_blocking_reader

    rule = proxy.on("PING", Answer("+caught\r\n"), where=by_reader, times=None)
    reader = await Client.to(proxy)
    await reader.ask("XREAD BLOCK 1 STREAMS s $")
    await reader.ask("CLIENT SETNAME bell")
    assert [await client.ask("PING"), await reader.ask("PING")] == [b"+PONG\r\n", b"+caught\r\n"]
    assert rule.matched == 1
    assert proxy.cut(where=lambda connection: connection.name == "bell") == 1
    assert await reader.reply() == b""
    assert await client.ask("PING") == b"+PONG\r\n"
    reader.close()


async def test_a_fault_that_does_not_fit_fails_the_test(server: Server) -> None:
    """A byte to flip that is not there is no fault that a bus has survived."""
    proxy = FaultProxy(server)
    await proxy.accept()
    client = await Client.to(proxy)
    proxy.on("PING", FlipByte())
    assert await client.ask("PING") == b""
    client.close()
    with pytest.raises(ExceptionGroup, match="could not be done") as caught:
        await proxy.close()
    assert "no payload" in str(caught.value.exceptions[0])


# --- all connections ------------------------------------------------------------------------------------


async def test_new_connections_are_refused_and_old_ones_go_on(proxy: FaultProxy, client: Client) -> None:
    """Until they are accepted again, at the same address."""
    await client.ask("PING")
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await Client.to(proxy)
    assert await client.ask("PING") == b"+PONG\r\n"
    await proxy.accept()
    other = await Client.to(proxy)
    assert await other.ask("PING") == b"+PONG\r\n"
    other.close()


async def test_all_connections_are_reset_at_once(proxy: FaultProxy) -> None:
    """Each client sees it."""
    clients = [await Client.to(proxy) for _ in range(3)]
    for client in clients:
        await client.ask("PING")
    assert proxy.cut(reset=True) == 3
    for client in clients:
        with pytest.raises(ConnectionResetError):
            await client.reply()
        client.close()


async def test_a_network_that_is_gone_stalls_old_and_new_connections(
    proxy: FaultProxy, client: Client
) -> None:
    """Whole again, it delivers what was sent."""
    await client.ask("PING")
    proxy.stall()
    other = await Client.to(proxy)
    client.send("PING")
    other.send("PING")
    assert await client.hears_nothing()
    assert await other.hears_nothing()
    proxy.release()
    assert [await client.reply(), await other.reply()] == [b"+PONG\r\n"] * 2
    other.close()


async def test_a_server_that_is_down_and_comes_back(own: Server) -> None:
    """The proxy stays: connections end with the server, fail while it is away, and work again."""
    async with own, FaultProxy(own) as proxy:
        client = await Client.to(proxy)
        await client.ask("PING")
        own.kill()
        assert await client.reply() == b""
        client.close()
        client = await Client.to(proxy)
        with pytest.raises(ConnectionResetError):
            await client.ask("PING")
        client.close()
        await own.start_async()
        client = await Client.to(proxy)
        assert await client.ask("PING") == b"+PONG\r\n"
        client.close()


async def test_it_closes_in_the_middle_of_everything(server: Server) -> None:
    """What is held, delayed, stalled or trickling does not keep it; nothing is left."""
    async with FaultProxy(server) as proxy:
        clients = []
        for fault in (Hold(), Delay(), Stall(), Stall(executed=True), Trickle(60)):
            client = await Client.to(proxy)
            rule = proxy.on("PING", fault)
            client.send("PING")
            await rule.fired
            clients.append(client)
    assert proxy.connections == []
    for client in clients:
        assert await client.reply() == b""
        client.close()
