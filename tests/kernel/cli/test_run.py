"""`plugbus run` and `plugbus demo`, with a manager that stands in for the kernel."""

import asyncio
import os
import signal
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from contracts.bus import TailItem
from contracts.envelope import Envelope
from contracts.errors import AddressInUse, BusError, PlugbusError
from contracts.messages import PluginInfo
from kernel.buses import Told
from kernel.settings import Settings

from .conftest import Ended, Plugbus


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class StandInTail:
    """Hands out the items that it was given, then is interrupted, then waits."""

    def __init__(self, items: Sequence[TailItem]) -> None:
        self.items = items
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[TailItem]:
        for item in self.items:
            yield item
        _interrupt()
        await asyncio.Event().wait()

    def close(self) -> None:
        self.closed = True


class StandInManager:
    """Shows what it was made with; ends the command by a signal as soon as it is started."""

    made: ClassVar[list["StandInManager"]] = []
    found: ClassVar[list[PluginInfo]] = []
    items: ClassVar[list[TailItem]] = []
    fails: ClassVar[PlugbusError | None] = None
    interrupted_while_starting: ClassVar[bool] = False
    url: str | None = "http://127.0.0.1:8123"

    def __init__(
        self,
        settings: Settings,
        *,
        profile: str,
        consent: Sequence[Path],
        bus_told: Told | None,
        safe_mode: bool,
    ) -> None:
        self.safe_mode = safe_mode
        self.settings, self.profile, self.consent, self.bus_told = settings, profile, consent, bus_told
        self.stopped: list[str] = []
        self.patterns: tuple[str, ...] = ()
        self.reader = StandInTail(self.items)
        self.made.append(self)

    async def start(self) -> None:
        if self.fails:
            raise self.fails
        if self.interrupted_while_starting:
            _interrupt()
            await asyncio.Event().wait()
        if self.profile == "run":
            asyncio.get_running_loop().call_soon(_interrupt)

    async def stop(self, reason: str = "") -> None:
        self.stopped.append(reason)

    def plugins(self) -> list[PluginInfo]:
        return self.found

    @property
    def bus(self) -> "StandInManager":
        return self

    def tail(self, *patterns: str) -> StandInTail:
        self.patterns = patterns
        return self.reader


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> type[StandInManager]:
    """A class of its own for each test, in the place of `PluginManager`."""
    fresh: dict[str, Any] = {"made": [], "found": [], "items": [], "fails": None}
    kind = type("Manager", (StandInManager,), fresh)
    module = types.ModuleType("kernel.manager")
    module.PluginManager = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kernel.manager", module)
    monkeypatch.setattr("kernel.cli.logs.configure_logging", lambda level: None)
    return kind


def _item(number: int, missed: int = 0) -> TailItem:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    envelope = Envelope(id=f"e{number}", source="/s", type="orders.placed", time=moment, partitionkey="k")
    return TailItem(envelope=envelope, version=1, data='{"n":1}', position="1", missed=missed)


def test_run_starts_waits_for_a_signal_and_stops(plugbus: Plugbus, manager: type[StandInManager]) -> None:
    """The address on one line; SIGINT is the ordinary end, with exit code 0."""
    ended = plugbus("run")
    assert ended.code == 0
    assert ended.out.splitlines()[-1].endswith("· memory:// · http://127.0.0.1:8123/docs")
    assert ended.err == "stopping (again: at once)\n"
    (made,) = manager.made
    assert (made.profile, made.stopped) == ("run", ["the operator asked"])


def test_flags_become_settings(plugbus: Plugbus, manager: type[StandInManager], folder: Path) -> None:
    """Host and port are the gateway's; relative paths count from the current folder."""
    plugbus(
        "run", "--bus", "redis://h", "--host", "::1", "--port", "0", "--plugins", "mine",
        "--plugins", "/yours", "--state-dir", "state", "--log-level", "DEBUG",
    )  # fmt: skip
    (made,) = manager.made
    settings = made.settings
    assert settings.bus.url == "redis://h"
    assert settings.plugins["gateway"].config == {"host": "::1", "port": 0}
    assert settings.plugin_paths == (folder / "mine", Path("/yours"))
    assert settings.state_dir == folder / "state"
    assert settings.log_level == "debug"
    assert made.consent == settings.plugin_paths


@pytest.mark.parametrize(("flags", "safe_mode"), [((), False), (("--safe-mode",), True)])
def test_safe_mode_is_asked_for(
    plugbus: Plugbus, manager: type[StandInManager], flags: tuple[str, ...], safe_mode: bool
) -> None:
    """Only `run` has it, and only where it is said."""
    plugbus("run", *flags)
    assert manager.made[0].safe_mode is safe_mode


def test_the_settings_file_may_be_named(
    plugbus: Plugbus, manager: type[StandInManager], folder: Path
) -> None:
    """`--config` replaces the search."""
    (folder / "other.toml").write_text('log_level = "error"')
    plugbus("run", "--config", "other.toml")
    assert manager.made[0].settings.log_level == "error"
    assert manager.made[0].consent == ()


def test_every_plugin_is_told_with_the_reason_of_those_that_failed(
    plugbus: Plugbus, manager: type[StandInManager], plugin: dict[str, Any], refused: dict[str, Any]
) -> None:
    """One line each; where one was refused, what, at and fix."""
    manager.found = [PluginInfo(**plugin), PluginInfo(**refused)]
    lines = plugbus("run").out.splitlines()
    assert lines[:-1] == [
        "✔ alerts  1.0.0  started",
        "✖ scoring: handler-definition: handler 'score' has no annotation",
        "    at:  scoring/plugin.py:14",
        "    fix: annotate its first parameter",
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AddressInUse("127.0.0.1:8000 is in use", where="gateway", fix="--port 0"), 1),
        (BusError("cannot reach redis://h", where="bus.url", fix="start it"), 4),
    ],
)
def test_a_start_that_fails_is_told_and_undone(
    plugbus: Plugbus, manager: type[StandInManager], error: PlugbusError, code: int
) -> None:
    """What, at, fix; what was opened is closed."""
    manager.fails = error
    ended = plugbus("run")
    assert (ended.code, ended.out, ended.err) == (code, "", error.explain() + "\n")
    assert manager.made[0].stopped == ["the start failed"]


def waiting_for(manager: type[StandInManager], *told: BusError | None) -> None:
    """A start that tells what a manager tells while it waits for its bus."""

    async def start(self: StandInManager) -> None:
        assert self.bus_told is not None
        for one in told:
            self.bus_told(one)
        asyncio.get_running_loop().call_soon(_interrupt)

    manager.start = start  # type: ignore[method-assign]


def test_a_bus_that_cannot_be_reached_is_told_with_its_address(
    plugbus: Plugbus, manager: type[StandInManager]
) -> None:
    """Code, cause, address without password, fix, and what is done about it; once it is there, one line."""
    waiting_for(manager, BusError("connection refused", fix="start it: redis-server"), None)
    ended = plugbus("run", "--bus", "redis://:hidden@h:1")
    assert ended.err.splitlines() == [
        "bus: connection refused",
        "  bus: redis://:••••@h:1",
        "  fix: start it: redis-server",
        "  now: trying again until it answers; Ctrl-C ends",
        "connected to redis://:••••@h:1",
        "stopping (again: at once)",
    ]
    assert ended.code == 0


def test_a_bus_that_says_much_is_told_on_half_a_screen(
    plugbus: Plugbus, manager: type[StandInManager]
) -> None:
    """At most eight lines; the address is not said twice, and control characters are spelled out."""
    long = "\n".join(["redis://h:1 says \x1b[31m", *(f"line {n}" for n in range(20))])
    waiting_for(manager, BusError(long, fix="start it"))
    lines = plugbus("run", "--bus", "redis://h:1").err.splitlines()[:-1]
    assert len(lines) == 8
    assert sum("redis://h:1" in line for line in lines) == 1
    assert "\x1b" not in "".join(lines)


def test_a_signal_while_starting_stops_as_well(plugbus: Plugbus, manager: type[StandInManager]) -> None:
    """Nobody has to wait for a slow start to end it."""
    manager.interrupted_while_starting = True
    assert plugbus("run").code == 0
    assert manager.made[0].stopped == ["the operator asked"]


def test_signal_handlers_are_given_back(plugbus: Plugbus, manager: type[StandInManager]) -> None:
    """After the command they are what they were."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    plugbus("run")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_second_signal_ends_at_once() -> None:
    """A stop that hangs does not hold the operator."""
    script = """
import asyncio, os, signal, sys, types
class PluginManager:
    url = None
    def __init__(self, *_, **__): ...
    async def start(self): os.kill(os.getpid(), signal.SIGTERM)
    async def stop(self, reason):
        print("hanging", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
    def plugins(self): return []
module = types.ModuleType("kernel.manager")
module.PluginManager = PluginManager
sys.modules["kernel.manager"] = module
from kernel.cli import execute
execute(["run"])
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    assert done.stdout.endswith("hanging\n")
    assert done.returncode == 128 + signal.SIGTERM


def _demo(plugbus: Plugbus, manager: type[StandInManager], *words: str) -> tuple[Ended, StandInManager]:
    ended = plugbus("demo", *words)
    return ended, manager.made[-1]


def test_the_demo_shows_what_flows(plugbus: Plugbus, manager: type[StandInManager]) -> None:
    """Address, hint, then one line for each event; what was missed is told beside them."""
    manager.items = [_item(1), _item(2, missed=3)]
    ended, made = _demo(plugbus, manager)
    address, hint, first, second = ended.out.splitlines()
    assert address.endswith("· memory:// · http://127.0.0.1:8123/docs")
    assert hint.startswith("try in a second terminal: plugbus event publish ")
    assert first.endswith('orders.placed key=k id=e1  {"n":1}')
    assert second.endswith('id=e2  {"n":1}')
    assert "3 events were skipped" in ended.err
    assert (made.patterns, made.reader.closed) == (("**", "plugin.**", "kernel.**"), True)
    assert (ended.code, made.profile, made.stopped) == (0, "demo", ["the operator asked"])


def test_the_demo_needs_no_fixed_port(plugbus: Plugbus, manager: type[StandInManager]) -> None:
    """It takes another port where the usual one is taken, unless a port was asked for."""
    _, made = _demo(plugbus, manager)
    assert made.settings.plugins["gateway"].config == {"port_fallback": True}
    _, made = _demo(plugbus, manager, "--port", "8001")
    assert made.settings.plugins["gateway"].config == {"port": 8001}


def test_the_demo_lies_where_client_commands_look(
    plugbus: Plugbus, manager: type[StandInManager], folder: Path
) -> None:
    """The ordinary state folder; where another one was named, the hint names it too."""
    _, made = _demo(plugbus, manager)
    assert made.settings.state_dir is None
    ended, _ = _demo(plugbus, manager, "--state-dir", "mine")
    assert ended.out.splitlines()[1].endswith(f"--state-dir {folder / 'mine'}")


def test_dev_runs_the_one_plugin_that_is_named(
    plugbus: Plugbus, manager: type[StandInManager], folder: Path
) -> None:
    """With consent to it alone, on a bus of its own, on a port that is free; what flows is shown."""
    (folder / "plugbus.toml").write_text('plugin_paths = ["others"]\n[bus]\nurl = "redis://127.0.0.1:1"\n')
    (folder / "hello.py").write_text("")
    manager.items = [_item(1)]
    ended = plugbus("dev", "hello.py")
    made = manager.made[-1]
    assert (ended.code, made.profile, ended.out.splitlines()[-1].endswith('{"n":1}')) == (0, "dev", True)
    assert tuple(made.consent) == tuple(made.settings.plugin_paths) == (folder / "hello.py",)
    assert made.settings.bus.display_url == "memory://"
    assert made.settings.plugins["gateway"].config == {"port_fallback": True}
    assert plugbus("dev", "nowhere.py").code == 5


def test_a_wrong_setting_ends_before_anything_starts(plugbus: Plugbus, manager: type[StandInManager]) -> None:
    """Exit code 3."""
    ended = plugbus("run", "--bus", "memory")
    assert (ended.code, manager.made) == (3, [])
    assert ended.err.startswith("settings: 'bus.url' = 'memory': should be a URL")
