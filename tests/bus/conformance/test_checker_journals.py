"""Histories that are long, written by many processes, some of which were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from bus.conformance.checker import Judge, Verdict, judge
from bus.conformance.history import History, Journal, Journals, Record

GROUPS = {"shop.handle": ("orders.*",)}
KILLED = """
import sys
from pathlib import Path
from bus.conformance.history import Journal
journal = Journal(Path(sys.argv[1]))
for n in range(1_000_000):
    journal.add("started", float(n), id=str(n))
    print(n, flush=True)
"""


def published(history: History, *ids: str, key: str = "k") -> None:
    for id in ids:
        at = float(len(history.records))
        history.add("invoked", at, source="/s", id=id, type="orders.item", key=key)
        history.add("confirmed", at + 0.5, source="/s", id=id)


def started(history: History, id: str, run: str, how: str = "returned", replica: str = "r1") -> None:
    at = float(len(history.records))
    history.add(
        "started", at, source="/s", id=id, type="orders.item", key="k", group="shop.handle", replica=replica,
        run=run,
    )  # fmt: skip
    if how:
        history.add("ended", at + 0.5, run=run, how=how)


def found(verdict: Verdict) -> set[str]:
    return {kind for kind, findings in vars(verdict).items() if findings}


# --- journals ----------------------------------------------------------------------------------------


def test_what_was_added_outlives_the_kill_of_its_writer(tmp_path: Path) -> None:
    """Each record that `add` has returned for is on file after SIGKILL, whenever it falls."""
    with subprocess.Popen(  # noqa: S603 - the interpreter, with a program of ours
        [sys.executable, "-c", KILLED, str(tmp_path / "one")], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        told = [int(line) for _, line in zip(range(500), writer.stdout, strict=False)]
        os.kill(writer.pid, signal.SIGKILL)
        told += [int(line) for line in writer.stdout if line.endswith("\n")]
    records = list(Journals([tmp_path / "one"]))
    assert [record.id for record in records[: len(told)]] == [str(n) for n in told]
    assert len(told) <= len(records) <= len(told) + 1


def test_journals_are_merged_by_time_as_often_as_they_are_read(tmp_path: Path) -> None:
    """In the order of their times, those of one file that have the same time in the order of their lines."""
    for name, times in (("one", (1.0, 3.0, 3.0)), ("two", (2.0, 4.0))):
        journal = Journal(tmp_path / name)
        for number, at in enumerate(times):
            journal.add("gone", at, replica=f"{name}{number}")
        journal.close()
    history = Journals([tmp_path / "one", tmp_path / "two"])
    assert [record.replica for record in history] == ["one0", "two0", "one1", "one2", "two1"]
    assert list(history) == list(history)


def test_a_line_carries_every_field_and_nothing_that_is_empty_at_its_end() -> None:
    """Whatever is in a field comes back, line breaks and foreign letters included."""
    full = Record("started", 1.5, "r/1", "failed", "/s", "ü\n", "a.b", "r", "t", "k", "d", 2, "no\tway")
    assert Record.read(full.line()) == full
    assert Record("confirmed", 2.0, source="/s", id="a").line() == '["confirmed",2.0,"","","/s","a"]'
    assert "\n" not in full.line()


# --- the judge --------------------------------------------------------------------------------------


def crashed(*, again: Iterable[str]) -> History:
    """Two events of a key were handled, their settlements were lost with their replica."""
    history = History()
    published(history, "a", "b", "c")
    started(history, "a", "1")
    started(history, "b", "2")
    history.add("gone", float(len(history.records)), replica="r1")
    for number, id in enumerate(again):
        started(history, id, f"again{number}", replica="r2")
    started(history, "c", "3", replica="r2")
    return history


def test_what_a_crash_delivers_again_is_repeated_but_not_out_of_order_where_that_is_said() -> None:
    """`redelivery`: a before b, and both once more, is the order of first completions and of first starts."""
    history = crashed(again=["a", "b"])
    assert found(judge(history, GROUPS)) == {"repeated", "disordered"}
    lenient = Judge(GROUPS, redelivery=True)
    lenient.read(history)
    assert found(lenient.verdict(history)) == {"repeated"}
    assert not found(lenient.verdict(history, repeats=2))


def test_what_was_not_handled_is_in_order_even_where_redelivery_is_let_pass() -> None:
    """An attempt that was cut off is repeated before anything later, or that is found."""
    history = History()
    published(history, "a", "b")
    started(history, "a", "1", how="")
    history.add("gone", float(len(history.records)), replica="r1")
    started(history, "b", "2", replica="r2")
    started(history, "a", "3", replica="r2")
    lenient = Judge(GROUPS, redelivery=True)
    lenient.read(history)
    assert found(lenient.verdict(history, repeats=1)) == {"disordered"}


def test_the_judge_tells_which_attempt_each_repetition_followed() -> None:
    """How that had ended, and on which replica: so that each can be laid to the kill that it came of."""
    history = crashed(again=["b"])
    case = Judge(GROUPS)
    case.read(history)
    assert [(repeat.start.id, repeat.before) for repeat in case.repeats] == [("b", ("returned", "r1"))]
    assert (case.starts["shop.handle"], case.handled("shop.handle"), case.confirmed) == (4, 3, 3)


def test_a_second_start_beside_the_first_is_a_repetition_however_that_ends() -> None:
    """It had not failed yet when it was started again."""
    history = History()
    published(history, "a")
    started(history, "a", "1", how="")
    started(history, "a", "2", how="")
    for run, how in (("1", "failed"), ("2", "returned")):
        history.add("ended", float(len(history.records)), run=run, how=how)
    assert found(judge(history, GROUPS)) == {"repeated", "overlapping"}


def test_an_operator_lets_an_event_start_again_only_after_he_has_asked() -> None:
    """A start before that is a repetition."""
    history = History()
    published(history, "a")
    started(history, "a", "1")
    started(history, "a", "2")
    history.add("again", float(len(history.records)), source="/s", id="a", group="shop.handle")
    started(history, "a", "3")
    assert len(judge(history, GROUPS).repeated) == 1


def test_a_history_can_be_judged_as_it_comes(tmp_path: Path) -> None:
    """From files, in parts, with the end of each run in the story of what is found."""
    crashed(again=["a", "b"]).save(tmp_path / "one")
    history = Journals([tmp_path / "one"])
    records = list(history)
    case = Judge(GROUPS, redelivery=True)
    case.read(records[:7])
    case.read(records[7:])
    (finding, _) = case.verdict(history).repeated
    assert [record.kind for record in finding.records] == [
        "invoked", "confirmed", "started", "ended", "started", "ended"
    ]  # fmt: skip


def test_only_the_first_findings_of_a_kind_carry_their_story() -> None:
    """However many there are: a bus that loses everything is judged in bounded memory too."""
    history = History()
    published(history, *(str(n) for n in range(1_000)))
    lost = judge(history, GROUPS).lost
    assert len(lost) == 1_000
    assert sum(bool(finding.records) for finding in lost) == 5
