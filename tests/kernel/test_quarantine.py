"""Quarantine: crash loops end, the reason is seen everywhere, and only a release lets the plugin start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import PluginQuarantinedError, PluginStepFailed, ProviderFailed, SettingsError
from contracts.messages import (
    AddToQuarantine,
    AuditRecorded,
    ListQuarantine,
    PluginFailed,
    PluginQuarantined,
    PluginReleased,
    QuarantineEntry,
    ReleaseFromQuarantine,
)
from kernel.manager import PluginManager
from kernel.settings import Deadlines, QuarantineSettings, Settings
from kernel.testing import Harness, MockPlugin
from plugbus import PluginNotReady, PluginStatus

FIXED = '''
from plugbus import BasePlugin

class Loop(BasePlugin, plugin_id="loop", version="1.0.0", security_level="trusted"):
    """Starts."""
'''
BROKEN = FIXED + "    async def start(self):\n        raise RuntimeError('no such price list')\n"


async def fail(harness: Harness, times: int, plugin_id: str = "loop") -> None:
    for _ in range(times):
        with pytest.raises(PluginStepFailed):
            await harness.manager.start_plugin(plugin_id)


async def quarantined(harness: Harness) -> type[MockPlugin]:
    """A plugin that has failed to start five times."""
    mock = MockPlugin.make("loop", fails_in="start")
    await harness.manager.register_plugin(mock)
    await fail(harness, 5)
    return mock


async def test_the_fifth_failed_start_is_the_last(harness: Harness) -> None:
    """Status error, reason `quarantined` with the next step; a start is refused before any code runs."""
    mock = MockPlugin.make("loop", fails_in="start")
    await harness.manager.register_plugin(mock)
    await fail(harness, 4)
    assert (reason := harness.plugin("loop").reason) is not None
    assert reason.code == "RuntimeError"
    await fail(harness, 1)
    info = harness.plugin("loop")
    assert info.status is PluginStatus.ERROR
    assert info.reason is not None
    assert info.reason.code == "quarantined"
    assert "5 failed starts within 600 s" in info.reason.text
    assert "told to fail in start" in info.reason.text
    assert "plugbus plugin quarantine release loop" in info.reason.next_step
    mock.steps.clear()
    with pytest.raises(PluginQuarantinedError, match="in quarantine since") as raised:
        await harness.manager.start_plugin("loop")
    assert "release loop" in raised.value.fix
    assert mock.steps == []
    readiness = await harness.manager.readiness()
    assert readiness.status == "degraded"
    assert any(text.startswith("loop: in quarantine") for text in readiness.reasons)
    await harness.quiet()
    assert [fact.by for fact in harness.published(PluginQuarantined)] == ["/kernel"]
    assert len(harness.published(PluginFailed)) == 5
    [audited] = [one for one in harness.published(AuditRecorded) if one.action == "plugin.quarantined"]
    assert (audited.subject, audited.severity.value) == ("loop", "warning")


async def test_released_it_starts_and_its_failures_are_forgotten(harness: Harness) -> None:
    """A release does not start it; afterwards it has all its starts again. A second one changes nothing."""
    mock = await quarantined(harness)
    change = await harness.request(ReleaseFromQuarantine(plugin_id="loop"))
    assert change.outcome == "done"
    assert change.entry is not None
    assert len(change.entry.failures) == 5
    info = harness.plugin("loop")
    assert info.status is PluginStatus.UNLOADED
    assert info.reason is not None
    assert info.reason.code == "released"
    assert (await harness.request(ReleaseFromQuarantine(plugin_id="loop"))).outcome == "unchanged"
    await fail(harness, 4)
    mock.fails_in = None
    await harness.manager.start_plugin("loop")
    await harness.quiet()
    assert [fact.by for fact in harness.published(PluginReleased)] == ["/test"]
    assert "plugin.released" in [one.action for one in harness.published(AuditRecorded)]


async def test_not_ready_is_no_crash(harness: Harness) -> None:
    """A plugin that waits for something may wait for as long as it likes."""
    tries: list[int] = []

    class Waiting(MockPlugin):
        async def initialize(self) -> None:
            tries.append(1)
            if len(tries) < 9:
                raise PluginNotReady("the database is not there", retry_after=0)

    made = type("Waiting", (Waiting,), dict(MockPlugin.make("waiting").__dict__))
    with pytest.raises(PluginStepFailed):
        await harness.load(made)
    tail = harness.bus.tail("plugin.started", position="oldest")
    await anext(tail)
    tail.close()
    assert len(tries) == 9
    assert await harness.request(ListQuarantine()) == ()


async def test_old_failures_do_not_count(tmp_path: Path) -> None:
    """Only those within `start_limit_interval` do."""
    settings = Settings(quarantine=QuarantineSettings(start_limit_burst=2, start_limit_interval=1e-6))
    async with Harness(tmp_path, settings=settings) as harness:
        await harness.manager.register_plugin(MockPlugin.make("loop", fails_in="start"))
        await fail(harness, 5)
        assert await harness.request(ListQuarantine()) == ()


async def test_an_operator_puts_a_plugin_away(harness: Harness) -> None:
    """It is stopped first; twice is once; a plugin that is not there is named."""
    mock = MockPlugin.make("loop")
    await harness.load(mock)
    change = await harness.request(AddToQuarantine(plugin_id="loop", reason="it sends too much"))
    assert (change.outcome, mock.steps[-1]) == ("done", "shutdown")
    assert (await harness.request(AddToQuarantine(plugin_id="loop"))).outcome == "unchanged"
    [entry] = await harness.request(ListQuarantine())
    assert (entry.reason, entry.by) == ("it sends too much", "/test")
    with pytest.raises(ProviderFailed, match="there is no plugin 'lop'"):
        await harness.request(ReleaseFromQuarantine(plugin_id="lop"))
    with pytest.raises(PluginQuarantinedError):
        await harness.manager.start_plugin("loop")


async def test_who_is_needed_is_not_put_away(harness: Harness) -> None:
    """As with stop; nothing has changed then."""
    await harness.load(MockPlugin.make("base"))
    await harness.load(MockPlugin.make("user", dependencies=["base"]))
    with pytest.raises(ProviderFailed, match="is needed by user"):
        await harness.request(AddToQuarantine(plugin_id="base"))
    assert harness.plugin("base").status is PluginStatus.STARTED
    assert await harness.request(ListQuarantine()) == ()


def manager_on(tmp_path: Path, **more: Any) -> PluginManager:
    settings = Settings(state_dir=tmp_path / "state", plugin_paths=(tmp_path / "loop.py",), **more)
    return PluginManager(settings, profile="embedded", consent=[tmp_path / "loop.py"])


async def start_and_look(tmp_path: Path) -> tuple[QuarantineEntry, ...]:
    manager = manager_on(tmp_path)
    async with manager:
        return manager.kernel.services.quarantine.entries()


async def test_failed_starts_are_counted_over_restarts_and_mended_code_is_let_go(tmp_path: Path) -> None:
    """A supervisor that starts the kernel again and again ends there too; other code starts anew."""
    file = tmp_path / "loop.py"
    file.write_text(BROKEN)
    for _ in range(4):
        assert await start_and_look(tmp_path) == ()
    [entry] = await start_and_look(tmp_path)
    assert len(entry.failures) == 5
    manager = manager_on(tmp_path)
    async with manager:
        [info] = [one for one in manager.plugins() if one.plugin_id == "loop"]
        assert info.reason is not None
        assert (info.reason.code, info.generation) == ("quarantined", 0)
        assert manager.registry.record("loop").loads == 0
    file.write_text(FIXED)
    manager = manager_on(tmp_path)
    async with manager:
        assert manager.get_plugin("loop").status is PluginStatus.STARTED
        assert manager.kernel.services.quarantine.entries() == ()


async def test_a_damaged_file_is_named_and_the_kernel_does_not_guess(tmp_path: Path) -> None:
    """What, where, and one fix."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "quarantine.json").write_text("{")
    (tmp_path / "loop.py").write_text(FIXED)
    with pytest.raises(SettingsError, match="quarantine cannot be read: it is damaged") as raised:
        await manager_on(tmp_path).start()
    assert "remove it" in raised.value.fix


async def test_a_plugin_that_never_ends_is_put_away(tmp_path: Path) -> None:
    """Started again it would run beside itself."""
    (tmp_path / "loop.py").write_text(
        FIXED.replace("BasePlugin\n", "BasePlugin\nimport asyncio\nlet_go = asyncio.Event()\n", 1)
        + """
    async def stop(self):
        import builtins
        builtins.let_the_loop_go = let_go
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                pass
"""
    )
    manager = manager_on(tmp_path, deadlines=Deadlines(stop=0.05))
    async with manager:
        with pytest.raises(PluginStepFailed, match=r"stop took longer than 0\.05 s"):
            await manager.stop_plugin("loop")
        import builtins

        builtins.__dict__.pop("let_the_loop_go").set()
        with pytest.raises(PluginQuarantinedError, match="does not end"):
            await manager.start_plugin("loop")


DEADLY = """
import os
from plugbus import BasePlugin

class {name}(BasePlugin, plugin_id="{id}", version="1.0.0", security_level="trusted"):
    async def start(self):
        {does}
"""
BOOT = """
import asyncio, sys
from pathlib import Path
from kernel.manager import PluginManager
from kernel.settings import QuarantineSettings, Settings

async def main():
    folder = Path(sys.argv[1])
    settings = Settings(
        state_dir=folder / "state", plugin_paths=(folder / "plugins",),
        quarantine=QuarantineSettings(start_limit_burst=2),
    )
    async with PluginManager(settings, profile="embedded", consent=[folder / "plugins"]) as manager:
        for info in manager.plugins():
            if info.source != "builtin":
                print(info.plugin_id, info.status.value, info.reason.text if info.reason else "")

asyncio.run(main())
"""


def boot(tmp_path: Path) -> tuple[int, list[str]]:
    """A kernel in a process of its own: how it ended, and how its plugins stood."""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", BOOT, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, sorted(done.stdout.splitlines())


def test_a_plugin_that_ends_the_process_is_found_and_put_away(tmp_path: Path) -> None:
    """Of several that were starting nobody is blamed; alone it is counted, and then the kernel comes up."""
    (tmp_path / "plugins").mkdir()
    for id, does in (("good", "pass"), ("slow", "import asyncio; await asyncio.sleep(0.2)"),
                     ("zzz", "os._exit(7)")):  # fmt: skip
        code = DEADLY.format(name=id.title(), id=id, does=does)
        (tmp_path / "plugins" / f"{id}.py").write_text(code)
    assert [boot(tmp_path) for _ in range(3)] == [(7, [])] * 3
    code, plugins = boot(tmp_path)
    assert (code, plugins[:2]) == (0, ["good started ", "slow started "])
    assert plugins[2].startswith(
        "zzz error in quarantine: 2 failed starts within 600 s; the last: start: the process ended"
    )
    assert not (tmp_path / "state" / "starting").exists()


@pytest.mark.parametrize("left", ["+loop\n+other\n-\n+gone\n\x00", None])
async def test_notes_that_accuse_nobody_count_nothing(
    tmp_path: Path, left: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Two that a killed process was starting; notes that cannot be kept, which is told once. All start."""
    (tmp_path / "state").mkdir()
    if left is None:
        (tmp_path / "state" / "starting").mkdir()
    else:
        (tmp_path / "state" / "starting").write_text(left)
    harness = Harness(tmp_path)
    for id in ("loop", "other"):
        await harness.manager.register_plugin(MockPlugin.make(id))
    async with harness:
        assert [harness.plugin(id).status for id in ("loop", "other")] == [PluginStatus.STARTED] * 2
    assert not (tmp_path / "state" / "quarantine.json").exists()
    told = (
        "it is not noted" if left is None else "the process ended while gone, loop, other were being started"
    )
    assert len([one for one in caplog.records if told in one.getMessage()]) == 1


async def test_of_several_nobody_is_blamed_where_one_is_left(tmp_path: Path) -> None:
    """The others have gone meanwhile, and it may have been they."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "starting").write_text("+loop\n+gone\n")
    harness = Harness(tmp_path)
    await harness.manager.register_plugin(MockPlugin.make("loop"))
    async with harness:
        assert harness.plugin("loop").status is PluginStatus.STARTED
    assert not (tmp_path / "state" / "quarantine.json").exists()


async def test_it_is_counted_in_safe_mode_too(tmp_path: Path) -> None:
    """That is how an operator comes in after a crash; the plugin is off then, and put away afterwards."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "starting").write_text("+loop\n")
    (tmp_path / "loop.py").write_text(FIXED)
    settings = Settings(
        state_dir=tmp_path / "state", plugin_paths=(tmp_path / "loop.py",),
        quarantine=QuarantineSettings(start_limit_burst=1),
    )  # fmt: skip
    async with PluginManager(settings, profile="embedded", safe_mode=True) as manager:
        assert code_of_loop(manager) == "safe_mode"
        with pytest.raises(PluginQuarantinedError, match="the process ended"):
            await manager.start_plugin("loop")
    async with PluginManager(settings, profile="embedded") as manager:
        assert code_of_loop(manager) == "quarantined"


def code_of_loop(manager: PluginManager) -> str:
    [reason] = [info.reason for info in manager.plugins() if info.plugin_id == "loop"]
    return reason.code if reason is not None else ""
