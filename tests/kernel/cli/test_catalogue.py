"""`plugbus event list`, `schema` and `replay`."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .conftest import CannedKernel, Plugbus

ORDER: dict[str, Any] = {
    "type": "orders.placed", "version": 1, "description": "A customer confirmed an order.\n\nMore.",
    "json_schema": {"title": "OrderPlaced"}, "publishers": ["shop"],
    "handlers": ["alerts.watch", "billing.bill"],
}  # fmt: skip
ORDER_2 = ORDER | {"version": 2, "json_schema": {"title": "OrderPlaced 2"}, "publishers": []}


def test_event_types_are_listed(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Who publishes and who handles each version; the pattern goes to the kernel."""
    kernel.answer("GET /admin/events/types", [ORDER, ORDER_2])
    head, first, second = plugbus("event", "list", "orders.*").out.splitlines()
    assert kernel.last.query == {"pattern": ["orders.*"]}
    assert head.split() == ["TYPE", "VERSION", "PUBLISHED", "BY", "HANDLED", "BY", "DESCRIPTION"]
    assert first.split()[:5] == ["orders.placed", "1", "shop", "alerts.watch,", "billing.bill"]
    assert first.endswith("A customer confirmed an order.")
    assert second.split()[:3] == ["orders.placed", "2", "-"]
    assert plugbus("event", "list", "--json").json == {
        "schema": "plugbus.event.list/1",
        "items": [ORDER, ORDER_2],
    }
    kernel.answer("GET /admin/events/types", [])
    assert plugbus("event", "list").out == "no event types\n"


def test_the_schema_of_a_type_is_that_of_its_newest_version(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Or of the one that is named."""
    kernel.answer("GET /admin/events/types", [ORDER_2, ORDER])
    assert plugbus("event", "schema", "orders.placed").json == {"title": "OrderPlaced 2"}
    assert plugbus("event", "schema", "orders.placed", "--version", "1").json == {"title": "OrderPlaced"}
    assert plugbus("event", "schema", "orders.placed", "--json").json["item"] == ORDER_2


def test_a_type_or_version_that_is_not_there_is_exit_code_5(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """With those that may have been meant."""
    kernel.answer("GET /admin/events/types", [ORDER, ORDER_2])
    ended = plugbus("event", "schema", "orders.place")
    assert (ended.code, ended.out) == (5, "")
    assert "fix: did you mean 'orders.placed'?" in ended.err
    ended = plugbus("event", "schema", "orders.placed", "--version", "7")
    assert (ended.code, "fix: it has 1, 2" in ended.err) == (5, True)


@pytest.mark.parametrize(
    ("words", "bounds"),
    [
        ((), {"start": "oldest"}),
        (("--from", "oldest"), {"start": "oldest"}),
        (("--from", "orders:0:17", "--to", "12"), {"start": "orders:0:17", "end": "12"}),
        (("--from", "2026-01-31T08:00:00+00:00"), {"start": datetime(2026, 1, 31, 8, tzinfo=UTC)}),
        (("--from", "2026-01-31T08:00"), {"start": datetime(2026, 1, 31, 8).astimezone()}),
    ],
)
def test_a_replay_begins_where_it_was_told(
    plugbus: Plugbus, kernel: CannedKernel, words: tuple[str, ...], bounds: dict[str, Any]
) -> None:
    """The oldest, a time (with its zone, else this place's), or a position as it stands."""
    kernel.answer("POST /admin/events/replay", {"group": "alerts.watch", "events": 12})
    ended = plugbus("event", "replay", "alerts.watch", *words)
    assert ended.out.startswith("replaying 12 events to alerts.watch")
    for name, expected in bounds.items():
        told = kernel.last.body[name]
        assert (datetime.fromisoformat(told) if isinstance(expected, datetime) else told) == expected


def test_a_span_means_so_long_ago(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """`--from 2h --to 30m`."""
    kernel.answer("POST /admin/events/replay", {"group": "alerts.watch", "events": 12})
    before = datetime.now(UTC)
    plugbus("event", "replay", "alerts.watch", "--from", "2h", "--to", "30m")
    for name, ago in (("start", timedelta(hours=2)), ("end", timedelta(minutes=30))):
        told = datetime.fromisoformat(kernel.last.body[name])
        assert before - ago <= told <= datetime.now(UTC) - ago


def test_a_replay_is_cancelled(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """How many were left; bounds beside it make no sense."""
    kernel.answer("POST /admin/events/replay/cancel", {"group": "alerts.watch", "events": 3})
    ended = plugbus("event", "replay", "alerts.watch", "--cancel")
    assert ended.out == "ended the replay of alerts.watch: 3 events were left\n"
    assert plugbus("event", "replay", "alerts.watch", "--cancel", "--json").json["item"]["events"] == 3
    assert plugbus("event", "replay", "alerts.watch", "--cancel", "--from", "2h").code == 2


def test_a_time_that_is_none_is_told(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """What begins like a day must be one."""
    ended = plugbus("event", "replay", "alerts.watch", "--from", "2026-13-40")
    assert (ended.code, kernel.asked) == (2, [])
    assert "is not a time" in ended.err


def comparison(reader: int, *differences: dict[str, Any]) -> dict[str, Any]:
    return {
        "writer": {"version": 1, "plugin_id": "shop"},
        "reader": {"version": reader, "plugin_id": "till"},
        "differences": list(differences),
        "compatible": all(one["compatible"] for one in differences),
    }


FINE = {"field": "note", "text": "added in till, and optional there", "compatible": True, "fix": ""}
WRONG = {"field": "total", "text": "is string; till takes integer", "compatible": False, "fix": "lift it"}


def test_differences_are_told_with_what_can_be_read(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Between versions, and between publisher and handler of one; exit code 1 where one cannot read."""
    compared = [comparison(2, WRONG, FINE), comparison(1)]
    answer = {"type": "orders.placed", "versions": [1, 2], "comparisons": compared}
    kernel.answer("GET /admin/events/types/orders.placed/diff", answer)
    ended = plugbus("event", "diff", "orders.placed", "--from", "1", "--to", "2")
    assert kernel.last.query == {"from": ["1"], "to": ["2"]}
    assert (ended.code, ended.err) == (1, "")
    assert ended.out.splitlines() == [
        "orders.placed, version 1 read as version 2",
        "  ✖ total: is string; till takes integer; fix: lift it",
        "  ✔ note: added in till, and optional there",
        "orders.placed version 1, published by shop, handled by till",
        "  no difference",
    ]
    ended = plugbus("event", "diff", "orders.placed", "--json")
    assert (ended.code, ended.json) == (1, {"schema": "plugbus.event.diff/1", "item": answer})


def test_what_can_be_read_is_exit_code_0(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Also where there is nothing to compare, which is said."""
    answer = {"type": "orders.placed", "versions": [1], "comparisons": [comparison(1, FINE)]}
    kernel.answer("GET /admin/events/types/orders.placed/diff", answer)
    assert plugbus("event", "diff", "orders.placed").code == 0
    kernel.answer("GET /admin/events/types/orders.placed/diff", answer | {"comparisons": []})
    ended = plugbus("event", "diff", "orders.placed")
    assert (ended.code, "no publisher and handler with models of their own" in ended.out) == (0, True)


def test_an_unknown_type_has_nothing_to_compare(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Exit code 5."""
    assert plugbus("event", "diff", "orders.none").code == 5
