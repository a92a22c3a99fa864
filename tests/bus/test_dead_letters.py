"""Dead letters: selected, paged, counted, redriven at a rate, discarded, brought from elsewhere."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from contracts.bus import DeadLetter, DeadLetterSelection, RetryPolicy
from contracts.envelope import Envelope, moment_of
from contracts.errors import DeadLetterNotFound, GroupNotFound, InvalidOption, InvalidPattern
from contracts.event import EventData, EventResult

ALL = DeadLetterSelection()


def moment(rig: Any) -> datetime:
    return moment_of(rig.clock.time_ns())


class Failing:
    """A handler that gives everything up, until it is mended."""

    def __init__(self, recorder: Any) -> None:
        self.is_broken = True
        self.record = recorder(self.act)

    def act(self, n: int, attempt: int) -> EventResult | None:
        if not self.is_broken:
            return None
        if n % 2:
            raise ConnectionError(f"no {n}")
        return EventResult.dead_letter("no")


@pytest.fixture
async def failing(rig: Any, bus: Any, recorder: Any) -> Failing:
    """Two groups with ten dead letters each; one a second."""
    handler = Failing(recorder)
    for group in ("a.h", "b.h"):
        await rig.on(bus, handler.record, group=group, retry=RetryPolicy(attempts=1))
    for n in range(10):
        await rig.publish(bus, n, key=f"k{n % 3}")
        await bus.quiet()
        await asyncio.sleep(1)
    return handler


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        ({}, 20),
        ({"group": "a.h"}, 10),
        ({"group": "none"}, 0),
        ({"plugin_id": "b"}, 10),
        ({"generation": 3}, 20),
        ({"generation": 2}, 0),
        ({"type": "orders.*"}, 20),
        ({"type": "bills.*"}, 0),
        ({"reason": "asked", "group": "a.h"}, 5),
        ({"error": "OSError"}, 10),
        ({"error": "builtins.OSError"}, 0),
        ({"error": "ConnectionError", "plugin_id": "a"}, 5),
        ({"min_age": 5.5}, 10),
        ({"max_age": 5.5}, 10),
        ({"min_age": 3.5, "max_age": 5.5, "group": "b.h"}, 2),
        ({"ids": ()}, 0),
    ],
)
async def test_a_selection_takes_those_that_fit_everything(
    bus: Any, failing: Failing, selection: Any, count: int
) -> None:
    """Counted, listed and discarded alike."""
    chosen = DeadLetterSelection(**selection)
    assert await bus.count_dead_letters(chosen) == count
    listed = await bus.dead_letters(chosen)
    assert len(listed) == count
    assert [one.last_at for one in listed] == sorted((one.last_at for one in listed), reverse=True)
    assert await bus.discard(chosen) == count
    assert await bus.count_dead_letters() == 20 - count


async def test_dead_letters_are_read_page_by_page(bus: Any, failing: Failing) -> None:
    """The newest first, across groups, none twice and none left out while new ones come."""
    seen: list[str] = []
    after = None
    while page := await bus.dead_letters(limit=7, after=after):
        seen += [letter.id for letter in page]
        after = page[-1].id
        if len(seen) == 7:
            await bus.publish(EventData(type="orders.item", data='{"n":99}'), source="/test")
            await bus.quiet()
    assert len(seen) == len(set(seen)) == 20
    await bus.discard(DeadLetterSelection(ids=(seen[3],)))
    with pytest.raises(DeadLetterNotFound) as caught:
        await bus.dead_letters(after=seen[3])
    assert caught.value.fix


async def test_by_id(bus: Any, failing: Failing) -> None:
    """Exactly those, and what is unknown is passed over."""
    letters = await bus.dead_letters(limit=3)
    chosen = DeadLetterSelection(ids=(letters[2].id, "none", letters[0].id, letters[0].id))
    assert [one.id for one in await bus.dead_letters(chosen)] == [letters[0].id, letters[2].id]
    assert await bus.count_dead_letters(chosen) == 2


async def test_a_redriven_letter_starts_at_zero(rig: Any, bus: Any, failing: Failing) -> None:
    """For its group alone, the oldest first, with all its attempts."""
    failing.is_broken = False
    failing.record.seen.clear()
    assert await bus.redrive(DeadLetterSelection(group="a.h")) == 10
    await bus.quiet()
    assert failing.record.seen == [(n, 1) for n in range(10)]
    assert await bus.count_dead_letters() == 10


async def test_a_redrive_keeps_to_its_rate(rig: Any, bus: Any, failing: Failing) -> None:
    """What waits counts as parked; the order of a key is kept, for newer events too."""
    failing.is_broken = False
    failing.record.seen.clear()
    assert await bus.redrive(DeadLetterSelection(group="a.h"), rate=0.5) == 10
    await asyncio.sleep(0.1)
    assert failing.record.numbers == [0]
    assert (await rig.info("a.h")).parked == 9
    await bus.drop_group("b.h")
    await rig.publish(bus, 30, key="k0")
    await rig.publish(bus, 50)
    await asyncio.sleep(8)
    assert failing.record.numbers == [0, 50, 1, 2, 3, 4]
    await bus.quiet()
    assert failing.record.numbers == [0, 50, *range(1, 10), 30]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
async def test_a_rate_is_positive(bus: Any, failing: Failing, rate: float) -> None:
    """Else nothing is redriven."""
    with pytest.raises(InvalidOption) as caught:
        await bus.redrive(ALL, rate=rate)
    assert caught.value.fix
    assert await bus.count_dead_letters() == 20


async def test_the_rate_goes_on_at_another_owner(rig: Any, recorder: Any) -> None:
    """Letters that wait for their turn survive the one that redrove them."""
    a, b = await rig.open("a"), await rig.open("b")
    await rig.on(a, recorder(lambda n, attempt: EventResult.dead_letter("no")))
    await rig.publish(a, *range(4))
    await a.quiet()
    await a.pause_group("shop.handle")
    await a.redrive(ALL, rate=1)
    a.kill()
    handler = recorder()
    await rig.on(b, handler)
    await b.resume_group("shop.handle")
    await b.quiet()
    assert handler.numbers == [0, 1, 2, 3]


async def test_a_letter_tells_what_is_known(rig: Any, bus: Any, recorder: Any) -> None:
    """Bytes that are no text come as base64, and the trace context is the event's."""

    async def refuse(event: Any) -> EventResult:
        return EventResult.dead_letter("no")

    await rig.on(bus, refuse, "**")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    envelope = Envelope(id="1", source="/x", type="orders.raw", time=moment(rig), traceparent=trace)
    await bus.relay(envelope, EventData(type="orders.raw", data='{"n":1}'))
    [partition] = rig.broker.topics()[0]
    await bus.quiet()
    [letter] = await bus.dead_letters()
    assert (letter.data, letter.data_base64, letter.traceparent) == ('{"n":1}', None, trace)
    partition.messages[0]._data = b"\xff\xfe"
    [letter] = await bus.dead_letters()
    assert (letter.data, letter.raw, letter.data_base64) == ("", b"\xff\xfe", "//4=")


# --- from elsewhere ---------------------------------------------------------------------------------


async def test_letters_of_another_installation_can_be_redriven(rig: Any, bus: Any, failing: Failing) -> None:
    """Known ids are passed over; a redriven one is handled by its group with what it carried."""
    exported = [
        DeadLetter.model_validate_json(letter.model_dump_json())
        for letter in await bus.dead_letters(DeadLetterSelection(group="a.h"), limit=5)
    ]
    assert await bus.import_dead_letters(exported) == 0
    rig.make_broker(partitions=4)
    other = await rig.open("other")
    failing.is_broken = False
    failing.record.seen.clear()
    failing.record.events.clear()
    await rig.on(other, failing.record, group="a.h")
    assert await other.import_dead_letters(exported) == 5
    assert await other.import_dead_letters(exported) == 0
    assert await other.dead_letters() == exported[::-1]
    assert (await rig.info("a.h")).dead == 5
    assert await other.redrive(DeadLetterSelection(ids=(exported[0].id,))) == 1
    assert await other.redrive(ALL) == 4
    await other.quiet()
    assert sorted(failing.record.seen) == [(n, 1) for n in range(5, 10)]
    assert {event.envelope.id for event in failing.record.events} == {one.envelope.id for one in exported}


async def test_an_import_is_all_or_nothing(rig: Any, bus: Any, failing: Failing) -> None:
    """An unknown group, or a type that is none: nothing is added."""
    letters = await bus.dead_letters(limit=3)
    await bus.discard(ALL)
    foreign = letters[2].model_copy(update={"group": "no.such"})
    with pytest.raises(GroupNotFound):
        await bus.import_dead_letters([*letters[:2], foreign])
    odd = letters[2].model_copy(update={"envelope": replace(letters[2].envelope, type="Not.a.Type")})
    with pytest.raises(InvalidPattern):
        await bus.import_dead_letters([*letters[:2], odd])
    assert await bus.count_dead_letters() == 0


async def test_too_many_push_the_oldest_out(rig: Any, recorder: Any) -> None:
    """By import too; announced with the number."""
    rig.limit(dead_letters=3)
    bus = await rig.open()
    tail = bus.tail("bus.dead_letters_dropped")
    await rig.on(bus, recorder(lambda n, attempt: EventResult.dead_letter("no")))
    await rig.publish(bus, *range(3))
    await bus.quiet()
    letters = [
        letter.model_copy(update={"id": f"other-{number}"})
        for number, letter in enumerate(await bus.dead_letters())
    ]
    assert await bus.import_dead_letters(letters[:2]) == 2
    await bus.quiet()
    assert [item.data for item in tail.read_nowait()] == ['{"group":"shop.handle","count":2}']
    assert await bus.count_dead_letters() == 3


async def test_letters_are_listed_by_when_they_were_added(rig: Any, bus: Any, recorder: Any) -> None:
    """Not by the wall clock, which may have jumped, nor by when they were given up elsewhere."""
    await rig.on(bus, recorder(lambda n, attempt: EventResult.dead_letter("no")))
    await rig.publish(bus, 1)
    await bus.quiet()
    rig.clock.jump = -1_000.0
    await rig.publish(bus, 2)
    await bus.quiet()
    second, first = await bus.dead_letters()
    assert (first.data, second.data) == ('{"n":1}', '{"n":2}')
    moved = first.model_copy(update={"id": "moved", "last_at": first.last_at - timedelta(days=3)})
    await bus.import_dead_letters([moved])
    assert [letter.id for letter in await bus.dead_letters()] == ["moved", second.id, first.id]
    assert [letter.id for letter in await bus.dead_letters(after="moved")] == [second.id, first.id]
