"""Features that were made apart, met together: commands and boot, dependents and starts, sleep and ranks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from contracts.errors import PluginBusy, PluginStateError, PluginStepFailed
from contracts.messages import (
    CapabilityWithdrawing,
    PluginLeaked,
    PluginStarted,
    PluginUnloaded,
    SetConfiguration,
)
from kernel.settings import Deadlines, PluginSettings, Settings
from kernel.testing import Harness
from plugbus import BasePlugin, ConfigurationResult, PluginNotReady, PluginStatus, Query, provides

S = PluginStatus
EAGER: dict[str, Any] = {"version": "1.0.0", "security_level": "trusted"}
LAZY: dict[str, Any] = {**EAGER, "activation": "lazy", "subscribes": {}}


class Slow(BasePlugin):
    """Starts when it may."""

    may_start: asyncio.Event
    starting: asyncio.Event

    async def start(self) -> None:
        type(self).starting.set()
        await type(self).may_start.wait()


def slow(plugin_id: str, *, starts: bool = False, **said: Any) -> type[Slow]:
    """A class of the test's own; `starts`: at once."""
    own = {"may_start": asyncio.Event(), "starting": asyncio.Event()}
    if starts:
        own["may_start"].set()
    return type("OwnSlow", (Slow,), own, plugin_id=plugin_id, **{**EAGER, **said})


@asynccontextmanager
async def booting(tmp_path: Path, *plugins: type) -> AsyncIterator[Harness]:
    """A kernel whose boot is not waited for."""
    harness = Harness(tmp_path)
    for plugin in plugins:
        await harness.manager.register_plugin(plugin)
    boot = asyncio.create_task(harness.manager.start())
    try:
        yield harness
    finally:
        await boot
        await harness.manager.stop()


async def facts(harness: Harness, kind: Any, count: int) -> list[Any]:
    """As soon as there were so many."""
    tail = harness.bus.tail(kind.__event_type__, position="oldest")
    async with asyncio.timeout(10):
        found = [await anext(tail) for _ in range(count)]
    tail.close()
    return found


async def put_off(harness: Harness, plugin_id: str, command: str) -> None:
    """By an operator; that is news."""
    kernel = harness.manager.kernel
    if command == "stop":
        assert await kernel.control.stop(plugin_id, "test")
        assert not await kernel.control.stop(plugin_id, "test")
    elif command == "disable":
        assert await kernel.control.disable(plugin_id, "/ops")
        assert not await kernel.control.disable(plugin_id, "/ops")
    else:
        await kernel.control.quarantine(plugin_id, "it is bad", "/ops")


PUT_OFF = {
    "stop": (S.UNLOADED, "stopped"),
    "disable": (S.UNLOADED, "disabled"),
    "quarantine": (S.ERROR, "quarantined"),
}


def stands(harness: Harness, plugin_id: str) -> tuple[PluginStatus, str]:
    info = harness.plugin(plugin_id)
    return info.status, info.reason.code if info.reason else ""


@pytest.mark.parametrize("command", PUT_OFF)
async def test_who_is_put_off_before_its_turn_at_boot_is_not_started(tmp_path: Path, command: str) -> None:
    """Whatever the command is; a later start starts it, where it may be started."""
    first, second = slow("first"), slow("second", starts=True, dependencies=["first"])
    async with booting(tmp_path, first, second) as harness:
        await first.starting.wait()
        await put_off(harness, "second", command)
        first.may_start.set()
        await facts(harness, PluginStarted, 1)
    assert not second.starting.is_set()
    assert stands(harness, "second") == PUT_OFF[command]


class Unready(BasePlugin, plugin_id="unready", **EAGER):
    """Is ready when it may."""

    ready: ClassVar[asyncio.Event]

    async def initialize(self) -> None:
        if not type(self).ready.is_set():
            raise PluginNotReady("not yet")


@pytest.mark.parametrize("command", PUT_OFF)
async def test_who_waits_for_another_and_is_put_off_is_not_started(tmp_path: Path, command: str) -> None:
    """Another one that waits is; and after a stop it starts on command."""
    Unready.ready = asyncio.Event()
    user, other = (slow(id, starts=True, dependencies=["unready"]) for id in ("user", "other"))
    harness = Harness(tmp_path)
    for plugin in (Unready, user, other):
        await harness.manager.register_plugin(plugin)
    async with harness:
        assert stands(harness, "user") == (S.ERROR, "DependencyError")
        await put_off(harness, "user", command)
        Unready.ready.set()
        started = await facts(harness, PluginStarted, 2)
        assert [json.loads(fact.data)["plugin_id"] for fact in started] == ["unready", "other"]
        assert not user.starting.is_set()
        assert stands(harness, "user") == PUT_OFF[command]
        if command == "stop":
            await harness.manager.start_plugin("user")
            assert harness.plugin("user").status is S.STARTED


async def test_one_that_failed_and_is_disabled_is_not_told_as_an_error(harness: Harness) -> None:
    """It is off, as it will be when the kernel starts the next time; enabled, it is tried again."""

    class Fails(BasePlugin, plugin_id="fails", **EAGER):
        async def start(self) -> None:
            raise ValueError("it cannot")

    for _ in range(2):
        with pytest.raises(PluginStepFailed):
            await harness.load(Fails)
        assert await harness.manager.kernel.control.disable("fails", "/ops")
        assert stands(harness, "fails") == (S.UNLOADED, "disabled")
    with pytest.raises(PluginStepFailed):
        await harness.manager.kernel.control.enable("fails", "/ops")


@pytest.mark.parametrize("with_dependents", [False, True])
async def test_a_plugin_is_not_stopped_under_one_that_starts(harness: Harness, with_dependents: bool) -> None:
    """Who is being started has seen that it is there."""
    base, user = slow("base", starts=True), slow("user", dependencies=["base"])
    await harness.load(base)
    loading = asyncio.create_task(harness.load(user))
    await user.starting.wait()
    refusal = PluginBusy if with_dependents else PluginStateError
    with pytest.raises(refusal, match="user"):
        await harness.manager.kernel.control.stop("base", "test", with_dependents=with_dependents)
    user.may_start.set()
    await loading
    assert [harness.plugin(id).status for id in ("base", "user")] == [S.STARTED] * 2
    assert await harness.manager.kernel.control.stop("base", "test", with_dependents=True)


# --- sleep ------------------------------------------------------------------------------------------------


class WhoAnswers(Query[str], capability="door.who_answers"):
    """Who is asked?"""


class Sleeper(BasePlugin):
    """Provides while it sleeps as well."""

    configuring: asyncio.Event
    may_configure: asyncio.Event

    @provides(rank=5)
    async def who(self, query: WhoAnswers) -> str:
        return "sleeper"

    async def configure(self, configuration: dict[str, Any]) -> ConfigurationResult:
        if configuration:
            type(self).configuring.set()
            await type(self).may_configure.wait()
        return ConfigurationResult()


def sleeper(**said: Any) -> type[Sleeper]:
    own = {"configuring": asyncio.Event(), "may_configure": asyncio.Event()}
    metadata = {**LAZY, "provides": ["door.who_answers"], "idle_timeout": 0.02, **said}
    return type("OwnSleeper", (Sleeper,), own, plugin_id="sleeper", **metadata)


class Awake(BasePlugin, plugin_id="awake", **EAGER):
    """Is the next in rank."""

    @provides(rank=3)
    async def who(self, query: WhoAnswers) -> str:
        return "awake"


@asynccontextmanager
async def both(tmp_path: Path, **policy: Any) -> AsyncIterator[Harness]:
    settings = Settings(plugins={"sleeper": PluginSettings(**policy)})
    harness = Harness(tmp_path, settings=settings)
    for plugin in (Awake, sleeper()):
        await harness.manager.register_plugin(plugin)
    async with harness:
        yield harness


async def test_who_is_asked_does_not_depend_on_who_sleeps(tmp_path: Path) -> None:
    """The rank of the code is known from the last time that it was loaded, over restarts too."""
    async with both(tmp_path) as harness:
        assert await harness.request(WhoAnswers()) == "awake"  # of the other nothing is known yet
        await harness.manager.activate("sleeper")
        await facts(harness, PluginUnloaded, 1)
        assert await harness.request(WhoAnswers()) == "sleeper"
        await facts(harness, PluginUnloaded, 2)
        await harness.quiet()
        assert harness.published(CapabilityWithdrawing) == []
    async with both(tmp_path) as harness:
        assert await harness.request(WhoAnswers()) == "sleeper"


async def test_the_operators_rank_holds_while_it_sleeps(tmp_path: Path) -> None:
    async with both(tmp_path, ranks={"door.who_answers": 7}, idle_timeout=0) as harness:
        assert await harness.request(WhoAnswers()) == "sleeper"


async def test_a_lazy_plugin_that_sees_requests_is_refused(harness: Harness) -> None:
    """It would see none while it sleeps, which nobody would notice."""

    class Guard(BasePlugin, plugin_id="guard", **LAZY):
        async def handle_request(self, request: Any) -> Any:
            return None

    with pytest.raises(PluginStepFailed, match="would see no request"):
        await harness.load(Guard)


async def test_a_change_of_configuration_is_not_met_by_a_plugin_half_gone(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between the look at what runs and the unloading: calls are answered, and nothing spins."""
    made, offering, may_offer = sleeper(), asyncio.Event(), asyncio.Event()
    await harness.load(made)
    await facts(harness, PluginUnloaded, 1)
    provide = harness.bus.provide

    async def gated(spec: Any, provider: Any) -> Any:
        if spec.provider == "activate":
            offering.set()
            await may_offer.wait()
        return await provide(spec, provider)

    monkeypatch.setattr(harness.bus, "provide", gated)
    await harness.manager.activate("sleeper")
    await offering.wait()  # it goes
    change = SetConfiguration(plugin_id="sleeper", values={"x": 1})
    changing = asyncio.create_task(harness.manager.kernel.configuration.change(change, "/ops"))
    await made.configuring.wait()
    may_offer.set()
    assert await harness.request(WhoAnswers()) == "sleeper"
    made.may_configure.set()
    assert (await changing).outcome == "applied"


# --- several instances ------------------------------------------------------------------------------------


class Crew(BasePlugin):
    """One of its instances hangs in a step."""

    made: int
    done: list[tuple[str, int]]
    hangs: tuple[tuple[str, int], ...]
    number: int

    async def initialize(self) -> None:
        type(self).made += 1
        self.number = type(self).made
        await self._step("initialize")

    async def stop(self) -> None:
        await self._step("stop")

    async def shutdown(self) -> None:
        await self._step("shutdown")

    async def _step(self, name: str) -> None:
        if (name, self.number) in type(self).hangs:
            await asyncio.Event().wait()
        type(self).done.append((name, self.number))


def crew(*hangs: tuple[str, int]) -> type[Crew]:
    own = {"made": 0, "done": [], "hangs": hangs}
    return type("OwnCrew", (Crew,), own, plugin_id="crew", instances=3, **EAGER)


@pytest.mark.parametrize("step", ["stop", "shutdown"])
async def test_an_instance_that_hangs_takes_no_time_of_the_others(tmp_path: Path, step: str) -> None:
    """They go through the step within the same deadline."""
    made = crew((step, 3))
    settings = Settings(deadlines=Deadlines.model_validate({step: 0.1}))
    async with Harness(tmp_path, settings=settings) as harness:
        await harness.load(made)
        with pytest.raises(PluginStepFailed, match="took longer"):
            await harness.unload("crew")
    assert sorted(number for name, number in made.done if name == step) == [1, 2]


async def test_taking_instances_back_ends_in_any_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third does not come, and the first does not go: the step fails all the same."""
    monkeypatch.setattr("kernel.hosts.pooled.UNDO_TIMEOUT", 0.1)
    made = crew(("initialize", 3), ("shutdown", 1))
    async with Harness(tmp_path, settings=Settings(deadlines=Deadlines(initialize=0.1))) as harness:
        async with asyncio.timeout(5):
            with pytest.raises(PluginStepFailed, match="initialize took longer"):
                await harness.load(made)
    assert ("shutdown", 2) in made.done


async def test_tasks_of_a_class_that_was_given_are_not_looked_for(harness: Harness) -> None:
    """Others may run it as well; with several instances as with one."""
    tasks: list[asyncio.Task[None]] = []

    class Stray(BasePlugin, plugin_id="stray", instances=2, **EAGER):
        async def start(self) -> None:
            tasks.append(asyncio.create_task(self.run()))

        async def run(self) -> None:
            await asyncio.Event().wait()

    await harness.load(Stray)
    await harness.unload("stray")
    await harness.quiet()
    assert harness.published(PluginLeaked) == []
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
