"""The schemas in the manifests of the built-in plugins, and the models by which their code reads the same."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import plugins
from kernel.configuration.layers import ConfigurationLayers
from kernel.configuration.live import LiveStore
from kernel.configuration.schema import problems_of, schema_of
from kernel.discovery import PluginDiscovery
from kernel.registry import PluginRecord
from kernel.settings import load_settings
from plugins.alerts import alerts
from plugins.gateway.config import GatewayConfig
from plugins.host_monitor import host_monitor
from plugins.telemetry import telemetry
from plugins.webhooks import webhooks

FOLDER = Path(plugins.__path__[0])
MANIFESTS = {path.parent.name: tomllib.loads(path.read_text()) for path in FOLDER.glob("*/plugin.toml")}
MODELS: dict[str, type[BaseModel]] = {
    "alerts": alerts.Settings,
    "gateway": GatewayConfig,
    "host_monitor": host_monitor.Settings,
    "telemetry": telemetry.Settings,
    "webhooks": webhooks.Settings,
}


def rules(schema: dict[str, Any]) -> dict[str, Any]:
    """Key → what is said of its values, without what is only for people."""
    told = schema.get("properties", {}).items()
    return {key: {n: v for n, v in one.items() if n not in ("title", "default")} for key, one in told}


@pytest.mark.parametrize("plugin_id", MANIFESTS)
def test_manifest_and_code_agree(plugin_id: str) -> None:
    """The same keys with the same rules: what `config check` lets pass, the plugin takes."""
    said = MANIFESTS[plugin_id]["configuration_schema"]
    model = MODELS.get(plugin_id)
    assert rules(said) == (rules(schema_of(model)) if model else {})
    assert said["additionalProperties"] is False


@pytest.mark.parametrize("plugin_id", MANIFESTS)
def test_the_defaults_fit(plugin_id: str) -> None:
    manifest = MANIFESTS[plugin_id]
    assert problems_of(manifest["configuration_schema"], manifest.get("default_configuration", {})) == ()


def test_a_secret_of_digits_stays_what_it_is(tmp_path: Path) -> None:
    """From a variable, which alone would count as a number."""
    settings = load_settings(environ={"PLUGBUS_PLUGINS__WEBHOOKS__CONFIG__SECRET": "12345678"})
    found = PluginDiscovery().discover_path(FOLDER / "webhooks")
    layers = ConfigurationLayers(settings, LiveStore(tmp_path))
    assert layers.effective(PluginRecord(found.metadata, found=found))["secret"] == "12345678"
