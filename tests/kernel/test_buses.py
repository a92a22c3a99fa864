"""Which bus is opened, with what it is told, and what happens while its backend cannot be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from bus.memory import MemoryBus
from contracts.bus import BusLimits
from contracts.errors import BusError, SettingsError
from kernel import buses
from kernel.buses import open_bus, open_patiently, replica_name
from kernel.manager import PluginManager
from kernel.settings import BusSettings, Settings, load_settings


class LateBus(MemoryBus):
    """A bus whose backend is not there at first: it raises what is in `errors`, one for each try."""

    def __init__(self, *errors: BusError) -> None:
        super().__init__()
        self.errors = list(errors)
        self.tries = 0
        self.tried = asyncio.Event()
        self.closed: list[float] = []

    async def open(self) -> None:
        self.tries += 1
        self.tried.set()
        if self.errors:
            raise self.errors.pop(0)
        await super().open()

    async def close(self, grace: float = 10.0) -> None:
        self.closed.append(grace)
        await super().close(grace)


def refused(n: int = 1) -> list[BusError]:
    return [BusError("connection refused", fix="start it") for _ in range(n)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buses, "RETRY_FIRST", 0.001)


@pytest.fixture
def schemes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Announce buses: scheme → `module:function`."""

    def announce(**places: str) -> None:
        points = [EntryPoint(name, place, buses.ENTRY_POINTS) for name, place in places.items()]
        monkeypatch.setattr(buses, "entry_points", lambda group: points)

    return announce


def settings_for(url: str, **more: Any) -> Settings:
    return Settings(bus=BusSettings.model_validate({"url": url, **more.pop("bus", {})}), **more)


# --- which one ------------------------------------------------------------------------------------------


def test_a_bus_is_told_what_the_settings_say(
    schemes: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Namespace, replica, and of the limits what was set; the same for every scheme."""
    told: list[dict[str, Any]] = []

    def make_bus(url: str, **options: Any) -> MemoryBus:
        told.append({"url": url, **options})
        return MemoryBus(replica=options["replica"])

    schemes(mine="somewhere:make_bus")
    monkeypatch.setattr(EntryPoint, "load", lambda self: make_bus)
    settings = settings_for(
        "mine://h", replica="r1", bus={"namespace": "shop", "limits": {"retain": 5, "partitions": {"a": 2}}}
    )
    assert open_bus(settings).replica == "r1"
    assert open_bus(settings, replica="guest").replica == "guest"
    open_bus(settings_for("mine://h", replica="r1"))
    limits = BusLimits(retain=5, partitions={"a": 2})
    assert told == [
        {"url": "mine://h", "namespace": "shop", "replica": "r1", "limits": limits},
        {"url": "mine://h", "namespace": "shop", "replica": "guest", "limits": limits},
        {"url": "mine://h", "namespace": "plugbus", "replica": "r1", "limits": None},
    ]
    assert told[0]["limits"].model_fields_set == {"retain", "partitions"}


async def test_the_memory_bus_keeps_to_the_limits_and_says_so(tmp_path: Path) -> None:
    """What is in force can be seen; what was not set has its default."""
    bus = {"limits": {"retain": 7}, "namespace": "shop"}
    settings = settings_for("memory://", bus=bus, state_dir=tmp_path, plugin_paths=(), replica="r1")
    async with PluginManager(settings, profile="embedded") as manager:
        info = await manager.bus.info()
    assert (info.backend, info.address, info.namespace) == ("memory", "memory://", "shop")
    assert (info.connected, info.durability, info.replicas, info.warnings) == (True, "none", ("r1",), ())
    assert info.details["limits"] == {**BusLimits().model_dump(), "retain": 7}
    after = await MemoryBus(address="memory://x").info()
    assert (after.connected, after.replicas, after.address) == (False, (), "memory://x")


def test_replicas_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's name and something that no other has, in a form that the setting would take too."""
    monkeypatch.setattr("socket.gethostname", lambda: "Ada's Laptop.local" + "x" * 80)
    names = {replica_name() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("ada-s-laptop-local") for name in names)
    assert all(Settings(replica=name).replica == name for name in names)
    monkeypatch.setattr("socket.gethostname", lambda: "")
    assert replica_name().startswith("replica-")


def test_a_scheme_that_nobody_provides_is_told_with_what_there_is(schemes: Callable[..., None]) -> None:
    """One error that names the place, the schemes and the extra."""
    schemes(memory="bus.memory:open_bus")
    settings = load_settings(environ={"PLUGBUS_BUS__URL": "redis://:hidden@h"}, overrides={})
    with pytest.raises(SettingsError) as caught:
        open_bus(settings)
    assert caught.value.explain().splitlines() == [
        "settings: no bus for redis:// is installed",
        "  at:  bus.url (PLUGBUS_BUS__URL)",
        "  fix: one of memory://; redis:// comes with pip install 'plugbus[redis]'",
    ]


def test_a_scheme_whose_libraries_are_missing_is_told_with_the_extra(schemes: Callable[..., None]) -> None:
    """However the entry point fails to import."""
    schemes(redis="no_such_library:open_bus")
    with pytest.raises(SettingsError) as caught:
        open_bus(settings_for("redis://h"))
    assert "No module named 'no_such_library'" in caught.value.message
    assert caught.value.fix == "pip install 'plugbus[redis]'"


# --- opening it -----------------------------------------------------------------------------------------


async def test_a_bus_that_comes_late_is_waited_for_and_told_once() -> None:
    """Once that it cannot be reached, however many tries it takes, and once that it is there."""
    told: list[BusError | None] = []
    bus = LateBus(*refused(5))
    first = bus.errors[0]
    await open_patiently(bus, told.append, asyncio.Event())
    assert (bus.tries, told) == (6, [first, None])
    await bus.close()


async def test_a_bus_that_is_there_is_not_told() -> None:
    """Nothing to say where nothing had to be waited for."""
    told: list[BusError | None] = []
    bus = LateBus()
    await open_patiently(bus, told.append, asyncio.Event())
    assert told == []
    await bus.close()


async def test_the_pauses_grow_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that comes back is not run over, and does not wait for long either."""
    pauses: list[float] = []

    async def pause(seconds: float, stopping: asyncio.Event) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(buses, "RETRY_FIRST", 0.25)
    monkeypatch.setattr(buses, "_pause", pause)
    bus = LateBus(*refused(7))
    await open_patiently(bus, lambda error: None, asyncio.Event())
    assert pauses == [0.25, 0.5, 1, 2, 4, 5, 5]
    await bus.close()


@pytest.mark.parametrize("before", [0, 2])
async def test_what_waiting_does_not_help_is_raised(before: int) -> None:
    """A wrong password is one at the first try, and one that shows only once the server is there too."""
    wrong = BusError("wrong password", is_final=True)
    bus = LateBus(*refused(before), wrong)
    with pytest.raises(BusError) as caught:
        await open_patiently(bus, lambda error: None, asyncio.Event())
    assert caught.value is wrong


async def test_where_nobody_is_told_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that embeds the kernel gets the error, with everything closed, and may try again."""
    bus = LateBus(*refused())
    monkeypatch.setattr("kernel.composition.open_bus", lambda settings: bus)
    manager = PluginManager(Settings(state_dir=tmp_path, plugin_paths=()), profile="embedded")
    with pytest.raises(BusError, match="connection refused"):
        await manager.start()
    assert (bus.tries, bus.closed) == (1, [0])
    async with PluginManager(Settings(state_dir=tmp_path, plugin_paths=()), profile="embedded") as again:
        assert again.bus is bus


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_waiting_ends_when_it_is_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """At once, whether the manager is stopped or the start given up; nothing stays open."""
    monkeypatch.setattr(buses, "RETRY_FIRST", 3_600.0)
    bus = LateBus(*refused(100))
    monkeypatch.setattr("kernel.composition.open_bus", lambda settings: bus)
    settings = Settings(state_dir=tmp_path, plugin_paths=())
    manager = PluginManager(settings, profile="embedded", bus_told=lambda error: None)
    starting = asyncio.create_task(manager.start())
    await bus.tried.wait()
    if how == "stop":
        await manager.stop()
        with pytest.raises(BusError):
            await starting
    else:
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert bus.closed == [0]
    assert bus.tries <= 2


async def test_a_kernel_goes_on_by_itself_once_its_bus_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start that waited ends like any other."""
    told: list[BusError | None] = []
    bus = LateBus(*refused(3))
    monkeypatch.setattr("kernel.composition.open_bus", lambda settings: bus)
    settings = Settings(state_dir=tmp_path, plugin_paths=())
    async with PluginManager(settings, profile="embedded", bus_told=told.append) as manager:
        assert (await manager.readiness()).status == "ready"
    assert [error is None for error in told] == [False, True]
    assert bus.closed == [settings.deadlines.drain]
