"""What `publish.lua` promises, of the script itself: called as the publisher does, on every server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import redis
from fault_tools.servers import Server, binaries, binary

from bus.redis_streams.layout import Keys
from bus.redis_streams.scripts import script

REPEATED, ADMITTED, KEPT_BACK = 1, 2, 4
MINUTE, HOUR = 60_000, 3_600_000
FULL, DELAYED = b"full", b"d"
LAST_OF_ALL = b"18446744073709551615-18446744073709551615"
"""Behind it nothing goes into a stream."""
GROUP, FENCE = "shop.handle", b"7 replica"


class Event(NamedTuple):
    """One event as the script is given it; `due`: of one that is kept back."""

    id: str
    flags: int = 0
    due: str = "+3600000"

    @property
    def name(self) -> bytes:
        return f"/shop\n{self.id}".encode()

    @property
    def fields(self) -> dict[bytes, bytes]:
        """Of its entry."""
        return {key: f"{key.decode()} of {self.id}".encode() for key in (b"t", b"h", b"d", b"b")}

    @property
    def arguments(self) -> list[Any]:
        due = [self.due] if self.flags & KEPT_BACK else []
        return [self.name, self.flags, *self.fields.values(), *due]


class Partition:
    """One partition of one topic, and what lies in its keys."""

    def __init__(self, client: Any) -> None:
        self.client = client
        keys = Keys("test")
        self.stream, self.numbers = keys.stream("orders", 0), keys.numbers("orders", 0)
        self.ids = keys.ids("orders", 0, 0), keys.ids("orders", 0, 1)
        self.delayed, self.kept_back, self.own = keys.delayed(0), keys.kept_back(0), keys.own(0)

    def publish(
        self, *events: Event, limit: int = 100, window: int = MINUTE, count: int = 1_000,
        longest: int = 5_000, along: tuple[Any, ...] = (),
    ) -> list[Any]:  # fmt: skip
        """What is said of each; `along`: group, fence and most of who reads along."""
        keys = [self.stream, self.numbers, *self.ids, self.delayed, self.kept_back]
        if along:
            keys.append(self.own)
        arguments: list[Any] = ["nonce", limit, window, count, longest, "orders"]
        for event in events:
            arguments += event.arguments
        nonce, *said = self.client.eval(script("publish").text, len(keys), *keys, *arguments, *along)
        assert nonce == b"nonce"
        return list(said)

    def entries(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return list(self.client.xrange(self.stream))

    def number(self, field: str) -> int:
        """One of the numbers that are kept from call to call."""
        return int(self.client.hget(self.numbers, field) or -1)

    def set(self, **numbers: int) -> None:
        self.client.hset(self.numbers, mapping=numbers)

    def now(self) -> int:
        """Milliseconds of the server's clock."""
        seconds, microseconds = self.client.time()
        return int(seconds * 1_000 + microseconds // 1_000)

    def everything(self) -> dict[bytes, bytes]:
        """All keys with what is in them."""
        return {key: self.client.dump(key) for key in self.client.scan_iter()}


@pytest.fixture(scope="module", params=[label for label, _ in binaries()])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    with Server(binary(request.param)) as server, server.client() as client:
        yield client


@pytest.fixture
def partition(client: redis.Redis) -> Partition:
    client.flushall()
    return Partition(client)


def entry(said: bytes) -> tuple[int, int]:
    """Millisecond and number of what was stored."""
    found = re.fullmatch(rb"(\d+)-(\d+)", said)
    assert found, said
    return int(found[1]), int(found[2])


def what(said: bytes) -> str:
    """Kind of an answer, whatever its entry."""
    return re.sub(r"\d+-\d+", "entry", said.decode())


# --- storing ------------------------------------------------------------------------------------------------


def test_each_is_stored_with_its_fields_and_numbered_from_call_to_call(partition: Partition) -> None:
    before = partition.now()
    events = [Event("a"), Event("b", REPEATED), Event("c", ADMITTED), Event("d")]
    said = [*partition.publish(*events[:3]), *partition.publish(events[3])]
    assert partition.entries() == [(name, event.fields) for name, event in zip(said, events, strict=True)]
    stamps, numbers = zip(*map(entry, said), strict=True)
    assert numbers == (1, 2, 3, 4)
    assert before <= min(stamps) <= max(stamps) <= partition.now()
    assert (partition.number("n"), partition.number("ms")) == (4, stamps[3])
    assert partition.number("count") == 4
    names = {event.name: name for name, event in zip(said, events, strict=True)}
    assert partition.client.hgetall(partition.ids[0]) == names
    assert not partition.client.exists(partition.ids[1], partition.delayed, partition.kept_back)


def test_a_repetition_is_told_the_first_one_and_changes_nothing(partition: Partition) -> None:
    """Within one call, and later; whatever else its flags say."""
    first, second, again, after = partition.publish(
        Event("a", REPEATED), Event("b", ADMITTED), Event("a", REPEATED), Event("c")
    )
    assert again == b"=" + first
    assert [entry(one)[1] for one in (first, second, after)] == [1, 2, 3]
    delayed, again = partition.publish(Event("d", KEPT_BACK), Event("d", KEPT_BACK | REPEATED, due="+0"))
    assert (delayed, again) == (DELAYED, b"=d")
    before = partition.everything()
    said = partition.publish(*(Event(id, REPEATED) for id in "abcd"))
    assert said == [b"=" + one for one in (first, second, after, DELAYED)]
    kept_back = [Event(id, REPEATED | ADMITTED | KEPT_BACK) for id in "abcd"]
    assert partition.publish(*kept_back, limit=0) == said
    assert partition.everything() == before
    assert partition.number("count") == 4


def test_who_says_that_it_is_the_first_is_believed(partition: Partition) -> None:
    """It is not looked for; whoever comes later is told the last of them."""
    partition.publish(Event("a"), Event("b", KEPT_BACK))
    plain, admitted, kept_back = partition.publish(Event("a"), Event("a", ADMITTED), Event("b", KEPT_BACK))
    assert [entry(plain)[1], entry(admitted)[1], kept_back] == [2, 3, DELAYED]
    assert partition.publish(Event("a", REPEATED)) == [b"=" + admitted]


@pytest.mark.parametrize("flags", range(8))
@pytest.mark.parametrize(("length", "room"), [(9, "room"), (10, "limit"), (19, "limit"), (20, "twice")])
def test_what_is_taken_how_full_the_partition_is(
    partition: Partition, length: int, room: str, flags: int
) -> None:
    """A handler's goes on up to twice the limit; what is kept back takes no room yet."""
    known, *_ = partition.publish(*(Event(f"first{n}") for n in range(length)))
    if flags & KEPT_BACK:
        expected = "d"
    else:
        expected = "entry" if room == "room" or (room == "limit" and flags & ADMITTED) else "full"
    [said] = partition.publish(Event("new", flags), limit=10)
    assert what(said) == expected
    assert partition.client.xlen(partition.stream) == length + (expected == "entry")
    assert partition.number("n") == length + (expected == "entry")
    assert partition.publish(Event("new", REPEATED), limit=0) == ([FULL] if said == FULL else [b"=" + said])
    assert partition.publish(Event("first0", REPEATED), limit=0) == [b"=" + known]


def test_what_finds_no_room_holds_nothing_up(partition: Partition) -> None:
    """Each has its answer, and only who was taken is remembered."""
    events = [
        Event("a"), Event("b", REPEATED), Event("c"), Event("d", REPEATED), Event("e", KEPT_BACK),
        Event("f", ADMITTED), Event("d", REPEATED), Event("g", ADMITTED), Event("h", ADMITTED),
        Event("b", REPEATED),
    ]  # fmt: skip
    said = partition.publish(*events, limit=2)
    kinds = ["entry", "entry", "full", "full", "d", "entry", "full", "entry", "full", "=entry"]
    assert [what(one) for one in said] == kinds
    assert [entry(said[n])[1] for n in (0, 1, 5, 7)] == [1, 2, 3, 4]
    assert partition.client.hkeys(partition.ids[0]) == [events[n].name for n in (0, 1, 4, 5, 7)]
    assert partition.number("count") == 5
    before = partition.everything()
    assert partition.publish(Event("i"), limit=2) == [FULL]
    assert partition.everything() == before


# --- kept back ----------------------------------------------------------------------------------------------


def test_what_is_kept_back_is_there_whole_with_its_time(partition: Partition) -> None:
    """Milliseconds of the wall clock, or from now; among others that are not kept back."""
    later = partition.now()
    events = [
        Event("a", KEPT_BACK, due="1764301234567"), Event("b", REPEATED),
        Event("c", KEPT_BACK | ADMITTED, due="+2000"),
        Event("d", KEPT_BACK | REPEATED, due="1764301234567.4"), Event("e"),
    ]  # fmt: skip
    said = partition.publish(*events)
    assert [what(one) for one in said] == ["d", "entry", "d", "d", "entry"]
    due = dict(partition.client.zrange(partition.delayed, 0, -1, withscores=True))
    assert later + 2_000 <= due.pop(events[2].name) <= partition.now() + 2_000
    assert due == {events[0].name: 1764301234567, events[3].name: 1764301234567}
    for event in (events[0], events[2], events[3]):
        unpack = "return cmsgpack.unpack(redis.call('HGET', KEYS[1], ARGV[1]))"
        kept = partition.client.eval(unpack, 1, partition.kept_back, event.name)
        assert kept == [b"orders", *event.fields.values()]
    assert partition.client.hlen(partition.kept_back) == 3
    assert partition.entries() == [(said[1], events[1].fields), (said[4], events[4].fields)]
    remembered = {event.name: one for event, one in zip(events, said, strict=True)}
    assert partition.client.hgetall(partition.ids[0]) == remembered


# --- what fails ---------------------------------------------------------------------------------------------


def test_behind_what_the_stream_does_not_take_nothing_is_written(partition: Partition) -> None:
    """What was written before it is remembered, and it is not: it may come again."""
    partition.client.xadd(partition.stream, {"stranger": "x"}, id=LAST_OF_ALL)
    before, failed = partition.publish(
        Event("a", KEPT_BACK), Event("b", REPEATED), Event("c", KEPT_BACK), Event("d")
    )
    assert before == DELAYED
    assert failed.startswith(b"!ERR The stream has exhausted")
    assert partition.client.hgetall(partition.ids[0]) == {Event("a").name: DELAYED}
    assert partition.client.hkeys(partition.kept_back) == [Event("a").name]
    assert (partition.number("n"), partition.number("count")) == (0, 1)
    partition.client.delete(partition.stream)
    assert [what(one) for one in partition.publish(Event("b", REPEATED))] == ["entry"]


@pytest.mark.parametrize("key", ["kept_back", "delayed"])
def test_behind_what_cannot_be_kept_back_nothing_is_written(partition: Partition, key: str) -> None:
    partition.client.set(getattr(partition, key), "of another kind")
    before, failed = partition.publish(
        Event("a"), Event("b", KEPT_BACK | REPEATED), Event("c"), Event("d", KEPT_BACK)
    )
    assert entry(before)[1] == 1
    assert failed.startswith(b"!WRONGTYPE")
    assert partition.client.hgetall(partition.ids[0]) == {Event("a").name: before}
    assert partition.entries() == [(before, Event("a").fields)]
    assert partition.client.type(partition.delayed) in (b"none", b"string")
    assert [entry(one)[1] for one in partition.publish(Event("c"))] == [2]


def test_a_stream_of_another_kind_is_an_error_of_the_call(partition: Partition) -> None:
    """Nothing is written."""
    partition.client.set(partition.stream, "of another kind")
    before = partition.everything()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        partition.publish(Event("a", KEPT_BACK), Event("b"))
    assert partition.everything() == before


# --- names of entries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [b"0", b"1", b"99"])
def test_what_others_have_written_is_passed(partition: Partition, number: bytes) -> None:
    """Also in the middle of a call and for those that follow; our numbers go on as if it were not there."""
    partition.publish(Event("a"))
    theirs = partition.now() + HOUR
    partition.client.xadd(partition.stream, {"stranger": "x"}, id=b"%d-%s" % (theirs, number))
    said = partition.publish(Event("b", REPEATED), Event("c"), Event("b", REPEATED))
    assert [entry(one) for one in said[:2]] == [(theirs + 1, 2), (theirs + 1, 3)]
    assert said[2] == b"=" + said[0]
    assert (partition.number("n"), partition.number("ms")) == (3, theirs + 1)
    assert [entry(one) for one in partition.publish(Event("d"))] == [(theirs + 1, 4)]


def test_a_clock_that_goes_back_does_not_take_entries_back(partition: Partition) -> None:
    """They go on at the last millisecond; those kept back are due by the clock."""
    partition.publish(Event("a"))
    before, ahead = partition.now(), partition.now() + HOUR
    partition.set(ms=ahead)
    said = partition.publish(Event("b"), Event("c", KEPT_BACK, due="+0"))
    assert (entry(said[0]), partition.number("ms")) == ((ahead, 2), ahead)
    [(_, due)] = partition.client.zrange(partition.delayed, 0, -1, withscores=True)
    assert before <= due <= partition.now()


def test_numbers_that_were_lost_begin_anew_behind_what_is_there(partition: Partition) -> None:
    """With a clock that went back meanwhile."""
    ahead = partition.now() + HOUR
    partition.set(ms=ahead)
    partition.publish(Event("a"), Event("b"))
    partition.client.delete(partition.numbers)
    assert [entry(one) for one in partition.publish(Event("c"))] == [(ahead + 1, 1)]
    assert (partition.number("n"), partition.number("ms")) == (1, ahead + 1)


# --- the window ---------------------------------------------------------------------------------------------


def remembers(partition: Partition, id: str) -> bool:
    """Whether it is known; nothing is stored if not."""
    [said] = partition.publish(Event(id, REPEATED), limit=0, window=10 * HOUR)
    return bool(said != FULL)


def test_a_window_begins_with_its_first_event(partition: Partition) -> None:
    before = partition.now()
    partition.publish(Event("a"))
    began = partition.number("began")
    assert before <= began <= partition.now()
    assert partition.number("turn") == 0
    partition.set(began=began - 7)
    partition.publish(Event("b"))
    assert (partition.number("began"), partition.number("count")) == (began - 7, 2)


def test_a_generation_is_remembered_until_the_next_but_one(partition: Partition) -> None:
    """Two hashes take turns, and each begins empty."""
    for turn, id in enumerate("abcd"):
        before = partition.now()
        [said] = partition.publish(Event(id))
        assert (partition.number("turn"), partition.number("count")) == (turn % 2, 1)
        assert before <= partition.number("began") <= partition.now()
        assert partition.client.hgetall(partition.ids[turn % 2]) == {Event(id).name: said}
        partition.publish(Event(id, REPEATED | KEPT_BACK))
        known = "abcd"[max(0, turn - 1) : turn + 1]
        assert [one for one in "abcd" if remembers(partition, one)] == list(known)
        partition.set(began=partition.now() - MINUTE)


def test_what_is_repeated_stays_where_it_was_remembered_first(partition: Partition) -> None:
    """A repetition does not prolong it."""
    [first] = partition.publish(Event("a"))
    partition.set(began=partition.now() - MINUTE)
    partition.publish(Event("b"))
    assert partition.publish(Event("a", REPEATED)) == [b"=" + first]
    partition.set(began=partition.now() - MINUTE)
    [again] = partition.publish(Event("a", REPEATED))
    assert entry(again)[1] == 3


SECOND = 1_000
OLDER, YOUNGER = SECOND, -SECOND
"""Than something, by more than a call takes."""


@pytest.mark.parametrize(
    ("age", "known", "limits", "turns"),
    [
        (MINUTE + OLDER, 1, {}, True),
        (MINUTE + YOUNGER, 1, {}, False),
        (MINUTE + OLDER, 1, {"longest": HOUR}, False),  # a publish that is tried so long must find its id
        (HOUR + YOUNGER, 1, {"longest": HOUR}, False),
        (HOUR + OLDER, 1, {"longest": HOUR}, True),
        (5_000 + OLDER, 3, {"count": 3}, True),
        (5_000 + OLDER, 2, {"count": 3}, False),
        (5_000 + YOUNGER, 9, {"count": 3}, False),
        (0, 3, {"count": 3, "longest": 0}, True),
        (0, 3, {"count": 4, "longest": 0, "window": 0}, True),
        (0, 3, {"count": 4, "longest": 0}, False),
    ],
)
def test_a_generation_that_is_old_or_full_becomes_the_former_one(
    partition: Partition, age: int, known: int, limits: dict[str, Any], turns: bool
) -> None:
    """Older than the window, or with as many as it may have; never before the longest publish is over."""
    partition.publish(*(Event(f"first{n}") for n in range(known)))
    partition.set(began=partition.now() - age)
    partition.publish(Event("a"), **limits)
    assert partition.number("turn") == int(turns)
    assert partition.number("count") == (1 if turns else known + 1)


@pytest.mark.parametrize("limits", [{"count": 1, "longest": 0}, {"window": 0, "longest": 0}, {}])
def test_a_clock_that_went_back_begins_anew_to_count_the_age(
    partition: Partition, limits: dict[str, Any]
) -> None:
    """Nothing is forgotten: the generation is as old as none."""
    partition.publish(Event("a"))
    partition.set(began=partition.now() + HOUR)
    before = partition.now()
    partition.publish(Event("b"), **limits)
    assert before <= partition.number("began") <= partition.now()
    assert partition.number("turn") == bool(limits)
    assert remembers(partition, "a")


def test_a_clock_that_jumps_forward_drops_only_what_was_the_former_generation(partition: Partition) -> None:
    for id in "ab":
        partition.publish(Event(id))
        partition.set(began=partition.now() - 100 * HOUR)
    partition.publish(Event("c"))
    assert [id for id in "abc" if remembers(partition, id)] == ["b", "c"]


# --- reading along ------------------------------------------------------------------------------------------


@pytest.fixture
def group(partition: Partition) -> None:
    """Somebody owns the partition."""
    partition.client.xgroup_create(partition.stream, GROUP, "0", mkstream=True)
    partition.client.hset(partition.own, GROUP, FENCE)


def read(stream: str, *found: tuple[bytes, Event]) -> list[Any]:
    """As Redis gives it."""
    flat = [[name, [part for pair in event.fields.items() for part in pair]] for name, event in found]
    return [b"ok", [[stream.encode(), flat]] if flat else []]


@pytest.mark.usefixtures("group")
def test_who_reads_along_gets_what_is_published(partition: Partition) -> None:
    """As the one consumer, in order, what nobody was given yet, and no more than he takes."""
    a, b, c = Event("a"), Event("b", KEPT_BACK | ADMITTED), Event("c", REPEATED)
    one, two, three, found = partition.publish(a, b, c, along=(GROUP, FENCE, 1))
    assert (what(one), two, what(three)) == ("entry", DELAYED, "entry")
    assert found == read(partition.stream, (one, a))
    assert partition.publish(a._replace(flags=REPEATED), along=(GROUP, FENCE, 9)) == [
        b"=" + one, read(partition.stream, (three, c)),
    ]  # fmt: skip
    assert partition.publish(Event("d"), limit=0, along=(GROUP, FENCE, 9)) == [FULL, read(partition.stream)]
    pending = partition.client.xpending(partition.stream, GROUP)
    assert (pending["pending"], pending["consumers"]) == (2, [{"name": b"o", "pending": 2}])


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("owner", [b"8 replica", None])
def test_who_does_not_own_the_partition_reads_nothing(partition: Partition, owner: bytes | None) -> None:
    """He is told who does; what is published is published."""
    partition.client.hdel(partition.own, GROUP)
    if owner is not None:
        partition.client.hset(partition.own, GROUP, owner)
    said, found = partition.publish(Event("a"), along=(GROUP, FENCE, 9))
    assert (entry(said)[1], found) == (1, [b"lost", owner])
    assert partition.client.xpending(partition.stream, GROUP)["pending"] == 0


@pytest.mark.usefixtures("group")
def test_what_fails_in_reading_takes_nothing_from_who_publishes(partition: Partition) -> None:
    """No group, or ownerships of another kind; what fails in publishing takes nothing from who reads."""
    partition.client.xgroup_destroy(partition.stream, GROUP)
    said, (kind, why) = partition.publish(Event("a"), along=(GROUP, FENCE, 9))
    assert (entry(said)[1], kind, why[:7]) == (1, b"error", b"NOGROUP")
    partition.client.xgroup_create(partition.stream, GROUP, "0")
    partition.client.set(partition.kept_back, "of another kind")
    failed, found = partition.publish(Event("b", KEPT_BACK), Event("c"), along=(GROUP, FENCE, 9))
    assert failed.startswith(b"!WRONGTYPE")
    assert found == read(partition.stream, (said, Event("a")))
    partition.client.set(partition.own, "of another kind")
    said, (kind, why) = partition.publish(Event("c"), along=(GROUP, FENCE, 9))
    assert (entry(said)[1], kind, why[:9]) == (2, b"error", b"WRONGTYPE")
