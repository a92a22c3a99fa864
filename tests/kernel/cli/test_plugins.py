"""`plugbus plugin …`."""

from typing import Any

import pytest

from contracts.health import PerformanceMetrics

from .conftest import CannedKernel, Plugbus


def test_plugins_are_listed_with_the_refused_ones_and_their_reason(
    plugbus: Plugbus, kernel: CannedKernel, plugin: dict[str, Any], refused: dict[str, Any]
) -> None:
    """A row for each; below, what is wrong with whom, where, and the next step."""
    kernel.answer("GET /admin/plugins", [plugin, refused])
    lines = plugbus("plugin", "list").out.splitlines()
    assert lines[0].split() == ["PLUGIN", "VERSION", "STATUS", "LEVEL", "HANDLERS", "CAPABILITIES", "SOURCE"]
    assert lines[1].split() == ["✔", "alerts", "1.0.0", "started", "trusted", "1", "alerts.active", "builtin"]
    assert lines[2].startswith("✖")
    assert lines[3:] == [
        "✖ scoring: handler-definition: handler 'score' has no annotation",
        "    at:  scoring/plugin.py:14",
        "    fix: annotate its first parameter",
    ]


def test_json_is_what_the_kernel_said_under_a_stable_name(
    plugbus: Plugbus, kernel: CannedKernel, plugin: dict[str, Any]
) -> None:
    """`{"schema": …, "items": […]}`."""
    kernel.answer("GET /admin/plugins", [plugin])
    assert plugbus("plugin", "list", "--json").json == {"schema": "plugbus.plugin.list/1", "items": [plugin]}
    assert kernel.last.headers["authorization"] == "Bearer right"


def test_plugins_are_selected_by_the_kernel(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Each filter is a parameter of the admin API; what cannot be is refused before it is asked."""
    kernel.answer("GET /admin/plugins", [])
    filters = ("--tag", "eu", "--tag", "new", "--status", "error", "--handles", "orders.placed",
               "--provides", "pricing.quote", "--level", "trusted")  # fmt: skip
    found = plugbus("plugin", "list", *filters)
    assert (found.code, found.out) == (0, "no plugin is like that\n")
    assert kernel.last.query == {
        "tag": ["eu", "new"], "status": ["error"], "handles": ["orders.placed"],
        "provides": ["pricing.quote"], "level": ["trusted"],
    }  # fmt: skip
    assert plugbus("plugin", "list", "--status", "asleep").code == 2


def test_requested_and_effective_level_are_both_shown(
    plugbus: Plugbus, kernel: CannedKernel, plugin: dict[str, Any]
) -> None:
    """A plugin that runs with less than it asked for says so."""
    kernel.answer("GET /admin/plugins", [plugin | {"level_requested": "sandboxed"}])
    assert "trusted (asked: sandboxed)" in plugbus("plugin", "list").out


def test_a_plugin_that_has_raised_is_shown_with_the_end_of_its_traceback(
    plugbus: Plugbus, kernel: CannedKernel, refused: dict[str, Any]
) -> None:
    """Below the reason, and not more than fits."""
    lines = [f"line {n}" for n in range(50)]
    kernel.answer("GET /admin/plugins/scoring", refused | {"traceback": "\n".join(lines)})
    shown = plugbus("plugin", "show", "scoring").out.splitlines()
    assert shown[-13].strip().startswith("fix:")
    assert [line.strip() for line in shown[-12:]] == lines[-12:]


def test_one_plugin_is_shown_with_everything_that_is_known(
    plugbus: Plugbus, kernel: CannedKernel, plugin: dict[str, Any]
) -> None:
    """Permissions, handlers with their groups, health, schema."""
    details = plugin | {
        "metadata": {"description": "Raises alerts", "configuration_schema": {"type": "object"}},
        "security": {"permissions": ["read_data"]},
        "handlers": [{"name": "watch", "group": "alerts.watch", "patterns": ["github.**", "host.sampled"]}],
        "health": {"status": "healthy"},
        "needed_by": ["pager"],
        "has_routes": True,
    }
    kernel.answer("GET /admin/plugins/alerts", details)
    out = plugbus("plugin", "show", "alerts").out
    for text in ("Raises alerts", "read_data", "alerts.watch  ← github.**, host.sampled", "healthy", "pager"):
        assert text in out
    assert "/plugins/alerts" in out
    assert plugbus("plugin", "show", "alerts", "--json").json == {
        "schema": "plugbus.plugin.show/1",
        "item": details,
    }


def test_a_plugin_that_is_not_well_is_marked_with_what_it_says(
    plugbus: Plugbus, kernel: CannedKernel, plugin: dict[str, Any]
) -> None:
    """In the list and for itself; it runs all the same."""
    ill = plugin | {"health": {"status": "unhealthy", "message": "no db", "failures": 3}}
    kernel.answer("GET /admin/plugins", [ill])
    lines = plugbus("plugin", "list").out.splitlines()
    assert lines[1].split()[:4] == ["!", "alerts", "1.0.0", "started"]
    assert lines[2] == "! alerts: unhealthy (3 in a row): no db"
    kernel.answer("GET /admin/plugins/alerts", ill | {"metadata": {}, "handlers": []})
    assert "unhealthy (3 in a row): no db" in plugbus("plugin", "show", "alerts").out


def test_top_sorts_by_loop_time(plugbus: Plugbus, kernel: CannedKernel, plugin: dict[str, Any]) -> None:
    """With the share of the time since each was started; what is not started is left out."""

    def with_loop(plugin_id: str, seconds: float) -> dict[str, Any]:
        figures = PerformanceMetrics(seconds=100.0, loop_seconds=seconds, handled=3, pending=None)
        return plugin | {"plugin_id": plugin_id, "metrics": figures.model_dump(mode="json")}

    kernel.answer(
        "GET /admin/plugins", [plugin | {"metrics": None}, with_loop("light", 0.5), with_loop("heavy", 50.0)]
    )
    header, first, second = (line.split() for line in plugbus("plugin", "top").out.splitlines())
    assert header[:3] == ["PLUGIN", "LOOP", "SHARE"]
    assert first == ["heavy", "50.000", "s", "50.0%", "0.000", "s", "3", "0", "0", "0", "?", "0", "0"]
    assert second[0] == "light"
    assert [item["plugin_id"] for item in plugbus("plugin", "top", "--json").json["items"]] == [
        "heavy",
        "light",
    ]
    kernel.answer("GET /admin/plugins/light", with_loop("light", 0.5) | {"metadata": {}, "handlers": []})
    assert "loop 0.500 s" in (out := plugbus("plugin", "show", "light").out)
    assert "memory not known in process" in out


def test_an_unknown_plugin_is_exit_code_5(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Whatever is typed stays one word of the path."""
    assert plugbus("plugin", "show", "../../events").code == 5
    assert kernel.last.path == "/admin/plugins/..%2F..%2Fevents"


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        ("done", "started"),
        ("unchanged", "started already"),
        ("accepted", "started (accepted; it goes on by itself)"),
    ],
)
def test_starting_says_what_came_of_it(
    plugbus: Plugbus, kernel: CannedKernel, plugin: dict[str, Any], outcome: str, text: str
) -> None:
    """Done, unchanged, or accepted."""
    result = {"outcome": outcome, "plugin": plugin}
    kernel.answer("POST /admin/plugins/alerts/start", result)
    assert plugbus("plugin", "start", "alerts").out == f"✔ alerts  1.0.0  {text}\n"
    assert plugbus("plugin", "start", "alerts", "--json").json["item"] == result


def test_stopping_names_the_new_status(
    plugbus: Plugbus, kernel: CannedKernel, plugin: dict[str, Any]
) -> None:
    """The plugin's line as `list` shows it."""
    kernel.answer(
        "POST /admin/plugins/alerts/stop", {"outcome": "done", "plugin": plugin | {"status": "unloaded"}}
    )
    assert plugbus("plugin", "stop", "alerts").out == "· alerts  1.0.0  unloaded\n"


def test_text_from_outside_cannot_drive_the_terminal(
    plugbus: Plugbus, kernel: CannedKernel, plugin: dict[str, Any]
) -> None:
    """Control characters are spelled out."""
    kernel.answer("GET /admin/plugins", [plugin | {"source": "\x1b[2J\x9b1m\nbad"}])
    out = plugbus("plugin", "list").out
    assert "\\x1b[2J\\x9b1m\\nbad" in out
    assert "\x1b" not in out


def test_a_reason_of_several_lines_is_shown_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A manifest with several problems names each on a line of its own, under the plugin."""
    from kernel.cli.plugins import say_reason

    reason = {"code": "manifest", "text": "2 problems\n  line 2: one\n  line 3: two", "place": "p.toml"}
    say_reason({"plugin_id": "bad", "status": "error", "reason": reason})
    assert capsys.readouterr().out.splitlines() == [
        "✖ bad: manifest: 2 problems",
        "    line 2: one",
        "    line 3: two",
        "    at:  p.toml",
    ]


def test_a_handler_tells_the_options_that_are_not_the_default(
    plugbus: Plugbus, kernel: CannedKernel, plugin: dict[str, Any]
) -> None:
    """In one line with its patterns; a predicate is said to be there."""
    options = {"concurrency": 4, "rate": {"limit": 10, "per": 1.0}, "retry": {"rules": [{"action": "pause"}]}}
    told = {
        "name": "watch",
        "group": "alerts.watch",
        "patterns": ["a.*"],
        "filtered": True,
        "options": options,
    }
    kernel.answer("GET /admin/plugins/alerts", plugin | {"handlers": [told]})
    shown = "concurrency=4, rate={limit=10, per=1.0}, retry={rules=[{action=pause}]}, where=…"
    assert f"  alerts.watch  ← a.*  ({shown})\n" in plugbus("plugin", "show", "alerts").out


def explanation(plugin: dict[str, Any], **more: Any) -> dict[str, Any]:
    """As `GET /admin/plugins/{id}/explain` answers."""
    after = {"plugin_id": "store", "tie": "dependency", "version_spec": ">=1", "status": "started", "wave": 1}
    told = {
        "enabled": True, "path": "/srv/alerts", "shadowed": ["/opt/alerts"], "known_from": "code",
        "start": {
            "wave": 2, "waves": 3, "beside": ["mail"], "why": "it starts after store",
            "after": [after | {"decides": True}],
        },
        "needed_by": [
            {"plugin_id": "pager", "status": "started", "tie": "dependency", "chain": ["pager", "alerts"]},
            {
                "plugin_id": "shift", "status": "error", "tie": "dependency",
                "chain": ["shift", "pager", "alerts"],
            },
            {"plugin_id": "wiki", "status": "started", "tie": "optional", "chain": ["wiki", "alerts"]},
        ],
        "provides": [{"capability": "alerts.active", "others": ["pager"], "is_only": True}],
        "requests": [{"capability": "clock.now", "others": []}],
        "publishes": [{"pattern": "alerts.raised", "others": ["pager.ring"], "is_only": True}],
        "handles": [{"pattern": "github.**", "group": "alerts.watch", "others": ["webhooks"]}],
    }  # fmt: skip
    return plugin | told | more


def test_a_plugin_is_explained_on_one_screen(
    plugbus: Plugbus, kernel: CannedKernel, plugin: dict[str, Any]
) -> None:
    """Where it is from, why it starts when it does, who needs it, the other sides, and what breaks."""
    answer = explanation(plugin)
    kernel.answer("GET /admin/plugins/alerts/explain", answer)
    assert plugbus("plugin", "explain", "alerts").out.splitlines() == [
        "✔ alerts 1.0.0  started",
        "found:      builtin, /srv/alerts",
        "            passed over: /opt/alerts",
        "start:      wave 2 of 3, beside mail: it starts after store",
        "            after store>=1 (needs it; started, wave 1, decides the place)",
        "needed by:  pager (needs it; started)",
        "            shift (needs it, by shift → pager → alerts; error)",
        "            wiki (optional; started)",
        "provides:   alerts.active → pager",
        "requests:   clock.now ← nobody",
        "publishes:  alerts.raised → pager.ring",
        "handles:    github.** in alerts.watch ← webhooks",
        "without it: pager, shift cannot run",
        "            pager: requests of alerts.active are not answered",
        "            pager.ring: no more alerts.raised",
    ]
    assert plugbus("plugin", "explain", "alerts", "--json").json == {
        "schema": "plugbus.plugin.explain/1",
        "item": answer,
    }


def test_a_refused_plugin_is_explained_with_its_reason(
    plugbus: Plugbus, kernel: CannedKernel, refused: dict[str, Any]
) -> None:
    """Place and next step; of hundreds of users the first, so that it stays one screen."""
    users = [
        {"plugin_id": f"user{n}", "status": "error", "tie": "dependency", "chain": [f"user{n}", "scoring"]}
        for n in range(300)
    ]
    place = {"wave": None, "waves": 3, "beside": [], "why": "it has no place: it was refused", "after": []}
    feeds = [{"pattern": f"feed.number{n}", "others": ["alerts.watch"], "is_only": True} for n in range(80)]
    told = explanation(refused, start=place, needed_by=users, publishes=feeds, known_from="manifest")
    kernel.answer("GET /admin/plugins/scoring/explain", told)
    lines = plugbus("plugin", "explain", "scoring").out.splitlines()
    assert lines[:3] == [
        "✖ scoring 1.0.0  error (handler-definition): handler 'score' has no annotation",
        "    at:  scoring/plugin.py:14",
        "    fix: annotate its first parameter",
    ]
    assert "start:      it has no place: it was refused" in lines
    assert any("… and 294 more" in line for line in lines)
    some = "feed.number0, feed.number1, feed.number2, feed.number3 and 76 more"
    assert f"publishes:  {some} → alerts.watch" in lines
    assert f"            alerts.watch: no more {some}" in lines
    assert any("what its manifest says" in line for line in lines)
    assert len(lines) <= 24


def test_quarantine_is_listed_with_reason_and_fix(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Who, since when, by whom, why, and the command that releases; adding hands the reason on."""
    entry = {
        "plugin_id": "alerts", "reason": "5 failed starts", "by": "/kernel",
        "since": "2026-01-02T03:04:05Z", "failures": [], "checksum": "",
    }  # fmt: skip
    kernel.answer("GET /admin/quarantine", [entry])
    out = plugbus("plugin", "quarantine", "list").out.splitlines()
    assert out[0] == "✖ alerts  since 2026-01-02 03:04:05 by /kernel: 5 failed starts"
    assert out[1].endswith("plugbus plugin quarantine release alerts")
    change = {"outcome": "done", "plugin_id": "alerts", "entry": entry}
    kernel.answer("POST /admin/plugins/alerts/quarantine", change)
    plugbus("plugin", "quarantine", "add", "alerts", "--reason", "too loud")
    assert kernel.last.body == {"reason": "too loud"}
    kernel.answer("POST /admin/plugins/alerts/quarantine/release", change)
    assert "plugbus plugin start alerts" in plugbus("plugin", "quarantine", "release", "alerts").out
    told = plugbus("plugin", "quarantine", "release", "alerts", "--json").json
    assert told == {"schema": "plugbus.plugin.quarantine.release/1", "item": change}


@pytest.mark.parametrize("verb", ["enable", "disable", "stop"])
def test_on_and_off_are_asked_for_with_dependents_where_it_is_said(
    plugbus: Plugbus, kernel: CannedKernel, plugin: dict[str, Any], verb: str
) -> None:
    """One line with the new status; `--with-dependents` is handed on."""
    kernel.answer(f"POST /admin/plugins/alerts/{verb}", {"outcome": "done", "plugin": plugin})
    assert plugbus("plugin", verb, "alerts").out == "✔ alerts  1.0.0  started\n"
    assert kernel.last.query == {}
    if verb != "enable":
        plugbus("plugin", verb, "alerts", "--with-dependents")
        assert kernel.last.query == {"with_dependents": ["true"]}
    assert plugbus("plugin", verb, "alerts", "--json").json["schema"] == f"plugbus.plugin.{verb}/1"
