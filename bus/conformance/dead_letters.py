"""Dead letters: everything that is known of a delivery that was given up, and every way on from there."""

from __future__ import annotations

import itertools

import pytest

from contracts.bus import DeadLetter, DeadLetterSelection, EventBus
from contracts.errors import GroupNotFound
from contracts.messages.delivery import DeadLettered, DeadLettersDropped, Redriven

from .backend import needs
from .order import soon
from .probe import Probe
from .rig import Rig
from .suite import Suite

EVERYTHING = DeadLetterSelection()


class Trouble(LookupError):
    """What the handlers of these tests raise."""


class DeadLetters(Suite):
    """Listed, counted, redriven, discarded, imported."""

    async def test_dlq_headers_complete(self, rig: Rig) -> None:
        """Event, group, plugin, generation, reason, error with traceback, attempts, times: all is there."""
        bus = await rig.open()
        news, began = rig.listen(bus), rig.now()
        await rig.on(bus, _fail, retry=soon(rig, attempts=3), generation=7)
        await rig.publish(bus, 1, key="k", subject="s", id="x")
        await rig.quiet(bus)
        [letter] = await bus.dead_letters()
        assert (letter.group, letter.plugin_id, letter.generation) == ("shop.handle", "shop", 7)
        assert (letter.reason, letter.attempts, letter.version) == ("attempts", 3, 1)
        assert letter.error is not None
        assert letter.error.matches("Trouble")
        assert letter.error.matches("LookupError")
        assert letter.error.message == "no 1"
        assert "_fail" in letter.error.traceback
        assert (letter.envelope.id, letter.envelope.partitionkey, letter.envelope.subject) == ("x", "k", "s")
        assert letter.raw == b'{"n": 1}'
        assert began <= letter.first_at < letter.last_at <= rig.now()
        assert (letter.last_at - letter.first_at).total_seconds() >= 2 * rig.tick - 0.01
        await rig.until(lambda: news.of(DeadLettered))
        [told] = news.of(DeadLettered)
        assert (told.dead_letter_id, told.group, told.event_id) == (letter.id, letter.group, "x")
        assert (told.reason, told.attempts, told.generation) == ("attempts", 3, 7)

    async def test_listing_is_newest_first_page_by_page(self, rig: Rig) -> None:
        """Pages follow one another without gap or repetition, also while new ones come."""
        bus = await rig.open()
        await _bury(rig, bus, *range(25))
        whole = await bus.dead_letters(limit=100)
        assert [letter.envelope.id for letter in whole] == [f"e{n + 1}-{n}" for n in reversed(range(25))]
        pages, after = list[DeadLetter](), None
        while page := await bus.dead_letters(limit=10, after=after):
            pages += page
            after = page[-1].id
            if len(pages) == 10:
                await rig.publish(bus, 99)
                await rig.quiet(bus)
        assert [letter.id for letter in pages] == [letter.id for letter in whole]

    async def test_selection_fits_everything_that_is_given(self, rig: Rig) -> None:
        """By id, group, plugin, generation, type, reason, error and age; counting and listing agree."""
        bus = await rig.open()
        await rig.on(bus, _fail, group="shop.one", retry=soon(rig, attempts=1), generation=1)
        await rig.on(bus, _fail, "orders.item", group="mail.two", retry=soon(rig, attempts=1), generation=2)
        await rig.publish(bus, 1)
        await rig.publish(bus, 2, type="orders.other")
        await rig.quiet(bus)
        [first, *_] = await bus.dead_letters()
        cases = [
            (DeadLetterSelection(), 3),
            (DeadLetterSelection(ids=(first.id, "none")), 1),
            (DeadLetterSelection(ids=()), 0),
            (DeadLetterSelection(group="shop.one"), 2),
            (DeadLetterSelection(plugin_id="mail"), 1),
            (DeadLetterSelection(generation=2), 1),
            (DeadLetterSelection(type="orders.item"), 2),
            (DeadLetterSelection(type="orders.*", group="shop.one"), 2),
            (DeadLetterSelection(reason="attempts"), 3),
            (DeadLetterSelection(reason="schema"), 0),
            (DeadLetterSelection(error="LookupError"), 3),
            (DeadLetterSelection(error="KeyError"), 0),
            (DeadLetterSelection(min_age=3_600), 0),
            (DeadLetterSelection(max_age=3_600), 3),
        ]
        for selection, count in cases:
            assert await bus.count_dead_letters(selection) == count, selection
            assert len(await bus.dead_letters(selection)) == count, selection
        assert await bus.discard(DeadLetterSelection(group="shop.one", type="orders.other")) == 1
        assert await bus.count_dead_letters() == 2

    async def test_targeted_replay_reaches_only_one(self, rig: Rig) -> None:
        """Redrive puts back to the group that failed and to it alone, with its attempts at zero."""
        bus, broken = await rig.open(), [True]
        news = rig.listen(bus)

        def act(n: int, attempt: int) -> None:
            if broken:
                raise Trouble(f"no {n}")

        failed = await rig.on(bus, act, retry=soon(rig, attempts=2))
        fine = await rig.on(bus, group="mail.fine")
        await rig.publish(bus, 1, 2)
        await rig.quiet(bus)
        [second, first] = await bus.dead_letters()
        broken.clear()
        assert await bus.redrive(DeadLetterSelection(ids=(first.id,))) == 1
        await rig.quiet(bus)
        assert failed.starts[-1] == (1, 1)
        assert not failed.events[-1].replayed
        assert sorted(fine.numbers) == [1, 2]
        assert [letter.id for letter in await bus.dead_letters()] == [second.id]
        await rig.until(lambda: news.of(Redriven))
        assert [(one.group, one.count) for one in news.of(Redriven)] == [("shop.handle", 1)]
        assert await bus.redrive(DeadLetterSelection(ids=(first.id,))) == 0

    async def test_redrive_keeps_the_order_of_its_key_and_fails_again_alone(self, rig: Rig) -> None:
        """The oldest first; what fails again is a dead letter again, once."""
        bus, broken = await rig.open(), {1, 2, 3}

        def act(n: int, attempt: int) -> None:
            if n in broken:
                raise Trouble(f"no {n}")

        probe = await rig.on(bus, act, retry=soon(rig, attempts=1))
        await rig.publish(bus, 1, 2, 3, 4, key="k")
        await rig.quiet(bus)
        assert probe.numbers == [1, 2, 3, 4]
        broken -= {1, 3}
        assert await bus.redrive(EVERYTHING) == 3
        await rig.quiet(bus)
        assert probe.numbers == [1, 2, 3, 4, 1, 2, 3]
        [letter] = await bus.dead_letters()
        assert (letter.envelope.id, letter.attempts) == ("e2-2", 1)

    async def test_redrive_with_a_rate_lets_them_go_one_after_the_other(self, rig: Rig) -> None:
        """Until its turn each counts as parked."""
        bus, broken = await rig.open(), [True]

        def act(n: int, attempt: int) -> None:
            if broken:
                raise Trouble("no")

        probe = await rig.on(bus, act, retry=soon(rig, attempts=1))
        await rig.publish(bus, *range(6))
        await rig.quiet(bus)
        broken.clear()
        gap = 2 * rig.tick + rig.lateness / 2
        assert await bus.redrive(EVERYTHING, rate=1 / gap) == 6
        info = await rig.info(bus)
        assert info.dead == 0
        assert info.parked >= 4
        await rig.quiet(bus)
        assert probe.numbers[6:] == list(range(6))
        for before, after in itertools.pairwise(probe.times[6:]):
            assert after - before > gap / 2

    async def test_discard_gives_up_for_good(self, rig: Rig) -> None:
        """Nothing is started again, and nothing is left to redrive."""
        bus = await rig.open()
        probe = await _bury(rig, bus, 1, 2, 3)
        assert await bus.discard(EVERYTHING) == 3
        assert await bus.discard(EVERYTHING) == 0
        assert await bus.redrive(EVERYTHING) == 0
        await rig.pause()
        assert (len(probe.starts), await bus.dead_letters()) == (3, [])
        assert (await rig.info(bus)).dead == 0

    async def test_dead_letters_can_be_taken_elsewhere_and_back(self, rig: Rig) -> None:
        """What was exported is imported once, and redriven as if it had failed here."""
        bus = await rig.open()
        probe = await _bury(rig, bus, 1, 2)
        letters = await bus.dead_letters()
        assert await bus.import_dead_letters(letters) == 0
        await bus.discard(EVERYTHING)
        copies = [DeadLetter.model_validate_json(letter.model_dump_json()) for letter in reversed(letters)]
        assert await bus.import_dead_letters(copies) == 2
        assert await bus.dead_letters() == letters
        stranger = letters[0].model_copy(update={"id": "new", "group": "no.such"})
        mine = letters[0].model_copy(update={"id": "another"})
        with pytest.raises(GroupNotFound):
            await bus.import_dead_letters([mine, stranger])
        assert await bus.count_dead_letters() == 2
        probe.act = None
        assert await bus.redrive(EVERYTHING) == 2
        await rig.quiet(bus)
        assert probe.numbers == [1, 2, 1, 2]

    @needs(dead_letters=5)
    async def test_the_oldest_go_when_there_are_too_many(self, rig: Rig) -> None:
        """The bound is kept, and what was dropped is counted and announced."""
        bus = await rig.open()
        news = rig.listen(bus)
        await _bury(rig, bus, *range(12))
        assert [letter.envelope.id for letter in await bus.dead_letters()] == [
            f"e{n + 1}-{n}" for n in range(11, 6, -1)
        ]
        await rig.until(lambda: sum(dropped.count for dropped in news.of(DeadLettersDropped)) == 7)
        assert {dropped.group for dropped in news.of(DeadLettersDropped)} == {"shop.handle"}

    @needs(lease=1.0)
    async def test_dead_letters_outlive_the_replica(self, rig: Rig) -> None:
        """They belong to the group: another replica lists and redrives them."""
        a, b = await rig.open("a"), await rig.open("b")
        await _bury(rig, a, 1, 2)
        await rig.crash(a)
        assert len(await b.dead_letters()) == 2
        heir = await rig.on(b)
        assert await b.redrive(EVERYTHING) == 2
        await rig.quiet(b)
        assert sorted(heir.numbers) == [1, 2]


def _fail(n: int, attempt: int) -> None:
    raise Trouble(f"no {n}")


async def _bury(rig: Rig, bus: EventBus, *numbers: int) -> Probe:
    """A subscription that gives up at once, and its dead letters, one after the other."""
    probe = await rig.on(bus, _fail, retry=soon(rig, attempts=1))
    await rig.publish(bus, *numbers)
    await rig.quiet(bus)
    return probe
