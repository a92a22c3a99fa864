"""What waits to be sent: in order, by partition, and only as long as somebody waits for it."""

from __future__ import annotations

import asyncio

import pytest

from bus.clock import SystemClock
from bus.redis_streams.item import Item, Place
from bus.redis_streams.outbox import Outbox
from bus.redis_streams.prompt import Prompt
from contracts.errors import BusClosed, BusError, BusFull, PublishUnknown
from contracts.event import Receipt

ORDERS, BILLS = ("orders", 0), ("bills", 3)
MEGABYTE = b"x" * (1 << 20)
NOW = 0.0
DEADLINE = 5.0


class Stopped(SystemClock):
    def monotonic(self) -> float:
        return NOW


@pytest.fixture
def outbox() -> Outbox:
    return Outbox(Stopped(), "redis://here")


def item(id: str | int, data: bytes = b"{}", *, deadline: float = DEADLINE, why: str = "") -> Item:
    """`why`: it was sent, and Redis has said so."""
    future = Prompt[Receipt](loop=asyncio.get_running_loop())
    made = Item(str(id), "/shop", (b"orders.item@1", b"{}", data, b"0"), 0, deadline, future)
    if why:
        made.why = BusError(why, where="topic 'orders'", fix="wait")
    return made


def fill(outbox: Outbox, place: Place, *ids: str | int, data: bytes = b"{}") -> list[Item]:
    items = [item(id, data) for id in ids]
    for one in items:
        outbox.append(place, one)
    return items


def gathered(outbox: Outbox) -> list[tuple[Place, list[str]]]:
    """What goes out next, by ids."""
    return [(place, [one.id for one in items]) for place, items in outbox.gather()]


def waiting(outbox: Outbox) -> list[str]:
    ids = [one.id for one in outbox]
    assert outbox.count == len(ids)
    return ids


# --- in order -----------------------------------------------------------------------------------------------


async def test_what_came_first_goes_first_in_its_partition(outbox: Outbox) -> None:
    """A batch for each; then there is nothing."""
    fill(outbox, ORDERS, 1, 2)
    fill(outbox, BILLS, 3)
    fill(outbox, ORDERS, 4)
    assert waiting(outbox) == ["1", "2", "4", "3"]
    assert gathered(outbox) == [(ORDERS, ["1", "2", "4"]), (BILLS, ["3"])]
    assert (waiting(outbox), gathered(outbox)) == ([], [])
    fill(outbox, BILLS, 5)
    fill(outbox, ORDERS, 6)
    assert gathered(outbox) == [(BILLS, ["5"]), (ORDERS, ["6"])]


async def test_what_is_sent_again_goes_before_what_waits(outbox: Outbox) -> None:
    fill(outbox, ORDERS, 1, 2, 3)
    [(_, first)] = outbox.gather()
    fill(outbox, ORDERS, 4)
    for one in reversed(first):
        outbox.put_back(ORDERS, one)
    assert waiting(outbox) == ["1", "2", "3", "4"]
    assert gathered(outbox) == [(ORDERS, ["1", "2", "3", "4"])]


async def test_what_goes_out_may_be_in_redis(outbox: Outbox) -> None:
    """Why it was not taken the last time is over."""
    [plain] = fill(outbox, ORDERS, 1)
    again = item(2, why="Redis is full")
    outbox.append(ORDERS, again)
    assert not plain.sent
    outbox.gather()
    assert [(one.sent, one.why) for one in (plain, again)] == [(True, None)] * 2


# --- how much -----------------------------------------------------------------------------------------------


async def test_five_hundred_go_out_at_once(outbox: Outbox) -> None:
    """Of each partition."""
    fill(outbox, ORDERS, *range(1_001))
    fill(outbox, BILLS, *range(501))
    assert [len(ids) for _, ids in gathered(outbox)] == [500, 500]
    assert waiting(outbox) == [*map(str, range(500, 1_001)), "500"]
    assert [len(ids) for _, ids in gathered(outbox)] == [500, 1]
    assert gathered(outbox) == [(ORDERS, ["1000"])]


async def test_four_megabytes_go_out_at_once(outbox: Outbox) -> None:
    """Of each partition; what is begun below goes over, so that everything goes out in the end."""
    fill(outbox, ORDERS, *range(6), data=MEGABYTE)
    fill(outbox, BILLS, 6, data=4 * MEGABYTE[:-1])
    fill(outbox, BILLS, 7, 8, data=5 * MEGABYTE)
    assert gathered(outbox) == [(ORDERS, ["0", "1", "2", "3"]), (BILLS, ["6", "7"])]
    fill(outbox, BILLS, 9)
    assert gathered(outbox) == [(ORDERS, ["4", "5"]), (BILLS, ["8"])]
    assert gathered(outbox) == [(BILLS, ["9"])]


# --- what goes nowhere --------------------------------------------------------------------------------------


async def test_what_nobody_waits_for_takes_no_room(outbox: Outbox) -> None:
    """Neither in number nor in size, and makes no batch."""
    for one in fill(outbox, ORDERS, *range(600), data=MEGABYTE):
        one.future.cancel()
    fill(outbox, ORDERS, *range(600, 602))
    for one in fill(outbox, BILLS, 1, 2):
        one.future.cancel()
    assert outbox.count == 604
    assert gathered(outbox) == [(ORDERS, ["600", "601"])]
    assert waiting(outbox) == []


@pytest.mark.parametrize(("left", "is_sent"), [(0.0399, False), (0.04, True), (-1.0, False)])
async def test_what_was_refused_is_not_tried_again_just_before_its_deadline(
    outbox: Outbox, left: float, is_sent: bool
) -> None:
    """It is told why, which would be unknown if the answer came too late."""
    refused, other = item(1, why="Redis is full", deadline=NOW + left), item(2)
    for one in (refused, other):
        outbox.append(ORDERS, one)
    assert gathered(outbox) == [(ORDERS, ["1", "2"] if is_sent else ["2"])]
    assert waiting(outbox) == []
    assert refused.future.done() != is_sent
    if not is_sent:
        with pytest.raises(BusFull, match="Redis is full") as caught:
            await refused.future
        assert (caught.value.where, caught.value.fix) == ("topic 'orders'", "wait")


async def test_what_was_never_refused_is_tried_until_its_deadline_is_over(outbox: Outbox) -> None:
    """Who watches deadlines tells it."""
    outbox.append(ORDERS, item(1, deadline=NOW))
    assert gathered(outbox) == [(ORDERS, ["1"])]


async def test_what_is_handed_over_goes_in_turn_and_the_rest_stays(outbox: Outbox) -> None:
    """Of one partition."""
    fill(outbox, ORDERS, *range(5))
    fill(outbox, BILLS, 5)
    given = list[tuple[Place, str]]()

    def takes(place: Place, one: Item) -> bool:
        given.append((place, one.id))
        return one.id in {"0", "3"}

    outbox.hand_over(ORDERS, takes)
    assert given == [(ORDERS, str(n)) for n in range(5)]
    assert sorted(waiting(outbox)) == ["1", "2", "4", "5"]
    outbox.hand_over(BILLS, lambda place, one: True)
    assert waiting(outbox) == ["1", "2", "4"]
    outbox.hand_over(BILLS, takes)
    assert len(given) == 5
    assert gathered(outbox) == [(ORDERS, ["1", "2", "4"])]


@pytest.mark.parametrize("has_looked", [False, True])
async def test_whether_it_may_be_there_is_known_when_redis_has_looked(has_looked: bool) -> None:
    """Its answer was lost, the last was a refusal; between them its partition was full, or not."""
    one, closed = item(1), BusClosed("the bus is closed")
    one.lose()
    if has_looked:
        one.is_not_there()
    one.was_refused()
    one.end(closed, "redis://here")
    assert type(one.future.exception()) is (BusClosed if has_looked else PublishUnknown)


async def test_all_that_wait_are_told_that_it_is_over(outbox: Outbox) -> None:
    """Who has gone is not; what was sent, and came back without an answer, may be in Redis."""
    first, gone, sent, last = [*fill(outbox, ORDERS, 1, 2, 3), *fill(outbox, BILLS, 4)]
    gone.future.cancel()
    sent.sent = True
    outbox.close(BusClosed("the bus is closed"))
    assert gone.future.cancelled()
    ends = [type(one.future.exception()) for one in (first, sent, last)]
    assert ends == [BusClosed, PublishUnknown, BusClosed]
    assert (waiting(outbox), gathered(outbox)) == ([], [])
