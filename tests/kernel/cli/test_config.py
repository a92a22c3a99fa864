"""`plugbus config …`: show, explain, set, check, history."""

import json
from pathlib import Path
from typing import Any

import pytest

from kernel.settings import Deadlines

from .conftest import CannedKernel, Plugbus

VALUE: dict[str, Any] = {
    "key": "load_above", "value": 5, "layer": "live", "source": "set by ada", "is_secret": False,
    "set_by": "ada", "set_at": "2026-01-02T03:04:05Z",
    "hides": [{"layer": "default", "value": 4.0, "source": "plugin.toml:15"}],
}  # fmt: skip
TOKEN = VALUE | {"key": "api.token", "value": "••••", "layer": "file", "source": "plugbus.toml:3",
                 "is_secret": True, "set_by": None, "set_at": None, "hides": []}  # fmt: skip
CONFIGURATION: dict[str, Any] = {
    "plugin_id": "alerts", "version": 3, "values": [TOKEN, VALUE], "json_schema": None,
    "restart_required": False, "restart_with": "", "problems": [],
}  # fmt: skip
RESULT: dict[str, Any] = {
    "outcome": "applied", "configuration": CONFIGURATION, "problems": [], "fix": "",
    "keys": [{"key": "load_above", "before": None, "after": 5}],
}  # fmt: skip
PLUGIN = """
from plugbus import BasePlugin

class Shop(BasePlugin, plugin_id="shop", version="1", security_level="trusted",
           default_configuration={"price": 1, "token": "t0psecret"},
           configuration_schema={"additionalProperties": False, "properties": {
               "price": {"type": "integer"}, "token": {"type": "string"}}}):
    raise RuntimeError("no code of a plugin is run")
"""


@pytest.fixture
def shop(folder: Path) -> Path:
    """A plugin in the folder where the command runs."""
    (folder / "my_plugins").mkdir()
    (folder / "my_plugins" / "shop.py").write_text(PLUGIN)
    return folder


# --- with a kernel ------------------------------------------------------------------------------------------


def test_every_key_is_shown_with_where_it_came_from(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Of one plugin or of all; what waits for a restart is said beside."""
    behind = CONFIGURATION | {"restart_required": True, "restart_with": "restart it"}
    kernel.answer("GET /admin/config", [behind])
    kernel.answer("GET /admin/config/alerts", CONFIGURATION)
    ended = plugbus("config", "show")
    assert [line.split(maxsplit=2) for line in ended.out.splitlines()] == [
        ["KEY", "VALUE", "FROM"],
        ["alerts.api.token", "••••", "plugbus.toml:3"],
        ["alerts.load_above", "5", "set by ada"],
    ]
    assert ended.err == "alerts still works with another configuration: restart it\n"
    assert plugbus("config", "show", "alerts").err == ""
    assert plugbus("config", "show", "--json").json == {"schema": "plugbus.config.show/1", "items": [behind]}


def test_a_key_is_explained_with_what_it_hides(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """One key, a table, or all of them."""
    kernel.answer("GET /admin/config/alerts", CONFIGURATION)
    lines = plugbus("config", "explain", "alerts.load_above").out.splitlines()
    assert (lines[0], lines[2]) == (
        "alerts.load_above = 5", "  hides 4.0 from default: plugin.toml:15",
    )  # fmt: skip
    assert lines[1].startswith("  from live: set by ada, 2026-01-0")
    assert plugbus("config", "explain", "alerts.api").out.startswith("alerts.api.token = ••••")
    assert plugbus("config", "explain", "alerts", "--json").json["item"] == CONFIGURATION
    wrong = plugbus("config", "explain", "alerts.load_abov")
    assert (wrong.code, "did you mean 'load_above'?" in wrong.err) == (5, True)


def test_setting_merges_what_is_given(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Dots lead into tables, values are JSON or text, --unset takes back."""
    kernel.answer("PATCH /admin/config/alerts", RESULT)
    ended = plugbus(
        "config", "set", "alerts", "load_above=5", "api.retries=2", "api.note=x y", "--unset", "b.c"
    )
    assert kernel.last.body == {
        "load_above": 5, "api": {"retries": 2, "note": "x y"}, "b": {"c": None},
    }  # fmt: skip
    assert "if-match" not in kernel.last.headers
    assert ended.out.splitlines() == [
        "alerts: applied to the running plugin (version 3)", "  load_above: as below → 5",
    ]  # fmt: skip
    plugbus("config", "set", "alerts", "a=1", "--if-version", "3", "--dry-run")
    assert (kernel.last.headers["if-match"], kernel.last.query) == ('"3"', {"dry_run": ["true"]})
    assert plugbus("config", "set", "alerts", "a=1", "--json").json["item"] == RESULT
    assert plugbus("config", "set", "alerts").code == 2


def test_setting_in_place_of_what_was(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """`--replace` puts; alone it takes everything back."""
    kernel.answer("PUT /admin/config/alerts", RESULT)
    assert plugbus("config", "set", "alerts", "a=1", "--replace", "--if-version", "3").code == 0
    assert (kernel.last.body, kernel.last.headers["if-match"]) == ({"a": 1}, '"3"')
    plugbus("config", "set", "alerts", "--replace")
    assert kernel.last.body == {}


def test_what_to_do_about_a_restart_is_said(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """The very command."""
    kernel.answer("PATCH /admin/config/alerts", RESULT | {"outcome": "restart_required", "fix": "restart it"})
    assert plugbus("config", "set", "alerts", "a=1").out.splitlines()[-1] == "  now: restart it"


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [(422, "configuration-refused", 3), (412, "configuration-conflict", 1), (404, "plugin-not-found", 5)],
)
def test_a_refusal_has_an_exit_code_of_its_own(
    plugbus: Plugbus, kernel: CannedKernel, status: int, code: str, exit_code: int
) -> None:
    """And a line for each key with its fix."""
    errors = [{"in": "body", "pointer": "/a", "detail": "expected text", "fix": "did you mean 'b'?"}]
    document = {"type": f"/problems/{code}", "detail": "no", "errors": errors}
    kernel.answer("PATCH /admin/config/alerts", document, status)
    ended = plugbus("config", "set", "alerts", "a=1")
    assert ended.code == exit_code
    assert "  - /a: expected text (did you mean 'b'?)" in ended.err


def test_the_last_changes_are_listed(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Who, when, which keys."""
    change = {
        "plugin_id": "alerts", "version": 3, "at": "2026-01-02T03:04:05Z", "by": "ada", "outcome": "applied",
        "keys": RESULT["keys"],
    }  # fmt: skip
    kernel.answer("GET /admin/config/alerts/history", [change])
    line = plugbus("config", "history", "alerts").out.splitlines()[1].split()
    assert (line[0], line[3:]) == ("3", ["ada", "applied", "load_above:", "as", "below", "→", "5"])
    assert plugbus("config", "history", "alerts", "--json").json["items"] == [change]
    kernel.answer("GET /admin/config/alerts/history", [])
    assert plugbus("config", "history", "alerts").out == "nothing was set while it ran\n"


# --- without one --------------------------------------------------------------------------------------------


def test_without_a_kernel_it_is_what_the_next_start_would_take(plugbus: Plugbus, shop: Path) -> None:
    """From the same sources; nothing of the plugin is run, no secret shown."""
    (shop / "plugbus.toml").write_text("[plugins.shop.config]\nprice = 2\n")
    ended = plugbus("config", "explain", "shop")
    assert ended.code == 0
    assert "no kernel runs here" in ended.err
    assert ended.out.splitlines()[:2] == ["shop.price = 2", "  from file: plugbus.toml:2"]
    assert "t0psecret" not in ended.out + plugbus("config", "show").out
    assert plugbus("config", "explain", "shp").code == 5
    assert plugbus("config", "set", "shop", "price=1").code == 4


def test_a_setting_of_the_kernel_is_explained_too(plugbus: Plugbus, shop: Path) -> None:
    """A value, or a table of them."""
    (shop / "plugbus.toml").write_text("[bus]\nnamespace = 'shop'\n")
    assert (
        plugbus("config", "explain", "bus.namespace").out == "bus.namespace = shop\n  from plugbus.toml:2\n"
    )
    assert plugbus("config", "explain", "deadlines").out.count("from default") == len(Deadlines.model_fields)
    wrong = plugbus("config", "explain", "bus.namspace")
    assert (wrong.code, "did you mean 'bus.namespace'?" in wrong.err) == (5, True)


def test_a_configuration_without_mistakes_is_said_to_be_so(plugbus: Plugbus, shop: Path) -> None:
    """With the plugins that only their code could judge."""
    (shop / "my_plugins" / "bare.py").write_text(
        "from plugbus import BasePlugin\n\nclass Bare(BasePlugin, plugin_id='bare', version='1.0.0'): ...\n"
    )
    (shop / "plugbus.toml").write_text("[plugins.shop.config]\nprice = 2\n[plugins.bare]\nenabled = true\n")
    ended = plugbus("config", "check")
    assert (ended.code, ended.out, "bare" in ended.err) == (0, "nothing is wrong\n", True)


def test_every_mistake_is_told_with_its_place(
    plugbus: Plugbus, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the values by their schema, of the names of plugins too."""
    (shop / "plugbus.toml").write_text(
        "[plugins.shop.config]\ntoken = 17171717\nprise = 1\n[plugins.shpo]\nenabled = true\n"
    )
    monkeypatch.setenv("PLUGBUS_PLUGINS__SHOP__CONFIG__PRICE", "y")
    ended = plugbus("config", "check")
    assert ended.code == 3
    assert ended.out.splitlines() == [
        "shpo: no plugin is called so",
        "  at:  plugbus.toml:5",
        "  fix: did you mean 'shop'?",
        "shop: prise: expected a key that it knows",
        "  at:  plugbus.toml:3",
        "  fix: did you mean 'price'?",
        'shop: price: expected a whole number, found "y"',
        "  at:  PLUGBUS_PLUGINS__SHOP__CONFIG__PRICE",
        "  fix: give such a value, or leave it out",
        "shop: token: expected text, found ••••",
        "  at:  plugbus.toml:2",
        "  fix: give such a value, or leave it out",
    ]
    assert len(plugbus("config", "check", "--json").json["item"]["problems"]) == 4


def test_what_was_set_live_is_checked_too(plugbus: Plugbus, shop: Path) -> None:
    """With who set it; and a file that is damaged is told."""
    live = shop / "state" / "config" / "shop.json"
    live.parent.mkdir(parents=True)
    value = {"path": ["price"], "value": "x", "by": "ada", "at": "2026-01-02T03:04:05Z"}
    live.write_text(json.dumps({"version": 1, "values": [value]}))
    ended = plugbus("config", "check", "--state-dir", str(shop / "state"))
    assert (ended.code, ended.out.splitlines()[1]) == (3, "  at:  set by ada")
    live.write_text("{")
    damaged = plugbus("config", "check", "--state-dir", str(shop / "state"))
    assert (damaged.code, "it is damaged" in damaged.out, str(live) in damaged.out) == (3, True, True)


def test_settings_that_cannot_be_read_are_told_as_problems(plugbus: Plugbus, folder: Path) -> None:
    """Each of them."""
    (folder / "plugbus.toml").write_text("[bus]\nul = 1\nnamespac = 2\n")
    ended = plugbus("config", "check")
    assert (ended.code, ended.out.count("is not a setting"), ended.out.count("plugbus.toml:")) == (3, 2, 2)
