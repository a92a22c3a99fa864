"""The servers do what the fault tests believe they do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import redis.asyncio
from fault_tools.backend import RedisBackend
from fault_tools.servers import Server, ServerFailed, binaries, shared_server, version_of

from bus.conformance import Backend
from contracts.bus import BusLimits

HERE = Path(__file__).resolve().parent
PATIENCE = 5.0
QUIET = 0.05
"""Seconds in which nothing may come."""


def test_labels_are_versions_and_no_version_comes_twice() -> None:
    """6.2 is always there; every label is what its server says of itself."""
    labels = [label for label, _ in binaries()]
    assert "6.2" in labels
    assert len(set(labels)) == len(labels)
    assert all(".".join(map(str, version_of(path))) == label for label, path in binaries())


def test_what_is_kept_on_disk_is_there_after_kill_stop_and_restart(own: Server) -> None:
    """Port and folder stay; the configuration is in force; the unix socket answers."""
    own.start()
    port, pid = own.port, own.pid
    own.command("SET", "k", "v")
    own.kill()
    assert not own.is_running
    own.start()
    own.restart()
    assert (own.port, own.command("GET", "k")) == (port, b"v")
    assert own.pid != pid
    assert own.command("CONFIG", "GET", "appendfsync") == [b"appendfsync", b"always"]
    with redis.Redis(unix_socket_path=str(own.socket)) as client:
        assert client.ping()


async def test_it_comes_up_and_down_beside_an_event_loop(own: Server) -> None:
    """While the loop goes on; `async with` removes it with its folder."""
    async with own:
        await own.restart_async()
        assert own.command("PING")
    assert not own.is_running
    assert not own.folder.exists()


def test_a_paused_server_keeps_connections_and_answers_nobody(own: Server) -> None:
    """Until it is resumed; one that is paused can be stopped."""
    with own, own.client(socket_timeout=QUIET) as client:
        client.ping()
        own.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        own.resume()
        assert own.command("PING")
        own.pause()
        own.stop()
        assert not own.is_running


def test_a_server_whose_port_is_taken_looks_for_another(server: Server) -> None:
    """The first time only: later it is known under the one that it has."""
    second = Server(server.binary)
    second.port = server.port
    with second:
        assert second.port != server.port
        assert second.command("INFO", "server")["process_id"] == second.pid
        second.stop()
        second.port = server.port
        with pytest.raises(ServerFailed, match="already in use"):
            second.start()


def test_a_server_that_does_not_start_says_why() -> None:
    """What it logged is in the error, and nothing is left of it."""
    server = Server(config={"no-such-setting": 1})
    with pytest.raises(ServerFailed, match=r"(?s)did not start.*no-such-setting"):
        server.__enter__()
    assert not server.folder.exists()
    with pytest.raises(ServerFailed, match="is down"):
        _ = server.pid


def test_a_password_is_used_by_url_and_command() -> None:
    """So that a server with one can be tested like any other."""
    with Server(config={"requirepass": "p@ss"}) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert server.command("PING")


def test_a_shared_server_is_the_same_for_all_and_empty_for_each(server: Server) -> None:
    """Keys, scripts and connections of the test before are gone."""
    label = ".".join(map(str, version_of(server.binary)))
    assert shared_server(label) is server
    server.command("SET", "k", "v")
    sha = server.command("SCRIPT", "LOAD", "return 1")
    with socket.create_connection(server.address, PATIENCE) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"
        server.reset()
        assert connection.recv(1) == b""
    assert server.command("DBSIZE") == 0
    assert server.command("SCRIPT", "EXISTS", sha) == [False]


async def test_siblings_restart_their_server_once(own: Server) -> None:
    """When all that are there have asked for it, each time; who is closed is not waited for, and who is alone
    waits for nobody."""
    with own:
        backend = RedisBackend(BusLimits(), own)
        slow, fast, faster = [await backend.sibling(BusLimits()) for _ in range(3)]
        starts = own.log.count("Ready to accept")

        async def restarted(*who: Backend) -> int:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(one.restart() for one in who))
            return own.log.count("Ready to accept") - starts

        asking = asyncio.gather(fast.restart(), faster.restart())
        await asyncio.sleep(QUIET)
        assert not asking.done()
        assert await restarted(slow) == 1
        await asyncio.wait_for(asking, PATIENCE)
        assert await restarted(fast, slow, faster) == 2
        asking = asyncio.gather(fast.restart(), faster.restart())
        await asyncio.sleep(QUIET)
        await slow.close()
        await asyncio.wait_for(asking, PATIENCE)
        await fast.close()
        assert await restarted(faster) == 4
        assert await restarted(backend) == 5
        await faster.close()
        await backend.close()


def test_no_server_outlives_a_process_that_was_killed(tmp_path: Path) -> None:
    """Not even one that had no chance to clean up: on Linux the kernel ends it. (Its folder it leaves.)"""
    program = "from fault_tools.servers import Server; print(Server().start().port, flush=True); input()"
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own program
        [sys.executable, "-c", program],
        cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            process.kill()
            with contextlib.suppress(ConnectionResetError):  # it had not come to greet us
                assert connection.recv(1) == b""
