"""Lazy plugins: imported when they are needed, once, with nothing missed; unloaded when they are idle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fastapi import APIRouter
from pydantic import ValidationError

from contracts.errors import (
    CallTimeout,
    NoProvider,
    PluginActivationFailed,
    PluginBusy,
    PluginStateError,
    PluginStepFailed,
    ProviderFailed,
)
from contracts.messages import PluginStarted, PluginUnloaded, ReleaseFromQuarantine
from contracts.metadata import PluginMetadata
from kernel.activation import idle_timeout_of
from kernel.settings import Settings
from kernel.testing import Harness
from plugbus import BasePlugin, Event, PluginNotReady, PluginStatus, Query, StaticMount, on, provides

S = PluginStatus
LAZY: dict[str, Any] = {"version": "1.0.0", "security_level": "trusted", "activation": "lazy"}


class Came(Event, type="door.came"):
    n: int = 0


class Count(Query[int], capability="door.count"):
    pass


class Door(BasePlugin):
    """Counts who came; told to fail its first `broken` starts."""

    made: int
    broken: int
    seen: list[int]
    waits: asyncio.Event | None
    starting: asyncio.Event
    stopping: asyncio.Event
    stays: asyncio.Event | None
    asked: int

    async def start(self) -> None:
        cls = type(self)
        cls.made += 1
        cls.starting.set()
        if cls.broken:
            cls.broken -= 1
            raise RuntimeError("the key does not fit")
        if cls.waits is not None:
            await cls.waits.wait()

    async def stop(self) -> None:
        cls = type(self)
        cls.stopping.set()
        if cls.stays is not None:
            await cls.stays.wait()

    @on
    async def watch(self, event: Came) -> None:
        type(self).seen.append(event.n)

    @provides
    async def count(self, query: Count) -> int:
        type(self).asked += 1
        return len(type(self).seen)

    async def get_api_router(self) -> Any:
        router = APIRouter()

        @router.get("/seen")
        async def seen() -> list[int]:
            return type(self).seen

        return router

    async def get_static_mounts(self) -> list[StaticMount]:
        return []


def door(plugin_id: str = "door", **metadata: Any) -> type[Door]:
    """A class of the test's own."""
    said = {"subscribes": {"watch": ["door.came"]}, "provides": ["door.count"], **LAZY, **metadata}
    namespace = {
        "made": 0, "broken": 0, "seen": [], "asked": 0, "waits": None, "stays": None,
        "starting": asyncio.Event(), "stopping": asyncio.Event(),
    }  # fmt: skip
    return type("OwnDoor", (Door,), namespace, plugin_id=plugin_id, **said)


@asynccontextmanager
async def kernel_with(tmp_path: Path, *plugins: type, **more: Any) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path, **more)
    for plugin in plugins:
        await harness.manager.register_plugin(plugin)
    async with harness:
        yield harness


async def started(harness: Harness, count: int) -> list[PluginStarted]:
    """As soon as there were so many starts."""
    return await facts(harness, PluginStarted, count)


async def facts(harness: Harness, kind: Any, count: int) -> list[Any]:
    tail = harness.bus.tail(kind.__event_type__, position="oldest")
    async with asyncio.timeout(10):
        found = [await anext(tail) for _ in range(count)]
    tail.close()
    return found


async def test_nothing_of_it_is_loaded_and_its_groups_are_there(tmp_path: Path) -> None:
    """Unloaded with the reason `lazy`; the kernel is ready all the same; its group exists."""
    made = door(criticality="required")
    async with kernel_with(tmp_path, made) as harness:
        info = harness.plugin("door")
        assert (info.status, info.generation, made.made) == (S.UNLOADED, 0, 0)
        assert info.reason is not None
        assert info.reason.code == "lazy"
        assert [group.group for group in await harness.bus.groups()] == ["door.watch"]
        assert (await harness.manager.readiness()).status == "ready"
    assert made.made == 0


async def test_the_first_event_loads_it_and_none_is_missed(tmp_path: Path) -> None:
    """All are delivered in order, each once, the first with its first attempt."""
    made = door()
    async with kernel_with(tmp_path, made) as harness:
        for n in range(5):
            await harness.publish(Came(n=n), key="front")
        await harness.quiet()
        assert (made.made, made.seen) == (1, [0, 1, 2, 3, 4])
        assert {one.event.attempt for one in harness.handled("door.watch")} == {1}
        [fact] = harness.published(PluginStarted)
        assert fact.reason == "door.came in watch"
        [group] = await harness.bus.groups()
        assert (group.handled, group.failed, group.dead) == (5, 0, 0)


async def test_a_call_loads_it_and_waits_for_the_answer(tmp_path: Path) -> None:
    """The caller sees nothing of it; afterwards the plugin's own provider answers alone."""
    made = door()
    async with kernel_with(tmp_path, made) as harness:
        assert await harness.request(Count()) == 0
        assert made.made == 1
        assert [await harness.request(Count()) for _ in range(3)] == [0, 0, 0]
        assert len([one for one in harness.bus.providers() if one.plugin_id == "door"]) == 1


async def test_a_web_request_loads_it(tmp_path: Path) -> None:
    """It waits, and is answered."""
    made = door()
    async with kernel_with(tmp_path, made) as harness:
        assert (await harness.http.get("/plugins/door/seen")).json() == []
        assert made.made == 1


async def test_all_triggers_at_once_start_it_once(tmp_path: Path) -> None:
    """Events, calls, requests and the application."""
    made = door()
    made.waits = asyncio.Event()
    async with kernel_with(tmp_path, made) as harness:
        await harness.publish(Came(n=7))
        asked = [asyncio.create_task(harness.request(Count())) for _ in range(3)]
        page = asyncio.create_task(harness.http.get("/plugins/door/seen"))
        active = asyncio.create_task(harness.manager.activate("door"))
        await made.starting.wait()
        made.waits.set()
        await asyncio.gather(*asked, page, active)
        await harness.quiet()
        assert (made.made, made.seen) == (1, [7])
        assert await harness.manager.activate("door")


async def test_who_asks_is_told_why_it_cannot_be_started(tmp_path: Path) -> None:
    """A call gets an error of its own kind with the cause, a request 503; nothing is left of the start."""
    made = door()
    made.broken = 9
    async with kernel_with(tmp_path, made) as harness:
        with pytest.raises(ProviderFailed, match="the key does not fit") as raised:
            await harness.request(Count())
        assert raised.value.info.type.endswith("PluginActivationFailed")
        with pytest.raises(PluginActivationFailed, match="the key does not fit"):
            await harness.http.get("/plugins/door/seen")
        assert "plugin.leaked" not in {item.envelope.type for item in harness.published()}


async def test_events_try_again_until_it_starts(tmp_path: Path) -> None:
    """After a growing pause; the event was held all the while."""
    made = door()
    made.broken = 3
    async with kernel_with(tmp_path, made) as harness:
        await harness.publish(Came(n=1))
        await harness.quiet()
        assert (made.made, made.seen) == (4, [1])


async def test_a_crash_loop_ends_in_quarantine_and_the_event_waits(tmp_path: Path) -> None:
    """After a release it is loaded by the event that had waited."""
    made = door()
    made.broken = 5
    async with kernel_with(tmp_path, made) as harness:
        await harness.publish(Came(n=1))
        tail = harness.bus.tail("plugin.quarantined", position="oldest")
        await anext(tail)
        tail.close()
        [group] = await harness.bus.groups()
        assert (made.made, group.waiting + group.in_flight, group.dead) == (5, 1, 0)
        record = harness.manager.registry.record("door")
        assert not await harness.manager.kernel.activation.disarm(record)
        with pytest.raises(NoProvider):
            await harness.request(Count())
        await harness.request(ReleaseFromQuarantine(plugin_id="door"))
        await harness.quiet()
        assert (made.made, made.seen) == (6, [1])


async def test_what_it_depends_on_is_started_first(tmp_path: Path) -> None:
    """Lazy ones as well; who depends on a lazy one starts it, at boot and on command."""
    base = door("base", subscribes={"watch": ["door.never"]}, provides=["base.count"])
    base = type("Base", (BasePlugin,), {}, plugin_id="base", **LAZY)
    top = door(dependencies=["base"])
    async with kernel_with(tmp_path / "a", base, top) as harness:
        assert harness.plugin("base").status is S.UNLOADED
        await harness.publish(Came())
        await harness.quiet()
        assert [fact.plugin_id for fact in harness.published(PluginStarted)] == ["base", "door"]
    eager = type(
        "Eager", (BasePlugin,), {}, plugin_id="eager", version="1", security_level="trusted",
        dependencies=["base"],
    )  # fmt: skip
    async with kernel_with(tmp_path / "b", base, eager) as harness:
        assert harness.plugin("base").status is harness.plugin("eager").status is S.STARTED
        await harness.manager.kernel.control.stop("base", "test", with_dependents=True)
        with pytest.raises(PluginStateError, match="which is not started"):
            await harness.manager.activate("eager")
    late = type(
        "Late", (BasePlugin,), {}, plugin_id="late", version="1", security_level="trusted",
        dependencies=["base"],
    )  # fmt: skip
    async with kernel_with(tmp_path / "c", base) as harness:
        await harness.load(late)
        assert harness.plugin("base").status is S.STARTED


async def test_stopped_on_command_nothing_wakes_it(tmp_path: Path) -> None:
    """Loaded or not; its group keeps the event until it is started."""
    made = door()
    async with kernel_with(tmp_path, made) as harness:
        await harness.manager.stop_plugin("door")
        info = harness.plugin("door")
        assert info.reason is not None
        assert info.reason.code == "stopped"
        await harness.publish(Came(n=1))
        assert not [one for one in harness.bus.providers() if one.plugin_id == "door"]
        assert made.made == 0
        await harness.manager.start_plugin("door")
        await harness.quiet()
        assert made.seen == [1]
        await harness.manager.stop_plugin("door")
        await harness.publish(Came(n=2))
        await harness.manager.activate("door")
        await harness.quiet()
        assert made.seen == [1, 2]


async def test_idle_it_goes_and_comes_back_with_its_place_kept(tmp_path: Path) -> None:
    """Unloaded after `idle_timeout`; the next event, call and request load it again; nothing leaks."""
    made = door(idle_timeout=0.05)
    async with kernel_with(tmp_path, made) as harness:
        await harness.publish(Came(n=1))
        await facts(harness, PluginUnloaded, 1)
        await harness.publish(Came(n=2))
        await facts(harness, PluginUnloaded, 2)
        assert await harness.request(Count()) == 2
        await facts(harness, PluginUnloaded, 3)
        assert (await harness.http.get("/plugins/door/seen")).json() == [1, 2]
        await facts(harness, PluginUnloaded, 4)
        await harness.quiet()
        assert made.seen == [1, 2]
        types = {item.envelope.type for item in harness.published()}
        assert not types & {"plugin.leaked", "plugin.failed", "bus.dead_lettered"}


async def test_its_group_keeps_the_options_of_its_handler(tmp_path: Path) -> None:
    """While it is not loaded too, and under the next kernel: what waits is bounded as the handler asks."""

    class Bounded(
        BasePlugin, plugin_id="door", idle_timeout=0.01, subscribes={"watch": ["door.came"]}, **LAZY
    ):
        seen: ClassVar[list[int]] = []

        @on(overflow="drop_oldest", max_waiting=2)
        async def watch(self, event: Came) -> None:
            self.seen.append(event.n)

    async with kernel_with(tmp_path, Bounded) as harness:
        await harness.manager.activate("door")
        await facts(harness, PluginUnloaded, 1)
    async with kernel_with(tmp_path, Bounded) as harness:
        await harness.bus.pause_group("door.watch")
        for n in range(5):
            await harness.publish(Came(n=n), key="front")
        assert harness.plugin("door").status is S.UNLOADED
        await harness.bus.resume_group("door.watch")
        await harness.quiet()
        assert Bounded.seen == [3, 4]


async def test_broadcast_is_refused_for_lazy_plugins(tmp_path: Path) -> None:
    """It keeps nothing for a plugin that is not there."""

    class Loud(BasePlugin, plugin_id="loud", subscribes={"watch": ["door.came"]}, **LAZY):
        @on(broadcast=True)
        async def watch(self, event: Came) -> None: ...

    async with kernel_with(tmp_path, Loud) as harness:
        with pytest.raises(PluginStepFailed, match="has broadcast, which keeps nothing"):
            await harness.manager.activate("loud")


async def test_what_arrives_while_it_goes_is_not_missed(tmp_path: Path) -> None:
    """Events and calls beside an unload that never has a rest: each is handled or answered once."""
    made = door(idle_timeout=0.001)
    async with kernel_with(tmp_path, made) as harness:
        for n in range(40):
            await harness.publish(Came(n=n), key="front")
            assert await harness.request(Count()) >= 0
            for _ in range(n):
                await asyncio.sleep(0)
        await harness.quiet()
        assert made.seen == list(range(40))
        types = {item.envelope.type for item in harness.published()}
        assert not types & {"plugin.leaked", "plugin.failed", "bus.dead_lettered"}


async def test_who_is_needed_stays(tmp_path: Path) -> None:
    """A started dependent is a use."""
    base = type("Base", (BasePlugin,), {}, plugin_id="base", idle_timeout=0.01, **LAZY)
    user = door("user", dependencies=["base"], idle_timeout=0.03)
    async with kernel_with(tmp_path, base, user) as harness:
        await harness.manager.activate("user")
        facts_there = await facts(harness, PluginUnloaded, 2)
        assert ["user" in item.data for item in facts_there] == [True, False]


async def test_the_operator_may_say_never(tmp_path: Path) -> None:
    """`[plugins.ID] idle_timeout = 0` lies over the manifest."""
    settings = Settings.model_validate({"plugins": {"door": {"idle_timeout": 0}}})
    made = door(idle_timeout=0.001)
    async with kernel_with(tmp_path, made, settings=settings) as harness:
        await harness.manager.activate("door")
        await harness.publish(Came(n=1))
        await harness.quiet()
        assert idle_timeout_of(harness.manager.registry.record("door"), harness.manager.kernel.services) == 0
        assert harness.plugin("door").status is S.STARTED


async def test_a_kernel_that_stops_while_it_comes_leaves_nothing(tmp_path: Path) -> None:
    """The start is cut off and undone; the event is there for the next kernel."""
    made = door()
    made.waits = asyncio.Event()
    async with kernel_with(tmp_path, made) as harness:
        await harness.publish(Came(n=1))
        asked = asyncio.create_task(harness.request(Count()))
        await made.starting.wait()
        await harness.manager.stop()
        with pytest.raises(Exception, match=r"went away|closed|could not be started"):
            await asked


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"activation": "lazy", "subscribes": ["door.came"]}, "needs 'subscribes' as a table"),
        ({"activation": "lazy", "provides": ["door.*"]}, "needs each capability by name"),
        ({"idle_timeout": 5}, "is for plugins with"),
        ({"activation": "lazy", "idle_timeout": 0}, "greater than 0"),
    ],
)
def test_what_a_lazy_plugin_must_say(said: dict[str, Any], match: str) -> None:
    """What wakes it must be known before it is loaded."""
    with pytest.raises(ValidationError, match=match):
        PluginMetadata.model_validate({"plugin_id": "door", "version": "1", **said})


async def test_an_activation_that_fails_on_command_raises_as_a_start(tmp_path: Path) -> None:
    """The step that failed, not that it was lazy."""
    made = door()
    made.broken = 1
    async with kernel_with(tmp_path, made) as harness:
        with pytest.raises(PluginStepFailed, match="the key does not fit"):
            await harness.manager.activate("door")


async def test_two_kernels_handle_each_event_once(tmp_path: Path) -> None:
    """Woken or not, before and after one of them stops it: none is lost, none is handled twice."""
    doors = [door(), door()]
    settings = Settings.model_validate({"bus": {"url": "memory://two-kernels"}})
    async with (
        kernel_with(tmp_path / "a", doors[0], settings=settings) as first,
        kernel_with(tmp_path / "b", doors[1], settings=settings) as second,
    ):
        assert first.bus.replica != second.bus.replica
        for n in range(10):
            await (first, second)[n % 2].publish(Came(n=n), key="front")
        await first.quiet()
        assert sorted(doors[0].seen + doors[1].seen) == list(range(10))
        await asyncio.gather(first.manager.activate("door"), second.manager.activate("door"))
        await second.manager.stop_plugin("door")
        await first.publish(Came(n=10), key="front")
        await first.quiet()
        assert sorted(doors[0].seen + doors[1].seen) == list(range(11))


async def test_another_plugin_in_its_place_is_another_plugin(tmp_path: Path) -> None:
    """Neither stand-in nor record of the former is used again."""
    former, other = door(), door()
    async with kernel_with(tmp_path, former) as harness:
        await harness.load(other)
        await harness.publish(Came(n=1))
        await harness.quiet()
        assert (former.made, other.made, other.seen) == (0, 1, [1])
        await harness.unload("door")
        eager = door(activation="eager")
        await harness.load(eager)
        await harness.publish(Came(n=2))
        await harness.quiet()
        assert eager.seen == [2]


async def test_commands_for_one_that_is_being_woken_are_refused(tmp_path: Path) -> None:
    """Busy; who gave up waiting does not cut it off."""
    made = door()
    made.waits = asyncio.Event()
    async with kernel_with(tmp_path, made) as harness:
        waiting = asyncio.create_task(harness.manager.activate("door"))
        await made.starting.wait()
        for command in (harness.manager.stop_plugin, harness.manager.start_plugin):
            with pytest.raises(PluginBusy):
                await command("door")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        made.waits.set()
        await harness.manager.activate("door")
        assert (made.made, harness.plugin("door").status) == (1, S.STARTED)


async def test_a_disabled_or_quarantined_lazy_plugin_stays_asleep(tmp_path: Path) -> None:
    """Under the next kernel too; enabled it is there again."""
    made = door()
    async with kernel_with(tmp_path, made) as harness:
        await harness.manager.kernel.control.disable("door", "/test")
        await harness.publish(Came(n=1))
        assert not [one for one in harness.bus.providers() if one.plugin_id == "door"]
        await harness.manager.kernel.control.enable("door", "/test")
        await harness.quiet()
        assert (made.made, made.seen) == (1, [1])
        await harness.manager.kernel.control.quarantine("door", "too loud", "/test")
    async with kernel_with(tmp_path, made) as harness:
        await harness.publish(Came(n=2))
        info = harness.plugin("door")
        assert info.reason is not None
        assert (info.reason.code, made.made) == ("quarantined", 1)
        assert not [one for one in harness.bus.providers() if one.plugin_id == "door"]


async def test_calls_and_requests_while_it_stops_are_answered(tmp_path: Path) -> None:
    """None of them meets what is going: they wait until it has gone, and wake it again."""
    made = door(idle_timeout=0.01)
    made.stays = asyncio.Event()
    async with kernel_with(tmp_path, made) as harness:
        await harness.manager.activate("door")
        await made.stopping.wait()
        asked = [asyncio.create_task(harness.request(Count())) for _ in range(4)]
        page = asyncio.create_task(harness.http.get("/plugins/door/seen"))
        await harness.publish(Came(n=1))
        made.stays.set()
        assert len(await asyncio.gather(*asked)) == 4
        assert (await page).status_code == 200
        await harness.quiet()
        assert made.seen == [1]


async def test_a_call_whose_caller_has_given_up_is_not_executed(tmp_path: Path) -> None:
    """The start took too long for it; it goes on for whoever comes next."""
    made = door()
    made.waits = asyncio.Event()
    async with kernel_with(tmp_path, made) as harness:
        with pytest.raises(CallTimeout):
            await harness.request(Count(), timeout=0.01)
        made.waits.set()
        await harness.manager.activate("door")
        assert await harness.request(Count()) == 0
        assert made.asked == 1


async def test_needed_before_its_turn_all_that_it_depends_on_starts_early(tmp_path: Path) -> None:
    """An eager plugin of the first wave may ask a lazy one whose dependencies would start later."""
    answers: list[int] = []

    class First(
        BasePlugin, plugin_id="first", version="1", security_level="trusted", requests=["door.count"]
    ):
        async def start(self) -> None:
            answers.append(await self.context.request(Count(), timeout=5))

    eager: dict[str, Any] = {"version": "1", "security_level": "trusted"}
    base = type("Base", (BasePlugin,), {}, plugin_id="base", **eager)
    middle = type("Middle", (BasePlugin,), {}, plugin_id="middle", dependencies=["base"], **eager)
    top = type("Top", (BasePlugin,), {}, plugin_id="top", dependencies=["middle"], **eager)
    async with kernel_with(tmp_path, First, base, middle, top, door(dependencies=["top"])) as harness:
        assert answers == [0]
        assert all(harness.plugin(id).status is S.STARTED for id in ("first", "base", "middle", "top"))
        await harness.quiet()
        assert "plugin.failed" not in {item.envelope.type for item in harness.published()}


@pytest.mark.parametrize("is_needed", [True, False])
async def test_one_that_is_not_ready_is_asked_again(tmp_path: Path, is_needed: bool) -> None:
    """By the kernel where an eager plugin needs it, else by the event that woke it; it is no crash."""
    tries: list[int] = []

    class Base(BasePlugin, plugin_id="base", subscribes={"watch": ["door.came"]}, **LAZY):
        async def initialize(self) -> None:
            tries.append(1)
            if len(tries) < 8:
                raise PluginNotReady("the database is not there")

        @on
        async def watch(self, event: Came) -> None: ...

    eager: dict[str, Any] = {"version": "1", "security_level": "trusted", "dependencies": ["base"]}
    user = type("User", (BasePlugin,), {}, plugin_id="user", **eager)
    async with kernel_with(tmp_path, Base, *([user] if is_needed else [])) as harness:
        await harness.publish(Came())
        await facts(harness, PluginStarted, 2 if is_needed else 1)
        await harness.quiet()
        assert len(tries) == 8
        assert harness.manager.kernel.services.quarantine.entries() == ()
        assert [group.handled for group in await harness.bus.groups()] == [1]
