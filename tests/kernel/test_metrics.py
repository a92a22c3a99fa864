"""All figures of a kernel, asked as a query."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest

import kernel.metrics
from bus.memory import MemoryBus
from contracts.bus import BusInfo, GroupInfo
from contracts.messages import MetricsRecord, ShowMetrics
from contracts.metrics import Histogram, Metric, Point
from kernel.loop_lag import LoopLag
from kernel.metrics import Metrics
from kernel.testing import Harness
from plugbus import BasePlugin, Event, RetryPolicy, on

GUIDE = (Path(__file__).resolve().parents[2] / "kernel" / "README.md").read_text()


class Bought(Event, type="shop.bought"):
    name: str


class Till(BasePlugin, plugin_id="till", version="1.0.0", security_level="trusted"):
    @on(retry=RetryPolicy(attempts=1))
    async def count(self, event: Bought) -> None:
        if event.name == "bad":
            raise ValueError(event.name)


async def ask(harness: Harness) -> MetricsRecord:
    return await harness.request(ShowMetrics())


def values(record: MetricsRecord, name: str) -> dict[tuple[str, ...], float]:
    """The points of one metric, by the values of their attributes."""
    [metric] = [metric for metric in record.metrics if metric.name == name]
    points = [point for point in metric.points if isinstance(point, Point)]
    return {tuple(point.attributes.values()): point.value for point in points}


async def test_groups_topics_plugins_and_failures_are_told(harness: Harness) -> None:
    await harness.load(Till)
    await harness.publish(Bought(name="good"))
    await harness.publish(Bought(name="bad"))
    await harness.quiet()
    record = await ask(harness)
    group = ("till.count",)
    assert values(record, "plugbus.group.handled")[group] == 1
    assert values(record, "plugbus.group.failed")[group] == 1
    assert values(record, "plugbus.group.dead_letters")[group] == 1
    assert values(record, "plugbus.group.waiting")[group] == 0
    assert group not in values(record, "plugbus.group.oldest_age"), "there is none"
    assert values(record, "plugbus.topic.published")[("shop",)] == 2
    assert values(record, "plugbus.attempts.failed") == {("till.count", "dead_letter"): 1}
    assert values(record, "plugbus.bus.connected") == {(): 1}
    states = values(record, "plugbus.plugin.status")
    assert {status for (plugin, status), value in states.items() if plugin == "till" and value} == {"started"}
    await harness.unload("till")
    states = values(await ask(harness), "plugbus.plugin.status")
    assert states["till", "started"] == 0


async def test_every_metric_is_in_the_guide_and_nothing_else(harness: Harness) -> None:
    """Whoever builds a dashboard reads it there."""
    record = await ask(harness)
    section = GUIDE.partition("## Metrics")[2].partition("\n## ")[0]
    told = {
        name
        for line in section.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`((?:plugbus|messaging)\.[a-z_.]+)`", line.split("|")[1])
    }
    assert told == {metric.name for metric in record.metrics}
    for metric in record.metrics:
        assert metric.description.endswith("."), metric.name
        assert metric.unit == "s" or re.fullmatch(r"\{[a-z]+\}", metric.unit), metric.name


class SilentBus(MemoryBus):
    async def info(self) -> BusInfo:
        return (await super().info()).model_copy(update={"connected": False})

    async def groups(self) -> list[object]:  # type: ignore[override]
        raise AssertionError("nobody asks a bus that is not connected")


async def test_of_a_bus_that_is_gone_only_its_own_figures_are_told() -> None:
    """So that whoever scrapes sees the outage, and the rest."""
    async with SilentBus() as bus:
        record = await Metrics(bus, []).look()
    names = {metric.name for metric in record.metrics}
    assert values(record, "plugbus.bus.connected") == {(): 0}
    assert "messaging.process.duration" in names
    assert "plugbus.loop.lag" in names
    assert not any(name.startswith(("plugbus.group.", "plugbus.topic.")) for name in names)


class HangingBus(MemoryBus):
    """Answers some questions, and others never."""

    hangs = "info"
    asked = 0

    async def info(self) -> BusInfo:
        if self.hangs == "info":
            await asyncio.Event().wait()
        return await super().info()

    async def groups(self) -> list[GroupInfo]:
        self.asked += 1
        if self.hangs == "groups":
            await asyncio.Event().wait()
        return await super().groups()


@pytest.mark.parametrize(("hangs", "connected"), [("info", 0), ("groups", 1)])
async def test_nobody_waits_long_for_a_bus_that_hangs(
    hangs: str, connected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is only slow to tell of its groups is not called gone."""
    monkeypatch.setattr(kernel.metrics, "PATIENCE", 0.05)
    async with HangingBus() as bus:
        bus.hangs = hangs
        async with asyncio.timeout(10):
            record = await Metrics(bus, []).look()
    assert values(record, "plugbus.bus.connected") == {(): connected}
    assert not any(metric.is_shared for metric in record.metrics)


async def test_who_asks_at_once_has_one_answer() -> None:
    async with HangingBus() as bus:
        bus.hangs = ""
        metrics = Metrics(bus, [])
        first, second = await asyncio.gather(metrics.look(), metrics.look())
        assert first is second
        assert bus.asked == 1
        assert await metrics.look() is not first


async def test_the_loop_is_measured_while_the_kernel_runs(harness: Harness) -> None:
    async with asyncio.timeout(30):
        while True:
            [lag] = [metric for metric in (await ask(harness)).metrics if metric.name == "plugbus.loop.lag"]
            if getattr(lag.points[0], "count", 0) > 1:  # again and again
                return
            await asyncio.sleep(0.05)


async def test_what_blocks_the_loop_is_seen() -> None:
    lag = LoopLag()
    lag.start()
    try:
        time.sleep(0.8)  # noqa: ASYNC251 - that is what is to be seen
        for _ in range(2):  # once round the loop: the timer is due
            await asyncio.sleep(0)
    finally:
        lag.stop()
    assert lag.lag.count == 1
    assert 0.25 < lag.lag.sum < 5


def test_a_metric_has_a_form_that_travels() -> None:
    metric = Metric(
        name="a.b", kind="histogram", unit="s", description="x.", points=(Histogram().point({"k": "v"}),)
    )
    assert Metric.model_validate_json(metric.model_dump_json()) == metric
