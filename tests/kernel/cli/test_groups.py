"""`plugbus group …` and `plugbus bus info`."""

from typing import Any

import pytest

from .conftest import CannedKernel, Plugbus

GROUP: dict[str, Any] = {
    "group": "alerts.watch", "plugin_id": "alerts", "patterns": ["github.**", "host.sampled"],
    "state": "active", "paused": None, "waiting": 14, "peak": 20, "oldest_age": 7_300.0, "in_flight": 2,
    "parked": 3, "dead": 1, "handled": 50, "failed": 4, "discarded": 0, "expired": 0, "filtered": 6,
    "repeated": 0, "dropped": 0, "stale": 0, "rate": 38.2, "replaying": 0, "open_breakers": ["r2"],
    "owners": {"r1": 2, "r2": 1},
}  # fmt: skip
PAUSED = GROUP | {"group": "alerts.page", "paused": "deploy", "oldest_age": None, "rate": 0.0, "owners": {}}


def test_groups_are_listed_with_the_figures_of_an_operator(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """One row each, at most 100 columns; below, what is paused, why, and what lets it go on."""
    kernel.answer("GET /admin/groups", [GROUP, PAUSED])
    lines = plugbus("group", "list").out.splitlines()
    head = ["GROUP", "STATE", "WAITING", "OLDEST", "IN", "FLIGHT", "PARKED", "DEAD", "RATE", "OWNERS"]
    assert lines[0].split() == head
    assert lines[1].split() == ["alerts.watch", "active", "14", "2h", "2", "3", "1", "38/s", "2"]
    assert lines[2].split() == ["alerts.page", "paused", "14", "-", "2", "3", "1", "0/s", "0"]
    assert lines[3:] == ["alerts.page is paused: deploy (plugbus group resume alerts.page)"]
    assert max(map(len, lines)) <= 100
    assert plugbus("group", "list", "--json").json == {
        "schema": "plugbus.group.list/1",
        "items": [GROUP, PAUSED],
    }


def test_no_groups_are_told(plugbus: Plugbus, kernel: CannedKernel) -> None:
    kernel.answer("GET /admin/groups", [])
    assert plugbus("group", "list").out == "no groups\n"


def test_names_that_are_too_long_are_cut_in_their_middle(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Behind a pipe as well a row fits; both ends tell the groups apart, and JSON has them whole."""
    big = {"waiting": 1_000_000, "parked": 200_000, "dead": 100_000, "rate": 12_345.0, "state": "ephemeral"}
    items = [GROUP | big | {"group": f"organization_sync.handle_member@{'host-' * 8}{n}"} for n in range(2)]
    kernel.answer("GET /admin/groups", items)
    lines = plugbus("group", "list").out.splitlines()
    assert max(map(len, lines)) <= 100
    names = [line.split()[0] for line in lines[1:]]
    assert [(name[:12], name[-6:]) for name in names] == [("organization", f"host-{n}") for n in range(2)]
    assert all("…" in name for name in names)
    assert plugbus("group", "list", "--json").json["items"] == items


def test_one_group_is_shown_with_everything_that_is_known(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Counters that never counted are left out."""
    kernel.answer("GET /admin/groups/alerts.watch", GROUP)
    out = plugbus("group", "show", "alerts.watch").out
    for text in (
        "github.**, host.sampled",
        "14 (at most 20)",
        "filtered:",
        "r1 (2), r2 (1)",
        "open breakers",
    ):
        assert text in out
    assert "dropped" not in out
    assert plugbus("group", "show", "alerts.watch", "--json").json["item"] == GROUP


def test_pausing_and_resuming_say_what_came_of_it(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """The reason goes along."""
    kernel.answer("POST /admin/groups/alerts.page/pause", PAUSED)
    kernel.answer("POST /admin/groups/alerts.page/resume", PAUSED | {"paused": None})
    ended = plugbus("group", "pause", "alerts.page", "--reason", "deploy")
    assert ended.out == "alerts.page is paused: deploy (plugbus group resume alerts.page)\n"
    assert kernel.last.body == {"reason": "deploy"}
    assert plugbus("group", "resume", "alerts.page").out == "alerts.page goes on: 14 waiting, 3 parked\n"
    for verb in ("pause", "resume"):
        assert plugbus("group", verb, "alerts.page", "--json").json["schema"] == f"plugbus.group.{verb}/1"


def test_dropping_asks_first_and_says_what_is_given_up(
    plugbus: Plugbus, kernel: CannedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a terminal the answer decides; `--yes` answers beforehand; without either it is refused."""
    kernel.answer("GET /admin/groups/alerts.watch", GROUP)
    kernel.answer("POST /admin/groups/alerts.watch/drop", GROUP)
    ended = plugbus("group", "drop", "alerts.watch")
    assert (ended.code, kernel.asked) == (2, [])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers, questions = iter([False, True]), list[str]()
    monkeypatch.setattr("typer.confirm", lambda text: questions.append(text) or next(answers))
    assert plugbus("group", "drop", "alerts.watch").err == "declined: nothing was dropped\n"
    assert [asked.method for asked in kernel.asked] == ["GET"]
    told = "14 waiting, 3 parked, 1 dead"
    assert plugbus("group", "drop", "alerts.watch").out == f"dropped alerts.watch: {told} given up\n"
    assert questions == [f"drop alerts.watch with {told} for good?"] * 2
    assert plugbus("group", "drop", "alerts.watch", "--yes", "--json").json["item"] == GROUP


def test_an_unknown_group_is_exit_code_5(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """With what the kernel suggests."""
    problem = {
        "type": "/problems/group-not-found", "title": "Group not found", "status": 404,
        "detail": "there is no group 'alerts.wach'", "fix": "did you mean 'alerts.watch'?",
    }  # fmt: skip
    kernel.answer("POST /admin/groups/alerts.wach/pause", problem, 404)
    ended = plugbus("group", "pause", "alerts.wach")
    assert ended.code == 5
    assert ended.err.startswith("group-not-found: there is no group 'alerts.wach'")
    assert "did you mean 'alerts.watch'?" in ended.err


TOPIC: dict[str, Any] = {
    "topic": "orders", "partitions": 8, "events": 1_200, "peak": 3_000, "limit": 1_000_000,
    "published": 9_000, "rate": 0.5, "oldest_age": 90.0, "holder": "alerts.watch",
}  # fmt: skip
BUS: dict[str, Any] = {
    "backend": "redis", "server": "Redis 7.0.15", "address": "redis://h:6379/0", "namespace": "shop",
    "connected": True, "durability": "weak", "replicas": ["r1", "r2"],
    "warnings": ["appendfsync is everysec: set it to always \x1b[31m"],
    "details": {"latency_ms": 0.25, "layout": 1, "scripts": {"loaded": 9, "missing": []}, "tls": False},
    "replica": "r1", "features": {"persistent": True, "shared": True}, "topics": [TOPIC],
}  # fmt: skip


def test_the_bus_is_shown_with_what_is_in_force(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """What it is, how durable in words, every fact, every warning, and a row for each topic."""
    kernel.answer("GET /admin/bus", BUS)
    lines = plugbus("bus", "info").out.splitlines()
    fields = dict(line.split(": ", 1) for line in lines[:-2])
    assert {name: value.strip() for name, value in fields.items()} == {
        "backend": "redis (Redis 7.0.15)",
        "address": "redis://h:6379/0",
        "namespace": "shop",
        "connected": "yes",
        "durability": "weak: a crash of the server or of its machine may lose what was confirmed",
        "replica": "r1",
        "other replicas": "r2",
        "persistent": "yes",
        "shared": "yes",
        "latency ms": "0.25",
        "layout": "1",
        "scripts": "loaded=9, missing=[]",
        "tls": "no",
        "warning": "appendfsync is everysec: set it to always \\x1b[31m",
    }
    assert lines[-2].split()[:4] == ["TOPIC", "PARTITIONS", "EVENTS", "PEAK"]
    assert lines[-1].split() == ["orders", "8", "1200", "3000", "1000000", "0.5/s", "90s", "alerts.watch"]
    assert plugbus("bus", "info", "--json").json == {"schema": "plugbus.bus.info/1", "item": BUS}


def test_a_bus_that_is_not_connected_is_shown_as_such(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """With what is known of it; nothing is left empty or looks well."""
    kernel.answer("GET /admin/bus", BUS | {"connected": False, "server": "", "topics": [], "replicas": []})
    out = plugbus("bus", "info").out
    assert "no: it does not answer" in out
    assert "not known" in out
    assert "()" not in out
    assert "other replicas" not in out
