"""The manager under attack: cancelled, stopped while it starts, with bad plugins, many times over."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from contracts.errors import BusError, PluginNotFound, PluginStateError, PluginStepFailed
from contracts.messages import StartPlugin, StopPlugin
from kernel import contain
from kernel.manager import PluginManager
from kernel.settings import BusSettings, Deadlines, Settings
from kernel.testing import Harness, MockPlugin
from plugbus import BasePlugin, Event, PluginNotReady, PluginStatus, Query, on, provides


class Tick(Event, type="attack.tick"):
    n: int = 0


class Ask(Query[int], capability="attack.ask"):
    pass


class Waiting(BasePlugin, plugin_id="waiting", version="1", security_level="trusted"):
    """Waits in the step that `step` names, until `leave` is set."""

    step = ""
    entered: asyncio.Event
    leave: asyncio.Event
    log: list[str]

    @classmethod
    def make(cls, step: str) -> type[Waiting]:
        made = type("Waiting", (cls,), {"step": step, "log": [], "__manifest__": cls.__manifest__})
        made.entered, made.leave = asyncio.Event(), asyncio.Event()
        return made

    async def _at(self, name: str) -> None:
        self.log.append(name)
        self.context.on_close(lambda: self.log.append(f"undo {name}"))
        if name == self.step:
            self.entered.set()
            await self.leave.wait()

    async def initialize(self) -> None:
        await self._at("initialize")

    async def start(self) -> None:
        await self._at("start")

    async def stop(self) -> None:
        await self._at("stop")

    async def shutdown(self) -> None:
        await self._at("shutdown")


def manager_in(folder: Path, **options: Deadlines) -> PluginManager:
    settings = Settings(state_dir=folder / "state", plugin_paths=(), **options)
    return PluginManager(settings, profile="embedded", backoff=0.0)


EVERYTHING = [
    "initialize", "start", "stop", "undo stop", "undo start", "shutdown", "undo shutdown", "undo initialize",
]  # fmt: skip


@pytest.mark.parametrize("step", ["initialize", "start"])
async def test_a_start_that_nobody_waits_for_is_not_cut_in_half(tmp_path: Path, step: str) -> None:
    """Whoever gives up waiting gives up waiting; the plugin is started."""
    plugin = Waiting.make(step)
    async with manager_in(tmp_path) as manager:
        await manager.register_plugin(plugin)
        starting = asyncio.create_task(manager.start_plugin("waiting"))
        await plugin.entered.wait()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        plugin.leave.set()
        await manager.kernel.operations.idle("waiting")
        assert manager.get_plugin("waiting").status is PluginStatus.STARTED
    assert plugin.log == EVERYTHING


@pytest.mark.parametrize("step", ["stop", "shutdown"])
async def test_a_stop_that_nobody_waits_for_is_not_cut_in_half(tmp_path: Path, step: str) -> None:
    """The plugin is stopped once, wholly, and can be started again."""
    plugin = Waiting.make(step)
    async with manager_in(tmp_path) as manager:
        await manager.register_plugin(plugin)
        await manager.start_plugin("waiting")
        stopping = asyncio.create_task(manager.stop_plugin("waiting"))
        await plugin.entered.wait()
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        plugin.leave.set()
        await manager.kernel.operations.idle("waiting")
        assert manager.get_plugin("waiting").status is PluginStatus.UNLOADED
        assert plugin.log == EVERYTHING
        await manager.start_plugin("waiting")


@pytest.mark.parametrize("step", ["initialize", "start"])
async def test_a_boot_that_is_cancelled_undoes_what_was_begun(tmp_path: Path, step: str) -> None:
    """Nothing is left open, and another kernel can have the state folder."""
    plugin = Waiting.make(step)
    manager = manager_in(tmp_path)
    await manager.register_plugin(plugin)
    starting = asyncio.create_task(manager.start())
    await plugin.entered.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    undone = [word for word in plugin.log if word.startswith("undo")]
    assert undone[-1] == "undo initialize"
    assert ("undo start" in undone) == (step == "start")
    assert manager.get_plugin("waiting").status is PluginStatus.UNLOADED
    async with manager_in(tmp_path):
        pass


async def test_a_manager_that_is_stopped_while_it_starts_does_not_start(tmp_path: Path) -> None:
    """The start says so; later waves are not begun."""
    plugin = Waiting.make("start")
    later = MockPlugin.make("later", dependencies=("waiting",))
    manager = manager_in(tmp_path)
    for one in (plugin, later):
        await manager.register_plugin(one)
    starting = asyncio.create_task(manager.start())
    await plugin.entered.wait()
    await manager.stop()
    with pytest.raises(BusError, match="stopped while it was starting"):
        await starting
    assert later.steps == []
    assert plugin.log[-1] == "undo initialize"


@pytest.mark.parametrize("step", ["stop", "shutdown"])
async def test_a_cancelled_stop_of_the_manager_is_finished_first(tmp_path: Path, step: str) -> None:
    """Everything is closed when the cancellation is raised; two that stop it wait for the same end."""
    plugin = Waiting.make(step)
    manager = manager_in(tmp_path)
    await manager.register_plugin(plugin)
    await manager.start()
    stopping = [asyncio.create_task(manager.stop()) for _ in range(2)]
    await plugin.entered.wait()
    stopping[0].cancel()
    await asyncio.sleep(0)
    assert not any(task.done() for task in stopping)
    plugin.leave.set()
    await asyncio.wait(stopping)
    assert stopping[0].cancelled()
    assert stopping[1].result() is None
    assert plugin.log == EVERYTHING
    with pytest.raises(RuntimeError, match="started once"):
        await manager.start()
    async with manager_in(tmp_path):
        pass


class Own(BaseException):
    """What no `except Exception` catches."""


@pytest.mark.parametrize("step", ["initialize", "start", "stop", "shutdown"])
@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), Own("mine")], ids=repr)
async def test_a_step_that_raises_no_exception_harms_nobody_else(
    tmp_path: Path, step: str, error: BaseException
) -> None:
    """SystemExit, a CancelledError of the plugin's own, and other exits fail the step, and only that."""

    class Exits(BasePlugin, plugin_id="exits", version="1", security_level="trusted"):
        async def _at(self, name: str) -> None:
            if name == step:
                raise error

    for name in ("initialize", "start", "stop", "shutdown"):
        setattr(Exits, name, lambda self, name=name: self._at(name))
    other = MockPlugin.make("other")
    async with manager_in(tmp_path) as manager:
        await manager.register_plugin(other)
        await manager.register_plugin(Exits)
        await manager.start_plugin("other")
        if step in ("initialize", "start"):
            with pytest.raises(PluginStepFailed, match=f"{step} of Exits"):
                await manager.start_plugin("exits")
        else:
            await manager.start_plugin("exits")
            with pytest.raises(PluginStepFailed, match=f"{step} of Exits"):
                await manager.stop_plugin("exits")
        assert manager.get_plugin("exits").status is PluginStatus.ERROR
        assert manager.get_plugin("other").status is PluginStatus.STARTED
        assert manager.registry.record("exits").current is None
        if step in ("stop", "shutdown"):
            await manager.start_plugin("exits")  # and so that the whole is stopped over it
    assert other.steps == ["initialize", "start", "stop", "shutdown"]


@pytest.mark.parametrize("step", ["initialize", "start", "stop", "shutdown"])
async def test_a_step_that_ignores_its_cancellation_does_not_hold_the_kernel_up(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left behind and named; nothing of the plugin stays active."""
    monkeypatch.setattr(contain, "CANCEL_GRACE", 0.02)
    release = asyncio.Event()

    class Stubborn(BasePlugin, plugin_id="stubborn", version="1", security_level="trusted"):
        @on
        async def tick(self, event: Tick) -> None: ...

        async def hang(self) -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

    setattr(Stubborn, step, Stubborn.hang)
    deadlines = Deadlines(initialize=0.02, start=0.02, stop=0.02, shutdown=0.02)
    async with manager_in(tmp_path, deadlines=deadlines) as manager:
        await manager.register_plugin(Stubborn)
        if step in ("initialize", "start"):
            with pytest.raises(PluginStepFailed, match=f"{step} took longer"):
                await manager.start_plugin("stubborn")
        else:
            await manager.start_plugin("stubborn")
            with pytest.raises(PluginStepFailed, match=f"{step} took longer"):
                await manager.stop_plugin("stubborn")
        assert manager.registry.record("stubborn").current is None
        assert [group.state for group in await manager.bus.groups()] in ([], ["dormant"])
        assert [entry.plugin_id for entry in manager.bus.types()] == []
    release.set()
    left = [task for task in asyncio.all_tasks() if "Stubborn" in task.get_name()]
    if left:
        await asyncio.wait(left)


async def test_types_that_another_kernel_declares_are_not_left_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two kernels on one bus have the same plugin: the one that unloads it blames it for nothing."""

    class Teller(BasePlugin, plugin_id="teller", version="1", security_level="trusted"):
        @on
        async def tick(self, event: Tick) -> None: ...

    def kernel(name: str) -> PluginManager:
        bus = BusSettings(url="memory://two-kernels")
        settings = Settings(state_dir=tmp_path / name, plugin_paths=(), bus=bus, replica=name)
        return PluginManager(settings, profile="embedded", backoff=0.0)

    async with kernel("one") as one, kernel("other") as other:
        for manager in (one, other):
            await manager.register_plugin(Teller)
            await manager.start_plugin("teller")
        assert [entry.replicas for entry in one.bus.types()] == [("one", "other")]
        await one.stop_plugin("teller")
        assert [entry.replicas for entry in one.bus.types()] == [("other",)]
    assert "left behind" not in caplog.text


@pytest.mark.parametrize("where", ["start", "stop", "handler"])
async def test_a_plugin_that_stops_itself_anywhere_is_stopped(harness: Harness, where: str) -> None:
    """Accepted at once, done when the step that is under way has ended."""
    outcomes: list[str] = []

    class Leaver(
        BasePlugin, plugin_id="leaver", version="1", security_level="trusted", requests=("kernel.plugin.*",)
    ):
        async def leave(self, at: str) -> None:
            if at == where:
                outcomes.append((await self.context.request(StopPlugin(plugin_id="leaver"))).outcome)

        async def start(self) -> None:
            await self.leave("start")

        async def stop(self) -> None:
            await self.leave("stop")

        @on
        async def tick(self, event: Tick) -> None:
            await self.leave("handler")

    tail = harness.bus.tail("plugin.unloaded")
    await harness.load(Leaver)
    if where == "handler":
        await harness.publish(Tick())
    if where == "stop":
        await harness.unload("leaver")
    async for _ in tail:
        break
    tail.close()
    await harness.manager.kernel.operations.idle("leaver")
    assert outcomes == ["accepted"]
    assert harness.plugin("leaver").status is PluginStatus.UNLOADED


async def test_stopping_a_plugin_that_waits_ends_the_waiting(harness: Harness) -> None:
    """One retry at a time for each plugin, however often it is started, and none after a stop."""
    tries: list[int] = []

    class Never(BasePlugin, plugin_id="never", version="1", security_level="trusted"):
        async def initialize(self) -> None:
            tries.append(1)
            raise PluginNotReady("not today", retry_after=3600)

    with pytest.raises(PluginStepFailed):
        await harness.load(Never)
    with pytest.raises(PluginStepFailed):
        await harness.manager.start_plugin("never")
    await asyncio.sleep(0)
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("retry")] == [
        "retry never"
    ]
    assert await harness.manager.kernel.control.stop("never", "test")
    assert not await harness.manager.kernel.control.stop("never", "test")
    info = harness.plugin("never")
    assert (info.status, info.activity) == (PluginStatus.UNLOADED, "none")
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("retry")]
    assert len(tries) == 2


async def test_who_waits_for_a_plugin_that_was_not_ready_starts_after_it(tmp_path: Path) -> None:
    """A dependency that is late does not leave its users in error for ever."""
    tries: list[int] = []

    class Late(BasePlugin, plugin_id="late", version="1", security_level="trusted"):
        async def initialize(self) -> None:
            tries.append(1)
            if len(tries) < 3:
                raise PluginNotReady("not yet")

    user = MockPlugin.make("user", dependencies=("late",))
    last = MockPlugin.make("last", dependencies=("user",))
    manager = manager_in(tmp_path)
    for plugin in (last, user, Late):
        await manager.register_plugin(plugin)
    await manager.start()
    assert manager.get_plugin("last").status is PluginStatus.ERROR
    tail = manager.bus.tail("plugin.started")
    async for item in tail:
        if '"plugin_id":"last"' in item.data:
            break
    tail.close()
    assert {info.plugin_id for info in manager.plugins() if info.status is PluginStatus.STARTED} == {
        "late", "user", "last",
    }  # fmt: skip
    await manager.stop()
    assert last.steps == user.steps == ["initialize", "start", "stop", "shutdown"]


async def test_a_required_plugin_that_is_stopped_makes_the_kernel_not_ready(harness: Harness) -> None:
    """Ready means that everything that is required is started, not only that nothing failed."""
    await harness.load(MockPlugin.make("needed", criticality="required"))
    assert (await harness.manager.readiness()).status == "ready"
    await harness.unload("needed")
    readiness = await harness.manager.readiness()
    assert readiness.status == "not_ready"
    assert "needed" in readiness.reasons[0]


async def test_a_running_handler_may_ask_its_own_plugin_while_it_drains(harness: Harness) -> None:
    """Providers answer until the handlers have finished."""
    entered, leave, answers = asyncio.Event(), asyncio.Event(), list[int]()

    class Both(BasePlugin, plugin_id="both", version="1", security_level="trusted", requests=("attack.ask",)):
        @on
        async def tick(self, event: Tick) -> None:
            entered.set()
            await leave.wait()
            answers.append(await self.context.request(Ask()))

        @provides
        async def answer(self, query: Ask) -> int:
            return 42

    await harness.load(Both)
    await harness.publish(Tick())
    await entered.wait()
    stopping = asyncio.create_task(harness.manager.stop_plugin("both"))
    await asyncio.sleep(0)
    leave.set()
    await stopping
    assert answers == [42]


async def test_a_context_does_nothing_after_its_plugin_is_unloaded(harness: Harness) -> None:
    """Whoever held on to it is told; nothing is published, started or acquired."""
    kept: list[BasePlugin] = []

    class Keeper(
        BasePlugin, plugin_id="keeper", version="1", security_level="trusted",
        publishes=("attack.tick",), subscribes=("attack.tick",), requests=("kernel.plugin.list",),
    ):  # fmt: skip
        async def start(self) -> None:
            kept.append(self)
            await self.context.publish(Tick())

    async def handle(event: object) -> None: ...

    await harness.load(Keeper)
    await harness.unload("keeper")
    context = kept[0].context
    for doing in (
        context.publish(Tick()), context.publish_many([Tick()]), context.subscribe(handle, "attack.tick"),
        context.request(StartPlugin(plugin_id="keeper")),
    ):  # fmt: skip
        with pytest.raises(PluginStateError):
            await doing
    with pytest.raises(PluginStateError):
        context.spawn(asyncio.sleep(0), name="late")
    with pytest.raises(PluginStateError):
        context.on_close(lambda: None)
    await harness.quiet()
    assert len(harness.published(Tick)) == 1
    assert all(group.state == "dormant" for group in await harness.bus.groups())


async def test_an_error_with_a_huge_message_is_told_shortly(harness: Harness) -> None:
    """The record, the log and the announcement stay readable; the announcement gets through."""
    from contracts.messages import PluginFailed

    class Loud(BasePlugin, plugin_id="loud", version="1", security_level="trusted"):
        async def start(self) -> None:
            raise RuntimeError("x" * 3_000_000)

    with pytest.raises(PluginStepFailed) as caught:
        await harness.load(Loud)
    assert len(str(caught.value)) < 5_000
    await harness.quiet()
    [fact] = harness.published(PluginFailed)
    assert len(fact.error) < 5_000
    reason = harness.plugin("loud").reason
    assert reason is not None
    assert len(reason.text) < 5_000


async def test_two_hundred_plugins_start_and_stop(tmp_path: Path) -> None:
    """In waves, without work that grows with the square of their number."""
    manager = manager_in(tmp_path)
    count = 200
    for n in range(count):
        needs = (f"p{n - 10}",) if n >= 10 else ()
        await manager.register_plugin(MockPlugin.make(f"p{n}", dependencies=needs, handles=["attack.tick"]))
    began = time.monotonic()
    await manager.start()
    assert len([i for i in manager.plugins() if i.status is PluginStatus.STARTED]) == count
    await manager.stop()
    assert time.monotonic() - began < 10


async def test_two_managers_in_one_process_do_not_meet(tmp_path: Path) -> None:
    """The same file in both: each has its own generation of it, and one's unloading is not the other's."""
    file = tmp_path / "twin.py"
    file.write_text(
        "from plugbus import BasePlugin\n"
        "class Twin(BasePlugin, plugin_id='twin', version='1', security_level='trusted'): ...\n"
    )
    async with manager_in(tmp_path / "one") as one, manager_in(tmp_path / "two") as two:
        for manager in (one, two):
            await manager.register_plugin(file)
            await manager.start_plugin("twin")
        await one.stop_plugin("twin")
        await one.start_plugin("twin")
        await one.stop_plugin("twin")
        assert two.get_plugin("twin").status is PluginStatus.STARTED
        assert [name for name in sys.modules if name.endswith("twin.g1.twin")]
    assert not [name for name in sys.modules if name.startswith("_plugins")]


WITH_EVERYTHING = """
import asyncio, logging
from contextlib import asynccontextmanager
from plugbus import BasePlugin, Event, PluginEvent, Query, on, provides
log = logging.getLogger(__name__)
class Went(Event, type="whole.went"):
    n: int
class Sum(Query[int], capability="whole.sum"):
    a: int
class Whole(BasePlugin, plugin_id="whole", version="1", security_level="trusted"):
    async def initialize(self):
        await self.context.enter(self.held())
    @asynccontextmanager
    async def held(self):
        with open(__file__) as file:
            yield file
    async def start(self):
        self.context.every(3600, self.turn)
        self.context.spawn(asyncio.Event().wait(), name="waits")
        await self.context.subscribe(self.more, "whole.went", name="more")
    async def turn(self): ...
    async def more(self, event: PluginEvent): ...
    @on
    async def went(self, event: Went) -> None: ...
    @provides
    async def sum(self, query: Sum) -> int:
        return query.a
    async def get_api_router(self):
        return self.page
    async def page(self, scope, receive, send): ...
    async def get_static_mounts(self):
        return []
"""


def _is_passing(thread: threading.Thread) -> bool:
    """Threads of the loop's own executor stay as long as the loop; an import's has done its work."""
    if thread.name == "plugbus import":
        thread.join(5)
        return not thread.is_alive()
    return thread.name.startswith("asyncio_")


def _what_there_is() -> dict[str, int]:
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH208, PTH112 - counted often
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": len([t for t in threading.enumerate() if not _is_passing(t)]),
        "descriptors": descriptors,
        "modules": len(sys.modules),
        "loggers": len(logging.Logger.manager.loggerDict),
        "finders": len(sys.meta_path),
        "objects": len(gc.get_objects()),
    }


async def test_a_hundred_generations_leave_nothing_behind(tmp_path: Path) -> None:
    """Tasks, threads, descriptors, modules, loggers, finders and objects are as many as before."""
    file = tmp_path / "whole.py"
    file.write_text(WITH_EVERYTHING)
    async with manager_in(tmp_path) as manager:
        await manager.register_plugin(file)

        async def cycles(count: int) -> None:
            for _ in range(count):
                await manager.start_plugin("whole")
                await manager.stop_plugin("whole")
            await manager.kernel.settle()

        await cycles(10)
        before = _what_there_is()
        await cycles(100)
        after = _what_there_is()
        tail = manager.bus.tail("plugin.leaked", position="oldest")
        assert tail.read_nowait() == []
        tail.close()
    # The bus retains what was announced: seven facts for each cycle, of a few objects each, and no more.
    assert after.pop("objects") - before.pop("objects") < 100 * 7 * 4
    assert {name: n for name, n in after.items() if n > before[name]} == {}


@pytest.mark.parametrize("plugin_id", ["webhooks", "host_monitor", "alerts", "audit"])
async def test_starting_an_example_again_and_again_leaves_nothing_behind(
    tmp_path: Path, plugin_id: str
) -> None:
    """The plugins that people copy from are clean."""
    async with manager_in(tmp_path) as manager:
        await manager.start_plugin(plugin_id)
        await manager.stop_plugin(plugin_id)
        before = _what_there_is()
        for _ in range(10):
            await manager.start_plugin(plugin_id)
            await manager.stop_plugin(plugin_id)
        after = _what_there_is()
        # Objects are left out: FastAPI remembers the last 4,096 route functions. Less than before is no
        # leak: what an earlier test left to the collector may go meanwhile.
        assert {name: n for name, n in after.items() if name != "objects" and n > before[name]} == {}


class One(BasePlugin, plugin_id="one", version="1", security_level="trusted"):
    """Nothing but there."""


async def test_an_instance_is_started_when_it_is_first_asked_for(tmp_path: Path) -> None:
    """Lazily, once for all who ask; what they get is a handle."""
    async with manager_in(tmp_path) as manager:
        await manager.register_plugin(One)
        handles = await asyncio.gather(*(manager.get_plugin_instance("one") for _ in range(3)))
        assert {(handle.id, handle.status) for handle in handles} == {("one", PluginStatus.STARTED)}
        assert manager.registry.record("one").loads == 1
        with pytest.raises(PluginNotFound):
            await manager.get_plugin_instance("nobody")
