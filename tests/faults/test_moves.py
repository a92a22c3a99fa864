"""Deliveries that move to the dead letters or to the lot: whole or not at all, whatever comes between."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from fault_tools.controls import Control, fails_on_naive
from fault_tools.faults import CutAfter, CutBefore, Stall
from fault_tools.network import happened, load_scripts, settles
from fault_tools.own_servers import (  # noqa: F401 - fixtures
    Behind,
    own_backend,
    own_rig,
    own_store,
    rig_and_proxy,
    rig_on,
    server_of_its_own,
)
from fault_tools.proxy import FaultProxy
from fault_tools.servers import Server
from fault_tools.storage_systems import GROUP, Store, check_log, dead_are, is_parked, said

from bus.conformance.backend import needs
from bus.conformance.probe import Gate, fail_if
from bus.conformance.rig import Rig
from contracts.bus import RetryPolicy

CONTROLS: list[Control] = []


async def test_what_cannot_be_buried_stays_and_is_said(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The key of the dead letters is something else: nothing is acknowledged or tried again. [B15, F18]

    As soon as the key is free there is one dead letter, and what was behind it goes on.
    """
    bus = await rig.open()
    store.server.command("SET", store.dead(GROUP), "something else")
    probe = await rig.on(
        bus, lambda n, _: fail_if(n == 1), retry=RetryPolicy(attempts=2, first_delay=0.05, jitter=0)
    )
    await rig.publish(bus, 1, key="k")
    await rig.until(lambda: probe.starts == [(1, 1), (1, 2)])
    await rig.until(lambda: said(caplog.records, logging.ERROR, GROUP, "WRONGTYPE"))
    await rig.publish(bus, 2, key="other")
    await rig.until(lambda: probe.done == [2])
    await rig.pause(30)
    assert probe.starts == [(1, 1), (1, 2), (2, 1)]
    info = await rig.info(bus)
    assert info.in_flight + info.parked == 1
    check_log(caplog.records)
    store.server.command("DEL", store.dead(GROUP))
    await rig.until(lambda: dead_are(bus, 1))
    await rig.quiet(bus)
    await rig.publish(bus, 3, key="k")
    await rig.until(lambda: probe.done == [2, 3])
    [letter] = await bus.dead_letters()
    assert (letter.reason, letter.attempts) == ("attempts", 2)
    info = await rig.info(bus)
    assert (info.in_flight, info.parked) == (0, 0)
    await rig.given_up(bus)
    rig.judge()


@needs(lease=1.0)
async def test_what_cannot_be_buried_outlives_its_owner(rig: Rig, store: Store) -> None:
    """Killed meanwhile, the next owner finds it undecided; in the end one dead letter. [B15, F18, B14]"""
    a = await rig.open("a")
    store.server.command("SET", store.dead(GROUP), "something else")
    policy = RetryPolicy(attempts=1)
    probe = await rig.on(a, lambda n, _: fail_if(n == 1), retry=policy)
    await rig.publish(a, 1, 2)
    await rig.until(lambda: probe.done == [2])
    await rig.crash(a)
    store.server.command("DEL", store.dead(GROUP))
    b = await rig.open("b")
    await rig.on(b, lambda n, _: fail_if(n == 1), retry=policy)
    await rig.until(lambda: dead_are(b, 1))
    await rig.quiet(b)
    await rig.pause(4)
    assert len(await b.dead_letters()) == 1
    assert store.pending(GROUP, "orders") == 0
    await rig.given_up(b)
    rig.judge(repeats=2)


@pytest.mark.parametrize("fault", [CutBefore, CutAfter])
@pytest.mark.parametrize("outcome", ["dead", "parked"])
async def test_a_move_whose_answer_is_lost_happens_once(
    request: pytest.FixtureRequest, own_server: Server, fault: type[CutBefore | CutAfter], outcome: str
) -> None:
    """To the dead letters, or to the lot: cut before it or behind it, it is there once. [F18, F19, B14]"""
    async with FaultProxy(own_server) as proxy, rig_on(own_server, request) as rig:
        backend: Any = rig.backend
        backend.server = Behind(proxy)
        bus = await rig.open()
        attempts = 1 if outcome == "dead" else 3
        gate = Gate()

        async def act(n: int, attempt: int) -> None:
            await gate()
            fail_if(attempt == 1)

        probe = await rig.on(
            bus, act, retry=RetryPolicy(attempts=attempts, first_delay=0.6, factor=1, jitter=0)
        )
        await rig.publish(bus, 1, key="k")
        await rig.until(lambda: gate.waiting)
        word = b"bury" if outcome == "dead" else b"keep"
        rule = proxy.on(None, fault(), where=lambda exchange: word in exchange.args)
        gate.open()
        await asyncio.wait_for(rule.fired._event.wait(), 5)
        await rig.until(lambda: dead_are(bus, 1) if outcome == "dead" else len(probe.done) == 1)
        await rig.quiet(bus)
        await rig.pause(4)
        assert await bus.count_dead_letters() == (outcome == "dead")
        assert probe.starts == ([(1, 1)] if outcome == "dead" else [(1, 1), (1, 2)])
        assert (await rig.info(bus)).parked == 0
        await rig.given_up(bus)
        rig.judge()
        backend.server = own_server


@pytest.mark.parametrize("executed", [False, True], ids=["before", "after"])
@fails_on_naive(
    CONTROLS, at="assert await b.count_dead_letters() == 1", executed=False,
    because="the dead letter is written, the acknowledgement dies with its owner: the next writes another",
)  # fmt: skip
@needs(lease=1.0)
async def test_who_dies_while_it_buries_leaves_one_dead_letter(
    proxied: tuple[Rig, FaultProxy], executed: bool
) -> None:
    """Its settlement was on the way, or has arrived: the next decides, or finds it decided. [F18, B14]"""
    rig, proxy = proxied
    load_scripts(proxy.server)
    a, policy = await rig.open("a"), RetryPolicy(attempts=1)
    fail = lambda n, attempt: fail_if(n == 1)  # noqa: E731
    first = await rig.on(a, fail, retry=policy)
    rule = proxy.on(None, Stall(executed=executed), where=settles)
    await rig.publish(a, 1)
    await happened(rig, rule)
    await rig.crash(a)
    b = await rig.open("b")
    second = await rig.on(b, fail, retry=policy)
    await rig.publish(b, 2)
    await rig.until(lambda: second.done == [2])
    await rig.quiet(b)
    assert await b.count_dead_letters() == 1
    assert first.starts + second.starts == [(1, 1), *([] if executed else [(1, 1)]), (2, 1)]
    await rig.given_up(b)
    rig.judge(repeats=1)


@fails_on_naive(
    CONTROLS, at="assert later.starts ==", patience=6.0,
    because="the pause and the count of attempts are in the memory of who dies: the next begins anew",
)  # fmt: skip
@needs(lease=1.0)
async def test_a_retry_that_was_to_wait_is_neither_lost_nor_begun_anew(rig: Rig, store: Store) -> None:
    """Its owner is killed while it waits: the next starts it when it is due, with its attempts. [F19, B40]"""
    policy = RetryPolicy(attempts=5, first_delay=2.5, factor=1, jitter=0)
    a = await rig.open("a")
    probe = await rig.on(a, lambda n, attempt: fail_if(attempt == 1), retry=policy, concurrency=2)
    await rig.publish(a, 1, key="k")
    await rig.until(lambda: is_parked(rig, a))
    failed = probe.times[0]
    await rig.publish(a, 2, key="k")
    await rig.until(lambda: is_parked(rig, a, 2))
    await rig.crash(a)
    b = await rig.open("b")
    later = await rig.on(b, lambda n, attempt: fail_if(n == 2 and attempt == 1), retry=policy)
    await rig.until(lambda: later.done == [1, 2])
    assert later.starts == [(1, 2), (2, 1), (2, 2)]
    assert 2.5 - 0.05 <= later.times[0] - failed <= 2.5 + 1.0
    await rig.quiet(b)
    assert (await rig.info(b)).parked == 0
    rig.judge()


# --- the control --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", CONTROLS, ids=str)
async def test_the_naive_bus_fails(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    """Each of these, for its reason: what passes there judges nothing."""
    await control.check(caplog)
