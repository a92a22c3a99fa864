"""Several providers of one capability: who is asked, who takes over, and what is said of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bus.calls import Offer
from bus.directory import Directory
from contracts.errors import InvalidOption, NoProvider, ProviderFailed
from contracts.event import AnyEvent, Receipt
from contracts.messages import CapabilityOffered, CapabilityWithdrawing, ListCapabilities, ShowCapability
from kernel.settings import PluginSettings, Settings
from kernel.testing import Harness
from plugbus import BasePlugin, Query, on, provides


class Quote(Query[str], capability="pricing.quote"):
    """What does it cost?"""


class Cheap(BasePlugin, plugin_id="cheap", version="1", security_level="trusted"):
    @provides
    async def quote(self, query: Quote) -> str:
        return "cheap"


class Other(BasePlugin, plugin_id="other", version="1", security_level="trusted"):
    @provides
    async def quote(self, query: Quote) -> str:
        return "other"


class Good(BasePlugin, plugin_id="good", version="1", security_level="trusted"):
    @provides(rank=10)
    async def quote(self, query: Quote) -> str:
        return "good"


class Watcher(BasePlugin, plugin_id="watcher", version="1", security_level="trusted"):
    """Hears of what goes."""

    notices: ClassVar[list[CapabilityWithdrawing]] = []
    heard: ClassVar[asyncio.Event] = asyncio.Event()

    @on
    async def changing(self, event: CapabilityWithdrawing) -> None:
        self.notices.append(event)
        self.heard.set()


async def ask(harness: Harness) -> str:
    return await harness.request(Quote())


def said(
    harness: Harness, model: type[CapabilityOffered | CapabilityWithdrawing]
) -> list[tuple[object, ...]]:
    names = ("plugin_id", "rank", "is_best" if model is CapabilityOffered else "successor")
    return [
        tuple(getattr(event, name) for name in names)
        for event in harness.published(model)
        if event.capability == "pricing.quote"
    ]


async def test_the_best_is_asked_and_the_next_takes_over(harness: Harness) -> None:
    """Rank decides, then who came first; each that comes and goes is announced with what it means."""
    for plugin in (Cheap, Other, Good):
        await harness.load(plugin)
    assert await ask(harness) == "good"
    await harness.unload("good")
    assert await ask(harness) == "cheap"
    await harness.unload("cheap")
    assert await ask(harness) == "other"
    await harness.unload("other")
    with pytest.raises(NoProvider):
        await ask(harness)
    await harness.manager.kernel.settle()
    assert said(harness, CapabilityOffered) == [("cheap", 0, True), ("other", 0, False), ("good", 10, True)]
    assert said(harness, CapabilityWithdrawing) == [
        ("good", 10, "cheap"), ("cheap", 0, "other"), ("other", 0, ""),
    ]  # fmt: skip


async def test_it_is_said_before_it_goes(harness: Harness) -> None:
    """While handlers of the plugin that goes still run, it answers, and whoever listens knows already."""

    class Going(BasePlugin, plugin_id="going", version="1", security_level="trusted"):
        busy: ClassVar[asyncio.Event] = asyncio.Event()
        let_go: ClassVar[asyncio.Event] = asyncio.Event()

        @provides(rank=1)
        async def quote(self, query: Quote) -> str:
            return "going"

        @on
        async def work(self, event: CapabilityOffered) -> None:
            self.busy.set()
            await self.let_go.wait()

    Watcher.notices.clear()
    await harness.load(Watcher)
    await harness.load(Going)
    await harness.load(Cheap)
    await Going.busy.wait()
    unloading = asyncio.create_task(harness.unload("going"))
    await Watcher.heard.wait()
    assert not unloading.done()
    assert await ask(harness) == "going"
    assert (Watcher.notices[0].successor, Watcher.notices[0].plugin_id) == ("cheap", "going")
    Going.let_go.set()
    await unloading
    assert await ask(harness) == "cheap"


async def test_it_is_in_the_log_before_it_goes(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing holds the stop up and the bus is slow: the notice comes first."""
    await harness.load(Cheap)
    publish = harness.bus.publish

    async def slowly(event: AnyEvent, **options: Any) -> Receipt:
        for _ in range(100):
            await asyncio.sleep(0)
        return await publish(event, **options)

    monkeypatch.setattr(harness.bus, "publish", slowly)
    tail, seen, discard = harness.bus.tail("plugin.capability_withdrawing"), list[int](), Directory.discard

    def watched(directory: Directory, offer: Offer) -> None:
        if offer.spec.capability == "pricing.quote" and offer in directory:
            seen.append(len(tail.read_nowait()))
        discard(directory, offer)

    monkeypatch.setattr(Directory, "discard", watched)
    await harness.unload("cheap")
    tail.close()
    assert seen == [1]


async def test_the_operator_has_the_last_word(tmp_path: Path) -> None:
    """`[plugins.ID] ranks` instead of what the code says; both faces of the registry tell the same order."""
    settings = Settings(plugins={"cheap": PluginSettings(ranks={"pricing.quote": 11})})
    async with Harness(tmp_path, settings=settings) as harness:
        for plugin in (Other, Good, Cheap):
            await harness.load(plugin)
        assert await ask(harness) == "cheap"
        shown = await harness.request(ShowCapability(name="pricing.quote"))
        assert [(one.plugin_id, one.rank) for one in shown.providers] == [
            ("cheap", 11),
            ("good", 10),
            ("other", 0),
        ]
        assert shown.query_schema is not None
        registry = harness.manager.registry
        found = [handle.id for handle in registry.get_plugins_by_capability("pricing.quote")]
        assert found == ["cheap", "good", "other"]


async def test_a_provider_of_the_moment_is_ranked_and_announced_too(harness: Harness) -> None:
    """What `start` provides with a rank of its own is asked, listed, and gives way when it is removed."""

    class Moment(
        BasePlugin, plugin_id="moment", version="1", security_level="trusted", provides=["pricing.*"]
    ):
        @on
        async def end(self, event: CapabilityOffered) -> None:
            if event.plugin_id == "other":
                await self.offer.remove()

        async def start(self) -> None:
            self.offer = await self.context.provide(self.quote, rank=5)

        @provides
        async def stock(self, query: Stock) -> int:
            return 1

        async def quote(self, query: Quote) -> str:
            return "moment"

    await harness.load(Cheap)
    await harness.load(Moment)
    assert await ask(harness) == "moment"
    assert [one.id for one in harness.manager.registry.get_plugins_by_capability("pricing.quote")] == [
        "moment",
        "cheap",
    ]
    await harness.load(Other)
    await harness.quiet()
    assert await ask(harness) == "cheap"
    assert said(harness, CapabilityWithdrawing) == [("moment", 5, "cheap")]


async def test_who_could_provide_is_told(harness: Harness) -> None:
    """A plugin that is not started is named, in the list, and as the fix where nobody provides it."""

    class Manifested(
        Cheap, plugin_id="manifested", version="1", security_level="trusted", provides=["pricing.quote"]
    ):
        pass

    await harness.load(Manifested)
    await harness.load(Good)
    await harness.unload("manifested")
    [listed] = await harness.request(ListCapabilities(name="pricing.quote"))
    assert (listed.idle, [one.plugin_id for one in listed.providers]) == (("manifested",), ["good"])
    await harness.unload("good")
    with pytest.raises(ProviderFailed) as caught:
        await harness.request(ShowCapability(name="pricing.quote"))
    assert caught.value.info.fix == "'manifested' would: plugbus plugin start manifested"
    with pytest.raises(ProviderFailed) as caught:
        await harness.request(ShowCapability(name="kernel.capability.lst"))
    assert "did you mean 'kernel.capability.list'" in caught.value.info.fix


@pytest.mark.parametrize("rank", ["10", 1.5, True, None])
def test_a_rank_is_a_whole_number(rank: object) -> None:
    """Anything else is refused where it is written, with the line."""
    with pytest.raises(InvalidOption, match=r"rank=.*not a whole number") as caught:
        provides(rank=rank)  # type: ignore[call-overload]
    assert Path(__file__).name in caught.value.where


class Stock(Query[int], capability="pricing.stock"):
    """How many are there?"""
