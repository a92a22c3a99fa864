"""What was set live for an older version of a plugin's configuration, and the newer plugin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from contracts.errors import PluginStateError, PluginStepFailed
from contracts.messages import ConfigurationOutcome, ListConfigurationChanges, SetConfiguration
from contracts.plugin import IConfigurationMigration
from kernel.testing import Harness
from plugbus import BasePlugin, ConfigurationResult

Migration = Callable[[dict[str, JsonValue], int], Any]

OLD: dict[str, JsonValue] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"limit_percent": {"type": "integer"}, "token": {"type": "string"}},
}
NEW: dict[str, JsonValue] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"limit": {"type": "number", "maximum": 1}, "token": {"type": "string"}},
}


class Gauge(BasePlugin):
    """Takes every configuration, unless told otherwise."""

    refuses = False

    async def configure(self, configuration: dict[str, JsonValue]) -> ConfigurationResult:
        return ConfigurationResult(ok=not type(self).refuses, errors=("no",) if type(self).refuses else ())


def gauge(
    version: int, migrate: Migration | None = None, *, instances: int = 1, **attributes: Any
) -> type[Gauge]:
    """The plugin as of one version of its configuration."""

    async def migrate_configuration(self: Gauge, configuration: dict[str, JsonValue], version: int) -> Any:
        assert migrate is not None
        return migrate(configuration, version)

    methods = {"migrate_configuration": migrate_configuration} if migrate else {}
    made = type(
        "OwnGauge", (Gauge,), {**methods, **attributes},
        plugin_id="gauge", version=f"{version}.0.0", security_level="trusted",
        configuration_version=version, configuration_schema=OLD if version == 1 else NEW, instances=instances,
    )  # fmt: skip
    assert issubclass(made, Gauge)
    return made


def lift(configuration: dict[str, JsonValue], version: int) -> dict[str, JsonValue]:
    if version == 1 and "limit_percent" in configuration:
        configuration["limit"] = int(str(configuration.pop("limit_percent"))) / 100
    return configuration


async def setting(harness: Harness, values: dict[str, JsonValue], **more: Any) -> ConfigurationOutcome:
    return await harness.request(SetConfiguration(plugin_id="gauge", values=values, **more))


@pytest.fixture
async def was_set(harness: Harness) -> Harness:
    """Version 1 ran, an operator has set something, and it was stopped."""
    await harness.load(gauge(1))
    assert (await setting(harness, {"limit_percent": 80, "token": "hush"})).outcome == "applied"
    await harness.unload("gauge")
    return harness


def config(harness: Harness) -> dict[str, JsonValue]:
    current = harness.manager.registry.record("gauge").current
    assert current is not None
    return current.config


def stored(harness: Harness) -> bytes:
    assert harness.manager.state_dir is not None
    return Path(harness.manager.state_dir / "config" / "gauge.json").read_bytes()


async def test_the_newer_plugin_lifts_what_was_set(was_set: Harness) -> None:
    """It works with the lifted values, they are kept, and the history tells who changed what; no secrets."""
    await was_set.load(gauge(2, lift))
    assert config(was_set) == {"limit": 0.8, "token": "hush"}
    [change, before] = await was_set.request(ListConfigurationChanges(plugin_id="gauge"))
    assert (change.outcome, change.by, change.version) == ("migrated", "gauge 2.0.0", 2)
    assert [(key.key, key.before, key.after) for key in change.keys] == [
        ("limit", None, 0.8), ("limit_percent", 80, None),
    ]  # fmt: skip
    assert before.outcome == "applied"


async def test_several_instances_are_given_what_was_lifted(was_set: Harness) -> None:
    """One is asked to lift it, all work with it."""
    given: list[object] = []

    async def configure(self: Gauge, configuration: dict[str, JsonValue]) -> None:
        given.append(configuration)

    asked: list[int] = []

    def noted(values: dict[str, JsonValue], version: int) -> dict[str, JsonValue]:
        asked.append(version)
        return lift(values, version)

    await was_set.load(gauge(2, noted, instances=3, configure=configure))
    assert asked == [1]
    assert given == [{"limit": 0.8, "token": "hush"}] * 3


async def test_what_was_lifted_is_not_lifted_again(was_set: Harness) -> None:
    """The next start finds it as it is wanted."""
    await was_set.load(gauge(2, lift))
    await was_set.unload("gauge")
    asked: list[int] = []
    await was_set.load(gauge(2, lambda values, version: asked.append(version)))
    assert asked == []
    assert config(was_set)["limit"] == 0.8


async def test_without_the_method_the_values_stay(was_set: Harness) -> None:
    """They are held against the new schema; what does not fit is told, and nothing was changed."""
    before = stored(was_set)
    with pytest.raises(PluginStepFailed, match="limit_percent"):
        await was_set.load(gauge(2))
    assert stored(was_set) == before


def fails(values: dict[str, JsonValue], version: int) -> None:
    raise RuntimeError("cannot lift this")


@pytest.mark.parametrize(
    ("migrate", "said"),
    [
        (fails, "cannot lift this"),
        (lambda values, version: None, "migrate_configuration returned NoneType"),
        (lambda values, version: {"limit": 7}, "at most 1"),
        (lambda values, version: {"limit": object()}, "serialize"),
    ],
)
async def test_a_failed_migration_changes_nothing(was_set: Harness, migrate: Migration, said: str) -> None:
    """The reason is told, and the former version of the plugin still finds what it knows."""
    before = stored(was_set)
    with pytest.raises(PluginStepFailed, match=said):
        await was_set.load(gauge(2, migrate))
    assert stored(was_set) == before
    await was_set.load(gauge(1))
    assert config(was_set)["limit_percent"] == 80


async def test_what_the_plugin_refuses_is_not_kept(was_set: Harness) -> None:
    before = stored(was_set)
    with pytest.raises(PluginStepFailed, match="refused: no"):
        await was_set.load(gauge(2, lift, refuses=True))
    assert stored(was_set) == before


async def test_an_older_plugin_is_told_to_be_older(was_set: Harness) -> None:
    """It does not guess what a newer one's values mean; giving them up is one command."""
    await was_set.load(gauge(2, lift))
    await was_set.unload("gauge")
    with pytest.raises(
        PluginStepFailed, match=r"version 2 of its configuration, and gauge 1\.0\.0 knows"
    ) as told:
        await was_set.load(gauge(1))
    assert "plugbus config set gauge --replace" in told.value.fix
    assert (await setting(was_set, {"limit_percent": 5}, replace=True)).outcome == "stored"
    await was_set.load("gauge")
    assert config(was_set) == {"limit_percent": 5}


async def test_old_and_new_values_are_not_mixed(was_set: Harness) -> None:
    """Before anybody has lifted what is set, nothing is set beside it."""
    before = stored(was_set)
    await was_set.manager.register_plugin(gauge(2, lift), replace=True)
    changes = was_set.manager.kernel.configuration
    with pytest.raises(PluginStateError, match="is of version 1") as told:
        await changes.change(SetConfiguration(plugin_id="gauge", values={"limit": 0.5}), "ada")
    assert "plugbus plugin start gauge" in told.value.fix
    assert stored(was_set) == before


async def test_nothing_set_needs_no_lifting(harness: Harness) -> None:
    """A plugin whose first start is that of version 2."""
    await harness.load(gauge(2, fails))
    assert (await setting(harness, {"limit": 0.5})).outcome == "applied"
    await harness.unload("gauge")
    await harness.load(gauge(2, fails))
    assert config(harness) == {"limit": 0.5}


def test_who_claims_the_interface_has_it() -> None:
    assert isinstance(gauge(2, lift)(), IConfigurationMigration)
    assert not isinstance(gauge(1)(), IConfigurationMigration)
