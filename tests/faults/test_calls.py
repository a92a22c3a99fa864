"""Calls when the other side dies, is late, answers twice or is not there; when the caller comes back anew."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fault_tools.faults import CutAfter, CutBefore, Delay, Fault
from fault_tools.form import IS_LONG, long
from fault_tools.network import DIRECT, When, fails_on_naive, happened
from fault_tools.proxy import FaultProxy
from fault_tools.storage_systems import Store, check_log

from bus.conformance.backend import needs
from bus.conformance.probe import Gate
from bus.conformance.rig import SOURCE, Rig, now, together
from bus.redis_streams import RedisBus
from contracts.bus import Call, CallReply, EventBus, Provider, ProviderSpec
from contracts.errors import CallTimeout, NoProvider, ProviderLost

CAPABILITY = "pricing.quote"
PUNCTUAL = 0.05
"""Seconds after its deadline within which a caller is told."""
AT_ONCE = 0.1
LEASE = 1.0
CALLS = 1_000


def spec(**options: Any) -> ProviderSpec:
    return ProviderSpec(capability=CAPABILITY, plugin_id="shop", provider="quote", **options)


def answering(act: Callable[[Call], Awaitable[object]] | None = None) -> Provider:
    """Answers with what it was asked, when `act` has returned."""

    async def provide(call: Call) -> CallReply:
        if act is not None:
            await act(call)
        return CallReply(data=call.data)

    return provide


async def ask(bus: EventBus, text: str = "1", **options: Any) -> str:
    [reply] = await bus.request(CAPABILITY, text, source=SOURCE, **options)
    return reply.data


async def known(rig: Rig, bus: EventBus) -> None:
    await rig.until(bus.providers, "a provider to be known")


def dropped(bus: EventBus) -> int:
    assert isinstance(bus, RedisBus)
    return bus.dropped_answers


def futures() -> int:
    """How many there are, of whatever kind: what nobody answers must not be waited for for ever."""
    gc.collect()
    return sum(isinstance(one, asyncio.Future) for one in gc.get_objects())


@needs(lease=LEASE)
async def test_a_provider_that_is_killed_is_lost_long_before_the_deadline(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """`ProviderLost` as soon as it is judged gone; nothing of the call is left in Redis. [B42]"""
    a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
    await a.provide(spec(), answering(lambda call: gate()))
    await known(rig, b)
    request = asyncio.ensure_future(ask(b, timeout=60))
    await rig.until(lambda: gate.waiting)
    began = now()
    await rig.crash(a)
    with pytest.raises(ProviderLost) as caught:
        await request
    assert now() - began < 3 * LEASE
    assert caught.value.capability == CAPABILITY
    assert caught.value.fix
    assert not [key for key in store.all_keys() if ":in:a" in key]
    check_log(caplog.records, most=1)


@needs(lease=30.0)
async def test_a_deadline_comes_before_anybody_is_judged_gone(rig: Rig, store: Store) -> None:
    """The callee was killed, its lease is long: `CallTimeout` at the deadline, 50 ms exact; no future left.

    [B42]
    """
    a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
    await a.provide(spec(), answering(lambda call: gate()))
    await known(rig, b)
    await ask_in_vain(b, timeout=0.3)
    await rig.crash(a)
    before, keys = futures(), store.all_keys()
    for _ in range(20):
        began = now()
        await ask_in_vain(b, timeout=0.2)
        assert 0.2 - 0.01 <= now() - began <= 0.2 + PUNCTUAL
    await rig.pause(2)
    assert store.all_keys() == keys
    assert futures() <= before + 5, "calls that nobody will answer are still waited for"


async def ask_in_vain(bus: EventBus, *, timeout: float) -> None:
    with pytest.raises(CallTimeout) as caught:
        await ask(bus, timeout=timeout)
    assert caught.value.capability == CAPABILITY


async def test_an_answer_that_comes_late_is_dropped_and_counted(rig: Rig, store: Store) -> None:
    """The caller was told at its deadline; the next call gets its own answer, nothing is left. [B42]"""
    a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
    await a.provide(spec(), answering(lambda call: gate() if call.data == "1" else asyncio.sleep(0)))
    await known(rig, b)
    assert await ask(b, "2") == "2"
    before, keys = futures(), store.all_keys()
    began = now()
    await ask_in_vain(b, timeout=0.2)
    assert 0.2 - 0.01 <= now() - began <= 0.2 + PUNCTUAL
    gate.open()
    await rig.until(lambda: dropped(b) == 1)
    assert await ask(b, "3") == "3"
    assert store.all_keys() == keys
    assert futures() <= before + 2


async def test_an_answer_that_comes_twice_is_taken_once(rig: Rig, store: Store) -> None:
    """The second is dropped and counted; no later call gets it. [B42]"""
    a, b = await rig.open("a"), await rig.open("b")
    await a.provide(spec(), answering())
    await known(rig, b)
    assert await ask(b, "1") == "1"
    inbox = store.keys.inbox("b")
    letters = [fields for _, fields in store.server.command("XRANGE", inbox, "-", "+")]
    answers = [letter[b"l"] for letter in letters if "reply" in json.loads(letter[b"l"])]
    [answer] = answers
    store.server.command("XADD", inbox, "*", "l", answer)
    await rig.until(lambda: dropped(b) == 1)
    assert await ask(b, "2") == "2"
    assert dropped(b) == 1


async def test_many_calls_at_once_are_executed_once_each(rig: Rig) -> None:
    """Three thousand in one burst: none is lost on the way, none is executed twice. [B44]"""
    a, b = await rig.open("a"), await rig.open("b")
    executed: list[str] = []

    async def note(call: Call) -> None:
        executed.append(call.data)

    await a.provide(spec(), answering(note))
    await known(rig, b)
    texts = [f'"{n}"' for n in range(3 * CALLS)]
    answers = await asyncio.gather(
        *(ask(b, text, timeout=rig.backend.patience) for text in texts), return_exceptions=True
    )
    assert len(executed) == len(set(executed)), "calls were executed twice"
    assert answers == texts
    assert dropped(b) == 0


async def test_letters_of_strangers_keep_nobody_from_being_answered(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """They are left out with a line each, and none a traceback. [B42]"""
    a, b = await rig.open("a"), await rig.open("b")
    await a.provide(spec(), answering())
    await known(rig, b)
    strange = [
        "",
        "no json",
        "[]",
        "{}",
        '{"call": 5}',
        '{"call": {}, "to": "b"}',
        '{"id": []}',
        "\x00" * 2_000,
    ]
    for letter in strange:
        store.server.command("XADD", store.keys.inbox("a"), "*", "l", letter)
    store.server.command("XADD", store.keys.inbox("a"), "*", "hello", "world", "and", "more")
    assert await ask(b, "1") == "1"
    check_log(caplog.records, most=len(strange) + 1)


async def test_that_nobody_provides_is_known_at_once(rig: Rig, store: Store) -> None:
    """Never offered, and withdrawn: `NoProvider` within 100 ms, and no call is sent. [B43]"""
    a, b = await rig.open("a"), await rig.open("b")
    keys = store.all_keys()
    began = now()
    with pytest.raises(NoProvider) as caught:
        await ask(b, timeout=30)
    assert now() - began < AT_ONCE
    assert caught.value.capability == CAPABILITY
    offer = await a.provide(spec(), answering())
    await known(rig, b)
    assert await ask(b) == "1"
    await offer.remove()
    await rig.until(lambda: not b.providers())
    began = now()
    with pytest.raises(NoProvider):
        await ask(b, timeout=30)
    assert now() - began < AT_ONCE
    assert [key for key in store.all_keys() if ":in:" not in key] == keys


@needs(lease=LEASE)
async def test_a_caller_that_comes_back_gets_no_answer_to_its_former_calls(rig: Rig) -> None:
    """A thousand calls side by side, the caller killed and started again by its name: each answer is its own.

    [B44]

    What the former one had asked is answered to nobody: dropped, and counted.
    """
    a, b, gate = await rig.open("a"), await rig.open("b"), Gate()
    await a.provide(
        spec(), answering(lambda call: gate() if call.data.startswith('"old') else asyncio.sleep(0))
    )
    await known(rig, b)
    old = asyncio.gather(*(ask(b, f'"old {n}"', timeout=60) for n in range(CALLS)), return_exceptions=True)
    await rig.until(lambda: gate.waiting >= CALLS)
    await rig.crash(b)
    assert all(isinstance(one, Exception) for one in await old)
    b = await rig.open("b")
    await known(rig, b)

    async def ask_for_own(n: int) -> None:
        assert await ask(b, f'"new {n}"', timeout=rig.backend.patience) == f'"new {n}"'

    new = [asyncio.ensure_future(ask_for_own(n)) for n in range(CALLS)]
    gate.open()
    await asyncio.gather(*new)
    await rig.until(lambda: dropped(b) == CALLS, "answers to the former calls to be dropped")


@needs(lease=LEASE)
async def test_calls_survive_that_all_connections_are_cut(rig: Rig, store: Store) -> None:
    """Each is answered with its own answer, or its caller is told at the deadline; none is executed twice.

    [B44]
    """
    a, b = await rig.open("a"), await rig.open("b")
    executed: list[str] = []

    async def note(call: Call) -> None:
        executed.append(call.id)
        await asyncio.sleep(0)

    await a.provide(spec(), answering(note))
    await known(rig, b)
    rounds = 20 if IS_LONG else 4

    async def ask_for_own(n: int) -> bool:
        try:
            return await ask(b, f'"{n}"', timeout=1) == f'"{n}"'
        except CallTimeout:
            return True

    for round_ in range(rounds):
        calls = [asyncio.ensure_future(ask_for_own(round_ * 100 + n)) for n in range(100)]
        await asyncio.sleep(0)
        store.server.command("CLIENT", "KILL", "TYPE", "normal")
        assert all(await asyncio.gather(*calls))
    assert len(executed) == len(set(executed))


# --- connections that are cut -------------------------------------------------------------------------------


@fails_on_naive
@needs(lease=3.0)
async def test_an_answer_that_comes_while_the_caller_is_cut_off(rig: Rig, proxy: FaultProxy) -> None:
    """An answer given while the caller is cut off reaches it when it is back, before its deadline. [F35]"""
    caller, provider, gate = await rig.open(), await rig.open(DIRECT), Gate()
    await provider.provide(spec(), answering_when(gate))
    await rig.until(caller.providers)
    asking = asyncio.create_task(caller.request(CAPABILITY, "{}", source=SOURCE, timeout=2.5))
    await rig.until(lambda: gate.waiting)
    await proxy.refuse()
    proxy.cut()
    gate.open()
    await rig.pause()
    await proxy.accept()
    [reply] = await asking
    assert reply.data == "1"


@pytest.mark.parametrize("fault", [CutBefore(), CutAfter()], ids=["before", "after"])
@needs(lease=3.0)
async def test_an_answer_whose_sending_is_cut(rig: Rig, proxy: FaultProxy, fault: Fault) -> None:
    """A provider whose connection is cut when it answers answers again over the next. [F35]"""
    caller, provider, gate = await rig.open(DIRECT), await rig.open(), Gate()
    await provider.provide(spec(), answering_when(gate))
    await rig.until(caller.providers)
    asking = asyncio.create_task(caller.request(CAPABILITY, "{}", source=SOURCE, timeout=2.5))
    await rig.until(lambda: gate.waiting)
    rule = proxy.on("XADD", fault, containing=f":in:{DIRECT}")
    gate.open()
    [reply] = await asking
    await happened(rig, rule)
    assert reply.data == "1"


@needs(lease=3.0)
async def test_calls_are_executed_once_whatever_is_read_twice(rig: Rig, proxy: FaultProxy) -> None:
    """A letter that comes by two ways at once, and overtakes itself, is one execution. [F35]"""
    caller, provider = await rig.open(DIRECT), await rig.open()
    seen: list[str] = []

    async def answer(call: Call) -> CallReply:
        seen.append(call.id)
        return CallReply(data="1")

    await provider.provide(spec(), answer)
    await rig.until(caller.providers)
    proxy.on("XREAD", When(Delay(0.1), '"call"'), nth=2, times=None)
    for _ in range(long(3, 30)):
        await together([caller.request(CAPABILITY, "{}", source=SOURCE, timeout=2.5) for _ in range(20)])
    await rig.pause()
    assert len(seen) == len(set(seen)) == long(3, 30) * 20


def answering_when(gate: Gate) -> Callable[[Call], Awaitable[CallReply]]:
    async def provide(call: Call) -> CallReply:
        await gate()
        return CallReply(data="1")

    return provide
