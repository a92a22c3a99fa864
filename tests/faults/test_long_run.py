"""The long run in its short form, and what it is judged by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fault_tools.servers import binaries, binary
from long_run.conductor import Course, Kill
from long_run.plan import EFFECT, GROUPS, ITEM, LEDGER, MADE, ORDER, SOURCE, Fault, Plan
from long_run.progress import Progress
from long_run.run import carry_out
from long_run.system import Rest
from long_run.verdict import Result, judged
from long_run.witness import Witness

SMALL = Plan(seed=1, events=3, keys=1, replica_kills=1, server_kills=0)


@pytest.mark.parametrize("label", [label for label, _ in binaries()])
def test_nothing_is_lost_while_replicas_and_redis_are_killed(label: str, tmp_path: Path) -> None:
    """20,000 events, six kills of replicas, two of Redis: handled, in order, each effect once, settled."""
    plan = Plan(seed=20_000, events=20_000, keys=200, replica_kills=6, server_kills=2, retain=500)
    result, report = carry_out(plan, binary(label), tmp_path)
    assert not result.problems(), f"\n{report}"
    assert (len(result.replica_kills), len(result.server_kills)) == (6, 2)


# --- plans -------------------------------------------------------------------------------------------


def test_a_seed_is_the_same_plan_for_ever() -> None:
    """The same items in the same lanes, the same kills at the same counts; another seed, others."""
    plan, other = Plan(seed=7, events=500), Plan(seed=8, events=500)
    assert list(plan.items(0)) == list(Plan.read(plan.as_json()).items(0)) != list(other.items(0))
    assert plan.faults() == Plan(seed=7, events=500).faults() != other.faults()
    assert Counter(fault.whom for fault in plan.faults()) == {"replica": 50, "server": 10}


def test_every_item_is_published_by_one_publisher_and_every_key_in_one_lane() -> None:
    """So that each key has one order in which it was published."""
    plan = Plan(seed=7, events=2_000, keys=300, publishers=3)
    published = [(p, lane, item) for p in range(3) for lane, item in plan.items(p)]
    assert sorted(item.n for _, _, item in published) == list(range(2_000))
    assert len({(p, lane, item.key) for p, lane, item in published}) == len({i.key for _, _, i in published})


# --- the verdict -------------------------------------------------------------------------------------


class Story:
    """A run of three events, told by hand: they are published, and each group handles what it is told to."""

    def __init__(self, folder: Path) -> None:
        self.course = Course(seconds=1.0, is_trimmed=True, rest=Rest(published={"effect": 3}))
        self.witnesses = [self._witness(folder, name) for name in ("replica1", "replica2")]
        for n in range(3):
            self.witnesses[0].invoked(SOURCE, str(n), ITEM, "k0", "{}")
            self.witnesses[0].published("confirmed", SOURCE, str(n))

    def _witness(self, folder: Path, name: str) -> Witness:
        self.course.journals.append(folder / f"{name}.journal")
        return Witness(self.course.journals[-1], name)

    def handle(self, group: str, *numbers: int, replica: int = 0) -> None:
        witness = self.witnesses[replica]
        for n in numbers:
            source, type = (SOURCE, ITEM) if group != LEDGER else ("/effects", MADE)
            if group == EFFECT:
                witness.invoked("/effects", str(n), MADE, "k0", "{}")
            with witness.attempt(group, source, str(n), type, "k0", "{}"):
                pass

    def kill(self, *fetched: str) -> None:
        entries = {(ORDER, "work", entry) for entry in fetched}
        at = self.witnesses[1].gone("replica1")
        self.course.kills.append(Kill(Fault(0, "replica", 0, 0.1), "replica1", at, entries))

    def judged(self, lease: float = 2.0) -> Result:
        return judged(replace(SMALL, lease=lease), self.course)

    def close(self) -> None:
        for witness in self.witnesses:
            witness.journal.close()


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    story = Story(tmp_path)
    story.handle(EFFECT, 0, 1, 2)
    story.handle(LEDGER, 0, 1, 2)
    yield story
    story.close()


def test_a_run_in_which_all_is_handled_once_has_no_problems(story: Story) -> None:
    """Nothing to report."""
    story.handle(ORDER, 0, 1, 2)
    assert story.judged().problems() == []


def test_extra_starts_are_let_pass_up_to_what_the_killed_replica_held(story: Story) -> None:
    """Two were fetched and not settled: they may start again, in their order."""
    story.handle(ORDER, 0, 1)
    story.kill("1-1", "1-2")
    story.handle(ORDER, 0, 1, 2, replica=1)
    result = story.judged()
    assert (result.problems(), result.extra, result.fetched) == ([], 2, 2)


def test_more_extra_starts_than_the_killed_replica_held_are_a_problem(story: Story) -> None:
    """One was fetched, two start again: what was settled was delivered once more."""
    story.handle(ORDER, 0, 1)
    story.kill("1-2")
    story.handle(ORDER, 0, 1, 2, replica=1)
    found = story.judged().problems()
    assert found[-1] == "2 extra starts after replica1 was killed with 1 fetched"
    assert "long.order started 0 again" in found[0]


def test_an_extra_start_before_the_kill_is_not_laid_to_it(story: Story) -> None:
    """However much the replica held when it was killed."""
    story.handle(ORDER, 0)
    story.handle(ORDER, 0, 1, 2, replica=1)
    story.kill("1-1", "1-2")
    found = story.judged().problems()
    assert found[-1] == "1 extra starts of what a living replica had; 0 in flight when the server was killed"


def test_what_a_replica_has_handled_itself_it_does_not_start_again(story: Story) -> None:
    """It lived and knew of it."""
    story.handle(ORDER, 0, 1, 0, 2)
    result = story.judged()
    assert result.problems()[-1] == "1 extra starts by the replica that had started it before"
    assert len(result.found.repeated) == 1


def test_what_it_could_not_settle_before_its_lease_was_over_it_may_start_again(story: Story) -> None:
    """Redis was away for longer than that: no more than was in flight then."""
    story.handle(ORDER, 0)
    at = story.witnesses[1].gone("the server")
    fault, entries = Fault(0, "server", 0, 0.1), {(ORDER, "work", "1-1")}
    story.course.kills.append(Kill(fault, "the server", at, entries, back=at + 1e-6))
    story.handle(ORDER, 0, 1, 2)
    assert len(story.judged(lease=1.0).own) == 1
    assert story.judged(lease=5e-7).problems() == []


def test_a_second_effect_is_a_problem_even_if_nobody_handled_it(story: Story) -> None:
    """The stream has taken four for three events."""
    story.handle(ORDER, 0, 1, 2)
    story.course.rest.published["effect"] = 4
    assert story.judged().problems() == ["4 effects of 3 events"]


def test_what_is_left_at_the_end_is_a_problem(story: Story) -> None:
    """Keys that ought to be empty, dead letters, streams that are not trimmed, a run that stands still."""
    story.handle(ORDER, 0, 1, 2)
    story.course.rest.keys, story.course.rest.dead = ["long:{0}:lot:long.order:work"], 1
    story.course.is_trimmed, story.course.is_stuck = False, True
    assert len(story.judged().problems()) == 4


def test_an_event_that_no_attempt_has_finished_is_lost(story: Story) -> None:
    """The verdict shows its records."""
    story.handle(ORDER, 0, 1)
    found = "\n".join(story.judged().problems())
    assert "long.order never handled 2" in found
    assert "long.order has handled 2 of 3" in found
    assert set(GROUPS) == {ORDER, EFFECT, LEDGER}


def test_progress_counts_whole_lines_of_journals_that_grow(tmp_path: Path) -> None:
    """Each delivery once, though a line is cut where it is looked at."""
    path, progress = tmp_path / "replica1.journal", Progress()
    assert progress.look([path]) == 0
    with path.open("w") as file:
        file.write('["started",1.0]\n["ended",2.0]\n["ended",')
        file.flush()
        assert progress.look([path]) == 1
        file.write("3.0]\n")
        file.flush()
        assert progress.look([path]) == 2
