"""Errors that stay: however long Redis refuses, it is asked and spoken of at a measured pace."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest
from fault_tools.faults import CutBefore
from fault_tools.network import DIRECT, fails_on_naive, pending, reads, settles, streams
from fault_tools.proxy import FaultProxy
from fault_tools.servers import Server

from bus.conformance.backend import needs
from bus.conformance.rig import Rig, now


@pytest.mark.parametrize("trouble", ["wrong type", "not permitted"])
@fails_on_naive
@needs(lease=3.0)
async def test_no_hot_loop_on_an_error_that_stays(
    rig: Rig, server: Server, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """While Redis refuses to be read it is asked at a measured pace, and that is said once a second. [F9]"""
    await _stay_calm(rig, server, proxy, caplog, trouble)


@pytest.mark.parametrize("trouble", ["no password", "always cut"])
@needs(lease=3.0)
async def test_no_hot_loop_while_connections_end(
    rig: Rig, server: Server, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """While no connection holds, they are made at a measured pace, and that is said once a second. [F9]"""
    await _stay_calm(rig, server, proxy, caplog, trouble)


async def _stay_calm(
    rig: Rig, server: Server, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """How much is sent and said while there is trouble, and that work goes on behind it."""
    bus, publisher = await rig.open(), await rig.open(DIRECT)
    probe = await rig.on(bus)
    await rig.publish(publisher, 0, key="k")
    await rig.until(lambda: 0 in probe.done)
    await rig.until(lambda: pending(server) == 0)
    with _Trouble(trouble, server, proxy):
        await rig.pause()
        caplog.clear()
        began, sent, accepted = now(), sum(proxy.sent.values()), proxy.accepted
        await asyncio.sleep(PACE_TIME)
        took = now() - began  # longer on a busy machine
        sent, accepted = sum(proxy.sent.values()) - sent, proxy.accepted - accepted
        said = Counter(one.msg for one in caplog.records if one.levelno >= logging.WARNING)
    assert sent / took <= PACE
    assert accepted / took <= PACE / 4
    assert all(count <= took + 1 for count in said.values()), said
    began = now()
    if trouble == "wrong type":
        await rig.pause()  # until it has been made anew
    await rig.publish(publisher, 1, key="k")
    await rig.until(lambda: 1 in probe.done)
    assert now() - began < 3.0


PACE = 60
"""Commands a second that one bus may send while it is refused: a hot loop sends thousands."""
PACE_TIME = 1.0


class _Trouble:
    """An error that stays until it is taken away."""

    def __init__(self, kind: str, server: Server, proxy: FaultProxy) -> None:
        self._begin, self._end = {
            "wrong type": (self._spoil, self._unspoil),
            "not permitted": (self._forbid, self._permit),
            "no password": (self._lock, self._unlock),
            "always cut": (self._cut, self._leave),
        }[kind]
        self._server, self._proxy = server, proxy

    def __enter__(self) -> None:
        self._begin()

    def __exit__(self, *exc: object) -> None:
        self._end()

    def _spoil(self) -> None:
        [self._key] = [key for key in streams(self._server) if b"orders" in key]
        self._server.command("DEL", self._key)
        self._server.command("SET", self._key, "something else")

    def _unspoil(self) -> None:
        self._server.command("DEL", self._key)

    def _forbid(self) -> None:
        self._server.command("ACL", "SETUSER", "default", "-xreadgroup")
        self._key = streams(self._server)[0]
        self._wake()

    def _permit(self) -> None:
        self._server.command("ACL", "SETUSER", "default", "+@all")

    def _wake(self) -> None:
        """Have it want to read."""
        self._server.command("XADD", self._key, "*", "t", "others.item@1", "h", "{}", "d", "{}", "b", "")

    def _lock(self) -> None:
        self._server.command("CONFIG", "SET", "requirepass", "secret")
        with self._server.client(password="secret") as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def _unlock(self) -> None:
        with self._server.client(password="secret") as client:
            client.execute_command("CONFIG", "SET", "requirepass", "")

    def _cut(self) -> None:
        self._rule = self._proxy.on(
            None, CutBefore(), where=lambda exchange: settles(exchange) or reads(exchange), times=None
        )
        self._key = streams(self._server)[0]
        self._wake()

    def _leave(self) -> None:
        self._rule.remove()
