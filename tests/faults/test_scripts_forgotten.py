"""Scripts that the server has forgotten, again and again, and in the midst of a pipeline."""

from __future__ import annotations

import asyncio
import itertools
import logging

import pytest
from fault_tools.faults import CutAfter, CutBefore, Fault, Hold
from fault_tools.form import long
from fault_tools.network import (
    calls,
    happened,
    keep_publishing,
    load_scripts,
    pending,
    publish_all,
    stored,
)
from fault_tools.proxy import FaultProxy
from fault_tools.servers import Server

from bus.conformance.backend import needs
from bus.conformance.probe import fail_if
from bus.conformance.rig import Rig
from contracts.bus import RetryPolicy


@needs(lease=2.0, partitions=2)
async def test_scripts_flushed_all_the_time(
    rig: Rig, server: Server, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """SCRIPT FLUSH again and again: nothing lost, doubled or out of order, no word in the log. [NOSCRIPT]

    In the long form each second for a minute.
    """
    bus, publisher = await rig.open(), await rig.open("b")
    failing = RetryPolicy(attempts=3, first_delay=0.01)
    await rig.on(bus, lambda n, attempt: fail_if(n % 5 == 0 and attempt == 1), concurrency=4, retry=failing)
    caplog.clear()
    numbers = itertools.count()
    sending = asyncio.create_task(keep_publishing(rig, publisher, numbers))
    for _ in range(long(20, 60)):
        await asyncio.sleep(long(1, 20) / 20)
        server.command("SCRIPT", "FLUSH")
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await rig.quiet(bus)
    said = [one for one in caplog.records if one.levelno >= logging.WARNING and "attempt" not in one.msg]
    assert said == []
    assert pending(server) == 0
    rig.judge()


@pytest.mark.parametrize("then", [None, CutBefore(), CutAfter()], ids=["alone", "cut before", "cut after"])
@needs(lease=2.0, partitions=4)
async def test_scripts_flushed_within_a_pipeline(
    rig: Rig, server: Server, proxy: FaultProxy, then: Fault | None
) -> None:
    """Scripts forgotten between two calls of one write, and the repetition cut: no matter. [NOSCRIPT]

    What fails is settled by a script, and the first fetches of a connection are scripts.
    """
    bus = await rig.open()
    failing = RetryPolicy(first_delay=0.05, max_delay=0.05)
    probe = await rig.on(
        bus, lambda n, attempt: fail_if(n % 2 == 0 and attempt == 1), concurrency=4, retry=failing
    )
    await rig.publish(bus, *range(8))
    await rig.quiet(bus)
    for name in ("publish", "fetch", "settle"):
        again = None if then is None else proxy.on("EVAL", then, where=calls(name))
        rule = proxy.on(None, Hold(), where=calls(name), nth=1 if name == "fetch" else 2)
        if name == "fetch":
            proxy.cut()
        sending = asyncio.create_task(publish_all(rig, bus, range(40)))
        await happened(rig, rule)
        server.command("SCRIPT", "FLUSH")
        rule.release()
        await sending
        await rig.quiet(bus)
        assert again is None or again.fired.is_so
        load_scripts(server)
    assert stored(server) == 8 + 3 * 40
    assert pending(server) == 0
    assert len(probe.done) == 8 + 3 * 40
    rig.judge()
