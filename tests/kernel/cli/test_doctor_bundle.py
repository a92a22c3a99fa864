"""`plugbus doctor --bundle FILE.zip`: what is in it, and that no secret is, wherever one was planted."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.settings_problems import MASK

from .conftest import Plugbus

ALWAYS = {
    "README.txt",
    "doctor.json",
    "environment.json",
    "settings.json",
    "plugins.json",
    "configuration.json",
}
RUNNING = {
    "bus.json", "groups.json", "capabilities.json", "traffic.json", "readiness.json", "dead-letters.json",
    "metrics.txt", "log.txt", "traces.json",
}  # fmt: skip
SECRETS = {
    name: f"planted-{name}-{number:03}"
    for number, name in enumerate(
        (
            "token",
            "busurl",
            "toml",
            "environ",
            "file",
            "default",
            "schema",
            "live",
            "nested",
            "foreign",
            "dsn",
            "letter",
        )
    )
}
PLUGIN = """
import logging

from opentelemetry import trace
from plugbus import BasePlugin, Event, EventResult, RetryPolicy, RetryRule, on

log = logging.getLogger(__name__)
PAUSE = RetryPolicy(rules=(RetryRule(errors=(ValueError,), action="pause"),))

class Told(Event, type="vault.told"):
    '''Something secret.'''
    text: str

class Vault(BasePlugin):
    @on(retry=RetryPolicy(attempts=1))
    async def keep(self, event: Told) -> None:
        log.warning("told: %s", event.text)
        with trace.get_tracer("vault").start_as_current_span(f"keep {event.text}") as span:
            span.set_attributes({"text": event.text, "http.url": f"http://db/{event.text}"})
        raise ValueError(f"cannot keep {event.text}")

    @on
    async def give_up(self, event: Told) -> EventResult:
        return EventResult.discard(event.text)

    @on(retry=PAUSE)
    async def hold(self, event: Told) -> None:
        raise ValueError(event.text)
"""
LEAKY = """
from plugbus import BasePlugin

class Leaky(BasePlugin, plugin_id="leaky", version="1.0.0", security_level="trusted"):
    async def start(self) -> None:
        raise RuntimeError("cannot reach " + self.context.config["peer"])
"""
MANIFEST = f"""
plugin_id = "vault"
version = "1.0.0"
entry_point = "vault:Vault"
security_level = "trusted"
[default_configuration]
api_key = "{SECRETS["default"]}"
pin = ""
dsn = ""
[default_configuration.peers]
[configuration_schema]
type = "object"
[configuration_schema.properties.pin]
type = "string"
writeOnly = true
"""


def plant(folder: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets in the settings, a plugin's configuration on every layer, the environment, and files."""
    plugin = folder / "my_plugins" / "vault"
    plugin.mkdir(parents=True)
    (plugin / "plugin.toml").write_text(MANIFEST)
    (plugin / "vault.py").write_text(PLUGIN)
    broken = folder / "my_plugins" / "broken"
    broken.mkdir()
    (broken / "plugin.toml").write_text(
        f'plugin_id = "broken"\nversion = "x"\npassword = "{SECRETS["foreign"]}"\n'
    )
    (folder / "my_plugins" / "leaky.py").write_text(LEAKY)
    (folder / "secret-file").write_text(SECRETS["file"] + "\n")
    (folder / "plugbus.toml").write_text(
        f"""
[bus]
url = "memory://{"x:" + SECRETS["busurl"] + "@host" if port == 0 else "ours"}"
[plugins.gateway.config]
port = {port}
[plugins.leaky.config]
peer = "{SECRETS["toml"]} at postgres://admin:{SECRETS["dsn"]}@db/shop"
[plugins.vault.config]
password = "{SECRETS["toml"]}"
pin = "{SECRETS["schema"]}"
dsn = "postgres://admin:{SECRETS["dsn"]}@db/shop"
peers = {{ one = {{ credentials = ["{SECRETS["nested"]}"] }} }}
"""
    )
    for name, value in {
        "PLUGBUS_TOKEN": SECRETS["token"],
        "PLUGBUS_STATE_DIR": str(folder / "state"),
        "PLUGBUS_PLUGINS__VAULT__CONFIG__SIGNING_SECRET": SECRETS["environ"],
        "PLUGBUS_PLUGINS__VAULT__CONFIG__KEY_FILE": str(folder / "secret-file"),
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {SECRETS['foreign']}",
        "SOME_API_KEY": SECRETS["foreign"],
        "PLUGBUS_PLUGINS__TELEMETRY__ENABLED": "true",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
    }.items():
        monkeypatch.setenv(name, value)


def contents(file: Path) -> dict[str, str]:
    with zipfile.ZipFile(file) as bundle:
        assert bundle.testzip() is None
        return {name: bundle.read(name).decode() for name in bundle.namelist()}


def assert_nothing_leaks(found: dict[str, str]) -> None:
    for name, text in found.items():
        leaked = [secret for secret in SECRETS.values() if secret in text or secret[8:] in text]
        assert not leaked, (name, leaked)


def test_without_a_kernel_no_secret_is_in_it(
    plugbus: Plugbus, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings with their sources, plugins with reasons, versions; the bundle is its owner's alone."""
    plant(folder, 0, monkeypatch)
    ended = plugbus("doctor", "--bundle", "d.zip")
    assert "d.zip has 6 files" in ended.out
    found = contents(folder / "d.zip")
    assert set(found) == ALWAYS
    assert_nothing_leaks(found)
    assert not any(secret in ended.out for secret in SECRETS.values())
    if os.name == "posix":
        assert stat.S_IMODE((folder / "d.zip").stat().st_mode) == 0o600
    settings = {item["key"]: item["value"] for item in json.loads(found["settings.json"])}
    assert (settings["token"], settings["bus.url"]) == (MASK, f"memory://x:{MASK}@host")
    plugins = {item["plugin_id"]: item for item in json.loads(found["plugins.json"])}
    assert plugins["broken"]["reason"]["code"]
    assert plugins["vault"]["metadata"]["version"] == "1.0.0"
    [vault] = [item for item in json.loads(found["configuration.json"]) if item["plugin_id"] == "vault"]
    assert {value["key"]: value["value"] for value in vault["values"]}[
        "dsn"
    ] == f"postgres://admin:{MASK}@db/shop"
    environment = json.loads(found["environment.json"])
    assert environment["installed"]["pydantic"]
    assert "PLUGBUS_TOKEN" in environment["variables"]
    assert "broken" in ended.out
    assert list(folder.glob(".d.zip*")) == []


def test_with_a_kernel_no_secret_is_in_it(
    plugbus: Plugbus, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel tells is in it; dead letters as numbers, without data and what errors quote of it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    plant(folder, port, monkeypatch)
    with subprocess.Popen(
        [sys.executable, "-c", "import plugbus; plugbus.main()", "run"], cwd=folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as kernel:  # fmt: skip
        try:
            _until(
                lambda: plugbus("plugin", "list", "--status", "started", "--json").out.count('"vault"') > 0
            )
            plugbus("config", "set", "vault", f"live_secret={SECRETS['live']}")
            assert plugbus("event", "publish", "vault.told", f"text={SECRETS['letter']}").code == 0
            _until(lambda: SECRETS["letter"] in plugbus("dlq", "list", "--json").out)
            _until(lambda: SECRETS["letter"] in plugbus("group", "list", "--json").out)
            ended = plugbus("doctor", "--bundle", "d.zip", "--json")
        finally:
            kernel.terminate()
    found = contents(folder / "d.zip")
    assert set(found) == ALWAYS | RUNNING
    assert_nothing_leaks(found)
    assert not any(secret in ended.out for secret in SECRETS.values())
    for name in (ALWAYS | RUNNING) - {"README.txt", "metrics.txt", "log.txt"}:
        assert "not available" not in json.loads(found[name]), name
    assert json.loads(found["dead-letters.json"]) == {
        "counted": 1, "are_more": False,
        "letters": [{"group": "vault.keep", "reason": "attempts", "error": "ValueError", "count": 1}],
    }  # fmt: skip
    assert "plugbus_plugin_status" in found["metrics.txt"]
    log = found["log.txt"]
    assert f"leaky failed to start: RuntimeError: cannot reach {MASK} at postgres://admin:{MASK}@db" in log
    assert "plugbus.bus: vault.keep: vault.told (id " in log
    assert "is a dead letter (attempts) after 1 attempts: ValueError plugin=vault" in log
    assert "vault.give_up: vault.told (id " in log
    assert "WARNING _plugins.vault.g1.vault: (vault.py:17)" in log
    steps = json.loads(found["traces.json"])["steps"]
    assert {"process vault", "publish vault", "…"} <= {step["name"] for step in steps}
    assert [step["errors"] for step in steps if step["group"] == "vault.keep"] == [["ValueError"]]
    assert [group["paused"] for group in json.loads(found["groups.json"]) if group["paused"]] == ["…"]
    statuses = {item["plugin_id"]: item["status"] for item in json.loads(found["plugins.json"])}
    assert (statuses["vault"], statuses["broken"]) == ("started", "error")


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_file_that_is_there_is_kept(plugbus: Plugbus, folder: Path) -> None:
    """Nothing is overwritten, nothing is left, and a folder that is not there is said so."""
    (folder / "d.zip").write_text("mine")
    for name in ("d.zip", "nowhere/d.zip"):
        ended = plugbus("doctor", "--port", "0", "--bundle", name)
        assert ended.code == 1
        assert "not-written" in ended.err
        assert "Traceback" not in ended.err
    assert (folder / "d.zip").read_text() == "mine"
    assert [file.name for file in folder.iterdir()] == ["d.zip"]


def test_settings_that_are_wrong_leave_a_bundle_too(plugbus: Plugbus, folder: Path) -> None:
    """With what could be looked at, and nothing of what stands in them."""
    (folder / "plugbus.toml").write_text(f'tokn = "{SECRETS["token"]}"\n')
    assert plugbus("doctor", "--bundle", "d.zip").code == 1
    found = contents(folder / "d.zip")
    assert set(found) == {"README.txt", "doctor.json", "environment.json"}
    assert_nothing_leaks(found)
