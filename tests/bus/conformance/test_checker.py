"""The judge of the suite: what it finds in a history, and what it lets pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bus.conformance.checker import judge
from bus.conformance.history import History, Record, digest_of

GROUPS = {"shop.handle": ("orders.*",)}


def story(*lines: str) -> History:
    """A history in words: `invoked a k`, `confirmed a`, `started a k r1 run1`, `ended a run1 returned` …"""
    history = History()
    for at, line in enumerate(lines):
        kind, *words = line.split()
        fields: dict[str, Any] = {"source": "/s", "type": "orders.item"}
        if kind in ("gone", "back"):
            fields = {"replica": words[0]}
        else:
            fields["id"] = words[0]
        if kind == "invoked":
            fields |= {"key": words[1] if len(words) > 1 else None, "digest": "d"}
        elif kind == "started":
            _, key, replica, run, *rest = words
            fields |= {
                "key": None if key == "-" else key,
                "replica": replica,
                "run": run,
                "group": "shop.handle",
            }
            fields |= {"digest": rest[0] if rest else "d"}
        elif kind == "ended":
            fields |= {"run": words[1], "how": words[2], "group": "shop.handle"}
        elif kind in ("given_up", "again"):
            fields |= {"group": "shop.handle"}
        history.add(kind, float(at), **fields)  # type: ignore[arg-type]
    return history


PUBLISHED = ("invoked a k", "confirmed a", "invoked b k", "confirmed b")
HANDLED = ("started a k r1 1", "ended a 1 returned", "started b k r1 2", "ended b 2 returned")


def kinds(history: History, **allowed: Any) -> set[str]:
    return {kind for kind, findings in vars(judge(history, GROUPS, **allowed)).items() if findings}


def test_a_history_in_which_all_is_well_passes() -> None:
    """Published, handled once, in order."""
    verdict = judge(story(*PUBLISHED, *HANDLED), GROUPS)
    assert verdict
    assert str(verdict) == "nothing lost, unexpected, repeated, out of order, or two at once"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([*PUBLISHED, *HANDLED[:2]], {"lost"}),
        ([*PUBLISHED, *HANDLED[:3]], {"lost"}),
        ([*PUBLISHED, *HANDLED[:3], "ended b 2 failed"], {"lost"}),
        ([*PUBLISHED, *HANDLED[:2], "given_up b"], set()),
        (["invoked a k"], set()),
        ([*PUBLISHED, *HANDLED, "started a k r1 3", "ended a 3 returned"], {"repeated", "disordered"}),
        ([*PUBLISHED, *HANDLED, "again a", "started a k r1 3", "ended a 3 returned"], set()),
        ([*PUBLISHED, *HANDLED[2:], *HANDLED[:2]], {"disordered"}),
        (["invoked a k", "invoked b k", "confirmed a", "confirmed b", *HANDLED[2:], *HANDLED[:2]], set()),
        ([*PUBLISHED, HANDLED[0], HANDLED[2], HANDLED[1], HANDLED[3]], {"overlapping"}),
        ([*PUBLISHED, HANDLED[0], "ended a 1 failed", *HANDLED[2:], "started a k r1 3", "ended a 3 returned"],
         {"disordered"}),
        ([*PUBLISHED, "started a k r1 0", "ended a 0 failed", *HANDLED], set()),
        (["started x - r1 1", "ended x 1 returned"], {"unexpected"}),
        (["invoked a", "confirmed a", "started a - r1 1 other", "ended a 1 returned"], {"unexpected"}),
        ([*PUBLISHED, "gone r1", *HANDLED], {"unexpected"}),
        ([*PUBLISHED, "gone r1", "back r1", *HANDLED], set()),
        ([*PUBLISHED, "started a k r0 0", "gone r0", *HANDLED, "ended a 0 returned"], {"repeated"}),
    ],
)  # fmt: skip
def test_each_kind_of_finding_is_found(lines: list[str], found: set[str]) -> None:
    """Lost, unexpected, repeated, out of order, two at once: and nothing where there is none."""
    assert kinds(story(*lines)) == found


def test_what_a_test_allows_is_let_pass() -> None:
    """So many repetitions, groups without order, events that need not be handled, a lossy group."""
    crash = story(*PUBLISHED, "started a k r0 0", "gone r0", *HANDLED)
    assert kinds(crash, repeats=1) == set()
    assert kinds(story(*PUBLISHED, *HANDLED[2:], *HANDLED[:2]), unordered=["shop.handle"]) == set()
    assert kinds(story(*PUBLISHED, *HANDLED[:2]), exempt=["b"]) == set()
    assert kinds(story(*PUBLISHED), lossy=True) == set()


def test_a_verdict_shows_the_history_around_each_finding() -> None:
    """What, and the records that show it."""
    text = str(judge(story(*PUBLISHED, HANDLED[0], HANDLED[2], HANDLED[1], HANDLED[3]), GROUPS))
    assert text.splitlines()[:2] == ["1 overlapping:", "- two at once of key k"]
    assert "started   a orders.item key=k shop.handle @r1 run=1" in text


def test_histories_of_several_processes_are_merged(tmp_path: Path) -> None:
    """Line by line, by time; the torn last line of a process that was killed is left out."""
    records = story(*PUBLISHED, *HANDLED).records
    History(records[::2]).save(tmp_path / "one")
    History(records[1::2]).save(tmp_path / "two")
    with (tmp_path / "two").open("a") as file:
        file.write('{"kind": "started", "at"')
    assert History.load(tmp_path / "one", tmp_path / "two").records == records
    assert Record.read(records[0].line()) == records[0]


def test_digests_see_data_and_attributes_but_no_layout() -> None:
    """`{"n": 1}` is `{"n":1}`; another key is another event; what is no JSON is compared as it is."""
    assert digest_of('{"n": 1}', key="k") == digest_of(b'{"n":1}', key="k")
    assert len({digest_of("{}", key="k"), digest_of("{}", key=None), digest_of("no", key="k")}) == 3
