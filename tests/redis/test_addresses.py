"""`rediss://`: encrypted, and only with a server whose certificate is trusted; `unix://`: on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme
from fault_tools.opening import opened, refusal_of, works
from fault_tools.servers import Server, binaries, binary

from contracts.bus import SubscriptionSpec
from contracts.event import EventData
from contracts.message import PluginEvent

SPEC = SubscriptionSpec(group="shop.handle", plugin_id="shop", handler="handle", patterns=("orders.**",))
COUNT = 40


@pytest.fixture(params=[label for label, _ in binaries()])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(binary(request.param)) as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
async def port(server: Server, authority: trustme.CA) -> AsyncIterator[int]:
    """Of one who decrypts for the server: not every redis-server is built with TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    talks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        inward, outward = await asyncio.open_connection(*server.address)
        await asyncio.gather(pump(reader, outward), pump(inward, writer))
        talks.discard(task)

    async with await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context) as listening:
        yield listening.sockets[0].getsockname()[1]
        listening.close()
        if talks:
            await asyncio.wait(talks)


async def test_events_pass_encrypted(port: int, trusted: Path) -> None:
    """Also large ones, which come in many pieces."""
    found, done = list[int](), asyncio.Event()

    async def handle(event: PluginEvent) -> None:
        found.append(event.data["n"])  # type: ignore[index, call-overload, arg-type]
        if len(found) == COUNT:
            done.set()

    async with opened(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={trusted}") as bus:
        await bus.subscribe(SPEC, handle)
        pad = "x" * 100_000
        events = [EventData(type="orders.item", data=f'{{"n": {n}, "pad": "{pad}"}}') for n in range(COUNT)]
        await asyncio.gather(*(bus.publish(event, source="/shop", key="k") for event in events))
        await asyncio.wait_for(done.wait(), 20)
        await bus.quiet()
    assert found == list(range(COUNT))


async def test_who_is_not_trusted_is_refused(port: int) -> None:
    error = await refusal_of(f"rediss://127.0.0.1:{port}/0")
    assert "certificate" in error.message


@pytest.mark.parametrize("label", [label for label, _ in binaries()])
async def test_a_socket_of_this_machine(label: str) -> None:
    with Server(binary(label), unix_socket=True) as server:
        async with opened(f"unix://{server.socket}?db=3") as bus:
            await works(bus)
