"""What Redis stores on is full or torn: its memory, its disk, its files after a power cut."""

from __future__ import annotations

import asyncio
import logging
import random
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
from fault_tools.form import IS_LONG
from fault_tools.own_servers import (  # noqa: F401 - fixtures
    DURABLE,
    VERSIONS,
    limit_files,
    own_backend,
    own_rig,
    own_store,
    rig_on,
    server_of_its_own,
)
from fault_tools.servers import Server, binary
from fault_tools.storage_systems import GROUP, Store, backend_on, check_log, dead_are, said

from bus.conformance import limits_for
from bus.conformance.backend import needs
from bus.conformance.probe import Gate, fail_if
from bus.conformance.rig import Rig, now
from contracts.bus import EventBus, RetryPolicy
from contracts.errors import BusError, BusFull, PublishUnknown
from contracts.event import EventData

SEED = 20


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

    With room again everything goes on without a restart; nothing confirmed is lost.
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
        await rig.publish(other, 201, timeout=0.6)
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
    writes inside a script that decides.
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
    await rig.until(lambda: said(caplog.records, logging.WARNING, GROUP, "memory is full"))
    free_memory(store.server)
    await rig.until(lambda: dead_are(bus, 2))
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
    limit_files(server, largest + spare)


def free_disk(server: Server) -> None:
    limit_files(server, resource.RLIM_INFINITY)


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
