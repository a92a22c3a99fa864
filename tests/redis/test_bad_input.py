"""What users get wrong about the Redis that they name: one clear message, at once, with what to do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_tools.faults import Mangle
from fault_tools.opening import (
    AT_ONCE,
    EVENT,
    LIMITS,
    PASSWORD,
    check_message,
    opened,
    refusal_of,
    tasks_of_buses,
    works,
)
from fault_tools.proxy import FaultProxy
from fault_tools.servers import Server, binaries, binary, free_port
from fault_tools.storage_systems import check_log, said

from bus.conformance.rig import SOURCE, Item, now
from bus.redis_streams import RedisBus, open_bus
from bus.redis_streams.layout import LAYOUT, Keys
from bus.redis_streams.server import check_version, parse_info
from contracts.bus import MAX_PAYLOAD, SubscriptionSpec
from contracts.errors import BusError, InvalidOption, InvalidPattern, PayloadTooLarge, PlugbusError
from contracts.event import AnyEvent, EventData
from contracts.message import PluginEvent

VERSIONS = [label for label, _ in binaries()]


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(binary(request.param)) as server:
        yield server


# --- the URL ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "", "redis", "redis:/127.0.0.1:6379", "redis//127.0.0.1:6379", "127.0.0.1:6379", "http://127.0.0.1:6379",
        "redis://127.0.0.1:port/0", "redis://127.0.0.1:99999/0", "redis://127.0.0.1:6379/zero",
        "redis://127.0.0.1:6379/-1", "redis://127.0.0.1:6379/0?nonsense=1",
        "redis://127.0.0.1:6379/0?socket_timeout=soon", "redis://[::1/0", "unix:", "\x00",
        "redis+sentinel://127.0.0.1:26379", "redis+sentinel:///service", "redis+sentinel://127.0.0.1:x/service",
        "redis+sentinel://127.0.0.1:26379/service/zero",
    ],
)  # fmt: skip
async def test_a_url_that_is_none_is_refused_where_it_is_written(url: str) -> None:
    """Before anything is opened: what is wrong with it, and how one looks."""
    with pytest.raises(InvalidOption) as caught:
        open_bus(url)
    check_message(caught.value)
    assert "redis" in caught.value.fix


async def test_a_password_in_a_wrong_url_is_not_shown() -> None:
    """Nor that of a right one, wherever the bus names its address."""
    with pytest.raises(InvalidOption) as caught:
        open_bus("redis://user:s3cret@127.0.0.1:port/0")
    assert "s3cret" not in caught.value.explain()
    error = await refusal_of(f"redis://user:s3cret@127.0.0.1:{free_port()}/0?password=s3cret")
    assert "s3cret" not in error.explain()


async def test_where_nobody_listens() -> None:
    """The address, and to start it."""
    port = free_port()
    error = await refusal_of(f"redis://127.0.0.1:{port}/0")
    assert str(port) in error.explain()
    assert not error.is_final


async def test_a_host_that_does_not_exist() -> None:
    error = await refusal_of("redis://no-such-host.invalid:6379/0")
    assert "no-such-host.invalid" in error.explain()


async def test_a_socket_that_does_not_exist(tmp_path: Path) -> None:
    """The path of the socket is in the message."""
    error = await refusal_of(f"unix://{tmp_path}/redis.sock")
    assert "redis.sock" in error.explain()


async def test_a_database_that_does_not_exist(server: Server) -> None:
    """`/99`: what Redis says of it."""
    error = await refusal_of(server.url.replace("/0", "/99"))
    assert "DB index is out of range" in error.message


async def test_tls_to_a_server_that_has_none(server: Server) -> None:
    """`rediss://` instead of `redis://`."""
    error = await refusal_of(server.url.replace("redis://", "rediss://"))
    assert "rediss://" in error.explain()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b"\xff" * 100],
    ids=["nothing", "HTTP", "SSH", "noise"],
)  # fmt: skip
async def test_something_else_listens_there(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A web server, a silent one, noise: it is no Redis, known within seconds."""

    class Stranger(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(answer)

    listener = await asyncio.get_running_loop().create_server(Stranger, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        error = await refusal_of(f"redis://127.0.0.1:{port}/0")
    assert str(port) in error.explain()
    check_log(caplog.records, most=1)


async def test_a_redis_in_protected_mode() -> None:
    """What it means, in one sentence and not in a page; it may be mended while the kernel waits."""
    page = b"-DENIED Redis is running in protected mode because " + b"protected mode is enabled. " * 30

    class Protected(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(page + b"\r\n")

    listener = await asyncio.get_running_loop().create_server(Protected, "127.0.0.1", 0)
    async with listener:
        error = await refusal_of(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0")
    assert "protected mode" in error.message
    assert len(error.message) < 200
    assert "requirepass" in error.fix
    assert not error.is_final


# --- who one is ---------------------------------------------------------------------------------------------


@pytest.fixture(params=VERSIONS)
def locked_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(binary(request.param), {"requirepass": PASSWORD}) as server:
        yield server


async def test_a_wrong_password(locked_server: Server) -> None:
    """Wrong, missing, for a user that does not exist, or given where none is asked for: check both, final."""
    host = f"127.0.0.1:{locked_server.port}/0"
    for url in (f"redis://{host}", f"redis://:wrong@{host}", f"redis://nobody:wrong@{host}"):
        error = await refusal_of(url)
        assert error.is_final
        assert "password" in error.fix
    async with opened(locked_server.url) as bus:
        await works(bus)
        assert PASSWORD not in str(await bus.info())


async def test_a_password_that_nobody_asks_for(server: Server) -> None:
    error = await refusal_of(f"redis://:wrong@127.0.0.1:{server.port}/0")
    assert "password" in error.explain()


async def test_a_password_that_is_changed_while_it_runs(
    locked_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut, the log says that the password is wrong, once; changed back, it goes on."""
    async with opened(locked_server.url) as bus:
        await works(bus)
        with locked_server.client() as client:
            client.config_set("requirepass", "another")
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            with pytest.raises(BusError):
                await bus.publish(EVENT, source=SOURCE, timeout=0.5)
            client.config_set("requirepass", PASSWORD)
        await bus.publish(EVENT, source=SOURCE)
        assert said(caplog.records, logging.ERROR, "password")
        check_log(caplog.records, most=3)


RULES = (
    "~other:* +@all",
    "~plugbus:* +@all -@scripting",
    "~plugbus:* +@all -xadd",
    "~plugbus:* +@read",
    "-@all",
)


@pytest.mark.parametrize("rules", RULES)
async def test_a_user_who_may_not_do_what_is_needed(server: Server, rules: str) -> None:
    """Keys or commands are forbidden: opening or the first use says so, final, and never a hang."""
    server.command("ACL", "SETUSER", "limited", "on", ">pw", "resetkeys", "&*", *rules.split())
    bus = open_bus(f"redis://limited:pw@127.0.0.1:{server.port}/0", limits=LIMITS)
    began = now()
    with pytest.raises(BusError) as caught:
        await _open_and_use(bus)
    assert now() - began < AT_ONCE
    check_message(caught.value)
    assert caught.value.is_final
    assert "NOPERM" in caught.value.message or "permission" in caught.value.message
    await bus.close(0)
    assert not tasks_of_buses()


async def _open_and_use(bus: RedisBus) -> None:
    await bus.open()
    await works(bus)


async def test_a_user_who_may_do_just_what_is_needed(server: Server) -> None:
    """The keys of the namespace, without configuration, clients of others, or anything dangerous but INFO."""
    server.command(
        "ACL", "SETUSER", "enough", "on", ">pw", "resetkeys", "~plugbus:*", "+@all", "-@dangerous", "+info",
        "-@admin", "+client",
    )  # fmt: skip
    async with opened(f"redis://enough:pw@127.0.0.1:{server.port}/0") as bus:
        await works(bus)
        info = await bus.info()
        assert info.connected
        assert info.durability == "weak"


async def test_a_user_who_may_not_end_connections(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """It works; when a connection had to be made again, what that may cost is said once, with the fix."""
    server.command(
        "ACL", "SETUSER", "most", "on", ">pw", "~*", "&*", "+@all", "-client", "+client|id",
        "+client|info", "+client|unblock", "+client|setname",
    )  # fmt: skip
    async with opened(f"redis://most:pw@127.0.0.1:{server.port}/0") as bus:
        await works(bus)
        for _ in range(3):
            server.command("CLIENT", "KILL", "USER", "most")
            await bus.publish(EVENT, source=SOURCE)
            await bus.quiet()
        lines = said(caplog.records, logging.WARNING, "CLIENT KILL")
        assert lines
        assert len(lines) == len({line.partition(":")[0] for line in lines}) <= 3, "one for each connection"


# --- which Redis --------------------------------------------------------------------------------------------


class OldServer(Mangle):
    """INFO tells another version."""

    def __init__(self, version: bytes) -> None:
        self.version = version

    def mangled(self, raw: bytes) -> bytes:
        begin = raw.index(b"redis_version:") + len(b"redis_version:")
        end = raw.index(b"\r\n", begin)
        body = raw[:begin] + self.version + raw[end:]
        payload = body[body.index(b"\r\n") + 2 : -2]
        return b"$%d\r\n%b\r\n" % (len(payload), payload)


@pytest.mark.parametrize("version", ["6.0.16", "5.0.14", "2.8.4"])
async def test_a_redis_that_is_too_old(server: Server, version: str) -> None:
    """Refused when it is opened, with both versions in the message; final."""
    async with FaultProxy(server) as proxy:
        proxy.on("INFO", OldServer(version.encode()), times=None)
        error = await refusal_of(proxy.url)
    assert version in error.explain()
    assert "6.2" in error.explain()
    assert error.is_final


@pytest.mark.parametrize("version", ["6.2.0", "7.0.15", "7.4.1", "8.0.0", "10.0.0"])
async def test_a_redis_that_is_new_enough(server: Server, version: str) -> None:
    """6.2, and whatever comes after it, two digits included."""
    async with FaultProxy(server) as proxy:
        proxy.on("INFO", OldServer(version.encode()), times=None)
        async with opened(proxy.url) as bus:
            await works(bus)


@pytest.mark.parametrize(
    "version", ["6.2", "6.2.0", "6.2.14", "6.10.1", "7.0.15", "8.2.1", "10.0.0", "255.255.255"]
)
def test_versions_are_compared_as_numbers(version: str) -> None:
    """Not as text: 10 is more than 6.2, and so is 6.10."""
    check_version(parse_info(f"# Server\r\nredis_version:{version}\r\n".encode()), "here")


@pytest.mark.parametrize("version", ["", "6.0.16", "6.1", "5.0.14", "2.8.4", "unstable", "x.y"])
def test_a_version_that_is_none_is_too_old(version: str) -> None:
    """Final, with what was found and what is needed."""
    with pytest.raises(BusError) as caught:
        check_version({"redis_version": version}, "here")
    assert caught.value.is_final
    assert version in caught.value.message
    assert "6.2" in caught.value.message
    check_message(caught.value)


async def test_a_server_with_no_room_for_clients(server: Server) -> None:
    """`maxclients` reached: what Redis says, of which server; it may pass, and then opening works."""
    with contextlib.ExitStack() as others:
        server.command("CONFIG", "SET", "maxclients", 3)
        clients = [others.enter_context(_client_of(server)) for _ in range(3)]
        error = await refusal_of(server.url)
        assert "max number of clients" in error.message
        assert "maxclients" in error.fix
        assert str(server.port) in error.where
        assert not error.is_final
        assert _said_to(clients[0], b"CONFIG SET maxclients 100").startswith(b"+OK")
        async with opened(server.url) as bus:
            await works(bus)


def _client_of(server: Server) -> socket.socket:
    """One that the server has taken, as soon as whoever asked it before has gone."""
    for _ in range(1_000):
        client = socket.create_connection(server.address, timeout=AT_ONCE)
        if _said_to(client, b"PING").startswith(b"+PONG"):
            return client
        client.close()
    pytest.fail("it takes nobody")


def _said_to(client: socket.socket, command: bytes) -> bytes:
    client.sendall(command + b"\r\n")
    return client.recv(1_000)


# --- what lies in the namespace -----------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["layout", "incarnation"])
async def test_a_namespace_whose_marks_are_no_text(server: Server, field: str) -> None:
    """Not ours: said, and left as it is."""
    meta = Keys("plugbus").meta
    server.command("HSET", meta, "layout", LAYOUT, "incarnation", "x", field, b"\xff\xfe")
    error = await refusal_of(server.url)
    assert error.is_final
    assert "namespace" in error.fix
    assert server.command("HGET", meta, field) == b"\xff\xfe"


async def test_a_layout_of_the_future(server: Server) -> None:
    """A namespace that a newer Plugbus has written is not touched, and the message says to upgrade."""
    keys = Keys("plugbus")
    server.command("HSET", keys.meta, "layout", LAYOUT + 1, "incarnation", "x")
    before = sorted(server.command("KEYS", "*"))
    error = await refusal_of(server.url)
    assert error.is_final
    assert str(LAYOUT + 1) in error.message
    assert "upgrade" in error.fix
    assert sorted(server.command("KEYS", "*")) == before
    async with opened(server.url, namespace="another") as bus:
        await works(bus)


@pytest.mark.parametrize("layout", ["", "one", "\x00", "1.0", "9" * 50])
async def test_a_layout_that_is_none(server: Server, layout: str) -> None:
    """Something else's hash of the same name: refused, not overwritten."""
    server.command("HSET", Keys("plugbus").meta, "layout", layout)
    error = await refusal_of(server.url)
    assert error.is_final
    assert server.command("HGET", Keys("plugbus").meta, "layout") == layout.encode()


CONTROL = ("meta", "topics", "groups", "replicas", "types", "news")


@pytest.mark.parametrize("name", CONTROL)
async def test_keys_of_the_bus_that_are_something_else(server: Server, name: str) -> None:
    """Before it is opened: refused, final, naming the namespace; what was there is not changed."""
    key = getattr(Keys("plugbus"), name)
    server.command("SET", key, "of somebody else")
    error = await refusal_of(server.url)
    assert error.is_final
    assert "NAMESPACE" in error.fix
    assert server.command("GET", key) == b"of somebody else"


OF_A_TOPIC = ("stream", "numbers", "ids", "own", "tally", "low", "lot", "slips", "suspects")


@pytest.mark.parametrize("kind", OF_A_TOPIC)
async def test_keys_of_a_topic_that_are_something_else(
    server: Server, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Publishing or subscribing says so at once, or the log once a second; another topic is not concerned.

    When the key is gone, everything goes on by itself.
    """
    keys = Keys("plugbus")
    key = {
        "stream": keys.stream("orders", 0), "numbers": keys.numbers("orders", 0),
        "ids": keys.ids("orders", 0, 0),
        "own": keys.own(0), "tally": keys.tally("shop.handle", 0), "low": keys.low("orders", 0),
        "lot": keys.lot("shop.handle", "orders", 0), "slips": keys.slips("shop.handle", "orders", 0),
        "suspects": keys.suspects("shop.handle", "orders", 0),
    }[kind]  # fmt: skip
    async with opened(server.url) as bus:
        server.command("SET", key, "of somebody else")
        began = now()
        refusal: BusError | None = None
        with contextlib.suppress(TimeoutError):
            try:
                async with asyncio.timeout(1.5):
                    await works(bus)
            except BusError as error:
                refusal = error
        assert now() - began < AT_ONCE
        if refusal is not None:
            check_message(refusal)
            assert refusal.is_final
            assert "NAMESPACE" in refusal.fix
        await bus.publish(EventData(type="invoices.sent", data="{}"), source=SOURCE)
        assert server.command("GET", key) == b"of somebody else"
        server.command("DEL", key)
        seen: list[str] = []

        async def handle(event: PluginEvent) -> None:
            seen.append(event.id)

        spec = SubscriptionSpec(
            group="shop.later", plugin_id="shop", handler="later", patterns=("orders.**",)
        )
        await bus.subscribe(spec, handle)
        await bus.publish(EVENT, source=SOURCE, id="after")
        async with asyncio.timeout(AT_ONCE):
            while "after" not in seen:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await bus.quiet()
        check_log(caplog.records, most=12)


@pytest.mark.parametrize(
    "namespace", ["a b", "a{b}c", "ünïcode", "a*?[b]\\", "a\nb", "a\x00b", "x" * 300, "1", ":", "{m}"]
)
async def test_a_namespace_of_any_spelling_is_one(server: Server, namespace: str) -> None:
    """What is written goes through and is erased again, and nothing of a neighbour is seen or touched."""
    async with opened(server.url, namespace="a") as neighbour:
        await works(neighbour)
        before = len(server.command("KEYS", "a:*"))
        async with opened(server.url, namespace=namespace) as bus:
            await works(bus)
            assert [info.group for info in await bus.groups()] == ["shop.handle"]
        await open_bus(server.url, namespace=namespace).erase()
        assert len(server.command("KEYS", "a:{*")) >= before - 2
        assert [info.group for info in await neighbour.groups()] == ["shop.handle"]
    left = [key for key in server.command("KEYS", "*") if not key.startswith(b"a:{")]
    assert left == []


# --- what is published --------------------------------------------------------------------------------------


async def test_a_payload_over_the_limit_is_refused_before_it_is_sent(server: Server) -> None:
    """One byte too many; nothing reaches Redis. Exactly the limit passes."""

    def of(size: int) -> AnyEvent:
        frame = len('{"text":""}')
        return EventData(type="orders.large", data='{"text":"' + "x" * (size - frame) + '"}')

    async with opened(server.url) as bus:
        await bus.publish(EVENT, source=SOURCE)
        before = server.command("XLEN", Keys("plugbus").stream("orders", 0))
        for event in (of(MAX_PAYLOAD + 1), of(50 * MAX_PAYLOAD)):
            with pytest.raises(PayloadTooLarge) as caught:
                await bus.publish(event, source=SOURCE)
            check_message(caught.value)
        assert server.command("XLEN", Keys("plugbus").stream("orders", 0)) == before
        await bus.publish(of(MAX_PAYLOAD), source=SOURCE)
        assert server.command("XLEN", Keys("plugbus").stream("orders", 0)) == before + 1


ODD = ["\x00", "a\x00b", "\r\n", "\n", " ", "{}", "ü", "\U0001f600", "=", "!", "d", "full", "+5", "a" * 5_000]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
async def test_whatever_is_in_key_id_source_subject_and_data_arrives_as_it_is(
    server: Server, text: str
) -> None:
    """NUL bytes, line ends, words of the protocol inside: once each, in order, and known as duplicates."""
    events: list[PluginEvent] = []
    done = asyncio.Event()

    async def handle(event: PluginEvent) -> None:
        events.append(event)
        if len(events) == 2:
            done.set()

    async with opened(server.url) as bus:
        spec = SubscriptionSpec(
            group="shop.handle", plugin_id="shop", handler="handle", patterns=("orders.**",)
        )
        await bus.subscribe(spec, handle)
        data = EventData(type="orders.item", data=text)
        for _ in range(2):
            receipt = await bus.publish(data, source=f"/x{text}", key=text, id=text, subject=text)
        assert receipt.duplicate
        await bus.publish(data, source=f"/x{text}", key=text, id=f"{text}2", subject=text)
        await asyncio.wait_for(done.wait(), AT_ONCE)
        await bus.quiet()
    assert [event.id for event in events] == [text, f"{text}2"]
    [first, _] = events
    envelope = first.envelope
    assert (envelope.source, envelope.partitionkey, envelope.subject) == (f"/x{text}", text, text)
    assert first.message.data == text.encode()


async def test_half_a_character_takes_no_connection_away(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A source that cannot be written down is refused to who named it, and nobody else notices."""
    async with opened(server.url) as bus:
        await works(bus)
        with pytest.raises(InvalidOption, match="source") as caught:
            await bus.publish(Item(n=1), source="/\ud800")
        check_message(caught.value)
        await bus.publish(Item(n=1), source=SOURCE)
    assert said(caplog.records, logging.WARNING) == []


@pytest.mark.parametrize(
    "name", ["", "Orders.item", "orders..item", "orders.item\x00", "orders.item@2", "or:ders.x", "*.x"]
)
async def test_what_is_no_type_name_is_refused(server: Server, name: str) -> None:
    """Before anything is sent; nothing is made in Redis for it."""
    async with opened(server.url) as bus:
        before = sorted(server.command("KEYS", "*"))
        with pytest.raises(PlugbusError) as caught:
            await bus.publish(EventData(type=name, data="{}"), source=SOURCE)
        assert isinstance(caught.value, InvalidPattern)
        check_message(caught.value)
        assert sorted(server.command("KEYS", "*")) == before


async def test_an_entry_of_redis_cli_is_a_dead_letter_and_the_next_is_handled(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """`XADD plugbus:{0}:s:orders * hello world`: its bytes are kept, and shown, with one line in the log."""
    async with opened(server.url) as bus:
        await works(bus)
        server.command("XADD", Keys("plugbus").stream("orders", 0), "*", "hello", "world")
        await bus.publish(EVENT, source=SOURCE)
        await asyncio.wait_for(bus.quiet(), AT_ONCE)
        [letter] = await bus.dead_letters()
        assert letter.raw == b'{"hello": "world"}'
        assert letter.reason == "decode"
        [line] = said(caplog.records, logging.WARNING)
        assert "hello" in line
        assert "dead letter" in line
