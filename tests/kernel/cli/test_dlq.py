"""`plugbus dlq …`."""

from typing import Any

import pytest

from .conftest import CannedKernel, Plugbus

LETTER: dict[str, Any] = {
    "id": "d1",
    "group": "alerts.watch",
    "plugin_id": "alerts",
    "generation": 1,
    "reason": "attempts",
    "error": {
        "type": "builtins.KeyError",
        "message": "'total'",
        "place": "alerts.py:7",
        "fix": "",
        "traceback": "Traceback\n  File …\nKeyError: 'total'\n",
    },
    "attempts": 5,
    "first_at": "2026-01-02T03:04:05Z",
    "last_at": "2026-01-02T03:05:05Z",
    "envelope": {"type": "orders.placed", "id": "e1", "source": "/shop", "partitionkey": "k"},
    "version": 1,
    "data": '{"order_id":1}',
}


def test_dead_letters_are_listed(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """One row each; group and limit go to the kernel."""
    kernel.answer("GET /admin/dead-letters", [LETTER, LETTER | {"id": "d2", "error": None}])
    ended = plugbus("dlq", "list", "--group", "alerts.watch", "--limit", "7")
    head, first, second = ended.out.splitlines()
    assert head.split() == ["ID", "GROUP", "TYPE", "KEY", "TRIES", "REASON", "AT", "ERROR"]
    assert first.split()[:6] == ["d1", "alerts.watch", "orders.placed", "k", "5", "attempts"]
    assert "KeyError: 'total'" in first
    assert second.startswith("d2")
    assert kernel.last.query == {"group": ["alerts.watch"], "limit": ["7"]}
    assert plugbus("dlq", "list", "--json").json["items"][0] == LETTER


def test_a_long_error_is_cut_to_the_line(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """The list fits 100 characters; `dlq show` has the whole."""
    long = LETTER["error"] | {"message": "long " * 80}
    kernel.answer("GET /admin/dead-letters", [LETTER | {"error": long}])
    row = plugbus("dlq", "list").out.splitlines()[1]
    assert len(row) <= 100
    assert row.endswith("…")


def test_no_dead_letters_is_a_sentence(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """An empty table would leave the reader in doubt."""
    kernel.answer("GET /admin/dead-letters", [])
    assert plugbus("dlq", "list").out == "no dead letters\n"
    assert plugbus("dlq", "list", "--json").json == {"schema": "plugbus.dlq.list/1", "items": []}


def test_a_dead_letter_is_shown_with_its_end(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """The error with its place and traceback, the event, and the command that puts it back."""
    kernel.answer("GET /admin/dead-letters/d1", LETTER)
    out = plugbus("dlq", "show", "d1").out
    for text in (
        "KeyError: 'total'",
        "alerts.py:7",
        '{"order_id":1}',
        "  Traceback",
        "plugbus dlq redrive d1",
    ):
        assert text in out
    assert plugbus("dlq", "show", "d1", "--json").json == {"schema": "plugbus.dlq.show/1", "item": LETTER}
    assert plugbus("dlq", "show", "d9").code == 5


@pytest.mark.parametrize(
    ("words", "body", "count", "code", "out"),
    [
        (("d1", "d2"), {"ids": ["d1", "d2"]}, 2, 0, "redrive: 2\n"),
        (("--group", "a.b"), {"group": "a.b"}, 3, 0, "redrive: 3\n"),
        (("--all",), {}, 0, 0, "redrive: 0\n"),
        (
            ("d1", "d2", "d3"),
            {"ids": ["d1", "d2", "d3"]},
            1,
            8,
            "redrive: 1 of 3; the others are not there\n",
        ),
        (("d1",), {"ids": ["d1"]}, 0, 5, ""),
    ],
)
def test_dead_letters_are_redriven_by_id_by_group_or_all(
    plugbus: Plugbus,
    kernel: CannedKernel,
    words: tuple[str, ...],
    body: object,
    count: int,
    code: int,
    out: str,
) -> None:
    """All done is 0, some is 8, none of those named is 5."""
    kernel.answer("POST /admin/dead-letters/redrive", {"count": count})
    ended = plugbus("dlq", "redrive", *words)
    assert (ended.code, ended.out, kernel.last.body) == (code, out, body)


def test_discarding_asks_first(
    plugbus: Plugbus, kernel: CannedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a terminal the answer decides; `--yes` answers beforehand."""
    kernel.answer("POST /admin/dead-letters/discard", {"count": 1})
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers, questions = iter([False, True]), list[str]()
    monkeypatch.setattr("typer.confirm", lambda text: questions.append(text) or next(answers))
    ended = plugbus("dlq", "discard", "d1")
    assert (ended.code, ended.err) == (1, "declined: nothing was discarded\n")
    assert [asked.query for asked in kernel.asked] == [{"dry_run": ["true"]}]
    assert plugbus("dlq", "discard", "d1").code == 0
    assert kernel.last.query == {}
    assert questions == ["discard 1 dead letter for good?"] * 2
    ended = plugbus("dlq", "discard", "--all", "--yes", "--json")
    assert ended.json["item"] == {"count": 1, "requested": None, "dry_run": False}


ALL_FILTERS = (
    *("--group", "alerts.watch", "--plugin", "alerts", "--generation", "3", "--type", "orders.**"),
    *("--reason", "attempts", "--error", "KeyError", "--older-than", "1h30m", "--newer-than", "2d"),
)
SELECTION = {
    "group": "alerts.watch", "plugin_id": "alerts", "generation": 3, "type": "orders.**",
    "reason": "attempts", "error": "KeyError", "min_age": 5_400.0, "max_age": 172_800.0,
}  # fmt: skip


def test_every_filter_reaches_the_kernel(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """In the address where they are listed, in the body where they are settled; spans as seconds."""
    kernel.answer("GET /admin/dead-letters", [])
    kernel.answer("POST /admin/dead-letters/redrive", {"count": 2})
    kernel.answer("POST /admin/dead-letters/discard", {"count": 2})
    assert plugbus("dlq", "list", *ALL_FILTERS, "--after", "d7").code == 0
    in_address = {name: [str(value)] for name, value in SELECTION.items()}
    assert kernel.last.query == in_address | {"limit": ["100"], "after": ["d7"]}
    assert plugbus("dlq", "redrive", *ALL_FILTERS, "--rate", "5").out == "redrive: 2\n"
    assert (kernel.last.body, kernel.last.query) == (SELECTION, {"rate": ["5.0"]})
    assert plugbus("dlq", "discard", *ALL_FILTERS, "--yes").out == "discard: 2\n"
    assert (kernel.last.body, kernel.last.query) == (SELECTION, {})


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_a_dry_run_only_counts(plugbus: Plugbus, kernel: CannedKernel, verb: str) -> None:
    """It asks nobody, needs no `--yes`, and says that nothing was done."""
    kernel.answer(f"POST /admin/dead-letters/{verb}", {"count": 17})
    ended = plugbus("dlq", verb, "--error", "TimeoutError", "--dry-run")
    assert ended.out == f"would {verb} 17 dead letters; nothing was done\n"
    assert (kernel.last.body, kernel.last.query) == ({"error": "TimeoutError"}, {"dry_run": ["true"]})
    assert plugbus("dlq", verb, "--all", "--dry-run", "--json").json["item"]["dry_run"] is True


@pytest.mark.parametrize("text", ["2", "h", "2 h", "-2h", "2y", "1h30", ""])
def test_what_is_no_span_is_told(plugbus: Plugbus, kernel: CannedKernel, text: str) -> None:
    """A number needs its unit."""
    ended = plugbus("dlq", "list", "--older-than", text)
    assert (ended.code, kernel.asked) == (2, [])
    assert "is not a span of time" in ended.err
    assert "2h, 1h30m" in ended.err


def test_ids_and_filters_are_not_mixed(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """One way to say which, so that nobody gives up more than they meant."""
    for words in (("d1", "--group", "a.b"), ("--all", "--error", "KeyError"), ()):
        ended = plugbus("dlq", "discard", *words, "--yes")
        assert (ended.code, ended.err.splitlines()[0]) == (2, "usage: which dead letters?")
    assert kernel.asked == []
