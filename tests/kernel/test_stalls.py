"""A plugin that blocks the event loop is named with its stack, while it does."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from contracts.messages import PluginStalled, ShowPlugin
from kernel import stall_watch
from kernel.settings import HealthSettings, Settings
from kernel.stall_watch import Frame, Stack, StallWatch, stack_of
from kernel.testing import Harness
from plugbus import Event

PATIENCE = 20.0
"""Seconds after which a test gives up."""

NAMED = threading.Event()
"""Somebody was named; what blocks goes on until then."""


class Go(Event, type="stall.go"):
    pass


class Naming(logging.Handler):
    """Lets what blocks go on once it is named."""

    def emit(self, record: logging.LogRecord) -> None:
        if "blocks the event loop" in record.getMessage():
            NAMED.set()


class Waiting(logging.Handler):
    """Until the loop itself has said something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self.seen = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.seen.set()


@pytest.fixture(autouse=True)
def named() -> threading.Event:
    NAMED.clear()
    return NAMED


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """Whose log is listened to."""
    log, naming = logging.getLogger("plugbus.kernel"), Naming()
    log.addHandler(naming)
    settings = Settings(health=HealthSettings(stall_after=0.2))
    async with Harness(tmp_path, settings=settings) as running:
        yield running
    log.removeHandler(naming)


BLOCKER = f"""
import importlib
from plugbus import BasePlugin, PluginEvent, on
class Blocker(BasePlugin, plugin_id="blocker", version="1"):
    @on("stall.go")
    async def work(self, event: PluginEvent) -> None:
        helper()
def helper():
    import threading
    library(threading)
def library(threading):
    for found in threading._plugbus_test:
        found.wait({PATIENCE})
"""


async def blocked(harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "blocker.py"
    file.write_text(BLOCKER)
    monkeypatch.setattr(threading, "_plugbus_test", [NAMED], raising=False)
    await harness.load(file)
    await harness.publish(Go())
    await harness.quiet()
    assert NAMED.is_set(), "it was named while it blocked: nothing else lets it go on"
    return file


async def test_who_blocks_is_named_with_its_stack_while_it_blocks(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and again with the duration when it is over; then it is announced, counted and shown."""
    file = await blocked(harness, tmp_path, monkeypatch)
    tail = harness.bus.tail("plugin.stalled", position="oldest")
    await anext(tail)
    tail.close()
    await harness.quiet()
    [fact] = harness.published(PluginStalled)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("blocker ")]
    assert len(lines) == 2
    assert lines[0].startswith("blocker blocks the event loop, for more than 0.2 s so far:")
    assert "Blocker.work" in lines[0]
    assert lines[-1].startswith("blocker has blocked the event loop for ")
    assert fact.plugin_id == "blocker"
    assert fact.seconds >= 0.2
    assert fact.place == f"{file}:13"
    functions = [call.partition(" ")[0] for call in fact.stack]
    assert functions[-3:] == ["library", "helper", "Blocker.work"]
    shown = await harness.request(ShowPlugin(plugin_id="blocker"))
    assert shown.metrics is not None
    assert shown.metrics.stalls == 1
    assert shown.last_stall is not None
    assert (shown.last_stall.place, shown.last_stall.stack) == (fact.place, fact.stack)
    record = await harness.manager.kernel.metrics.look()
    [metric] = [metric for metric in record.metrics if metric.name == "plugbus.loop.stalls"]
    assert [point.value >= 1 for point in metric.points] == [True]  # type: ignore[union-attr]


@pytest.mark.parametrize("step", ["__init__", "configure"])
async def test_who_blocks_while_it_is_loaded_is_named_too(
    harness: Harness,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
) -> None:
    """It is no generation yet, and announced as the one that it becomes."""
    word = "def" if step == "__init__" else "async def"
    file = tmp_path / "blocker.py"
    file.write_text(
        "import threading\nfrom plugbus import BasePlugin\n"
        'class Blocker(BasePlugin, plugin_id="blocker", version="1"):\n'
        f"    {word} {step}(self, *_):\n"
        f"        threading._plugbus_test[0].wait({PATIENCE})\n"
    )
    monkeypatch.setattr(threading, "_plugbus_test", [NAMED], raising=False)
    log, over = logging.getLogger("plugbus.kernel"), Waiting("has blocked the event loop")
    log.addHandler(over)
    await harness.load(file)
    await asyncio.wait_for(over.seen.wait(), PATIENCE)
    log.removeHandler(over)
    assert "blocker blocks the event loop" in caplog.text
    assert f"  at Blocker.{step} " in caplog.text
    await harness.quiet()
    [fact] = harness.published(PluginStalled)
    assert (fact.plugin_id, fact.generation, fact.place) == ("blocker", 1, f"{file}:5")


async def test_what_is_no_plugin_is_named_as_that(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """Counted, and announced of nobody."""
    log, over = logging.getLogger("plugbus.kernel"), Waiting("has blocked the event loop")
    log.addHandler(over)
    NAMED.wait(PATIENCE)
    await asyncio.wait_for(over.seen.wait(), PATIENCE)
    log.removeHandler(over)
    assert harness.manager.kernel.stalls.count >= 1
    assert "something that is no plugin blocks" in caplog.text
    assert "test_what_is_no_plugin" in caplog.text
    await harness.quiet()
    assert harness.published(PluginStalled) == []


async def test_an_application_is_not_watched_unless_it_asks(tmp_path: Path) -> None:
    """No thread of ours is there."""
    async with Harness(tmp_path):
        assert not [thread for thread in threading.enumerate() if "stall" in thread.name]
    async with Harness(tmp_path / "other", settings=Settings(health=HealthSettings(stall_after=1))):
        assert [thread for thread in threading.enumerate() if "stall" in thread.name]
    assert not [thread for thread in threading.enumerate() if "stall" in thread.name]


# --- the clocks and the stack -------------------------------------------------------------------------------


class Time:
    """Clocks that a test sets."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def monotonic(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.cpu


@pytest.mark.parametrize(
    ("wall", "cpu", "counted"),
    [(0.02, 0.0, 0.02), (60.0, 0.01, 0.05), (3.0, 2.0, 2.0)],
    ids=["as always", "it was stopped", "it computed and let nobody else run"],
)
def test_only_time_in_which_the_process_ran_counts(
    monkeypatch: pytest.MonkeyPatch, wall: float, cpu: float, counted: float
) -> None:
    """A process that was stopped for a minute has not stalled."""
    time = Time()
    monkeypatch.setattr(stall_watch, "time", time)
    clocks = stall_watch._Clocks()
    time.wall, time.cpu = wall, cpu
    assert clocks.passed(most=0.05) == counted
    assert clocks.passed(most=0.05) == 0.0


@pytest.mark.parametrize(
    ("innermost", "told"),
    [
        (Frame("selectors", "EpollSelector.select", "selectors.py:1"), False),
        (Frame("pdb", "Pdb.interaction", "pdb.py:1"), False),
        (Frame("app", "handler", "app.py:1"), True),
    ],
    ids=["idle", "debugger", "blocked"],
)
async def test_an_idle_loop_and_a_debugger_are_no_stall(
    monkeypatch: pytest.MonkeyPatch, innermost: Frame, told: bool
) -> None:
    """What the stack shows decides, although the loop has not answered."""
    looked, seen = threading.Event(), list[Stack]()

    def look(ident: int) -> Stack:
        if told or looks:
            looked.set()
        looks.append(ident)
        return (innermost,)

    looks: list[int] = []
    monkeypatch.setattr(stall_watch, "stack_of", look)
    watch = StallWatch(0.02, seen.append, lambda seconds: None)
    watch.start()
    assert looked.wait(PATIENCE)  # blocks the loop
    watch.stop()
    assert bool(seen) is told


def hog() -> None:
    """Computes without letting go of the interpreter: no other thread runs meanwhile."""
    sum(range(8_000_000))


async def test_code_that_does_not_let_go_of_the_interpreter_is_named() -> None:
    """As soon as it does: nobody could look before, the thread neither."""
    seen, ended = list[Stack](), list[float]()
    watch = StallWatch(0.05, seen.append, ended.append)
    watch.start()
    try:
        async with asyncio.timeout(PATIENCE):
            while not ended:  # the first may come before it has begun to look
                hog()
                await asyncio.sleep(0)
    finally:
        watch.stop()
    assert {stack[0].function for stack in seen} == {"hog"}
    assert ended[0] >= 0.05


def test_a_stack_is_told_from_the_inside() -> None:
    """Module, function and place of each call."""
    ready, leave = threading.Event(), threading.Event()

    def inner() -> None:
        ready.set()
        leave.wait(PATIENCE)

    def outer(call: Callable[[], None]) -> None:
        call()

    thread = threading.Thread(target=outer, args=(inner,))
    thread.start()
    ready.wait(PATIENCE)
    stack = stack_of(thread.ident or 0)
    leave.set()
    thread.join()
    names = [frame.function.rpartition(".")[2] for frame in stack if frame.module == __name__]
    assert names == ["inner", "outer"]
    assert stack_of(0) == ()
