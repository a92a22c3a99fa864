"""How plugins are: asked at an interval, whatever they do is an answer, and what readiness makes of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.health import HealthReport
from contracts.messages import ListPlugins, PluginHealthChanged, PluginLeaked, ShowHealth, ShowPlugin
from kernel.settings import Deadlines, HealthSettings, Settings
from kernel.testing import Harness
from plugbus import BasePlugin, HealthCheck, PerformanceMetrics, PluginStatus

WELL, POOR, ILL = (
    HealthCheck(),
    HealthCheck(status="degraded"),
    HealthCheck(status="unhealthy", message="no db"),
)
Check = Callable[[], Awaitable[HealthCheck]]


class Patient(BasePlugin, plugin_id="patient", version="1", security_level="trusted"):
    """Answers what a test wants it to."""

    says: Any = WELL
    asked = 0

    async def health_check(self) -> HealthCheck:
        Patient.asked += 1
        said = Patient.says
        return await said() if callable(said) else said  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patient, "says", WELL)
    monkeypatch.setattr(Patient, "asked", 0)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    settings = Settings(deadlines=Deadlines(health=0.05), health=HealthSettings(interval=3600, failures=2))
    async with Harness(tmp_path, settings=settings) as running:
        yield running


async def ask(harness: Harness, says: Any, plugin_id: str = "patient") -> HealthReport:
    """One poll, in which the plugin says so."""
    Patient.says = says
    await harness.manager.kernel.health.check(harness.manager.registry.record(plugin_id))
    [report] = await harness.request(ShowHealth(plugin_id=plugin_id))
    return report


async def status(harness: Harness) -> str:
    return (await harness.manager.readiness()).status


async def test_an_optional_plugin_degrades_and_is_named(harness: Harness) -> None:
    """After two bad answers in a row, with its message; at once well again."""
    await harness.load(Patient)
    assert (await ask(harness, WELL)).checked_at is not None
    assert (await ask(harness, ILL)).counts_as == "healthy"
    assert await status(harness) == "ready"
    report = await ask(harness, ILL)
    assert (report.counts_as, report.failures, report.message) == ("unhealthy", 2, "no db")
    readiness = await harness.manager.readiness()
    assert (readiness.status, readiness.reasons) == ("degraded", ("patient: unhealthy: no db",))
    assert (await ask(harness, WELL)).failures == 0
    assert await status(harness) == "ready"


async def test_a_required_plugin_that_is_unhealthy_makes_the_kernel_not_ready(harness: Harness) -> None:
    """One that calls itself degraded does not: it works."""
    await harness.load(Patient, criticality="required")
    for says, expected in ((POOR, "ready"), (POOR, "degraded"), (ILL, "degraded"), (ILL, "not_ready")):
        await ask(harness, says)
        assert await status(harness) == expected
    await ask(harness, POOR)
    assert await status(harness) == "degraded"


async def test_it_counts_as_the_mildest_of_the_answers_in_a_row(harness: Harness) -> None:
    """One grave answer among light ones does not take a kernel out of work."""
    await harness.load(Patient)
    await ask(harness, POOR)
    assert (await ask(harness, ILL)).counts_as == "degraded"


async def test_a_change_is_announced_and_logged_once(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """Not at each poll."""
    caplog.set_level(logging.INFO, "plugbus.kernel")
    await harness.load(Patient)
    for says in (ILL, ILL, ILL, ILL, WELL, WELL):
        await ask(harness, says)
    await harness.quiet()
    facts = harness.published(PluginHealthChanged)
    assert [(fact.before, fact.status, fact.failures) for fact in facts] == [
        ("healthy", "unhealthy", 2),
        ("unhealthy", "healthy", 0),
    ]
    assert [record.message for record in caplog.records if "patient is" in record.message] == [
        "patient is unhealthy, was healthy: no db",
        "patient is healthy, was unhealthy",
    ]


async def test_health_is_told_everywhere(harness: Harness) -> None:
    """In the list, for one plugin, and as a figure; no longer once it is stopped."""
    await harness.load(Patient)
    await ask(harness, POOR)
    await ask(harness, POOR)
    [listed] = [item for item in await harness.request(ListPlugins()) if item.plugin_id == "patient"]
    shown = await harness.request(ShowPlugin(plugin_id="patient"))
    assert listed.health is not None
    assert shown.health == listed.health
    assert listed.health.counts_as == "degraded"
    record = await harness.manager.kernel.metrics.look()
    [metric] = [metric for metric in record.metrics if metric.name == "plugbus.plugin.health"]
    assert {point.attributes["plugbus.plugin.health"]: point.value for point in metric.points} == {  # type: ignore[union-attr]
        "healthy": 0, "degraded": 1, "unhealthy": 0,
    }  # fmt: skip
    await harness.unload("patient")
    assert await harness.request(ShowHealth()) == ()
    assert harness.plugin("patient").health is None


async def never() -> HealthCheck:
    await asyncio.Event().wait()
    return WELL


async def late() -> HealthCheck:
    time.sleep(0.06)  # noqa: ASYNC251 - the loop is to be blocked for longer than the deadline
    return WELL


async def broken() -> HealthCheck:
    raise KeyError("dsn")


async def leaves() -> HealthCheck:
    raise SystemExit(3)


async def cancels_itself() -> HealthCheck:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()
    return WELL


async def too_much() -> HealthCheck:
    return HealthCheck(status="degraded", message="m" * 5_000, details={"rows": "d" * 20_000})


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (never, "no answer within 0.05 s"),
        (late, "longer than 0.05 s"),
        (broken, "KeyError"),
        (leaves, "SystemExit"),
        (cancels_itself, "cancelled"),
        ("fine", "returned str"),
        (None, "returned NoneType"),
        (HealthCheck.model_construct(status="purple"), "status: Input should be 'healthy'"),  # type: ignore[arg-type]
    ],
    ids=["never", "late", "raises", "exits", "cancels", "text", "nothing", "no_status"],
)
async def test_whatever_a_check_does_is_an_answer(harness: Harness, says: Any, message: str) -> None:
    """One that says what came instead."""
    handle = await harness.load(Patient)
    report = await ask(harness, says)
    assert report.status == "unhealthy"
    assert message in report.message
    assert (await ask(harness, WELL)).status == "healthy"
    assert (await handle.health()).status == "healthy"


async def test_an_answer_is_kept_within_bounds(harness: Harness) -> None:
    """What a plugin says is held in memory and shown on a screen."""
    await harness.load(Patient)
    report = await ask(harness, too_much)
    assert len(report.message) == 1_000
    assert list(report.details) == ["left_out"]


async def test_a_check_that_does_not_end_is_not_started_again(harness: Harness) -> None:
    """It ignores its cancellation: it is named, once more when its plugin is unloaded, and not piled up."""
    leave = asyncio.Event()

    async def stubborn() -> HealthCheck:
        while not leave.is_set():
            try:
                await leave.wait()
            except asyncio.CancelledError:
                continue
        return WELL

    await harness.load(Patient)
    await ask(harness, stubborn)
    report = await ask(harness, stubborn)
    assert "does not end" in report.message
    assert Patient.asked == 1
    await harness.unload("patient")
    await harness.quiet()
    [fact] = harness.published(PluginLeaked)
    assert fact.leaks == ("task health check of patient",)
    [left] = [task for task in asyncio.all_tasks() if task.get_name() == "health check of patient"]
    leave.set()
    await asyncio.wait([left])


async def test_who_asks_while_somebody_asks_hears_the_same(harness: Harness) -> None:
    """A plugin is never asked twice at once."""
    handle = await harness.load(Patient)
    asked, gate = asyncio.Event(), asyncio.Event()

    async def gated() -> HealthCheck:
        asked.set()
        await gate.wait()
        return POOR

    Patient.says = gated
    both = asyncio.gather(handle.health(), handle.health())
    await asked.wait()
    gate.set()
    assert [check.status for check in await both] == ["degraded", "degraded"]
    assert Patient.asked == 1


async def test_a_check_under_way_ends_with_its_plugin(harness: Harness) -> None:
    """And who waits for the answer is told; nothing of it is left."""
    handle = await harness.load(Patient)
    asked = asyncio.Event()

    async def hangs() -> HealthCheck:
        asked.set()
        return await never()

    Patient.says = hangs
    waiting = asyncio.create_task(handle.health())
    await asked.wait()
    await harness.unload("patient")
    assert (await waiting).message == "the plugin is stopping"
    await harness.quiet()
    assert harness.published(PluginLeaked) == []
    assert harness.published(PluginHealthChanged) == []
    assert handle.status is PluginStatus.UNLOADED


class Counting(BasePlugin, plugin_id="counting", version="1", security_level="trusted"):
    """Has figures, and no check."""

    figures: Any = PerformanceMetrics(extra={"rows": 3.0})

    def get_metrics(self) -> PerformanceMetrics:
        return Counting.figures  # type: ignore[no-any-return]


async def test_figures_that_cannot_be_had_are_an_answer_too(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`degraded`: it says that it is well, and cannot tell its figures."""
    await harness.load(Counting)
    assert (await ask(harness, None, "counting")).status == "healthy"
    monkeypatch.setattr(Counting, "figures", "many")
    report = await ask(harness, None, "counting")
    assert (report.status, "get_metrics returned str" in report.message) == ("degraded", True)


async def test_plugins_are_asked_at_the_interval_side_by_side(tmp_path: Path) -> None:
    """One that hangs does not hold up the others, and both end with the kernel."""
    often = asyncio.Event()

    class Slow(BasePlugin, plugin_id="slow", version="1", security_level="trusted"):
        asked = 0

        async def health_check(self) -> HealthCheck:
            Slow.asked += 1
            return await never()

    async def count() -> HealthCheck:
        if Patient.asked >= 5:
            often.set()
        return WELL

    Patient.says = count
    settings = Settings(health=HealthSettings(interval=0.001))
    async with Harness(tmp_path, settings=settings) as harness:
        await harness.load(Slow)
        await harness.load(Patient)
        await asyncio.wait_for(often.wait(), 10)
        assert Slow.asked == 1
    assert not [task for task in asyncio.all_tasks() if "health" in task.get_name()]
