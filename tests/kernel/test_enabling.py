"""On and off: an operator's decision lies over the settings, takes effect at once and outlives the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar

import pytest

from contracts.errors import (
    ManifestError,
    PluginNotFound,
    PluginQuarantinedError,
    PluginStateError,
    ProviderFailed,
)
from contracts.messages import (
    AddToQuarantine,
    CommandResult,
    DisablePlugin,
    EnablePlugin,
    PluginStarted,
    PluginStopped,
    StartPlugin,
    StopPlugin,
)
from contracts.messages.explain import ExplainPlugin
from contracts.query import answer_adapter
from kernel.discovery import PluginDiscovery
from kernel.finding import BUILT_IN_FOLDER
from kernel.manager import PluginManager
from kernel.settings import PluginSettings, Settings
from kernel.testing import Harness, MockPlugin
from plugbus import BasePlugin, PluginStatus, on

S = PluginStatus

ONE = '''
from plugbus import BasePlugin

class One(BasePlugin, plugin_id="one", version="1.0.0", security_level="trusted"):
    """Starts."""
'''


def manager_on(tmp_path: Path, *, safe_mode: bool = False, enabled: bool | None = None) -> PluginManager:
    (tmp_path / "one.py").write_text(ONE)
    settings = Settings(
        state_dir=tmp_path / "state",
        plugin_paths=(tmp_path / "one.py",),
        plugins={"one": PluginSettings(enabled=enabled)},
    )
    return PluginManager(settings, profile="embedded", safe_mode=safe_mode)


async def why_enabled(manager: PluginManager, plugin_id: str) -> tuple[bool, str]:
    query = ExplainPlugin(plugin_id=plugin_id)
    [reply] = await manager.bus.request("kernel.plugin.explain", query, source="/test")
    told = answer_adapter(ExplainPlugin).validate_json(reply.data)
    return told.enabled, told.enabled_by


async def test_disabled_it_stays_off_over_restarts_until_it_is_enabled(tmp_path: Path) -> None:
    """Over what the settings say; whose decision it was is told."""
    async with manager_on(tmp_path, enabled=True) as manager:
        assert await manager.kernel.control.disable("one", "/ops/ada")
        assert not await manager.kernel.control.disable("one", "/ops/ada")
        assert manager.get_plugin("one").status is S.UNLOADED
    async with manager_on(tmp_path, enabled=True) as manager:
        [info] = [one for one in manager.plugins() if one.plugin_id == "one"]
        assert (info.status, info.reason and info.reason.code) == (S.UNLOADED, "disabled")
        enabled, by = await why_enabled(manager, "one")
        assert not enabled
        assert by.startswith("plugbus plugin disable, by /ops/ada on ")
        assert await manager.kernel.control.enable("one", "/ops/ada")
        assert not await manager.kernel.control.enable("one", "/ops/ada")
    async with manager_on(tmp_path, enabled=False) as manager:
        assert manager.get_plugin("one").status is S.STARTED


async def test_where_nobody_decided_the_settings_or_the_default_do(tmp_path: Path) -> None:
    """And that is what is told."""
    async with manager_on(tmp_path) as manager:
        assert await why_enabled(manager, "one") == (True, "the default")
        assert await why_enabled(manager, "alerts") == (False, "its default in plugbus embedded")


async def test_in_safe_mode_only_built_ins_are_loaded(tmp_path: Path) -> None:
    """Everything else is listed as not loaded, with that reason, and can be started one by one."""
    async with manager_on(tmp_path, safe_mode=True) as manager:
        [info] = [one for one in manager.plugins() if one.plugin_id == "one"]
        assert info.status is S.UNLOADED
        assert info.reason is not None
        assert info.reason.code == "safe_mode"
        assert (await manager.readiness()).status == "ready"
        await manager.start_plugin("one")
        assert manager.get_plugin("one").status is S.STARTED


async def test_who_is_needed_is_disabled_with_its_dependents_only(harness: Harness) -> None:
    """Refused otherwise, nothing changed; with them in reverse order, and only the one is disabled."""
    await harness.load(MockPlugin.make("base"))
    await harness.load(MockPlugin.make("middle", dependencies=["base"]))
    await harness.load(MockPlugin.make("top", dependencies=["middle", "base"]))
    with pytest.raises(PluginStateError, match="needed by middle, top") as raised:
        await harness.manager.kernel.control.disable("base", "/test")
    assert "plugin stop base --with-dependents" in raised.value.fix
    assert harness.manager.registry.record("base").enabled
    await harness.request(DisablePlugin(plugin_id="base", with_dependents=True))
    await harness.quiet()
    assert [fact.plugin_id for fact in harness.published(PluginStopped)] == ["top", "middle", "base"]
    enabled = {one.plugin_id: one.enabled for one in harness.manager.registry if one.found is not None}
    assert (enabled["base"], enabled["middle"], enabled["top"]) == (False, True, True)
    with pytest.raises(PluginStateError, match="which is not started"):
        await harness.manager.kernel.control.enable("top", "/test")
    await harness.request(EnablePlugin(plugin_id="base"))
    await harness.manager.start_plugin("middle")
    result = await harness.request(StopPlugin(plugin_id="base", with_dependents=True))
    assert (result.outcome, harness.plugin("middle").status) == ("done", S.UNLOADED)


async def test_what_cannot_be_decided_changes_nothing(harness: Harness) -> None:
    """Unknown plugins, those in quarantine, and the way on which commands come in."""
    kernel = harness.manager.kernel
    with pytest.raises(PluginNotFound):
        await kernel.control.disable("nobody", "/test")
    with pytest.raises(PluginStateError, match="on which commands come in"):
        await kernel.control.disable("gateway", "/test")
    await harness.load(MockPlugin.make("mock"))
    await kernel.control.quarantine("mock", "too loud", "/test")
    with pytest.raises(PluginQuarantinedError):
        await kernel.control.enable("mock", "/test")
    assert kernel.services.decisions.get("mock") is None


async def test_the_edge_is_not_stopped_along_with_what_it_needs(tmp_path: Path) -> None:
    """By a command; nothing of it was stopped."""
    async with Harness(tmp_path, settings=Settings(edge_plugins=("door",))) as harness:
        await harness.load(MockPlugin.make("base"))
        unrestricted = {"security_level": "unrestricted", "required_permissions": ["network_access"]}
        await harness.load(MockPlugin.make("door", dependencies=["base"], **unrestricted))
        for command in (StopPlugin, DisablePlugin):
            with pytest.raises(ProviderFailed, match="'door' is the way on which commands come in"):
                await harness.request(command(plugin_id="base", with_dependents=True))
        assert harness.plugin("door").status is harness.plugin("base").status is S.STARTED


@pytest.mark.parametrize("name", ["kernel", "plugin", "audit", "bus"])
async def test_a_reserved_word_is_no_plugin_id(tmp_path: Path, harness: Harness, name: str) -> None:
    """In a file and in a class; the built-in audit plugin is itself."""
    (tmp_path / "one.py").write_text(ONE.replace('"one"', f'"{name}"'))
    with pytest.raises(ManifestError, match=f"'{name}' is a word of the kernel's own"):
        PluginDiscovery().discover_path(tmp_path / "one.py")
    with pytest.raises(ManifestError, match="is a word of the kernel's own"):
        await harness.load(MockPlugin.make(name))
    assert PluginDiscovery().discover_path(BUILT_IN_FOLDER / "audit").plugin_id == "audit"


async def test_dependents_are_told_of_a_start_and_a_stop(harness: Harness) -> None:
    """Whom it concerns stands in the announcement, which they can handle; others are not named."""
    told: list[tuple[str, bool]] = []

    class User(BasePlugin, plugin_id="user", version="1", security_level="trusted",
               optional_dependencies=["base"]):  # fmt: skip
        @on
        async def down(self, event: PluginStopped) -> None:
            told.append((event.plugin_id, self.plugin_id in event.dependents))

        @on
        async def up(self, event: PluginStarted) -> None:
            told.append((event.plugin_id, self.plugin_id in event.dependents))

    await harness.load(MockPlugin.make("base"))
    await harness.load(MockPlugin.make("other"))
    await harness.load(User)
    await harness.quiet()
    told.clear()
    await harness.manager.stop_plugin("base")
    await harness.quiet()
    await harness.manager.start_plugin("base")
    await harness.manager.stop_plugin("other")
    await harness.quiet()
    assert told == [("base", True), ("base", True), ("other", False)]


@pytest.mark.parametrize("command", [StartPlugin, StopPlugin, EnablePlugin, DisablePlugin, AddToQuarantine])
async def test_a_command_for_a_busy_plugin_is_refused(harness: Harness, command: type[Any]) -> None:
    """Whoever is first goes on; nothing else has changed."""
    began, let_go = asyncio.Event(), asyncio.Event()

    class Slow(BasePlugin, plugin_id="slow", version="1", security_level="trusted"):
        async def start(self) -> None:
            began.set()
            await let_go.wait()

    loading = asyncio.create_task(harness.load(Slow))
    await began.wait()
    with pytest.raises(ProviderFailed, match="is busy: starting") as raised:
        await harness.request(command(plugin_id="slow"))
    assert raised.value.info.type.endswith("PluginBusy")
    let_go.set()
    await loading
    kernel = harness.manager.kernel
    assert harness.plugin("slow").status is S.STARTED
    assert kernel.services.decisions.get("slow") is None
    assert kernel.services.quarantine.entries() == ()


async def test_two_commands_at_once_are_one_after_the_other_or_refused(harness: Harness) -> None:
    """Two stops with dependents: one does it, the other is refused or finds nothing to do."""
    await harness.load(MockPlugin.make("base"))
    await harness.load(MockPlugin.make("user", dependencies=["base"]))
    stop = StopPlugin(plugin_id="base", with_dependents=True)
    answers = await asyncio.gather(*(harness.request(stop) for _ in range(3)), return_exceptions=True)
    assert sum(isinstance(answer, CommandResult) and answer.outcome == "done" for answer in answers) == 1
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(one, ProviderFailed) and one.info.type.endswith("PluginBusy") for one in refused)
    assert harness.plugin("base").status is harness.plugin("user").status is S.UNLOADED


async def test_while_the_kernel_stops_nothing_is_started_or_decided(tmp_path: Path) -> None:
    """A start, an enable and an activation are refused; what was on stays on for the next kernel."""
    async with manager_on(tmp_path) as manager:
        kernel = manager.kernel
        await manager.stop_plugin("one")
    for begin in (kernel.control.start, kernel.control.enable, kernel.control.activate):
        with pytest.raises(PluginStateError, match="the kernel is stopping"):
            await begin("one", "/test")
    assert kernel.services.decisions.get("one") is None


class Tough(BasePlugin, plugin_id="tough", version="1", security_level="trusted"):
    """Stops when it is let."""

    stopping: ClassVar[asyncio.Event]
    let_go: ClassVar[asyncio.Event]

    async def start(self) -> None:
        type(self).stopping, type(self).let_go = asyncio.Event(), asyncio.Event()

    async def stop(self) -> None:
        self.stopping.set()
        await self.let_go.wait()


async def given_up(harness: Harness, command: Coroutine[Any, Any, object]) -> None:
    """Begin it, and stop waiting while the plugin stops."""
    asked = asyncio.create_task(command)
    await Tough.stopping.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    Tough.let_go.set()
    await harness.manager.kernel.operations.idle("tough")


async def test_who_gives_up_waiting_does_not_undo_the_decision(harness: Harness) -> None:
    """What was begun is done wholly: it is stopped, and that it is off, or put away, is kept."""
    control = harness.manager.kernel.control
    await harness.load(Tough)
    await given_up(harness, control.disable("tough", "/test"))
    info = harness.plugin("tough")
    assert (info.status, info.reason and info.reason.code) == (S.UNLOADED, "disabled")
    assert not harness.manager.registry.record("tough").enabled
    await control.enable("tough", "/test")
    await given_up(harness, control.quarantine("tough", "too loud", "/test"))
    info = harness.plugin("tough")
    assert (info.status, info.reason and info.reason.code) == (S.ERROR, "quarantined")


async def test_what_fails_when_nobody_waits_any_more_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Here that the decision cannot be kept."""
    async with Harness(tmp_path) as harness:
        await harness.load(Tough)
        (tmp_path / "state" / "enabled.json").mkdir()
        await given_up(harness, harness.manager.kernel.control.disable("tough", "/test"))
        await asyncio.sleep(0)
    told = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert len(told) == 1
    assert told[0].startswith("disable tough: the decision about 'tough' cannot be kept")


async def test_a_kernel_that_stops_ends_what_is_being_decided(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All that it consists of, before it stops the others; it holds under the next kernel."""
    stops: list[str] = []

    class Base(BasePlugin, plugin_id="base", version="1", security_level="trusted"):
        async def stop(self) -> None:
            for _ in range(1_000):  # longer than the kernel needs to get to it
                await asyncio.sleep(0)
            stops.append("base")

    harness = Harness(tmp_path)
    await harness.manager.register_plugin(Base)
    await harness.manager.register_plugin(Tough, dependencies=["base"])
    async with harness:
        disabling = harness.manager.kernel.control.disable("base", "/test", with_dependents=True)
        asked = asyncio.create_task(disabling)
        await Tough.stopping.wait()
        asked.cancel()
        scope = harness.manager.kernel.scope
        ending = asyncio.create_task(harness.manager.stop())
        while scope.names:  # noqa: ASYNC110 - nothing tells that only the plugins are left
            await asyncio.sleep(0)
        Tough.let_go.set()
        await ending
    assert stops == ["base"]
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []
    again = Harness(tmp_path)
    await again.manager.register_plugin(Base)
    async with again:
        assert again.manager.kernel.services.decisions.get("base") is not None


@pytest.mark.parametrize("command", [DisablePlugin, AddToQuarantine])
async def test_of_two_that_have_seen_the_same_state_one_is_refused(
    harness: Harness, command: type[DisablePlugin | AddToQuarantine]
) -> None:
    """Also where there is nothing to stop: what the first decides, the second has not seen."""
    await harness.load(MockPlugin.make("one"))
    await harness.manager.stop_plugin("one")
    query = command(plugin_id="one", if_tags=(harness.plugin("one").tag,))
    both = await asyncio.gather(*(harness.request(query) for _ in range(2)), return_exceptions=True)
    assert sum(isinstance(one, Exception) for one in both) == 1
