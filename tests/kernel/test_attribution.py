"""What each plugin takes: loop time, handler time, attempts, calls, tasks, what is pending."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI

from contracts.event import EventData
from contracts.messages import ListPlugins, ShowPlugin
from kernel.attribution import figures_of
from kernel.finding import Profile
from kernel.hosts.own_tasks import OwnTasks
from kernel.manager import PluginManager
from kernel.settings import PluginSettings, load_settings
from kernel.testing import Harness
from plugbus import (
    ASGIApp,
    BasePlugin,
    Event,
    EventResult,
    HealthCheck,
    PerformanceMetrics,
    Query,
    RetryPolicy,
    StaticMount,
    on,
    provides,
)

BUSY = 0.02
"""Seconds for which a step of a test blocks the loop."""


class Job(Event, type="load.job"):
    kind: str


class Done(Event, type="load.done"):
    pass


class Ask(Query[int], capability="load.ask"):
    pass


def block() -> None:
    until = time.perf_counter() + BUSY
    while time.perf_counter() < until:
        pass


async def wait(seconds: float = BUSY) -> None:
    await asyncio.sleep(seconds)


class Worker(BasePlugin, plugin_id="worker", version="1", security_level="trusted"):
    spawns = asyncio.Event

    @on(retry=RetryPolicy(attempts=2, first_delay=0))
    async def work(self, event: Job) -> Done | EventResult | None:
        match event.kind:
            case "blocks":
                block()
                await asyncio.sleep(0)
                block()
            case "waits":
                await wait()
            case "fails":
                raise ValueError
            case "again":
                return EventResult.retry("not yet")
            case "publishes":
                return Done()
            case "spawns":
                await self.context.spawn(self.busy(), name="busy")
        return None

    async def busy(self) -> None:
        await asyncio.sleep(0)
        block()

    @provides
    async def ask(self, query: Ask) -> int:
        block()
        return 1

    async def get_api_router(self) -> ASGIApp:
        router = APIRouter()

        @router.get("/busy")
        async def busy() -> str:
            block()
            return "done"

        return router

    async def get_static_mounts(self) -> list[StaticMount]:
        return []

    async def health_check(self) -> HealthCheck:
        return HealthCheck()

    def get_metrics(self) -> PerformanceMetrics:
        return PerformanceMetrics(handled=99, extra={"jobs": 7.0})


@pytest.fixture
async def worker(harness: Harness) -> Harness:
    await harness.load(Worker)
    await figures(harness)
    return harness


async def figures(harness: Harness) -> PerformanceMetrics:
    found = (await harness.request(ShowPlugin(plugin_id="worker"))).metrics
    assert found is not None
    return found


async def handle(harness: Harness, *kinds: str) -> PerformanceMetrics:
    for kind in kinds:
        await harness.publish(Job(kind=kind))
    await harness.quiet()
    return await figures(harness)


async def test_blocking_is_loop_time_and_waiting_is_not(worker: Harness) -> None:
    """Both are handler time."""
    before = await figures(worker)
    waited = await handle(worker, "waits")
    assert waited.handler_seconds - before.handler_seconds >= BUSY * 0.9
    assert waited.loop_seconds - before.loop_seconds < BUSY
    blocked = await handle(worker, "blocks")
    assert blocked.loop_seconds - waited.loop_seconds >= 2 * BUSY
    assert blocked.handler_seconds - waited.handler_seconds >= 2 * BUSY


async def test_an_idle_plugin_takes_no_time(worker: Harness) -> None:
    """The lane that waits for events is not at work."""
    first = await handle(worker, "quick")
    await wait()
    again = await figures(worker)
    assert again.handler_seconds == first.handler_seconds
    assert again.seconds > first.seconds


async def test_attempts_failures_and_events_are_counted(worker: Harness) -> None:
    """Each attempt once, and what a handler returns counts as published."""
    found = await handle(worker, "quick", "fails", "again", "publishes")
    assert (found.handled, found.failed, found.published) == (6, 4, 1)
    assert found.pending == 0


async def test_providers_tasks_and_requests_take_loop_time(worker: Harness) -> None:
    """Not handlers alone."""
    before = await figures(worker)
    await worker.request(Ask())
    called = await figures(worker)
    assert called.calls == 1
    assert called.loop_seconds - before.loop_seconds >= BUSY
    assert (await worker.http.get("/plugins/worker/busy")).json() == "done"
    served = await figures(worker)
    assert served.loop_seconds - called.loop_seconds >= BUSY
    assert (await handle(worker, "spawns")).loop_seconds - served.loop_seconds >= BUSY


async def test_tasks_are_counted_while_they_live(harness: Harness) -> None:
    """Those that were spawned over the context."""
    ended = asyncio.Event()

    class Spawner(BasePlugin, plugin_id="worker", version="1", security_level="trusted"):
        async def start(self) -> None:
            self.context.spawn(asyncio.Event().wait(), name="for ever")
            Spawner.short = self.context.spawn(ended.wait(), name="short")

    await harness.load(Spawner)
    assert (await figures(harness)).tasks == 2
    ended.set()
    await asyncio.wait([Spawner.short])  # type: ignore[attr-defined]
    assert (await figures(harness)).tasks == 1


async def test_its_own_figures_stand_beside_what_is_measured(worker: Harness) -> None:
    """What it says of `extra` is taken; what the kernel measures itself is not taken from it."""
    await worker.manager.kernel.health.check(worker.manager.registry.record("worker"))
    found = await figures(worker)
    assert (found.handled, found.extra) == (0, {"jobs": 7.0})
    assert found.memory_bytes is None


async def test_figures_are_listed_and_end_with_the_plugin(worker: Harness) -> None:
    """A plugin that is not started has none."""
    [listed] = [item for item in await worker.request(ListPlugins()) if item.plugin_id == "worker"]
    assert listed.metrics is not None
    record = await worker.manager.kernel.metrics.look()
    its_own = {"plugbus.plugin.id": "worker"}
    told = {m.name for m in record.metrics if any(point.attributes == its_own for point in m.points)}
    assert {name.removeprefix("plugbus.plugin.") for name in told} == {
        "calls", "failed", "handled", "handler.time", "loop.time", "pending", "published", "stalls", "tasks",
    }  # fmt: skip
    await worker.unload("worker")
    assert worker.plugin("worker").metrics is None


async def test_each_plugin_pays_for_itself(worker: Harness) -> None:
    """Who asks another one does not pay for its answer."""

    class Asker(BasePlugin, plugin_id="asker", version="1", security_level="trusted", requests=("load.ask",)):
        @on(name="asks")
        async def asks(self, event: Done) -> None:
            await self.context.request(Ask())

    await worker.load(Asker)
    await worker.publish(Done())
    await worker.quiet()
    shown = await worker.request(ShowPlugin(plugin_id="asker"))
    assert shown.metrics is not None
    assert shown.metrics.loop_seconds < BUSY
    assert shown.metrics.handler_seconds >= BUSY


TASKS = """
import asyncio, time
from plugbus import BasePlugin, Event, on

class Go(Event, type="tasks.go"):
    pass

class Tasks(BasePlugin, plugin_id="tasks", version="1.0", security_level="trusted"{more}):
    @on
    async def go(self, event: Go) -> None:
        await asyncio.gather(self.busy(), self.busy())

    async def busy(self) -> None:
        await asyncio.sleep(0)
        time.sleep(0.1)
"""


@pytest.mark.parametrize("more", ["", ", instances=2"])
@pytest.mark.parametrize(("profile", "least"), [("run", 0.2), ("embedded", 0.0)])
async def test_tasks_that_a_plugin_makes_itself_count(
    tmp_path: Path, profile: Profile, least: float, more: str
) -> None:
    """Those of its own coroutines, in a loop that is ours; an application's loop is left as it is."""
    loop = asyncio.get_running_loop()
    (tmp_path / "tasks.py").write_text(TASKS.format(more=more))
    settings = load_settings(
        overrides={"state_dir": tmp_path / "state", "plugin_paths": [tmp_path / "tasks.py"]}, environ={}
    )
    off = {name: PluginSettings(enabled=False) for name in ("gateway", "audit")}
    settings = settings.model_copy(update={"plugins": {**settings.plugins, **off}})
    async with PluginManager(settings, profile=profile, consent=[tmp_path / "tasks.py"]) as manager:
        assert (loop.get_task_factory() is None) is (profile == "embedded")
        await manager.bus.publish(EventData(type="tasks.go", data="{}"), source="/test")
        await manager.bus.quiet()
        found = figures_of(manager.registry.record("tasks"))
    assert found is not None
    assert least <= found.loop_seconds < least + 0.1
    assert loop.get_task_factory() is None


async def test_the_loop_of_an_application_around_the_kernel_is_left_as_it_is(tmp_path: Path) -> None:
    """Whatever built-ins it has on: its tasks are none of ours, and it is not watched unasked."""
    app = FastAPI()
    PluginManager(app, settings=load_settings(overrides={"state_dir": tmp_path / "state"}, environ={}))
    async with app.router.lifespan_context(app):
        assert asyncio.get_running_loop().get_task_factory() is None
        assert "plugbus stall watch" not in {thread.name for thread in threading.enumerate()}


async def test_a_loop_that_makes_its_tasks_otherwise_is_left_alone() -> None:
    """Whoever else makes them goes on to, also if they come later."""
    loop, own = asyncio.get_running_loop(), OwnTasks()

    def theirs(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=loop, **more)

    loop.set_task_factory(theirs)
    own.follow(loop)()
    assert loop.get_task_factory() is theirs
    loop.set_task_factory(None)
    leave = own.follow(loop)
    loop.set_task_factory(theirs)
    leave()
    assert loop.get_task_factory() is theirs
    loop.set_task_factory(None)
