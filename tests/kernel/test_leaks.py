"""The proof that nothing is left of a plugin: what is left is named, and what others have is left alone."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import PluginStepFailed
from contracts.messages import PluginLeaked
from kernel.settings import Deadlines, Settings
from kernel.testing import Harness
from plugbus import Event

HEAD = "import asyncio, threading\nfrom plugbus import BasePlugin, PluginEvent, on\n"


class Go(Event, type="leak.go"):
    pass


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a plugin's file and its test both reach, as `threading.shared`."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(threading, "shared", found, raising=False)
    return found


def plugin(folder: Path, plugin_id: str, body: str) -> Path:
    file = folder / f"{plugin_id}.py"
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    file.write_text(f"{HEAD}class It(BasePlugin, plugin_id={plugin_id!r}, version='1'):\n{lines}")
    return file


async def leaks_of(harness: Harness) -> list[str]:
    await harness.quiet()
    return [leak for fact in harness.published(PluginLeaked) for leak in fact.leaks]


async def ended(name: str) -> None:
    for task in asyncio.all_tasks():
        if name in task.get_name():
            task.cancel()
            await asyncio.wait([task])


async def test_two_kernels_with_one_plugin_do_not_accuse_each_other(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    """The same file runs in both: what the one has at work is no leak of the other."""
    file = plugin(
        tmp_path, "twice",
        "async def start(self):\n"
        "    self.context.spawn(self.run(), name='at work')\n"
        "    if self.context.config.get('strays'):\n"
        "        threading.shared['stray'] = asyncio.create_task(self.run(), name='a stray')\n"
        "async def run(self):\n"
        "    await asyncio.Event().wait()",
    )  # fmt: skip
    async with Harness(tmp_path / "a") as one, Harness(tmp_path / "b") as other:
        assert shared == {}
        await one.load(file)
        await other.load(file, config={"strays": True})
        await one.unload("twice")
        assert await leaks_of(one) == []
        await other.unload("twice")
        [leak] = await leaks_of(other)
        assert leak.startswith("task a stray (It.run, ")
        assert str(file) in leak
    await ended("a stray")


async def test_the_next_generation_is_not_accused_of_what_a_former_has_left(
    harness: Harness, tmp_path: Path, shared: dict[str, Any]
) -> None:
    """A stray is named once, with the generation whose code it runs."""
    file = plugin(
        tmp_path, "again",
        "async def start(self):\n"
        "    if self.context.generation == 1:\n"
        "        waiting = asyncio.Event().wait()\n"
        "        threading.shared['other'] = asyncio.create_task(waiting, name='of a library')\n"
        "        threading.shared['stray'] = asyncio.create_task(self.run(), name='a stray')\n"
        "async def run(self):\n"
        "    await asyncio.Event().wait()",
    )  # fmt: skip
    await harness.load(file)
    await harness.unload("again")
    assert sorted(shared) == ["other", "stray"]
    assert len(await leaks_of(harness)) == 1
    await harness.manager.start_plugin("again")
    await harness.unload("again")
    assert len(await leaks_of(harness)) == 1
    await ended("a stray")
    await ended("of a library")


async def test_a_thread_that_is_left_is_named(
    harness: Harness, tmp_path: Path, shared: dict[str, Any]
) -> None:
    """With the function of the plugin in which it is."""
    leave = shared["leave"] = threading.Event()
    file = plugin(
        tmp_path, "threaded",
        "async def start(self):\n"
        "    threading.Thread(target=self.run, name='left', daemon=True).start()\n"
        "def run(self):\n"
        "    threading.shared['leave'].wait(20)",
    )  # fmt: skip
    await harness.load(file)
    await harness.unload("threaded")
    leave.set()
    [leak] = await leaks_of(harness)
    assert leak.startswith("thread left (It.run, ")


async def test_a_thread_that_ends_by_itself_is_no_leak(
    harness: Harness, tmp_path: Path, shared: dict[str, Any]
) -> None:
    """A call in a thread cannot be cancelled; it is waited for a moment."""
    entered, leave = shared["entered"], shared["leave"] = threading.Event(), threading.Event()
    file = plugin(
        tmp_path, "calling",
        "async def start(self):\n"
        "    self.context.spawn(asyncio.to_thread(self.run), name='call')\n"
        "async def shutdown(self):\n"
        "    asyncio.get_running_loop().call_later(0.05, threading.shared['leave'].set)\n"
        "def run(self):\n"
        "    threading.shared['entered'].set()\n"
        "    threading.shared['leave'].wait(20)",
    )  # fmt: skip
    await harness.load(file)
    await asyncio.to_thread(entered.wait)
    await harness.unload("calling")
    assert leave.is_set()
    assert await leaks_of(harness) == []


@pytest.mark.parametrize("step", ["stop", "shutdown"])
async def test_a_step_down_that_never_ends_is_left_behind_and_named(
    tmp_path: Path, shared: dict[str, Any], step: str
) -> None:
    """It is over its deadline and ignores its cancellation; the kernel goes on without it."""
    leave = shared["leave"] = asyncio.Event()
    file = plugin(
        tmp_path, "stubborn",
        f"async def {step}(self):\n"
        "    while not threading.shared['leave'].is_set():\n"
        "        try:\n"
        "            await threading.shared['leave'].wait()\n"
        "        except asyncio.CancelledError:\n"
        "            pass",
    )  # fmt: skip
    settings = Settings(deadlines=Deadlines(stop=0.05, shutdown=0.05))
    async with Harness(tmp_path / "state", settings=settings) as harness:
        await harness.load(file)
        with pytest.raises(PluginStepFailed, match=f"{step} took longer than 0.05 s"):
            await harness.unload("stubborn")
        leaks = await leaks_of(harness)
        assert any(f"It.{step}" in leak for leak in leaks), leaks
        leave.set()
        for task in asyncio.all_tasks():
            if step in task.get_name():
                await asyncio.wait([task])


async def test_a_handler_that_never_ends_is_named(tmp_path: Path, shared: dict[str, Any]) -> None:
    """It ignores its cancellation when its plugin is drained."""
    leave, entered = asyncio.Event(), asyncio.Event()
    shared.update(leave=leave, entered=entered)
    file = plugin(
        tmp_path, "handler",
        "@on('leak.go')\n"
        "async def handle(self, event: PluginEvent) -> None:\n"
        "    threading.shared['entered'].set()\n"
        "    while not threading.shared['leave'].is_set():\n"
        "        try:\n"
        "            await threading.shared['leave'].wait()\n"
        "        except asyncio.CancelledError:\n"
        "            pass",
    )  # fmt: skip
    settings = Settings(deadlines=Deadlines(drain=0.01, stop=0.05))
    async with Harness(tmp_path / "state", settings=settings) as harness:
        await harness.load(file)
        await harness.publish(Go())
        await entered.wait()
        with pytest.raises(PluginStepFailed, match="stop took longer"):
            await harness.unload("handler")
        await harness.manager.kernel.settle()
        tail = harness.bus.tail("plugin.leaked", position="oldest")
        leak = (await anext(tail)).data
        tail.close()
        assert "It.handle" in leak
        lanes = [task for task in asyncio.all_tasks() if "handler.handle" in task.get_name()]
        leave.set()
        await asyncio.wait(lanes)
