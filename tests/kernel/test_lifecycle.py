"""The life of a plugin: steps, failures half-way, scopes, commands, shutdown."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import PluginBusy, PluginNotFound, PluginStateError, PluginStepFailed, ProviderFailed
from contracts.messages import (
    KernelStopping,
    ListPlugins,
    PluginFailed,
    PluginInitialized,
    PluginLeaked,
    PluginLoaded,
    PluginStarted,
    PluginStopped,
    PluginUnloaded,
    ShowPlugin,
    StartPlugin,
    StopPlugin,
)
from kernel.manager import PluginManager
from kernel.settings import Deadlines, Settings
from kernel.testing import Harness, MockPlugin
from plugbus import BasePlugin, Event, PluginNotReady, PluginStatus, Query, on, provides


class Ping(Event, type="life.ping"):
    n: int = 0


class Pong(Event, type="life.pong"):
    n: int = 0


class Sum(Query[int], capability="life.sum"):
    a: int
    b: int


class Stop(Query[str], capability="life.stop_me"):
    pass


async def test_each_change_is_announced_in_order(harness: Harness) -> None:
    """Load, initialize, start, stop and unload each say so on the bus, after the change."""
    mock = MockPlugin.make("mock", handles=["life.**"])
    await harness.load(mock)
    assert harness.plugin("mock").status is PluginStatus.STARTED
    await harness.unload("mock")
    assert harness.plugin("mock").status is PluginStatus.UNLOADED
    await harness.quiet()
    assert mock.steps == ["initialize", "start", "stop", "shutdown"]
    for kind in (PluginLoaded, PluginInitialized, PluginStarted, PluginStopped, PluginUnloaded):
        assert [fact.plugin_id for fact in harness.published(kind)] == ["mock"], kind
    order = [item.envelope.type for item in harness.published() if item.envelope.type.startswith("plugin.")]
    assert order == [f"plugin.{word}" for word in ("loaded", "initialized", "started", "stopped", "unloaded")]


@pytest.mark.parametrize("step", ["initialize", "start"])
async def test_a_failing_step_is_undone_and_the_plugin_says_why(harness: Harness, step: str) -> None:
    """The record is `error` with the reason and the place; other plugins go on; it can be tried again."""
    other = MockPlugin.make("other", handles=["life.ping"])
    await harness.load(other)
    mock = MockPlugin.make("mock", handles=["life.ping"], fails_in=step)
    with pytest.raises(PluginStepFailed, match=f"told to fail in {step}"):
        await harness.load(mock)
    info = harness.plugin("mock")
    assert info.status is PluginStatus.ERROR
    assert info.reason is not None
    assert info.reason.code == "RuntimeError"
    assert "testing.py:" in info.reason.place
    assert mock.steps == (["initialize"] if step == "initialize" else ["initialize", "start", "shutdown"])
    mock.fails_in = None
    await harness.manager.start_plugin("mock")
    await harness.publish(Ping())
    await harness.quiet()
    assert len(mock.events) == len(other.events) == 1
    assert [fact.step for fact in harness.published(PluginFailed)] == [step]


async def test_what_a_plugin_acquires_is_undone_last_in_first_out(harness: Harness) -> None:
    """Two nested scopes: what start acquired goes after stop, what initialize acquired after shutdown."""
    done: list[str] = []

    @asynccontextmanager
    async def connection(name: str) -> AsyncIterator[str]:
        yield name
        done.append(name)

    class Acquirer(BasePlugin, plugin_id="acquirer", version="1", security_level="trusted"):
        async def initialize(self) -> None:
            await self.context.enter(connection("pool"))
            self.context.on_close(lambda: done.append("initialize"))

        async def start(self) -> None:
            self.task = self.context.spawn(asyncio.Event().wait(), name="waits for ever")
            self.context.on_close(lambda: done.append("first"))
            self.context.on_close(lambda: done.append("second"))
            self.context.every(3600, self.tick)
            await self.context.subscribe(self.more, "life.ping", name="more")

        async def tick(self) -> None:
            done.append("tick")

        async def more(self, event: object) -> None: ...

        async def stop(self) -> None:
            done.append("stop")

        async def shutdown(self) -> None:
            done.append("shutdown")

    await harness.load(Acquirer, subscribes=("life.ping",))
    assert harness.plugin("acquirer").subscriptions == 1
    await harness.unload("acquirer")
    assert [word for word in done if word != "tick"] == [
        "stop", "second", "first", "shutdown", "initialize", "pool",
    ]  # fmt: skip
    await harness.quiet()
    assert harness.published(PluginLeaked) == []


async def test_a_half_done_start_is_undone_and_both_errors_survive(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """What the step had acquired is undone; an error in that is told beside the first."""
    undone: list[str] = []

    class HalfWay(BasePlugin, plugin_id="half_way", version="1", security_level="trusted"):
        async def start(self) -> None:
            self.context.on_close(lambda: undone.append("acquired"))
            self.context.on_close(self.explode)
            raise ValueError("no database")

        async def explode(self) -> None:
            raise OSError("cannot even close it")

    with pytest.raises(PluginStepFailed, match="no database"):
        await harness.load(HalfWay)
    assert undone == ["acquired"]
    assert "cannot even close it" in caplog.text


async def test_a_step_over_its_deadline_is_cancelled(tmp_path: Path) -> None:
    """A step that never returns is cut off, named, and does not hold the kernel up."""

    class Stuck(BasePlugin, plugin_id="stuck", version="1", security_level="trusted"):
        async def initialize(self) -> None:
            await asyncio.Event().wait()

    settings = Settings(deadlines=Deadlines(initialize=0.05))
    async with Harness(tmp_path, settings=settings) as harness:
        with pytest.raises(PluginStepFailed, match=r"initialize took longer than 0\.05 s") as caught:
            await harness.load(Stuck)
        assert "[deadlines] initialize" in caught.value.fix
        assert harness.plugin("stuck").status is PluginStatus.ERROR


async def test_a_module_that_hangs_at_import_is_given_up(tmp_path: Path) -> None:
    """The import runs beside the loop, under the deadline of `load`; the kernel goes on."""
    file = tmp_path / "sleepy.py"
    release = tmp_path / "release"
    file.write_text(
        "import pathlib, time\n"
        "from plugbus import BasePlugin\n"
        f"while not pathlib.Path({str(release)!r}).exists():\n    time.sleep(0.005)\n"
        "class Sleepy(BasePlugin, plugin_id='sleepy', version='1'): ...\n"
    )
    async with Harness(tmp_path, settings=Settings(deadlines=Deadlines(load=0.1))) as harness:
        try:
            with pytest.raises(PluginStepFailed, match="load took longer than"):
                await harness.load(file)
        finally:
            release.touch()
        await harness.load(MockPlugin.make("mock"))
        assert harness.plugin("mock").status is PluginStatus.STARTED


async def test_a_plugin_that_is_not_ready_is_tried_again(harness: Harness) -> None:
    """PluginNotReady means later, not never; the kernel asks again by itself."""
    tries: list[int] = []

    class Patient(BasePlugin, plugin_id="patient", version="1", security_level="trusted"):
        async def initialize(self) -> None:
            tries.append(1)
            if len(tries) < 3:
                raise PluginNotReady("the database is not up yet", retry_after=0.001)

    tail = harness.bus.tail("plugin.started")
    with pytest.raises(PluginStepFailed, match="not up yet"):
        await harness.load(Patient)
    assert harness.plugin("patient").activity == "waiting to retry"
    async for item in tail:
        assert '"plugin_id":"patient"' in item.data
        break
    tail.close()
    assert len(tries) == 3
    assert harness.plugin("patient").status is PluginStatus.STARTED


async def test_events_that_come_while_a_plugin_is_stopped_are_kept(harness: Harness) -> None:
    """A group keeps its place: after the next start everything is delivered, in order."""
    mock = MockPlugin.make("mock", handles=["life.ping"])
    await harness.load(mock)
    await harness.unload("mock")
    for n in range(3):
        await harness.publish(Ping(n=n), key="k")
    await harness.manager.start_plugin("mock")
    await harness.quiet()
    assert [event.as_(Ping).n for event in mock.events] == [0, 1, 2]


async def test_commands_are_queries(harness: Harness) -> None:
    """Plugins are listed, shown, stopped and started by requests that the kernel answers."""
    await harness.load(MockPlugin.make("mock", handles=["life.ping"], description="writes down"))
    assert "mock" in [info.plugin_id for info in await harness.request(ListPlugins())]
    details = await harness.request(ShowPlugin(plugin_id="mock"))
    assert [handler.group for handler in details.handlers] == ["mock.handle_event"]
    assert details.metadata.description == "writes down"
    stopped = await harness.request(StopPlugin(plugin_id="mock"))
    assert (stopped.outcome, stopped.plugin.status) == ("done", PluginStatus.UNLOADED)
    assert (await harness.request(StopPlugin(plugin_id="mock"))).outcome == "unchanged"
    started = await harness.request(StartPlugin(plugin_id="mock"))
    assert (started.outcome, started.plugin.status) == ("done", PluginStatus.STARTED)
    with pytest.raises(ProviderFailed) as caught:
        await harness.request(ShowPlugin(plugin_id="mick"))
    assert caught.value.info.matches(PluginNotFound.__name__)
    assert "did you mean 'mock'" in caught.value.info.fix


async def test_a_plugin_that_stops_itself_is_told_accepted(harness: Harness) -> None:
    """It cannot wait for its own end; the outcome is the lifecycle message."""

    class Suicidal(
        BasePlugin, plugin_id="suicidal", version="1", security_level="trusted", requests=("kernel.plugin.*",)
    ):
        @provides
        async def stop_me(self, query: Stop) -> str:
            return (await self.context.request(StopPlugin(plugin_id="suicidal"))).outcome

    await harness.load(Suicidal)
    tail = harness.bus.tail("plugin.unloaded")
    assert await harness.request(Stop()) == "accepted"
    async for _ in tail:
        break
    tail.close()
    assert harness.plugin("suicidal").status is PluginStatus.UNLOADED


async def test_two_commands_for_one_plugin_do_not_overlap(harness: Harness) -> None:
    """The second is refused while the first runs; the plugin's state is that of the first."""
    entered, leave = asyncio.Event(), asyncio.Event()

    class Slow(BasePlugin, plugin_id="slow", version="1", security_level="trusted"):
        async def start(self) -> None:
            entered.set()
            await leave.wait()

    await harness.manager.register_plugin(Slow)
    starting = asyncio.create_task(harness.manager.start_plugin("slow"))
    await entered.wait()
    with pytest.raises(PluginBusy, match="starting"):
        await harness.manager.stop_plugin("slow")
    leave.set()
    assert await starting
    assert harness.plugin("slow").status is PluginStatus.STARTED


async def test_a_plugin_that_others_need_is_not_stopped_under_them(harness: Harness) -> None:
    """The refusal names who needs it; starting one whose dependency is down is refused as well."""
    await harness.load(MockPlugin.make("base"))
    await harness.load(MockPlugin.make("user", dependencies=("base>=1",)))
    with pytest.raises(PluginStateError, match="needed by user"):
        await harness.manager.stop_plugin("base")
    await harness.manager.stop_plugin("user")
    await harness.manager.stop_plugin("base")
    with pytest.raises(PluginStateError, match="'base', which is not started"):
        await harness.manager.start_plugin("user")
    await harness.manager.register_plugin(MockPlugin.make("lonely", dependencies=("nobody",)))
    with pytest.raises(PluginStateError, match="nobody"):
        await harness.manager.start_plugin("lonely")


async def test_shutdown_stops_in_reverse_order_and_leaves_nothing(tmp_path: Path) -> None:
    """Users stop before what they use; afterwards the manager can be closed again without harm."""
    order: list[str] = []

    def noting(name: str, *dependencies: str) -> type[BasePlugin]:
        class Noting(
            BasePlugin, plugin_id=name, version="1", security_level="trusted", dependencies=dependencies
        ):
            async def start(self) -> None:
                order.append(f"+{name}")

            async def stop(self) -> None:
                order.append(f"-{name}")

        return Noting

    manager = PluginManager(Settings(state_dir=tmp_path, plugin_paths=()), profile="embedded")
    for plugin in (noting("c", "b"), noting("b", "a"), noting("a")):
        await manager.register_plugin(plugin)
    await manager.start()
    tail = manager.bus.tail("kernel.stopping")
    await manager.stop("test")
    await manager.stop("again")
    assert order == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert [item.envelope.type for item in tail.read_nowait()] in ([], [KernelStopping.__event_type__])
    tail.close()


async def test_running_handlers_finish_before_a_plugin_stops(harness: Harness) -> None:
    """Stop waits for what runs; nothing is cut off within the grace time, nothing is handled twice."""
    entered, leave = asyncio.Event(), asyncio.Event()
    log: list[str] = []

    class Worker(BasePlugin, plugin_id="worker", version="1", security_level="trusted"):
        @on
        async def work(self, event: Ping) -> Pong:
            entered.set()
            await leave.wait()
            log.append("handled")
            return Pong(n=event.n)

        async def stop(self) -> None:
            log.append("stop")

    await harness.load(Worker)
    await harness.publish(Ping(n=7))
    await entered.wait()
    stopping = asyncio.create_task(harness.manager.stop_plugin("worker"))
    leave.set()
    await stopping
    assert log == ["handled", "stop"]
    assert harness.published(Pong) == [Pong(n=7)]


async def test_an_unloaded_plugin_is_gone_from_the_process(harness: Harness, tmp_path: Path) -> None:
    """Modules, loggers and classes of a generation leave with it; a second load is a new generation."""
    folder = tmp_path / "leaver"
    folder.mkdir()
    (folder / "plugin.toml").write_text(
        'plugin_id = "leaver"\nversion = "1.0"\nentry_point = "leaver:Leaver"\nsecurity_level = "trusted"\n'
    )
    (folder / "helper.py").write_text("import logging\nlog = logging.getLogger(__name__)\n")
    (folder / "leaver.py").write_text(
        "from plugbus import BasePlugin\nfrom .helper import log\nclass Leaver(BasePlugin):\n    log = log\n"
    )
    await harness.load(folder)
    module = sys.modules["_plugins.leaver.g1.leaver"]
    gone = weakref.ref(module.Leaver)
    del module
    await harness.unload("leaver")
    assert [name for name in sys.modules if name.startswith("_plugins.leaver")] == []
    for _ in range(3):  # a class is a ring, and what is in a ring may go only with the second look
        gc.collect()
    assert gone() is None
    await harness.manager.start_plugin("leaver")
    assert harness.plugin("leaver").generation == 2
    await harness.quiet()
    assert harness.published(PluginLeaked) == []


async def test_a_task_that_was_not_made_through_the_context_is_named(
    harness: Harness, tmp_path: Path
) -> None:
    """The proof that nothing is left finds a stray task, and says whose code it is."""
    file = tmp_path / "leaky.py"
    file.write_text(
        "import asyncio\nfrom plugbus import BasePlugin\n"
        "class Leaky(BasePlugin, plugin_id='leaky', version='1'):\n"
        "    async def start(self):\n"
        "        Leaky.task = asyncio.create_task(self.run_away(), name='runaway')\n"
        "    async def run_away(self):\n        await asyncio.Event().wait()\n"
    )
    await harness.load(file)
    await harness.unload("leaky")
    await harness.quiet()
    [fact] = harness.published(PluginLeaked)
    assert any("runaway" in leak and "leaky.py" in leak for leak in fact.leaks)
    for task in asyncio.all_tasks():
        if task.get_name() == "runaway":
            task.cancel()
            await asyncio.wait([task])


async def test_a_provider_is_gone_with_its_plugin(harness: Harness) -> None:
    """While the plugin runs it answers; afterwards nobody does, at once."""
    from plugbus import NoProvider

    class Adder(BasePlugin, plugin_id="adder", version="1", security_level="trusted"):
        @provides
        async def add(self, query: Sum) -> int:
            return query.a + query.b

    await harness.load(Adder)
    assert await harness.request(Sum(a=2, b=3)) == 5
    await harness.unload("adder")
    with pytest.raises(NoProvider):
        await harness.request(Sum(a=2, b=3))


async def test_when_stop_and_shutdown_both_fail_both_are_told(harness: Harness) -> None:
    """One error with both sentences, and the two as its cause; the code is let go all the same."""

    class Broken(BasePlugin, plugin_id="broken", version="1", security_level="trusted"):
        async def stop(self) -> None:
            raise ValueError("stop is broken")

        async def shutdown(self) -> None:
            raise LookupError("shutdown too")

    await harness.load(Broken)
    with pytest.raises(PluginStepFailed, match=r"stop is broken.*shutdown too") as caught:
        await harness.manager.stop_plugin("broken")
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert len(caught.value.__cause__.exceptions) == 2
    assert harness.plugin("broken").generation == 0


async def test_everybody_who_provides_is_asked(harness: Harness) -> None:
    """`request_all` gathers one answer from each replica; the registry finds who provides."""
    answers: list[list[int]] = []

    class Asker(BasePlugin, plugin_id="asker", version="1", security_level="trusted", requests=("life.*",)):
        @on
        async def ask(self, event: Ping) -> None:
            answers.append(await self.context.request_all(Sum(a=1, b=event.n)))

    class Adder(BasePlugin, plugin_id="adder", version="1", security_level="trusted"):
        @provides
        async def add(self, query: Sum) -> int:
            return query.a + query.b

    await harness.load(Adder)
    await harness.load(Asker)
    await harness.publish(Ping(n=4))
    await harness.quiet()
    assert answers == [[5]]
    registry = harness.manager.registry
    assert [handle.id for handle in registry.get_plugins_by_capability("life.sum")] == ["adder"]
    assert registry.get_plugins_by_capability("life.nothing") == []


async def test_only_steps_that_a_plugin_has_are_run(harness: Harness) -> None:
    """Each of them is a task of its own: what `BasePlugin` has for them does nothing, and costs nothing."""
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[Any]] = []

    def noted(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        tasks.append(asyncio.Task(coro, loop=loop, **options))
        return tasks[-1]

    class Idle(BasePlugin, plugin_id="idle", version="1", security_level="trusted"):
        async def stop(self) -> None: ...

    loop.set_task_factory(noted)
    try:
        await harness.load(Idle)
        await harness.unload("idle")
    finally:
        loop.set_task_factory(None)
    names = [task.get_name() for task in tasks]
    assert [name for name in names if name.endswith(" of Idle")] == ["stop of Idle"]
