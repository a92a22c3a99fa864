"""`plugbus doctor`: one line for each thing that a kernel needs, whether or not one runs."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.memory import MemoryBus
from contracts.bus import BusInfo
from contracts.errors import BusError
from kernel.cli.doctor import bus as bus_checks
from kernel.cli.doctor import place
from kernel.state import StateFolder

from .conftest import CannedKernel, Ended, Plugbus

Doctor = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def doctor(plugbus: Plugbus, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Run it; the checks by name, of several of one name the last."""

    def run(*words: str, port: str | None = "0", code: int = 0) -> dict[str, dict[str, Any]]:
        ended = plugbus("doctor", *words, *(("--port", port) if port else ()), "--json")
        assert (ended.code, ended.err) == (code, ""), ended.out
        assert ended.json["schema"] == "plugbus.doctor/1"
        return {item["name"]: item for item in ended.json["items"]}

    return run


@pytest.fixture
def state(folder: Path) -> Iterator[StateFolder]:
    """A state folder with the kernel of this process on it."""
    held = StateFolder(folder / "state")
    held.open()
    held.token(None)
    yield held
    held.close()


def listens_at(state: StateFolder, url: str) -> None:
    state.endpoint_file.write_text(json.dumps({"url": url, "pid": os.getpid()}))


def lines_of(ended: Ended) -> dict[str, str]:
    """The first word of each line by the name of the check."""
    return {line[8:21].strip(): line.split()[0] for line in ended.out.splitlines()}


# --- as a whole -----------------------------------------------------------------------------------------


def test_where_nothing_is_wrong_every_line_is_ok(plugbus: Plugbus, folder: Path) -> None:
    """Nothing runs, nothing is configured, and nothing is made by looking."""
    ended = plugbus("doctor", "--port", "0")
    assert (ended.code, ended.err) == (0, "")
    assert lines_of(ended) == dict.fromkeys(
        (
            "environment",
            "settings",
            "state folder",
            "bus",
            "durability",
            "bus facts",
            "kernel",
            "port",
            "plugins",
        ),
        "ok",
    )
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in ended.out
    assert list(folder.rglob("*")) == []


def test_what_fails_is_one_line_with_its_fix_and_exit_code_1(plugbus: Plugbus) -> None:
    """The others are looked at all the same."""
    ended = plugbus("doctor", "--bus", "nobody://:hidden@h", "--port", "0")
    assert ended.code == 1
    [failed] = [line for line in ended.out.splitlines() if not line.startswith("ok")]
    assert failed.split()[:2] == ["failed", "bus"]
    assert "nobody://:••••@h: no bus for nobody:// is installed  fix: one of memory://" in failed
    assert lines_of(ended)["port"] == "ok"


# --- the place ------------------------------------------------------------------------------------------


def test_the_settings_are_named_that_somebody_chose(doctor: Doctor, folder: Path) -> None:
    """With the file that was found."""
    (folder / "plugbus.toml").write_text("[bus]\nnamespace = 'shop'\n")
    told = doctor()["settings"]
    assert told["text"].startswith(str(folder / "plugbus.toml"))
    assert "bus.namespace" in told["details"]["set"]
    assert told["details"]["file"] == str(folder / "plugbus.toml")


def test_every_problem_of_the_settings_is_a_line(plugbus: Plugbus, folder: Path) -> None:
    """With place and fix; without settings there is nothing more to look at."""
    (folder / "plugbus.toml").write_text("lgo_level = 'info'\n[bus]\nnamspace = 'shop'\n")
    lines = plugbus("doctor").out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "failed", "failed"]
    assert "plugbus.toml:1" in lines[1]
    assert "did you mean 'bus.namespace'?" in lines[2]
    (folder / "plugbus.toml").write_text("= nonsense")
    ended = plugbus("doctor")
    assert (ended.code, "not TOML" in ended.out) == (1, True)
    assert plugbus("doctor", "--config", "missing.toml").code == 1


def test_a_state_folder_is_looked_at_without_being_changed(doctor: Doctor, state: StateFolder) -> None:
    """It can be written, belongs to somebody, and has so much room."""
    before = sorted(state.path.rglob("*"))
    checks = doctor("--state-dir", str(state.path))
    assert "can be written" in checks["state folder"]["text"]
    assert checks["free space"]["details"]["bytes"] > 0
    assert sorted(state.path.rglob("*")) == before


def test_a_state_folder_that_cannot_be_used_is_told(doctor: Doctor, folder: Path) -> None:
    """A file in its place, or in the place of what is above it."""
    (folder / "file").write_text("")
    for path in ("file", "file/below"):
        told = doctor("--state-dir", path, code=1)["state folder"]
        assert told["status"] == "failed"
        assert str(folder / "file") in told["text"]
        assert "--state-dir" in told["fix"]


def test_little_room_is_a_warning(
    doctor: Doctor, state: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit log would end in the middle of a line."""
    monkeypatch.setattr(place, "LITTLE_ROOM", 1 << 60)
    assert doctor("--state-dir", str(state.path))["free space"]["status"] == "warning"


def test_a_token_that_others_may_read_is_a_warning(doctor: Doctor, state: StateFolder) -> None:
    """With the command that mends it; other systems than POSIX have no modes to look at."""
    token = state.path / "token"
    assert doctor("--state-dir", str(state.path))["state folder"]["status"] == "ok"
    token.chmod(0o644)
    told = doctor("--state-dir", str(state.path))["state folder"]
    expected = ("warning", f"chmod 600 {token}") if os.name == "posix" else ("ok", "")
    assert (told["status"], told["fix"]) == expected


# --- the bus --------------------------------------------------------------------------------------------


class SickBus(MemoryBus):
    """A bus that says of itself what a test wants, or cannot be opened."""

    error: BusError | None = None
    says: dict[str, Any]

    async def open(self) -> None:
        if self.error:
            raise self.error
        self._state = "new"  # each run of the doctor opens a bus of its own; here it is always this one
        await super().open()

    async def info(self) -> BusInfo:
        return (await super().info()).model_copy(update=self.says)


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Iterator[SickBus]:
    """The bus that the doctor opens."""
    bus = SickBus(replica="doctor")
    bus.says = {}
    monkeypatch.setattr(bus_checks, "open_bus", lambda settings, replica: bus)
    yield bus
    assert bus.broker.buses == {}  # it was closed


def test_what_is_weak_about_a_bus_is_a_warning_each(plugbus: Plugbus, sick: SickBus) -> None:
    """Durability in words, and each of its own warnings; facts and the other replicas beside."""
    sick.says = {
        "server": "Redis 7.0.15", "address": "redis://h", "durability": "weak", "replicas": ("doctor", "r1"),
        "warnings": ("the policy is allkeys-lru: set noeviction",), "details": {"latency_ms": 0.2},
    }  # fmt: skip
    ended = plugbus("doctor", "--port", "0")
    assert ended.code == 0
    lines = [line for line in ended.out.splitlines() if line[8:].startswith(("bus", "durability"))]
    assert [line.split()[0] for line in lines] == ["ok", "warning", "warning", "ok"]
    assert "Redis 7.0.15 at redis://h, namespace 'plugbus', answered in " in lines[0]
    assert lines[0].endswith("; replicas: r1")
    assert "a crash of the server or of its machine may lose what was confirmed" in lines[1]
    assert lines[2].endswith("the policy is allkeys-lru: set noeviction")
    assert lines[3].endswith("latency_ms: 0.2")
    sick.says["warnings"] = ("durability is weak: set appendfsync always",)
    [line] = [line for line in plugbus("doctor", "--port", "0").out.splitlines() if " durability " in line]
    assert line.split(maxsplit=2)[::2] == ["warning", "durability is weak: set appendfsync always"]


@pytest.mark.parametrize(
    ("error", "says", "told"),
    [
        (BusError("wrong password", fix="check it", is_final=True), {}, "memory://: wrong password"),
        (BusError("memory:// refuses"), {}, "memory:// refuses"),
        (None, {"connected": False}, "memory:// was lost again"),
    ],
)
def test_a_bus_that_cannot_be_used_is_one_failed_line(
    doctor: Doctor, sick: SickBus, error: BusError | None, says: dict[str, Any], told: str
) -> None:
    """With what the bus says of it, its address once, and a fix."""
    sick.error, sick.says = error, says
    check = doctor(code=1)["bus"]
    assert (check["status"], check["text"]) == ("failed", told)
    assert check["fix"]


def test_a_bus_that_never_answers_is_given_up(
    doctor: Doctor, sick: SickBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a deadline of the doctor's own."""

    async def hang() -> BusInfo:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(bus_checks, "DEADLINE", 0.01)
    monkeypatch.setattr(sick, "info", hang)
    assert doctor(code=1)["bus"]["text"] == "memory:// does not answer within 0.01 s"


# --- the kernel and its port ----------------------------------------------------------------------------


def port_of(kernel: CannedKernel) -> str:
    return kernel.url.rpartition(":")[2]


def test_a_running_kernel_is_asked_how_it_is(
    doctor: Doctor, kernel: CannedKernel, state: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready, degraded, not ready, with its reasons; its port is its own."""
    monkeypatch.delenv("PLUGBUS_TOKEN")
    listens_at(state, kernel.url)
    (state.path / "token").write_text(kernel.token)
    port, where = port_of(kernel), ("--state-dir", str(state.path))
    for status, expected, code in (("ready", "ok", 0), ("degraded", "warning", 0), (503, "failed", 1)):
        answer = {"status": status, "reasons": ["bus: gone"], "notes": ["weak"]}
        kernel.answer("GET /readyz", answer, 503 if code else 200)
        checks = doctor(*where, port=port, code=code)
        assert (checks["kernel"]["status"], checks["port"]["status"]) == (expected, "ok")
        assert checks["kernel"]["text"].endswith(": bus: gone; weak")
        assert checks["kernel"]["details"]["url"] == kernel.url
    kernel.answer("GET /readyz", "nonsense")
    assert "does not answer" in doctor(*where, port=port, code=1)["kernel"]["text"]


def test_a_kernel_that_does_not_listen_yet_is_a_warning(doctor: Doctor, state: StateFolder) -> None:
    """It may wait for its bus; its process is named."""
    told = doctor("--state-dir", str(state.path))["kernel"]
    assert (told["status"], told["details"]["pid"]) == ("warning", os.getpid())


def test_a_port_that_is_taken_is_told_with_who_has_it(doctor: Doctor, kernel: CannedKernel) -> None:
    """Another process, with what can be done."""
    told = doctor(port=port_of(kernel), code=1)["port"]
    assert told["text"] == f"127.0.0.1:{port_of(kernel)} is in use by another process"
    assert "--port 0" in told["fix"]


def test_a_kernel_of_another_folder_is_known(doctor: Doctor, kernel: CannedKernel, folder: Path) -> None:
    """By what it says of itself without a token; where any port will do it is a warning."""
    kernel.public.add("/livez")
    kernel.answer("GET /livez", {"status": "alive"})
    told = doctor(port=port_of(kernel), code=1)["port"]
    assert told["text"].endswith("is in use by a Plugbus kernel with another state folder")
    (folder / "plugbus.toml").write_text("[plugins.gateway.config]\nport_fallback = true\n")
    assert doctor(port=port_of(kernel))["port"]["status"] == "warning"


def test_a_port_that_is_free_or_not_needed_is_ok(doctor: Doctor, folder: Path) -> None:
    """A certain one, any one, or none at all."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    assert doctor(port=str(port))["port"]["text"] == f"127.0.0.1:{port} is free"
    assert doctor()["port"]["text"] == "any free one"
    (folder / "plugbus.toml").write_text("[plugins.gateway]\nenabled = false\n")
    assert "not enabled" in doctor(port=None)["port"]["text"]


def test_an_address_that_is_not_ours_is_told(doctor: Doctor) -> None:
    """Another machine's cannot be listened on."""
    told = doctor("--host", "192.0.2.1", port="8123", code=1)["port"]
    assert told["text"].startswith("192.0.2.1:8123 cannot be listened on: ")
    assert told["fix"]


def test_a_port_that_is_no_number_is_told(doctor: Doctor, folder: Path) -> None:
    """As the gateway would refuse it."""
    (folder / "plugbus.toml").write_text("[plugins.gateway.config]\nport = 'eighty'\n")
    told = doctor(port=None, code=1)["port"]
    assert told["text"] == "127.0.0.1:eighty is no address to listen on"


def test_plugins_in_quarantine_are_named(doctor: Doctor, state: StateFolder) -> None:
    """With the command that releases; a damaged file is named too."""
    entry = {
        "plugin_id": "loop",
        "reason": "5 failed starts",
        "by": "/kernel",
        "since": "2026-01-02T03:04:05Z",
    }
    file = state.path / "quarantine.json"
    file.write_text(json.dumps({"loop": {"entry": entry}}))
    told = doctor("--state-dir", str(state.path))["quarantine"]
    assert (told["status"], told["fix"]) == ("warning", "plugbus plugin quarantine release loop")
    file.write_text("{")
    assert doctor("--state-dir", str(state.path), code=1)["quarantine"]["status"] == "failed"


# --- the plugins ----------------------------------------------------------------------------------------


def write_plugin(folder: Path, plugin_id: str, manifest: str) -> None:
    made = folder / "my_plugins" / plugin_id
    made.mkdir(parents=True)
    (made / "plugin.toml").write_text(f'plugin_id = "{plugin_id}"\nversion = "1"\n{manifest}')
    (made / "code.py").write_text("raise SystemExit('nobody runs this')\n")


def test_plugins_that_could_not_start_are_told_without_running_them(plugbus: Plugbus, folder: Path) -> None:
    """Refused manifests, what is missing, levels that are not to be had: a line each, with the fix. Only a
    plugin that is required makes the doctor fail."""
    trusted = 'entry_point = "code:A"\nsecurity_level = "trusted"\n'
    write_plugin(folder, "good", trusted)
    told = {item["name"]: item for item in plugbus("doctor", "--port", "0", "--json").json["items"]}[
        "plugins"
    ]
    assert (told["status"], "good" in told["details"]["enabled"]) == ("ok", True)
    write_plugin(
        folder, "needy", 'entry_point = "code:A"\nsecurity_level = "trusted"\ndependencies = ["nobody"]\n'
    )
    write_plugin(folder, "boxed", 'entry_point = "code:A"\nsecurity_level = "sandboxed"\n')
    write_plugin(folder, "odd", 'entry_pint = "code:A"\n')
    ended = plugbus("doctor", "--port", "0", "--json")
    assert ended.code == 0
    problems = {item["details"]["plugin"]: item for item in ended.json["items"] if item["name"] == "plugins"}
    assert {item["status"] for item in problems.values()} == {"warning"}
    assert "nobody" in problems["needy"]["text"]
    assert "allow_level" in problems["boxed"]["fix"]
    assert "entry_pint" in problems["odd"]["text"]
    needed = folder / "my_plugins" / "needy" / "plugin.toml"
    needed.write_text(needed.read_text() + 'criticality = "required"\n')
    assert plugbus("doctor", "--port", "0").code == 1
