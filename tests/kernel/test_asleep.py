"""A lazy plugin that is not loaded, as others see it: there, well, and waiting to be needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from contracts.errors import PluginBusy, PluginStepFailed, ProviderFailed
from contracts.messages import (
    CapabilityOffered,
    CapabilityWithdrawing,
    DropGroup,
    ListGroups,
    PluginQuarantined,
    PluginUnloaded,
    ReleaseFromQuarantine,
)
from kernel.testing import Harness
from plugbus import BasePlugin, Event, PluginStatus, Query, on, provides

S = PluginStatus
LAZY: dict[str, Any] = {"version": "1.0.0", "security_level": "trusted", "activation": "lazy"}


class Rang(Event, type="bell.rang"):
    n: int = 0


class Count(Query[int], capability="bell.count"):
    pass


def bell(*, rank: int = 0, **metadata: Any) -> type[BasePlugin]:
    """A class of the test's own, which fails to start for as long as its `broken` is true."""

    class Bell(BasePlugin):
        seen: ClassVar[list[int]] = []
        broken: ClassVar[bool] = False

        async def start(self) -> None:
            if self.broken:
                raise RuntimeError("the clapper is lost")

        @on
        async def watch(self, event: Rang) -> None:
            self.seen.append(event.n)

        @provides(rank=rank)
        async def count(self, query: Count) -> int:
            return len(self.seen)

    said = {"subscribes": {"watch": ["bell.rang"]}, "provides": ["bell.count"], **LAZY, **metadata}
    return type("OwnBell", (Bell,), {"seen": [], "broken": False}, plugin_id="bell", **said)


@asynccontextmanager
async def kernel_with(tmp_path: Path, *plugins: type | Path, **more: Any) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path, **more)
    for plugin in plugins:
        await harness.manager.register_plugin(plugin)
    async with harness:
        yield harness


async def facts(harness: Harness, kind: Any, count: int) -> None:
    """As soon as there were so many of them."""
    tail = harness.bus.tail(kind.__event_type__, position="oldest")
    async for _ in tail:
        count -= 1
        if not count:
            break
    tail.close()


async def stop_asleep(harness: Harness) -> None:
    """As soon as it has gone to sleep."""
    async with asyncio.timeout(10):
        while True:
            try:
                await harness.manager.stop_plugin("bell")
            except PluginBusy:
                await asyncio.sleep(0)
            else:
                return


def news(harness: Harness) -> list[tuple[str, int]]:
    """What was said of the capability, in order, with the rank."""
    kinds = {CapabilityOffered.__event_type__: "offered", CapabilityWithdrawing.__event_type__: "withdrawing"}
    said = [
        (kinds[item.envelope.type], json.loads(item.data))
        for item in harness.published()
        if item.envelope.type in kinds
    ]
    return [(kind, fact["rank"]) for kind, fact in said if fact["capability"] == "bell.count"]


# --- what is said of its capabilities ----------------------------------------------------------------------


async def test_a_capability_is_offered_once_however_often_its_plugin_wakes(tmp_path: Path) -> None:
    """Asleep it is available; it is withdrawn once, when the plugin is stopped."""
    async with kernel_with(tmp_path, bell(idle_timeout=0.01)) as harness:
        await harness.quiet()
        assert news(harness) == [("offered", 0)]
        for n in range(1, 4):
            assert await harness.request(Count()) == 0
            await facts(harness, PluginUnloaded, n)
        await harness.quiet()
        assert news(harness) == [("offered", 0)]
        await stop_asleep(harness)
        await harness.quiet()
        assert news(harness) == [("offered", 0), ("withdrawing", 0)]
        await harness.manager.start_plugin("bell")
        await facts(harness, PluginUnloaded, 4)
        await harness.quiet()
        assert news(harness) == [("offered", 0), ("withdrawing", 0), ("offered", 0)]


async def test_stopped_awake_it_is_withdrawn_once(tmp_path: Path) -> None:
    """And by a start that fails not at all: it is tried again by whoever needs it next."""
    made = bell()
    made.broken = True
    async with kernel_with(tmp_path, made) as harness:
        with pytest.raises(PluginStepFailed):
            await harness.manager.activate("bell")
        made.broken = False
        await harness.manager.activate("bell")
        await harness.quiet()
        assert news(harness) == [("offered", 0)]
        await harness.manager.stop_plugin("bell")
        await harness.quiet()
        assert news(harness) == [("offered", 0), ("withdrawing", 0)]


async def test_another_rank_than_was_said_is_news(tmp_path: Path) -> None:
    """The rank is known once the code was loaded; then it holds while the plugin sleeps as well."""
    async with kernel_with(tmp_path, bell(rank=7, idle_timeout=0.01)) as harness:
        for n in range(1, 3):
            await harness.request(Count())
            await facts(harness, PluginUnloaded, n)
        await harness.quiet()
        assert news(harness) == [("offered", 0), ("offered", 7)]


async def test_what_ends_in_quarantine_or_is_replaced_is_withdrawn(tmp_path: Path) -> None:
    """Once; and offered again when it is released, or another plugin is in its place."""
    made = bell()
    made.broken = True
    async with kernel_with(tmp_path, made) as harness:
        await harness.publish(Rang())
        await facts(harness, PluginQuarantined, 1)
        await facts(harness, CapabilityWithdrawing, 1)
        made.broken = False
        await harness.request(ReleaseFromQuarantine(plugin_id="bell"))
        await harness.quiet()
        assert news(harness) == [("offered", 0), ("withdrawing", 0), ("offered", 0)]
        await harness.manager.stop_plugin("bell")
        await harness.load(bell(rank=1))
        await harness.quiet()
        assert news(harness)[3:] == [("withdrawing", 0), ("offered", 1)]


async def test_what_only_the_manifest_promises_is_withdrawn_at_the_first_load(tmp_path: Path) -> None:
    """While it slept, who asked would have been told only after a start that there is none."""
    async with kernel_with(tmp_path, bell(provides=["bell.count", "bell.pitch"])) as harness:
        await harness.manager.activate("bell")
        await harness.quiet()
        offered = {fact.capability for fact in harness.published(CapabilityOffered)}
        gone = {fact.capability for fact in harness.published(CapabilityWithdrawing)}
        assert (offered, gone) == ({"bell.count", "bell.pitch"}, {"bell.pitch"})


async def test_a_kernel_that_stops_withdraws_what_sleeps(tmp_path: Path) -> None:
    """As it does what runs."""
    async with kernel_with(tmp_path, bell()) as harness:
        tail = harness.bus.tail(CapabilityWithdrawing.__event_type__, position="oldest")
        await harness.manager.kernel.shutdown("the test is over")
        assert json.loads((await anext(tail)).data)["capability"] == "bell.count"
        tail.close()


# --- how it is ----------------------------------------------------------------------------------------------


async def test_asleep_and_waking_it_is_well(tmp_path: Path) -> None:
    """As readiness has it; what is asked says why there is nothing to say. Stopped, or failing, it is not."""
    made = bell(criticality="required")
    starting, go_on = asyncio.Event(), asyncio.Event()

    async def start(self: Any) -> None:
        starting.set()
        await go_on.wait()
        if self.broken:
            raise RuntimeError("the clapper is lost")

    made.start = start  # type: ignore[method-assign]
    async with kernel_with(tmp_path, made) as harness:
        handle = harness.manager.get_plugin("bell")
        asleep = await handle.health()
        assert (asleep.status, asleep.message) == ("healthy", "not loaded until it is needed")
        assert (await harness.manager.readiness()).status == "ready"
        waking = asyncio.create_task(harness.manager.activate("bell"))
        await starting.wait()
        assert (await handle.health()).status == "healthy"
        assert (await harness.manager.readiness()).status == "ready"
        go_on.set()
        await waking
        await harness.manager.stop_plugin("bell")
        stopped = await handle.health()
        assert (stopped.status, stopped.message) == ("unhealthy", "application")
        assert (await harness.manager.readiness()).status == "not_ready"
        made.broken = True  # type: ignore[attr-defined]
        with pytest.raises(PluginStepFailed):
            await harness.manager.activate("bell")
        failed = await handle.health()
        assert (failed.status, failed.message) == ("unhealthy", "the clapper is lost")
        assert (await harness.manager.readiness()).status == "not_ready"


async def test_its_group_is_told_apart_from_one_that_is_handled(tmp_path: Path) -> None:
    """Sleeping, active while it is loaded, and dormant once it is stopped: only then it may be dropped."""

    async def state() -> str:
        [group] = await harness.request(ListGroups())
        return group.state

    async with kernel_with(tmp_path, bell()) as harness:
        assert await state() == "sleeping"
        with pytest.raises(ProviderFailed, match=r"'bell\.watch' is in use"):
            await harness.request(DropGroup(group="bell.watch"))
        await harness.manager.activate("bell")
        assert await state() == "active"
        await harness.manager.stop_plugin("bell")
        assert await state() == "dormant"


UNREADABLE = """
from plugbus import BasePlugin, PluginEvent, on

WHERE = {"start": "new"}

class Bell(BasePlugin, plugin_id="bell", version="1.0.0", security_level="trusted", activation="lazy",
           subscribes={"watch": ["bell.rang"], "other": ["bell.rang"]}):
    @on("bell.rang", **WHERE)
    async def watch(self, event: PluginEvent) -> None: ...

    @on("bell.rang", start="new")
    async def other(self, event: PluginEvent) -> None: ...
"""


async def test_where_a_group_begins_that_cannot_be_read_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, at the first load, with the handler and what to write."""
    (tmp_path / "bell.py").write_text(UNREADABLE)
    async with kernel_with(tmp_path, tmp_path / "bell.py") as harness:
        for _ in range(2):
            await harness.manager.activate("bell")
            await harness.quiet()
            await harness.manager.stop_plugin("bell")
    told = [one.getMessage() for one in caplog.records if "cannot be read before" in one.getMessage()]
    assert [line.split()[0] for line in told] == ["bell.watch"]


# --- commands ---------------------------------------------------------------------------------------------


async def test_it_is_not_stopped_while_it_goes_to_sleep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused at once, nothing changed, though no step of it is under way any more."""
    async with kernel_with(tmp_path, bell(idle_timeout=0.01)) as harness:
        subscribe, standing_in, go_on = harness.bus.subscribe, asyncio.Event(), asyncio.Event()

        async def slowly(spec: Any, *given: Any, **more: Any) -> Any:
            if spec.generation == 0:
                standing_in.set()
                await go_on.wait()
            return await subscribe(spec, *given, **more)

        monkeypatch.setattr(harness.bus, "subscribe", slowly)
        await harness.manager.activate("bell")
        await standing_in.wait()
        async with asyncio.timeout(5):
            with pytest.raises(PluginBusy, match="being activated or unloaded"):
                await harness.manager.stop_plugin("bell")
        go_on.set()
        await stop_asleep(harness)
        info = harness.plugin("bell")
        assert (info.status, info.reason and info.reason.code) == (S.UNLOADED, "stopped")
