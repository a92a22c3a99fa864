"""Redis that is full, out of disk, read-only, busy, torn or saying no; and what is trimmed.

With `PLUGBUS_FAULTS_SYSTEM=naive` the same bodies run on the naive bus; those of the F rows fail there.
"""

from __future__ import annotations

import asyncio
import logging
import random
import resource
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest
from fault_tools.faults import CutAfter, CutBefore, Refuse
from fault_tools.network import Choice, appends, reads, settles
from fault_tools.proxy import Exchange, FaultProxy
from fault_tools.servers import Server, binaries, binary
from fault_tools.storage_systems import IS_LONG, Store, backend_on, check_log, said

from bus.conformance import Backend, limits_for
from bus.conformance.backend import needs
from bus.conformance.probe import Gate, fail_if
from bus.conformance.rig import Rig, now
from bus.redis_streams.errors import explained, may_pass, must_reconnect
from contracts.bus import EventBus, RetryPolicy
from contracts.errors import BusError, BusFull, PublishUnknown
from contracts.event import EventData

GROUP = "shop.handle"
VERSIONS = [label for label, _ in binaries()]
DURABLE = {"appendonly": "yes", "appendfsync": "always"}
SEED = 20


@pytest.fixture(params=VERSIONS)
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this test alone, which it may fill, configure and kill; it keeps what it confirms."""
    with Server(binary(request.param), DURABLE) as server:
        yield server


@asynccontextmanager
async def rig_on(server: Server, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    backend = backend_on(server, limits_for(request))
    rig = Rig(backend)
    try:
        yield rig
    finally:
        await mend(server)
        await rig.end(alone=False)
        await backend.close()


async def mend(server: Server) -> None:
    """Whatever a test has done to it, it is up and takes writes."""
    if not server.is_running:
        await server.start_async()
    _limit_files(server, resource.RLIM_INFINITY)
    server.command("CONFIG", "SET", "maxmemory", 0)
    while not _writes(server):  # noqa: ASYNC110 - it looks at its disk once a second
        await asyncio.sleep(0.05)


def _writes(server: Server) -> bool:
    with server.client() as client:
        return str(client.info("persistence")["aof_last_write_status"]) == "ok"


@pytest.fixture
def backend(request: pytest.FixtureRequest, own_server: Server) -> Backend:
    return backend_on(own_server, limits_for(request))


@pytest.fixture
async def rig(backend: Backend, own_server: Server) -> AsyncIterator[Rig]:
    rig = Rig(backend)
    yield rig
    await mend(own_server)
    await rig.end()
    await backend.close()


@pytest.fixture
def store(backend: Backend, own_server: Server) -> Store:
    return Store(backend, own_server)


async def is_parked(rig: Rig, bus: EventBus, count: int = 1) -> bool:
    return (await rig.info(bus)).parked == count


async def waits(rig: Rig, bus: EventBus, group: str = GROUP) -> int:
    info = await rig.info(bus, group)
    return info.waiting + info.in_flight


# --- dead letters and the lot: moved whole or not at all ----------------------------------------------------


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
    await rig.until(lambda: _dead_are(bus, 1))
    await rig.quiet(bus)
    await rig.publish(bus, 3, key="k")
    await rig.until(lambda: probe.done == [2, 3])
    [letter] = await bus.dead_letters()
    assert (letter.reason, letter.attempts) == ("attempts", 2)
    info = await rig.info(bus)
    assert (info.in_flight, info.parked) == (0, 0)
    await rig.given_up(bus)
    rig.judge()


async def _dead_are(bus: EventBus, count: int) -> bool:
    return await bus.count_dead_letters() == count


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
    await rig.until(lambda: _dead_are(b, 1))
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
        backend.server = _Behind(proxy)
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
        await rig.until(lambda: _dead_are(bus, 1) if outcome == "dead" else len(probe.done) == 1)
        await rig.quiet(bus)
        await rig.pause(4)
        assert await bus.count_dead_letters() == (outcome == "dead")
        assert probe.starts == ([(1, 1)] if outcome == "dead" else [(1, 1), (1, 2)])
        assert (await rig.info(bus)).parked == 0
        await rig.given_up(bus)
        rig.judge()
        backend.server = own_server


class _Behind:
    """The server as a backend sees it through a proxy."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self.url = proxy.url

    def command(self, *args: Any) -> Any:
        return self._proxy.server.command(*args)


@needs(lease=1.0)
async def test_a_retry_that_was_to_wait_is_neither_lost_nor_begun_anew(rig: Rig, store: Store) -> None:
    """Its owner is killed while it waits: the next starts it when it is due, with its attempts. [F19, B40]"""
    policy = RetryPolicy(attempts=5, first_delay=2.5, factor=1, jitter=0)
    a = await rig.open("a")
    probe = await rig.on(a, lambda n, attempt: fail_if(attempt == 1), retry=policy)
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


# --- memory full --------------------------------------------------------------------------------------------


def fill_memory(server: Server, over: int = 500_000) -> None:
    """From now on the server uses so many bytes more than it may."""
    with server.client() as client:
        used = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", used - over)


def free_memory(server: Server) -> None:
    server.command("CONFIG", "SET", "maxmemory", 0)


@needs(lease=1.0)
async def test_a_full_memory_holds_publishers_back_and_nobody_else(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """`BusFull` with the cause at its deadline; what is there is handled and acknowledged. [B34, F29]

    With room again everything goes on without a restart; nothing confirmed is lost. [R7]
    """
    bus, gate = await rig.open(), Gate()
    probe = await rig.on(bus, gate, concurrency=4)
    other = await rig.open("b")
    for n in range(200):
        await rig.publish(other, n, key=f"k{n % 10}")
    await rig.until(lambda: gate.waiting == 4)
    fill_memory(store.server)
    began = now()
    with pytest.raises(BusFull, match="memory is full") as caught:
        await rig.publish(other, 200, timeout=0.6)
    assert 0.5 < now() - began < 1.5
    assert "maxmemory" in caught.value.fix
    gate.open()
    await rig.until(lambda: len(probe.done) == 200, "what is there to be handled")
    await rig.until(lambda: store.pending(GROUP, "orders") == 0, "what is handled to be acknowledged")
    await rig.pause(30)  # longer than a lease: nobody is judged gone for want of memory
    assert set((await other.info()).replicas) == {"a", "b"}
    with pytest.raises(BusFull):
        await rig.publish(other, 201, timeout=0.2)
    free_memory(store.server)
    await rig.publish(other, 202)
    await rig.until(lambda: 202 in probe.done)
    await rig.quiet(bus)
    assert (await rig.info(bus)).handled == 201
    check_log(caplog.records)
    rig.judge()


@needs(lease=1.0)
async def test_what_fails_while_memory_is_full_is_decided_when_it_is_not(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Never acknowledged without its target, never started once more; moved at the latest with room. [B15]

    What is moved was in memory before, and is bounded, so it may be moved at once. It is the order of
    writes inside a script that decides. [R7]
    """
    bus, gate = await rig.open(), Gate()

    async def act(n: int, attempt: int) -> None:
        if attempt == 1:
            await gate()
        if n % 3 == 0:
            raise ValueError("never")
        fail_if(n % 3 == 1 and attempt == 1)

    policy = RetryPolicy(attempts=2, first_delay=0.3, jitter=0)
    probe = await rig.on(bus, act, concurrency=6, retry=policy)
    for n in range(6):
        await rig.publish(bus, n, key=f"k{n}")
    await rig.until(lambda: gate.waiting == 6)
    fill_memory(store.server)
    gate.open()
    await rig.until(lambda: {2, 5} <= set(probe.done))
    await rig.pause(20)
    free_memory(store.server)
    await rig.until(lambda: _dead_are(bus, 2))
    await rig.until(lambda: sorted(probe.done) == [1, 2, 4, 5])
    await rig.quiet(bus)
    assert sorted(probe.starts) == [
        (n, attempt) for n in range(6) for attempt in (1, 2) if attempt == 1 or n % 3 < 2
    ]
    info = await rig.info(bus)
    assert (info.in_flight, info.parked, info.dead) == (0, 0, 2)
    check_log(caplog.records)
    await rig.given_up(bus)
    rig.judge()


@needs(lease=1.0, retain=10, retain_seconds=0.1, young_seconds=0)
async def test_a_full_memory_frees_itself_by_trimming(rig: Rig, store: Store) -> None:
    """What everybody has settled goes although memory is full, and then there is room again. [B34]

    Nobody raises `maxmemory`, nobody restarts anything.
    """
    bus, gate = await rig.open(), Gate()
    probe = await rig.on(bus, gate, concurrency=8)
    text = '{"n": 1, "filler": "' + "x" * 10_000 + '"}'
    for n in range(300):
        await rig.publish(bus, n, text=text, key=f"k{n % 8}")
    await rig.until(lambda: gate.waiting == 8)
    fill_memory(store.server, over=1_000_000)  # of three million that are to be trimmed
    with pytest.raises(BusFull):
        await rig.publish(bus, 300, text=text, timeout=0.2)
    gate.open()
    await rig.until(lambda: len(probe.done) == 300)
    await rig.publish(bus, 301, text=text, timeout=10)
    await rig.until(lambda: len(probe.done) == 301)
    await rig.quiet(bus)
    rig.judge()


@needs(lease=1.0)
async def test_a_takeover_needs_no_room(rig: Rig, store: Store) -> None:
    """A replica is killed while memory is full: another handles what it held, before memory is freed.

    [B34]
    """
    a, gate = await rig.open("a"), Gate()
    await rig.on(a, gate)
    await rig.publish(a, *range(5))
    await rig.until(lambda: gate.waiting)
    b = await rig.open("b")
    later = await rig.on(b)
    await rig.until(lambda: gate.waiting)
    fill_memory(store.server)
    await rig.crash(a)
    await rig.until(lambda: len(later.done) == 5, "the other replica to take over")
    free_memory(store.server)
    await rig.quiet(b)
    rig.judge(repeats=5)


# --- disk full ----------------------------------------------------------------------------------------------


def fill_disk(server: Server, spare: int = 0) -> None:
    """No file of the server may grow any further but by `spare` bytes: it sees what a full disk does (a short
    write, then an error). A limit of its process rather than a file system, which only root may mount.
    """
    largest = max(path.stat().st_size for path in server.folder.rglob("*") if path.is_file())
    _limit_files(server, largest + spare)


def free_disk(server: Server) -> None:
    _limit_files(server, resource.RLIM_INFINITY)


def _limit_files(server: Server, size: int) -> None:
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@needs(lease=1.0)
async def test_a_full_disk_stops_a_durable_server_and_loses_nothing(
    rig: Rig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """`appendfsync always`: Redis ends; publishing fails at its deadline with the cause. [B32, F29]

    With space, and started again, it has everything that was confirmed, and everything is handled.
    """
    server = store.server
    bus = await rig.open()
    probe = await rig.on(bus)
    fill_disk(server, spare=20_000)
    error: BusError | None = None
    for n in range(1_000):
        try:
            await rig.publish(bus, n, key=f"k{n % 7}", timeout=1.0)
        except BusError as raised:
            error = raised
            break
    assert 0 < n < 999
    assert isinstance(error, PublishUnknown)
    assert server.url.split("@")[-1] in str(error)
    assert not server.is_running
    began = now()
    with pytest.raises(PublishUnknown):
        await asyncio.wait_for(rig.publish(bus, 2_000, timeout=0.5), 5)
    assert now() - began < 1.0
    await server.start_async()
    await rig.publish(bus, 3_000)
    await rig.until(lambda: 3_000 in probe.done)
    await rig.quiet(bus)
    check_log(caplog.records)
    # what ran when the server went may be started once more
    rig.judge(repeats=100)


@pytest.mark.parametrize("label", VERSIONS)
@needs(lease=1.0)
async def test_a_full_disk_holds_publishers_back_where_the_server_lives_on(
    request: pytest.FixtureRequest, label: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`appendfsync everysec`: `BusFull` says that Redis cannot write to its disk. [B32, F29]

    With space again it goes on by itself, and everything confirmed before is there.
    """
    with Server(binary(label), {"appendonly": "yes", "appendfsync": "everysec"}) as server:
        async with rig_on(server, request) as rig:
            bus = await rig.open()
            probe = await rig.on(bus)
            fill_disk(server, spare=20_000)
            error: BusError | None = None
            for n in range(5_000):
                try:
                    await rig.publish(bus, n, key=f"k{n % 7}", timeout=1.0)
                except BusError as raised:
                    error = raised
                    break
            assert isinstance(error, BusFull)
            assert "disk" in error.message
            assert "disk" in error.fix
            info = await bus.info()
            assert any("disk" in warning for warning in info.warnings)
            free_disk(server)
            await rig.until(lambda: _goes_through(bus), "the server to write again")
            await rig.until(lambda: len(probe.done) >= n)
            await rig.quiet(bus)
            check_log(caplog.records)
            rig.judge()


async def _goes_through(bus: EventBus) -> bool:
    try:
        await bus.publish(EventData(type="other.thing", data="{}"), source="/test", timeout=0.5)
    except BusError:
        return False
    return True


# --- power cut ----------------------------------------------------------------------------------------------


def append_only_file(folder: Path) -> Path:
    """Where the server writes on: the newest of its files, which has another name in each version."""
    found = [path for path in folder.rglob("*.aof*") if path.is_file() and "manifest" not in path.name]
    return max(found, key=lambda path: (".incr." in path.name, path.stat().st_size))


@needs(lease=1.0)
async def test_a_power_cut_loses_nothing_that_was_confirmed(
    request: pytest.FixtureRequest, own_server: Server, tmp_path: Path
) -> None:
    """The file as it was at a confirmation, with a torn end: every event confirmed by then is handled. [B33]

    Cuts at random confirmations; the copy is what a disk has that has kept what was synced, and no more.
    """
    sizes: list[tuple[int, int]] = []
    async with rig_on(own_server, request) as rig:
        bus = await rig.open()
        probe = await rig.on(bus)
        for n in range(300):
            await rig.publish(bus, n, key=f"k{n % 7}")
            sizes.append((n, append_only_file(own_server.folder).stat().st_size))
        await rig.until(lambda: len(probe.done) == 300)
        rig.judge()
        saved = tmp_path / "saved"
        shutil.copytree(own_server.folder, saved, ignore=shutil.ignore_patterns("socket"))
        namespace = Store(rig.backend, own_server).namespace
    for n, size in random.Random(SEED).sample(sizes, 20 if IS_LONG else 4):  # noqa: S311
        await _restore_and_judge(request, own_server, saved, namespace, n, size)


async def _restore_and_judge(
    request: pytest.FixtureRequest, former: Server, saved: Path, namespace: str, last: int, size: int
) -> None:
    with_all = Server(former.binary, DURABLE)
    shutil.copytree(saved, with_all.folder, dirs_exist_ok=True)
    (with_all.folder / "log").unlink()
    with append_only_file(with_all.folder).open("r+b") as file:
        file.truncate(size + 7)  # a command that was under way is torn
    async with with_all as server:
        backend: Any = backend_on(server, limits_for(request))
        backend.namespace = namespace
        rig = Rig(backend)
        bus = await rig.open("after")
        published = {topic.topic: topic.published for topic in await bus.topics()}
        assert published["orders"] >= last + 1
        probe = await rig.on(bus)
        await rig.publish(bus, 1_000)
        await rig.until(lambda: 1_000 in probe.done)
        await rig.quiet(bus)
        # each confirmed one was settled before the cut, or is handled now
        info = await rig.info(bus)
        assert info.handled >= last + 2
        assert not set(probe.done) - set(range(last + 2)) - {1_000}
        await rig.end(alone=False)
        await backend.close()


@pytest.mark.parametrize(
    ("config", "durability", "hint"),
    [
        (DURABLE, "strong", ""),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "weak", "appendfsync"),
        ({"appendonly": "yes", "appendfsync": "no"}, "weak", "appendfsync"),
        ({"appendonly": "no"}, "weak", "append-only"),
    ],
    ids=["always", "everysec", "no fsync", "no file"],
)
@pytest.mark.parametrize("label", VERSIONS)
async def test_what_is_promised_of_the_disk_is_what_is_in_force(
    request: pytest.FixtureRequest, label: str, config: dict[str, str], durability: str, hint: str
) -> None:
    """Strong only with `appendfsync always`; otherwise weak, with a warning that says what to set. [B33]"""
    with Server(binary(label), config) as server:
        async with rig_on(server, request) as rig:
            bus = await rig.open()
            info = await bus.info()
            assert info.durability == durability
            assert bool(hint) == any(hint in warning and "always" in warning for warning in info.warnings)
            server.command("CONFIG", "SET", "appendfsync", "no")
            assert (await bus.info()).durability == "weak"


# --- Redis says no ------------------------------------------------------------------------------------------

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


@pytest.fixture
async def proxied(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[tuple[Rig, FaultProxy]]:
    async with FaultProxy(server) as proxy:
        backend: Any = backend_on(server, limits_for(request))
        backend.server = _Behind(proxy)
        rig = Rig(backend)
        yield rig, proxy
        await rig.end(alone=False)
        await backend.close()


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


@needs(lease=1.0)
async def test_a_server_that_is_made_a_replica_is_left_for_its_master(
    request: pytest.FixtureRequest, own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Under load, behind one address: what was replicated is there, publishers wait and succeed. [F27, B35]

    The weaker promise of a failover: what the new master has not got is lost, and acknowledgements that it
    has not got come back as a second delivery. Here it has everything, so nothing is lost or repeated.
    """
    async with FaultProxy(own_server) as proxy:
        with Server(own_server.binary, DURABLE) as second:
            backend: Any = backend_on(own_server, limits_for(request))
            backend.server = _Behind(proxy)
            rig = Rig(backend)
            bus = await rig.open()
            probe = await rig.on(bus)
            second.command("REPLICAOF", "127.0.0.1", own_server.port)
            await rig.until(lambda: _is_in_step(second))
            ended = asyncio.Event()

            async def load() -> None:
                n = 0
                while not ended.is_set():
                    await rig.publish(bus, n, key=f"k{n % 5}", timeout=10)
                    n += 1

            task = asyncio.ensure_future(load())
            await rig.until(lambda: len(probe.done) > 100 or task.done())
            await _fail_over(own_server, second)
            proxy.server = second
            before, began = len(probe.done), now()
            await rig.until(lambda: len(probe.done) > before + 100 or task.done())
            assert now() - began < 5
            ended.set()
            await task
            await rig.quiet(bus)
            check_log(caplog.records)
            rig.judge(repeats=50)
            await rig.end(alone=False)
            await backend.close()


async def _fail_over(first: Server, second: Server) -> None:
    """As an operator does it: no writes until the other has everything, then they change places."""
    first.command("CLIENT", "PAUSE", 1_000, "WRITE")
    while _offset(second) < _offset(first):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    second.command("REPLICAOF", "NO", "ONE")
    first.command("REPLICAOF", "127.0.0.1", second.port)


def _is_in_step(server: Server) -> bool:
    with server.client() as client:
        return str(client.info("replication").get("master_link_status")) == "up"


def _offset(server: Server) -> int:
    """How much of the stream of changes it has, or has made."""
    with server.client() as client:
        found = client.info("replication")
    return int(found.get("slave_repl_offset", found["master_repl_offset"]))


@needs(lease=1.0)
async def test_what_a_failover_brings_back_is_delivered_again_and_in_order(
    request: pytest.FixtureRequest, own_server: Server
) -> None:
    """Acknowledgements and reads that the new master never got: delivered once more, none skipped. [F27]

    Where the group dedupes, what its new master remembers is suppressed; the rest is at least once.
    """
    async with FaultProxy(own_server) as proxy:
        with Server(own_server.binary, DURABLE) as second:
            backend: Any = backend_on(own_server, limits_for(request))
            backend.server = _Behind(proxy)
            rig = Rig(backend)
            bus = await rig.open()
            probe = await rig.on(bus)
            second.command("REPLICAOF", "127.0.0.1", own_server.port)
            await rig.until(lambda: _is_in_step(second))
            await rig.publish(bus, *range(50))
            await rig.until(lambda: len(probe.done) == 50)
            await rig.quiet(bus)
            await rig.until(lambda: _offset(second) >= _offset(own_server))
            second.command("REPLICAOF", "NO", "ONE")  # from here on it gets nothing any more
            await rig.publish(bus, *range(50, 80))
            await rig.until(lambda: len(probe.done) == 80)
            own_server.kill()
            proxy.server = second
            proxy.cut()
            await rig.publish(bus, *range(100, 120), timeout=10)
            await rig.until(lambda: set(range(100, 120)) <= set(probe.done))
            await rig.quiet(bus)
            assert [n for n in probe.done if n >= 100] == list(range(100, 120))
            assert (await bus.topics())[0].published >= 70
            await rig.end(alone=False)
            await backend.close()


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


# --- room, growth, trimming ---------------------------------------------------------------------------------


@needs(limit=200, retain=10, retain_seconds=0.1, young_seconds=0)
async def test_at_the_limit_publishers_wait_and_nothing_is_lost(rig: Rig, store: Store) -> None:
    """A group that nobody handles holds what it needs, `BusFull` names it; later it gets all. [B25, F33]"""
    bus = await rig.open()
    await bus.declare_group(rig.spec(group="shop.lagging"))
    rig.groups["shop.lagging"] = ("orders.**",)
    fast = await rig.on(bus)
    for n in range(200):
        await rig.publish(bus, n)
    began = now()
    with pytest.raises(BusFull) as caught:
        await rig.publish(bus, 200, timeout=0.5)
    assert 0.45 <= now() - began <= 1.5
    assert (caught.value.topic, caught.value.group) == ("orders", "shop.lagging")
    assert "shop.lagging" in caught.value.fix
    assert store.length("orders") == 200
    await rig.until(lambda: len(fast.done) == 200)
    waiting = asyncio.ensure_future(rig.publish(bus, 201, timeout=20))
    late = await rig.on(bus, None, group="shop.lagging")
    await waiting
    await rig.until(lambda: len(late.done) == 201)
    await rig.quiet(bus)
    rig.judge()


@needs(retain=50, retain_seconds=0.5, young_seconds=0, lease=1.0, dead_letters=20, partitions=2)
async def test_nothing_grows_without_bound(rig: Rig, store: Store) -> None:
    """Streams go back to what is retained; pending, lot, suspects to nothing; dead letters to their bound.

    [F23]
    """
    bus, other = await rig.open("a"), await rig.open("b")
    policy = RetryPolicy(attempts=2, first_delay=0.05, jitter=0)
    act = lambda n, attempt: fail_if(n % 10 == 0 or (n % 7 == 0 and attempt == 1))  # noqa: E731
    probes = [await rig.on(one, act, concurrency=8, retry=policy) for one in (bus, other)]
    fail = set()
    for n in range(1_000):
        [receipt] = await rig.publish(bus, n, key=f"k{n % 50}")
        fail |= {receipt.id} if n % 10 == 0 else set()
    await rig.until(lambda: sum(len(probe.done) for probe in probes) == 900)
    await rig.quiet(bus)
    rig.judge(exempt=fail)  # of their letters the oldest are gone by now
    assert await bus.count_dead_letters() <= 20
    await rig.until(lambda: sum(store.length("orders", p) for p in (0, 1)) <= 2 * 50, "streams to be trimmed")
    for p in (0, 1):
        groups = store.groups("orders", p)
        assert groups[GROUP]["pending"] == 0
        assert groups[GROUP]["consumers"] <= 1
    leftovers = [key for key in store.all_keys() if any(part in key for part in (":lot", ":sus:", ":again:"))]
    assert leftovers == []


@needs(retain=20, retain_seconds=0.1, young_seconds=0, lease=1.0)
async def test_trimming_passes_what_waits_in_a_lot_and_stops_at_what_is_needed(
    rig: Rig, store: Store
) -> None:
    """A retry of an hour holds nothing; a group that is made while it trims, and one of everything on a topic
    that was born just now, miss nothing. [F22, F23, R6]
    """
    bus = await rig.open()
    patient = RetryPolicy(first_delay=3_600, max_delay=3_600, jitter=0)
    await rig.on(bus, lambda n, _: fail_if(n == 0), retry=patient)
    everything = await rig.on(bus, None, "**", group="shop.everything")
    await rig.publish(bus, 0, key="waits")
    await rig.until(lambda: is_parked(rig, bus))
    groups, n = [], 1
    for round_ in range(6):
        for _ in range(100):
            await rig.publish(bus, n, key=f"k{n % 5}")
            n += 1
        group = f"shop.late{round_}"
        spec = rig.spec(group=group)
        await asyncio.gather(bus.declare_group(spec), rig.publish(bus, n, key="x"), rig.pause(6))
        groups.append((group, n, store.numbers("orders")))
        n += 1
        await rig.publish(bus, *range(3), type=f"born{round_}.now")
    await rig.until(lambda: len(everything.done) == n + 18)
    for group, first, kept in groups:
        probe = await rig.on(bus, None, group=group)
        await rig.until(lambda: n - 1 in probe.numbers)  # noqa: B023
        seen = sorted(probe.numbers)
        assert seen == list(range(seen[0], n)), "a gap"
        assert seen[0] <= first
        assert kept
        del rig.groups[group]
        await bus.drop_group(group)
    await rig.until(lambda: store.length("orders") <= 20, "only what is retained to be left")
    assert await is_parked(rig, bus)
    rig.judge(exempt=["e1-0"])


# --- replay beside live traffic -----------------------------------------------------------------------------


@needs(retain=200_000)
async def test_a_replay_goes_through_exactly_its_range_beside_live_traffic(rig: Rig) -> None:
    """From an id on, each once and in order; live events are not slowed down, no other group notices.

    [B41]
    """
    count = 100_000 if IS_LONG else 3_000
    bus = await rig.open()
    side = await rig.on(bus, None, group="shop.side", concurrency=8)
    ended: dict[str, float] = {}
    replayed: list[int] = []

    async def handle(event: Any) -> None:
        n = int(event.data["n"])
        if event.replayed:
            replayed.append(n)
        else:
            ended[event.id] = now()

    await rig.subscribe(bus, handle, concurrency=8)
    receipts = []
    for begin in range(0, count, 500):
        receipts += await bus.publish_many(
            [EventData(type="orders.item", data=f'{{"n": {n}}}') for n in range(begin, begin + 500)],
            source="/past", key="k", timeout=60,
        )  # fmt: skip
    await rig.until(lambda: len(ended) == count and len(side.done) == count)

    async def live(number: int) -> list[float]:
        begun: dict[str, float] = {}
        for n in range(number):
            id = f"live-{len(ended)}-{n}"
            begun[id] = now()
            await bus.publish(EventData(type="orders.item", data='{"n": -1}'), source="/live", key="l", id=id)
            await asyncio.sleep(0.002)
        await rig.until(lambda: begun.keys() <= ended.keys())
        return [ended[id] - begun[id] for id in begun]

    before = await live(300)
    first = count // 3
    total = await bus.replay(GROUP, start=receipts[first].position)
    beside = await live(300)
    await rig.until(lambda: len(replayed) >= count - first)
    await rig.quiet(bus)
    past = [n for n in replayed if n >= 0]
    assert past == list(range(first, count))
    assert total >= count - first
    assert len(side.done) == count + 600
    assert _p99(beside) < 2 * _p99(before) + 0.02
    info = await rig.info(bus, "shop.side")
    assert (info.handled, info.replaying) == (count + 600, 0)


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98]
