"""`plugbus dlq export` and `import`: dead letters as JSON lines."""

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import CannedKernel, Plugbus
from .test_dlq import LETTER

WHOLE: dict[str, Any] = LETTER | {
    "envelope": {**LETTER["envelope"], "time": "2026-01-02T03:04:05Z", "specversion": "1.0"},
    "error": LETTER["error"] | {"bases": [], "attributes": {}, "retry_after": None},
}


def line(number: int = 1, group: str = "alerts.watch") -> str:
    return json.dumps(WHOLE | {"id": f"d{number}", "group": group})


def here(kernel: CannedKernel, *groups: str) -> None:
    kernel.answer("GET /admin/groups", [{"group": group} for group in groups])


def test_all_pages_are_exported(plugbus: Plugbus, kernel: CannedKernel, folder: Path) -> None:
    """Page after page, to stdout or to a file; the filters hold for each."""
    letters = [WHOLE | {"id": f"d{number}"} for number in range(450)]
    pages = {None: letters[:200], "d199": letters[200:400], "d399": letters[400:]}
    kernel.answer("GET /admin/dead-letters", lambda asked: pages[asked.query.get("after", [None])[0]])
    ended = plugbus("dlq", "export", "--group", "alerts.watch")
    assert [json.loads(text) for text in ended.out.splitlines()] == letters
    assert ended.err == "exported: 450\n"
    assert [asked.query["group"] for asked in kernel.asked] == [["alerts.watch"]] * 3
    assert plugbus("dlq", "export", "-o", "out.jsonl").out == "exported: 450 to out.jsonl\n"
    assert (folder / "out.jsonl").read_text() == ended.out
    item = {"count": 450, "file": "out.jsonl"}
    assert plugbus("dlq", "export", "-o", "out.jsonl", "--json").json["item"] == item


def test_an_export_that_breaks_off_leaves_no_file(
    plugbus: Plugbus, kernel: CannedKernel, folder: Path
) -> None:
    """Half of the dead letters under the name of all would be believed."""
    full = [WHOLE | {"id": f"d{number}"} for number in range(200)]
    kernel.answer("GET /admin/dead-letters", lambda asked: None if "after" in asked.query else full)
    (folder / "out.jsonl").write_text("before")
    with pytest.raises(TypeError):
        plugbus("dlq", "export", "-o", "out.jsonl")
    assert (folder / "out.jsonl").read_text() == "before"
    assert list(folder.iterdir()) == [folder / "out.jsonl"]
    assert plugbus("dlq", "export", "-o", "none/out.jsonl").err.startswith("file: cannot be written")


def test_what_was_exported_is_imported_in_batches(
    plugbus: Plugbus, kernel: CannedKernel, folder: Path
) -> None:
    """At most 1,000 at a time; how many were new, and how many known."""
    (folder / "in.jsonl").write_text("".join(f"{line(number)}\n" for number in range(2_001)) + "\n")
    here(kernel, "alerts.watch")
    kernel.answer("POST /admin/dead-letters/import", {"count": 667})
    ended = plugbus("dlq", "import", "in.jsonl")
    assert (ended.code, ended.out) == (0, "imported: 2001\n")
    bodies = [asked.body["letters"] for asked in kernel.asked if asked.method == "POST"]
    assert [len(batch) for batch in bodies] == [1_000, 1_000, 1]
    assert bodies[0][1]["data"] == WHOLE["data"]
    kernel.answer("POST /admin/dead-letters/import", {"count": 0})
    assert plugbus("dlq", "import", "in.jsonl").out == "imported: 0; 2001 were here already\n"
    assert plugbus("dlq", "import", "in.jsonl", "--json").json["item"] == {"count": 0, "given": 2_001}


def test_large_dead_letters_make_small_batches(plugbus: Plugbus, kernel: CannedKernel, folder: Path) -> None:
    """A batch stays below what the kernel reads as one body."""
    large = [json.dumps(WHOLE | {"id": f"d{number}", "data": "x" * 3_000_000}) for number in range(5)]
    (folder / "in.jsonl").write_text("\n".join(large))
    here(kernel, "alerts.watch")
    kernel.answer("POST /admin/dead-letters/import", {"count": 1})
    assert plugbus("dlq", "import", "in.jsonl").code == 0
    assert [len(asked.body["letters"]) for asked in kernel.asked if asked.method == "POST"] == [2, 2, 1]


def test_bad_lines_are_named_and_nothing_is_imported(
    plugbus: Plugbus, kernel: CannedKernel, folder: Path
) -> None:
    """By number, with what was expected; at most a screen of them."""
    lines = [line(), "{", line(), '{"id": "d2"}', *["[]"] * 9]
    (folder / "in.jsonl").write_text("\n".join(lines))
    ended = plugbus("dlq", "import", "in.jsonl")
    assert (ended.code, kernel.asked) == (1, [])
    assert ended.err.splitlines()[0] == "data: 11 lines are no dead letters; nothing was imported"
    assert ended.err.splitlines()[1].startswith("  - line 2: Invalid JSON")
    assert ended.err.splitlines()[2].startswith("  - line 4: group: Field required")
    assert "  - and 6 more" in ended.err
    assert "  at:  in.jsonl" in ended.err


def test_groups_that_are_not_here_are_named_before_anything_is_imported(
    plugbus: Plugbus, kernel: CannedKernel, folder: Path
) -> None:
    """Not after the first batch has gone in."""
    (folder / "in.jsonl").write_text("\n".join([line(1), line(2, "billing.bill"), line(3, "shop.sell")]))
    here(kernel, "alerts.watch")
    ended = plugbus("dlq", "import", "in.jsonl")
    assert ended.code == 5
    assert "not here: billing.bill, shop.sell; nothing was imported" in ended.err
    assert [asked.method for asked in kernel.asked] == ["GET"]


def test_an_empty_file_imports_nothing(plugbus: Plugbus, kernel: CannedKernel, folder: Path) -> None:
    """It is no mistake; a file that is not there is one."""
    (folder / "in.jsonl").write_text("")
    assert plugbus("dlq", "import", "in.jsonl").out == "imported: 0\n"
    assert plugbus("dlq", "import", "none.jsonl").err.startswith("file: cannot be read")
