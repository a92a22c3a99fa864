"""The kernel's commands on groups, dead letters, replays and the catalogue, asked as queries."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, ClassVar

import pytest

from contracts.bus import CatalogEntry, DeadLetterSelection, GroupInfo
from contracts.errors import ProviderFailed
from contracts.messages import (
    AuditRecorded,
    CancelReplay,
    DiscardDeadLetters,
    DropGroup,
    ImportDeadLetters,
    ListDeadLetters,
    ListEventTypes,
    ListGroups,
    ListTopics,
    PauseGroup,
    RedriveDeadLetters,
    ReplayEvents,
    ResumeGroup,
    ShowBus,
    ShowGroup,
    ShowPlugin,
)
from kernel.commands.events import joined
from kernel.testing import Harness
from plugbus import BasePlugin, Event, RetryPolicy, on


class Ordered(Event, type="shop.ordered", version=2):
    """Somebody bought something."""

    name: str


class Shop(BasePlugin, plugin_id="shop", version="2.1.0", security_level="trusted"):
    seen: ClassVar[list[str]] = []
    broken: ClassVar[bool] = True

    @on(concurrency=3, retry=RetryPolicy(attempts=1))
    async def deliver(self, event: Ordered) -> None:
        type(self).seen.append(event.name)
        if self.broken and event.name.startswith("bad"):
            raise (KeyError if event.name == "bad key" else ValueError)(event.name)


@pytest.fixture
async def shop(harness: Harness) -> type[Shop]:
    """A shop of the test's own."""
    made = type("OwnShop", (Shop,), {"seen": []}, plugin_id="shop", version="2.1.0", security_level="trusted")
    await harness.load(made)
    return made


async def order(harness: Harness, *names: str) -> None:
    for name in names:
        await harness.publish(Ordered(name=name), key="k")


def recorded(harness: Harness, action: str) -> list[AuditRecorded]:
    found: list[AuditRecorded] = harness.published(AuditRecorded)
    return [record for record in found if record.action == action]


async def failure(asking: Awaitable[Any]) -> Any:
    """The error that the kernel answers with."""
    with pytest.raises(ProviderFailed) as caught:
        await asking
    return caught.value.info


async def test_a_group_is_paused_and_resumed(harness: Harness, shop: type[Shop]) -> None:
    """What comes meanwhile waits; who did it and why is recorded."""
    paused = await harness.request(PauseGroup(group="shop.deliver", reason="deploy"))
    assert (paused.group, paused.paused) == ("shop.deliver", "deploy")
    await order(harness, "a", "b")
    shown = await harness.request(ShowGroup(group="shop.deliver"))
    assert (shown.waiting, shop.seen) == (2, [])
    assert (await harness.request(ResumeGroup(group="shop.deliver"))).paused is None
    await harness.quiet()
    assert shop.seen == ["a", "b"]
    [record] = recorded(harness, "group.pause")
    assert (record.plugin_id, record.subject) == ("/test", "shop.deliver")
    assert dict(record.details)["reason"] == "deploy"
    assert [one.subject for one in recorded(harness, "group.resume")] == ["shop.deliver"]


async def test_a_pause_without_a_reason_names_who_asked(harness: Harness, shop: type[Shop]) -> None:
    """So that whoever finds the group paused knows whom to ask."""
    assert (await harness.request(PauseGroup(group="shop.deliver"))).paused == "paused by /test"


@pytest.mark.parametrize(
    "query",
    [
        ShowGroup(group="shop.delivr"),
        PauseGroup(group="shop.delivr"),
        ResumeGroup(group="shop.delivr"),
        DropGroup(group="shop.delivr"),
        ReplayEvents(group="shop.delivr"),
        CancelReplay(group="shop.delivr"),
        RedriveDeadLetters(selection=DeadLetterSelection(group="shop.delivr")),
        DiscardDeadLetters(selection=DeadLetterSelection(group="shop.delivr"), dry_run=True),
    ],
)
async def test_an_unknown_group_is_told_with_what_was_meant(
    harness: Harness, shop: type[Shop], query: Any
) -> None:
    """The near name, and the command that lists all; nothing is done or recorded."""
    info = await failure(harness.request(query))
    assert info.type == "contracts.errors.GroupNotFound"
    assert info.fix == "did you mean 'shop.deliver'? (plugbus group list)"
    far = await failure(harness.request(ShowGroup(group="zzz")))
    assert far.fix == "plugbus group list"
    assert harness.published(AuditRecorded) == []


async def test_only_a_group_that_nobody_handles_is_dropped(harness: Harness, shop: type[Shop]) -> None:
    """Else its handler would go on without events; what was given up is told and recorded."""
    info = await failure(harness.request(DropGroup(group="shop.deliver")))
    assert (info.type, "plugbus plugin stop shop" in info.fix) == ("contracts.errors.GroupConflict", True)
    await harness.unload("shop")
    await order(harness, "a", "b")
    dropped = await harness.request(DropGroup(group="shop.deliver"))
    assert (dropped.state, dropped.waiting) == ("dormant", 2)
    assert await harness.request(ListGroups()) == ()
    await harness.quiet()
    [record] = recorded(harness, "group.drop")
    assert dict(record.details) == {"waiting": "2", "parked": "0", "dead": "0"}


async def test_dead_letters_are_listed_page_by_page(harness: Harness, shop: type[Shop]) -> None:
    """Those that fit the selection, the newest first, each once."""
    await order(harness, *(f"bad {number}" for number in range(5)), "bad key")
    await harness.quiet()
    query = ListDeadLetters(selection=DeadLetterSelection(error="ValueError"), limit=2)
    pages: list[list[str]] = []
    for _ in range(4):
        page = await harness.request(query)
        pages.append([letter.data for letter in page])
        query = query.model_copy(update={"after": page[-1].id if page else query.after})
    named = [[f'{{"name":"bad {number}"}}' for number in numbers] for numbers in ((4, 3), (2, 1), (0,), ())]
    assert pages == named


async def test_a_dry_run_counts_and_changes_nothing(harness: Harness, shop: type[Shop]) -> None:
    """Nor is it recorded: nothing was done."""
    await order(harness, "bad 1", "bad key")
    await harness.quiet()
    chosen = DeadLetterSelection(error="KeyError")
    assert await harness.request(RedriveDeadLetters(selection=chosen, dry_run=True)) == 1
    assert await harness.request(DiscardDeadLetters(selection=chosen, dry_run=True)) == 1
    assert len(await harness.dead_letters()) == 2
    assert recorded(harness, "dlq.redrive") + recorded(harness, "dlq.discard") == []


async def test_what_was_chosen_is_redriven_or_discarded(harness: Harness, shop: type[Shop]) -> None:
    """And nothing else; the record says which and how many."""
    await order(harness, "bad 1", "bad key")
    await harness.quiet()
    assert await harness.request(DiscardDeadLetters(selection=DeadLetterSelection(error="KeyError"))) == 1
    shop.broken = False
    chosen = DeadLetterSelection(group="shop.deliver", generation=1)
    assert await harness.request(RedriveDeadLetters(selection=chosen, rate=1_000)) == 1
    await harness.quiet()
    assert shop.seen == ["bad 1", "bad key", "bad 1"]
    assert await harness.dead_letters() == []
    [redriven], [discarded] = recorded(harness, "dlq.redrive"), recorded(harness, "dlq.discard")
    assert (redriven.subject, dict(redriven.details)) == (
        "group=shop.deliver generation=1",
        {"count": "1"},
    )
    assert discarded.subject == "error=KeyError"


async def test_a_rate_lets_them_go_one_after_the_other(harness: Harness, shop: type[Shop]) -> None:
    """The others are parked until their turn."""
    await order(harness, "bad 1", "bad 2", "bad 3")
    await harness.quiet()
    everything, shop.broken = DeadLetterSelection(), False
    assert await harness.request(RedriveDeadLetters(selection=everything, rate=0.001)) == 3
    assert (await harness.request(ShowGroup(group="shop.deliver"))).parked >= 2
    assert await harness.dead_letters() == []


async def test_dead_letters_come_back_as_they_went(harness: Harness, shop: type[Shop]) -> None:
    """Those that are here already are not doubled; a group that is not here takes none of them."""
    await order(harness, "bad 1", "bad 2")
    await harness.quiet()
    letters = tuple(await harness.dead_letters())
    await harness.request(DiscardDeadLetters(selection=DeadLetterSelection(ids=(letters[0].id,))))
    stray = letters[0].model_copy(update={"group": "shop.elsewhere"})
    info = await failure(harness.request(ImportDeadLetters(letters=(letters[0], stray))))
    assert info.type == "contracts.errors.GroupNotFound"
    assert len(await harness.dead_letters()) == 1
    assert await harness.request(ImportDeadLetters(letters=letters)) == 1
    assert sorted(await harness.dead_letters(), key=lambda one: one.id) == sorted(
        letters, key=lambda one: one.id
    )
    assert [dict(record.details) for record in recorded(harness, "dlq.import")] == [
        {"given": "2", "count": "1"}
    ]


async def test_events_are_replayed_to_one_group(harness: Harness, shop: type[Shop]) -> None:
    """From the oldest, or from a position; cancelling tells what was left."""
    receipts = [await harness.publish(Ordered(name=name), key="k") for name in ("a", "b", "c")]
    await harness.quiet()
    result = await harness.request(ReplayEvents(group="shop.deliver"))
    await harness.quiet()
    assert (result.events, shop.seen) == (3, ["a", "b", "c"] * 2)
    await harness.request(ReplayEvents(group="shop.deliver", start=receipts[2].position))
    await harness.quiet()
    assert shop.seen[6:] == ["c"]
    await harness.request(PauseGroup(group="shop.deliver"))
    await harness.request(ReplayEvents(group="shop.deliver"))
    assert (await harness.request(CancelReplay(group="shop.deliver"))).events == 3
    assert [record.subject for record in recorded(harness, "event.replay")] == ["shop.deliver"] * 3
    info = await failure(harness.request(ReplayEvents(group="shop.deliver", start="nonsense")))
    assert info.type == "contracts.errors.InvalidOption"


async def test_the_catalogue_joins_who_publishes_and_who_handles(harness: Harness, shop: type[Shop]) -> None:
    """One entry for each type and version: schema, plugins that may publish it, groups that select it."""

    class Narrow(Event, type="shop.ordered", version=2):
        """What the till needs of it."""

        name: str = ""

    class Till(BasePlugin, plugin_id="till", version="1", security_level="trusted", publishes=["till.**"]):
        @on
        async def count(self, event: Narrow) -> None: ...

    await harness.load(Till)
    [info] = await harness.request(ListEventTypes(pattern="shop.*"))
    assert (info.type, info.version, info.description) == ("shop.ordered", 2, "Somebody bought something.")
    assert info.publishers == ("shop",)
    assert info.handlers == ("shop.deliver", "till.count")
    assert info.json_schema["required"] == ["name"]
    assert await harness.request(ListEventTypes(pattern="till.**")) == ()
    wrong = await failure(harness.request(ListEventTypes(pattern="shop.**.x")))
    assert wrong.type == "contracts.errors.InvalidPattern"


async def test_what_the_kernel_and_the_bus_say_is_in_the_catalogue(harness: Harness) -> None:
    """With who listens; a pattern of everything leaves it out, as in subscriptions."""
    await harness.load("audit")
    [dead] = await harness.request(ListEventTypes(pattern="bus.dead_lettered"))
    assert (dead.publishers, dead.handlers) == (("bus",), ("audit.record",))
    assert "reason" in dead.json_schema["required"]  # type: ignore[operator]
    topics = {info.type.partition(".")[0] for info in await harness.request(ListEventTypes())}
    assert topics == {"kernel", "plugin", "audit", "bus"}
    everything = await harness.request(ListEventTypes(pattern="**"))
    assert not topics & {info.type.partition(".")[0] for info in everything}


def test_what_a_publisher_says_of_a_type_comes_first() -> None:
    """Its schema and description; a handler's narrower model stands in where nobody publishes it."""
    narrow = CatalogEntry(type="shop.paid", version=1, description="narrow", plugin_id="a", published=False)
    whole = CatalogEntry(type="shop.paid", version=1, description="whole", plugin_id="b")
    [both] = joined([narrow, whole], [])
    assert (both.description, both.publishers) == ("whole", ("b",))
    [alone] = joined([narrow], [])
    assert (alone.description, alone.publishers) == ("narrow", ())


async def test_the_bus_is_shown_with_its_topics(harness: Harness, shop: type[Shop]) -> None:
    """This replica, what the backend promises, what each topic keeps."""
    await order(harness, "a", "b")
    await harness.quiet()
    bus = await harness.request(ShowBus())
    assert (bus.replica, bus.features) == (harness.bus.replica, harness.bus.features)
    assert {topic.topic: topic.events for topic in bus.topics}["shop"] == 2
    assert [topic.topic for topic in await harness.request(ListTopics())] == [
        topic.topic for topic in bus.topics
    ]


async def test_a_plugin_tells_what_its_handlers_ask_for(harness: Harness, shop: type[Shop]) -> None:
    """The options that are not the default; the plugin's version is that of its groups."""
    [handler] = (await harness.request(ShowPlugin(plugin_id="shop"))).handlers
    assert handler.options["concurrency"] == 3
    assert handler.options["retry"] == {"attempts": 1, "first_delay": 0.0, "max_delay": 0.0}
    assert set(handler.options) == {"concurrency", "retry"}
    [spec] = harness.manager.registry.record("shop").current.port.subscriptions  # type: ignore[union-attr]
    assert spec.plugin_version == "2.1.0"


async def test_groups_are_listed(harness: Harness, shop: type[Shop]) -> None:
    """As the bus tells them."""
    [group] = await harness.request(ListGroups())
    assert isinstance(group, GroupInfo)
    assert (group.group, group.plugin_id, group.state) == ("shop.deliver", "shop", "active")
