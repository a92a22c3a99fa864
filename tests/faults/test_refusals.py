"""Redis that says no: loading, busy, read-only, full, locked, too old; what may pass, and what stays."""

from __future__ import annotations

import logging

import pytest
from fault_tools.controls import Control, fails_on_naive
from fault_tools.faults import Refuse
from fault_tools.network import Choice, appends, reads, settles
from fault_tools.own_servers import VERSIONS, rig_and_proxy, rig_on  # noqa: F401 - fixtures
from fault_tools.proxy import Exchange, FaultProxy
from fault_tools.servers import Server, binary
from fault_tools.storage_systems import GROUP, check_log, said

from bus.conformance.backend import needs
from bus.conformance.rig import Rig, now
from bus.redis_streams.errors import explained, may_pass, must_reconnect
from contracts.errors import BusError, BusFull, PublishUnknown

CONTROLS: list[Control] = []
PASSES = {
    "LOADING Redis is loading the dataset in memory": "",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": "",
    "READONLY You can't write against a read only replica.": "master",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": "",
    "MISCONF Errors writing to the AOF file: No space left on device": "disk",
    "OOM command not allowed when used memory > 'maxmemory'.": "maxmemory",
    "TRYAGAIN Multiple keys request during rehashing of slot": "",
    "CLUSTERDOWN The cluster is down": "",
}
"""What may pass by itself: asked again until the deadline; and a word of the fix."""
STAYS = {
    "NOAUTH Authentication required.": "password",
    "WRONGPASS invalid username-password pair or user is disabled.": "password",
    "NOPERM this user has no permissions to run the 'evalsha' command": "commands and keys",
    "WRONGTYPE Operation against a key holding the wrong kind of value": "namespace",
    "ERR unknown command 'EVALSHA', with args beginning with: ": "6.2",
    "ERR Unknown Redis command called from script": "6.2",
    "Unknown Redis command called from Lua script": "6.2",
    "ERR something that nobody has ever heard of": "doctor",
}
"""What somebody must change: said at once."""
SHAPES = {
    "plain": "{text}",
    "6.2, in a script": (
        "ERR Error running script (call to f_6b1bf486c81ceb7edf3c093f4c48582e38c0e791): "
        "@user_script:17: {text}"
    ),
    "6.2, before a command of a script": (
        "ERR Error running script (call to f_6b1bf486c81ceb7edf3c093f4c48582e38c0e791): "
        "@user_script:17: @user_script: 17: -{text}"
    ),
    "6.2, caught in a script": "@user_script: 17: -{text}\r\n",
    "7.0, in a script": "{text} script: 6b1bf486c81ceb7edf3c093f4c48582e38c0e791, on @user_script:17.",
}
"""How servers tell what went wrong where, as they were heard to."""


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("text", [*PASSES, *STAYS], ids=lambda text: text.split()[0])
def test_every_refusal_is_known_for_what_it_is(text: str, shape: str) -> None:
    """Wherever in the script it happened: whether to ask again, what is wrong, what to do. [B35, F29]"""
    said_by_redis = shape.format(text=text)
    assert may_pass(said_by_redis) is (text in PASSES)
    error = explained(said_by_redis, where="here")
    assert error.is_final is (text in STAYS)
    assert (PASSES | STAYS)[text] in error.fix
    assert text[:40] in error.message
    assert len(error.explain().splitlines()) <= 4
    assert must_reconnect(said_by_redis) is text.startswith(("READONLY", "MASTERDOWN"))


CHOICES = {"publish": appends, "fetch": reads, "settle": settles}


def any_of(*names: str) -> Choice:
    """Commands that do one of these."""

    def fits(exchange: Exchange) -> bool:
        return any(CHOICES[name](exchange) for name in names)

    return fits


@fails_on_naive(
    CONTROLS, at="await rig.publish(bus, n)",
    because="who publishes is told at once of what would pass by itself",
    text="OOM command not allowed when used memory > 'maxmemory'.",
)  # fmt: skip
@pytest.mark.usefixtures("fetches_apart")
@pytest.mark.parametrize("text", PASSES, ids=lambda text: text.split()[0])
async def test_what_may_pass_is_asked_again(
    proxied: tuple[Rig, FaultProxy], caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """Publishing, reading and settling: each goes through once it has passed, and happens once. [B35, F29]"""
    rig, proxy = proxied
    bus = await rig.open()
    probe = await rig.on(bus)
    await rig.publish(bus, 0)
    await rig.until(lambda: probe.done == [0])
    no = Refuse(text)
    for n, names in enumerate((["publish"], ["fetch"], ["settle"], ["publish", "fetch", "settle"]), 1):
        rule = proxy.on(None, no, times=3, where=any_of(*names))
        await rig.publish(bus, n)
        await rig.until(lambda: n in probe.done)  # noqa: B023
        await rig.until(lambda: not rule.is_active)  # noqa: B023
        await rig.quiet(bus)
    check_log(caplog.records, most=12)
    rig.judge()


@pytest.mark.parametrize("text", PASSES, ids=lambda text: text.split()[0])
async def test_what_does_not_pass_is_told_at_the_deadline(proxied: tuple[Rig, FaultProxy], text: str) -> None:
    """With what Redis says, and what to do. [B35, B34, F29]"""
    rig, proxy = proxied
    bus = await rig.open()
    await rig.publish(bus, 0)
    rule = proxy.on(None, Refuse(text), times=None, where=any_of("publish"))
    began = now()
    with pytest.raises(BusError) as caught:
        await rig.publish(bus, 1, timeout=0.4)
    assert 0.35 <= now() - began <= 0.8
    if text.startswith(("READONLY", "MASTERDOWN")):  # connects anew each time: whichever came last
        assert isinstance(caught.value, BusFull | PublishUnknown)
    else:
        assert isinstance(caught.value, BusFull)
        assert text.split(maxsplit=1)[0] in caught.value.message
        assert PASSES[text] in caught.value.fix
    rule.remove()
    await rig.publish(bus, 2)


@pytest.mark.parametrize("text", STAYS, ids=lambda text: text.split()[0])
async def test_what_stays_is_told_at_once(
    proxied: tuple[Rig, FaultProxy], caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """Publishing fails fast; who reads tries on, says so once a second, goes on when it is mended.

    [B35, F32]
    """
    rig, proxy = proxied
    bus = await rig.open()
    probe = await rig.on(bus)
    await rig.publish(bus, 0)
    await rig.until(lambda: probe.done == [0])
    no = Refuse(text)
    rule = proxy.on(None, no, times=None, where=any_of("publish"))
    began = now()
    with pytest.raises(BusError) as caught:
        await rig.publish(bus, 1, timeout=5)
    assert now() - began < 0.5
    assert caught.value.is_final
    assert STAYS[text] in caught.value.fix
    rule.remove()
    rule = proxy.on(None, no, times=None, where=any_of("fetch", "settle"))
    await rig.publish(bus, 2)
    await rig.until(lambda: rule.count >= 2)
    await rig.pause(24)
    assert probe.done == [0]
    assert said(caplog.records, logging.ERROR, GROUP, text.split(maxsplit=1)[0])
    rule.remove()
    await rig.until(lambda: probe.done == [0, 2])
    await rig.quiet(bus)
    check_log(caplog.records, most=12)
    rig.judge()


@fails_on_naive(
    CONTROLS, at="assert len(starts) <= 1", label=VERSIONS[-1], missing="XACK",
    because="what cannot be acknowledged is handled again and again",
)  # fmt: skip
@needs(lease=1.0)
@pytest.mark.parametrize("missing", ["XACK", "XREADGROUP", "EVALSHA", "XADD"])
@pytest.mark.parametrize("label", VERSIONS)
async def test_a_server_that_lacks_a_command_is_refused_or_said(
    request: pytest.FixtureRequest, label: str, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Renamed away, as on an old server: whoever needs it is told, and nothing is swallowed. [F32, B35]

    Opening, subscribing or publishing raises; what only a reader finds out is an error in the log, and what
    it handled is not started again and again.
    """
    with Server(binary(label), {"rename-command": f'{missing} ""'}) as server:
        async with rig_on(server, request) as rig:
            refusal, starts = await _use(rig)
            if refusal is not None:
                assert refusal.is_final
                assert "6.2" in refusal.fix
                return
            await rig.pause(40)  # longer than a lease: who has taken it for lost has begun again
            assert len(starts) <= 1
            await rig.until(lambda: said(caplog.records, logging.ERROR, "6.2"))
            await rig.pause(30)
            assert len(starts) <= 1
            check_log(caplog.records)


async def _use(rig: Rig) -> tuple[BusError | None, list[tuple[int, int]]]:
    """Open, subscribe, publish: what was raised, and the starts of the handler."""
    try:
        bus = await rig.open()
        probe = await rig.on(bus)
        await rig.publish(bus, 1, timeout=1)
    except BusError as error:
        return error, []
    return None, probe.starts


# --- the control --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", CONTROLS, ids=str)
async def test_the_naive_bus_fails(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    """Each of these, for its reason: what passes there judges nothing."""
    await control.check(caplog)
