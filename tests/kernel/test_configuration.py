"""Configuration of plugins that changes while they run, asked and changed by the kernel's queries."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, Field, JsonValue, SecretStr

from contracts.errors import PluginStepFailed, ProviderFailed
from contracts.messages import (
    AuditRecorded,
    CheckConfiguration,
    ConfigurationOutcome,
    ListConfigurationChanges,
    PluginConfiguration,
    SetConfiguration,
    ShowConfiguration,
)
from kernel.manager import PluginManager
from kernel.settings import Deadlines, Settings, load_settings
from kernel.testing import Harness
from plugbus import BasePlugin, ConfigurationResult

SCHEMA: dict[str, JsonValue] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "price": {"type": "integer", "minimum": 1, "examples": [7]},
        "currency": {"enum": ["EUR", "USD"]},
        "pin": {"type": "string", "writeOnly": True, "minLength": 4},
        "api": {
            "type": "object",
            "properties": {"token": {"type": "string"}, "retries": {"type": "integer"}},
        },
    },
}
DEFAULTS = {"price": 1, "currency": "EUR", "pin": "0000"}


class Shop(BasePlugin):
    """Takes what it is given, unless it was told otherwise."""

    given: ClassVar[list[dict[str, JsonValue]]]
    seen: ClassVar[list[Mapping[str, JsonValue]]]
    refuse: ClassVar[Any] = None

    async def configure(self, configuration: Mapping[str, JsonValue]) -> ConfigurationResult | None:
        type(self).given.append(dict(configuration))
        refuse = type(self).refuse
        if isinstance(refuse, Exception) and configuration["price"] == 13:
            raise refuse
        if callable(refuse):
            return await refuse(configuration)  # type: ignore[no-any-return]
        return refuse if configuration["price"] == 13 else None

    async def start(self) -> None:
        type(self).seen.append(self.context.config)

    async def get_api_router(self) -> Any:
        """Lets a test see what the context says now."""

        async def tell(scope: Any, receive: Any, send: Any) -> None:
            body = json.dumps(dict(self.context.config)).encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})

        return tell

    async def get_static_mounts(self) -> list[Any]:
        return []


def shop(**keywords: Any) -> type[Shop]:
    """A shop of the test's own."""
    more = {"default_configuration": DEFAULTS, "configuration_schema": SCHEMA, **keywords}
    made = type(
        "OwnShop", (Shop,), {"given": [], "seen": []},
        plugin_id="shop", version="1.0.0", security_level="trusted", **more,
    )  # fmt: skip
    assert issubclass(made, Shop)
    return made


async def setting(harness: Harness, values: Any = None, **more: Any) -> ConfigurationOutcome:
    query = SetConfiguration(plugin_id=more.pop("plugin_id", "shop"), values=values or {}, **more)
    return await harness.request(query)


async def shown(harness: Harness, plugin_id: str = "shop") -> PluginConfiguration:
    [found] = await harness.request(ShowConfiguration(plugin_id=plugin_id))
    return found


async def values(harness: Harness) -> dict[str, JsonValue]:
    return {value.key: value.value for value in (await shown(harness)).values}


async def told(harness: Harness) -> Any:
    """What the plugin's context says."""
    return (await harness.http.get("/plugins/shop/")).json()


def stored(harness: Harness, plugin_id: str = "shop") -> Path:
    assert harness.manager.state_dir is not None
    return harness.manager.state_dir / "config" / f"{plugin_id}.json"


# --- taking a change --------------------------------------------------------------------------------------


async def test_a_running_plugin_takes_a_change(harness: Harness) -> None:
    """It is given the whole new configuration; its context follows, and so does what is shown."""
    plugin = shop()
    await harness.load(plugin)
    result = await setting(harness, {"price": 5})
    assert (result.outcome, result.configuration.version) == ("applied", 1)
    assert not result.configuration.restart_required
    assert plugin.given == [DEFAULTS, {**DEFAULTS, "price": 5}]
    assert await told(harness) == {**DEFAULTS, "price": 5}
    assert (await values(harness))["price"] == 5


async def test_what_is_wrong_is_told_at_once_and_nothing_changes(harness: Harness) -> None:
    """Each key with what was expected; the plugin is not even asked."""
    plugin = shop()
    await harness.load(plugin)
    result = await setting(harness, {"prce": 1, "price": 0, "currency": "DM", "pin": "1"})
    assert result.outcome == "refused"
    assert [(one.key, one.expected, one.found, one.fix) for one in result.problems] == [
        ("prce", "a key that it knows", "", "did you mean 'price'?"),
        ("currency", 'one of "EUR", "USD"', '"DM"', "give such a value, or leave it out"),
        ("pin", "at least 4 characters", "••••", "give such a value, or leave it out"),
        ("price", "at least 1", "0", "for example 7"),
    ]
    assert (plugin.given, await told(harness)) == ([DEFAULTS], DEFAULTS)
    assert not stored(harness).exists()


@pytest.mark.parametrize(
    ("refuse", "words", "given"),
    [
        (ConfigurationResult(ok=False, errors=("too unlucky",)), "too unlucky", [1, 13]),
        (RuntimeError("too unlucky"), "RuntimeError: too unlucky", [1, 13, 1]),
    ],
)
async def test_what_a_plugin_refuses_leaves_the_former_in_force(
    harness: Harness, refuse: Any, words: str, given: list[int]
) -> None:
    """After an exception it may have taken part of it, so the former is handed over again."""
    plugin = shop()
    await harness.load(plugin)
    plugin.refuse = refuse
    result = await setting(harness, {"price": 13})
    assert (result.outcome, [one.expected for one in result.problems]) == ("refused", [words])
    assert [one["price"] for one in plugin.given] == given
    assert (await told(harness), await values(harness)) == (DEFAULTS, {**DEFAULTS, "pin": "••••"})
    assert not stored(harness).exists()
    assert harness.plugin("shop").activity == "none"


async def test_a_plugin_that_takes_too_long_keeps_the_former(tmp_path: Path) -> None:
    """Its time is a setting."""

    async def hang(configuration: Mapping[str, JsonValue]) -> None:
        if configuration["price"] == 13:
            await asyncio.Event().wait()

    plugin = shop()
    plugin.refuse = staticmethod(hang)
    settings = Settings(deadlines=Deadlines(configure=0.05))
    async with Harness(tmp_path, settings=settings, bus="memory://") as harness:
        await harness.load(plugin)
        result = await setting(harness, {"price": 13})
        assert (result.outcome, result.problems[0].expected) == (
            "refused", "configure took longer than 0.05 s",
        )  # fmt: skip
        assert [one["price"] for one in plugin.given] == [1, 13, 1]


async def test_what_cannot_be_kept_is_taken_back(harness: Harness) -> None:
    """The plugin has taken it by then, and gets the former again."""
    plugin = shop()
    await harness.load(plugin)
    stored(harness).parent.symlink_to("nowhere")
    result = await setting(harness, {"price": 5})
    assert result.outcome == "refused"
    assert "cannot be kept" in result.problems[0].expected
    assert [one["price"] for one in plugin.given] == [1, 5, 1]
    assert await told(harness) == DEFAULTS


async def test_a_plugin_that_cannot_be_put_back_is_told(harness: Harness) -> None:
    """With what to do about it."""
    plugin = shop()
    await harness.load(plugin)

    async def broken(configuration: Mapping[str, JsonValue]) -> None:
        raise RuntimeError("no more")

    plugin.refuse = staticmethod(broken)
    result = await setting(harness, {"price": 5})
    assert "plugbus plugin stop shop" in result.problems[1].expected


async def test_a_plugin_may_ask_for_a_restart(harness: Harness) -> None:
    """Until then it works with what it has; then it has what was set."""
    plugin = shop()
    await harness.load(plugin)
    plugin.refuse = ConfigurationResult(restart_required=True)
    result = await setting(harness, {"price": 13})
    assert (result.outcome, result.fix) == (
        "restart_required",
        "plugbus plugin stop shop && plugbus plugin start shop",
    )
    assert (await told(harness), (await shown(harness)).restart_required) == (DEFAULTS, True)
    plugin.refuse = None
    await harness.unload("shop")
    await harness.manager.start_plugin("shop")
    assert (await told(harness))["price"] == 13
    assert (await shown(harness)).restart_required is False


class Plain(BasePlugin, plugin_id="plain", version="1", security_level="trusted"):
    """Reads its configuration once."""


async def test_a_plugin_without_configure_takes_it_at_its_next_start(harness: Harness) -> None:
    """What sets it back to what the plugin works with needs no restart."""
    await harness.load(Plain)
    assert (await setting(harness, {"a": 1}, plugin_id="plain")).outcome == "restart_required"
    assert (await shown(harness, "plain")).restart_required
    assert (await setting(harness, {"a": None}, plugin_id="plain")).outcome == "applied"
    assert not (await shown(harness, "plain")).restart_required


async def test_a_plugin_that_does_not_run_takes_it_when_it_starts(harness: Harness) -> None:
    """Whether it was stopped, or never started."""
    plugin = shop()
    await harness.load(plugin)
    await harness.unload("shop")
    assert (await setting(harness, {"price": 5})).outcome == "stored"
    await harness.manager.start_plugin("shop")
    assert plugin.given[-1] == {**DEFAULTS, "price": 5}


async def test_tables_are_merged_and_keys_taken_back(harness: Harness) -> None:
    """null takes a key back; replacing takes back whatever is not named."""
    await harness.load(shop(), config={"api": {"token": "t0ken", "retries": 1}})
    await setting(harness, {"api": {"retries": 2}, "price": 5})
    assert (await told(harness))["api"] == {"token": "t0ken", "retries": 2}
    await setting(harness, {"api": {"retries": None}})
    assert (await told(harness))["api"]["retries"] == 1
    await setting(harness, {"currency": "USD"}, replace=True)
    assert (await told(harness), (await shown(harness)).version) == (
        {**DEFAULTS, "currency": "USD", "api": {"token": "t0ken", "retries": 1}}, 3,
    )  # fmt: skip


async def test_a_dry_run_checks_and_changes_nothing(harness: Harness) -> None:
    """What would be is shown; nobody is asked, nothing recorded."""
    plugin = shop()
    await harness.load(plugin)
    result = await setting(harness, {"price": 5}, dry_run=True)
    assert (result.outcome, [(one.key, one.after) for one in result.keys]) == ("valid", [("price", 5)])
    assert {one.key: one.value for one in result.configuration.values}["price"] == 5
    assert (plugin.given, (await values(harness))["price"]) == ([DEFAULTS], 1)
    assert (await setting(harness, {"price": 0}, dry_run=True)).outcome == "refused"
    await harness.quiet()
    assert [one for one in harness.published(AuditRecorded) if one.action == "config.set"] == []


async def test_the_same_once_more_is_no_change(harness: Harness) -> None:
    """The plugin is not asked, and the version stays."""
    plugin = shop()
    await harness.load(plugin)
    await setting(harness, {"price": 5})
    result = await setting(harness, {"price": 5})
    assert (result.outcome, result.configuration.version, len(plugin.given)) == ("unchanged", 1, 2)


# --- two writers --------------------------------------------------------------------------------------------


async def test_who_comes_second_is_told_what_it_is_now(harness: Harness) -> None:
    """Both have seen version 0; one of them has changed it."""
    await harness.load(shop())
    results = await asyncio.gather(
        setting(harness, {"price": 5}, if_versions=(0,)), setting(harness, {"price": 6}, if_versions=(0,))
    )
    assert sorted(one.outcome for one in results) == ["applied", "conflict"]
    [late] = [one for one in results if one.outcome == "conflict"]
    assert late.configuration == await shown(harness)
    assert late.configuration.version == 1
    assert (await setting(harness, {"price": 7}, if_versions=(4, 1))).outcome == "applied"


async def test_changes_of_one_plugin_come_one_after_the_other(harness: Harness) -> None:
    """Without a version each is merged into what the one before has left."""
    plugin = shop()
    await harness.load(plugin)
    changes = [{"price": 5}, {"currency": "USD"}, {"pin": "1234"}]
    assert {one.outcome for one in await asyncio.gather(*(setting(harness, one) for one in changes))} == {
        "applied"
    }
    assert await told(harness) == {"price": 5, "currency": "USD", "pin": "1234"}
    assert (await shown(harness)).version == 3


async def test_a_plugin_that_is_being_configured_is_busy(harness: Harness) -> None:
    """Nothing stops it half-way."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(configuration: Mapping[str, JsonValue]) -> None:
        entered.set()
        await go_on.wait()

    plugin = shop()
    await harness.load(plugin)
    plugin.refuse = staticmethod(slow)
    changing = asyncio.create_task(setting(harness, {"price": 5}))
    await entered.wait()
    assert harness.plugin("shop").activity == "configuring"
    with pytest.raises(Exception, match="busy: configuring"):
        await harness.unload("shop")
    go_on.set()
    assert (await changing).outcome == "applied"


# --- layers, secrets, history -------------------------------------------------------------------------------


@pytest.fixture
async def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PluginManager]:
    """A kernel whose settings come from all sources."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("from a file\n")
    (tmp_path / "plugbus.toml").write_text("[plugins.shop.config]\nprice = 2\ncurrency = 'USD'\n")
    settings = load_settings(
        overrides={"state_dir": tmp_path / "state", "plugins.shop.config.price": 4},
        environ={
            "PLUGBUS_PLUGINS__SHOP__CONFIG__PRICE": "3",
            "PLUGBUS_PLUGINS__SHOP__CONFIG__NOTE_FILE": str(tmp_path / "secret"),
        },
    )
    manager = PluginManager(settings, profile="embedded")
    await manager.register_plugin(shop(configuration_schema=None), config={"api": {"retries": 1}})
    async with manager:
        yield manager


async def test_each_value_tells_where_it_came_from_and_what_it_hides(
    manager: PluginManager, tmp_path: Path
) -> None:
    """Live over what the application gave, over flags, environment, file and the manifest's defaults."""
    changes = manager.kernel.configuration
    await changes.change(SetConfiguration(plugin_id="shop", values={"price": 5}), "ada")
    [found] = await changes.show("shop")
    by_key = {value.key: value for value in found.values}
    price = by_key["price"]
    assert [(one.layer, one.value) for one in (price, *price.hides)] == [
        ("live", 5), ("flag", 4), ("environment", 3), ("file", 2), ("default", 1),
    ]  # fmt: skip
    assert [one.source for one in price.hides[:3]] == [
        "command line", "PLUGBUS_PLUGINS__SHOP__CONFIG__PRICE", "plugbus.toml:2",
    ]  # fmt: skip
    assert (price.set_by, price.set_at is not None) == ("ada", True)
    assert (by_key["api.retries"].layer, by_key["currency"].source) == ("application", "plugbus.toml:3")
    note = by_key["note"]
    assert (note.value, note.layer, note.is_secret) == ("••••", "environment", True)
    assert note.source == f"PLUGBUS_PLUGINS__SHOP__CONFIG__NOTE_FILE ({tmp_path / 'secret'})"


async def test_what_was_set_survives_a_restart(tmp_path: Path) -> None:
    """With its version, and readable by its owner only."""
    async with Harness(tmp_path, bus="memory://") as harness:
        await harness.load(shop())
        await setting(harness, {"price": 5, "pin": "98765"})
        assert stat.S_IMODE(stored(harness).stat().st_mode) == 0o600
        assert stat.S_IMODE(stored(harness).parent.stat().st_mode) == 0o700
        assert [file.name for file in stored(harness).parent.iterdir()] == ["shop.json"]
    async with Harness(tmp_path, bus="memory://") as harness:
        plugin = shop()
        await harness.load(plugin)
        assert plugin.given == [{**DEFAULTS, "price": 5, "pin": "98765"}]
        assert (await shown(harness)).version == 1


@pytest.mark.parametrize("content", ["{", "{}x", '{"version": "many"}', "[]", ""])
async def test_a_damaged_file_is_named_and_shows_nothing(harness: Harness, content: str) -> None:
    """The plugin is not started without what was set; the others are shown all the same."""
    await harness.load(Plain)
    stored(harness).parent.mkdir()
    stored(harness).write_text(content)
    with pytest.raises(PluginStepFailed, match="cannot be read: it is damaged") as caught:
        await harness.load(shop())
    assert str(stored(harness)) in caught.value.fix
    everything = await harness.request(ShowConfiguration())
    problems = {one.plugin_id: [problem.expected for problem in one.problems] for one in everything}
    assert (problems["plain"], "damaged" in problems["shop"][0]) == ([], True)


async def test_secrets_are_nowhere_to_be_seen(harness: Harness) -> None:
    """Not in what is shown, changed, refused, audited or remembered; nor in the plugin's own words."""
    plugin = shop()
    await harness.load(plugin, config={"api": {"token": "t0psecret"}})
    plugin.refuse = RuntimeError("cannot log in with hunter22 nor t0psecret")
    answers = [
        await setting(harness, {"pin": "hunter22"}),
        await setting(harness, {"pin": "hunter22", "price": 13}),
        await setting(harness, {"pin": "hunter23", "api": {"token": 17171717}}),
        await setting(harness, {"pin": "hunter2222", "api": {"token": "t0psecret2"}}),
        await shown(harness),
        *await harness.request(ListConfigurationChanges()),
    ]
    await harness.quiet()
    said = " ".join(
        [*(answer.model_dump_json() for answer in answers), *(item.data for item in harness.published())]
    )
    assert answers[1].problems[0].expected == "RuntimeError: cannot log in with •••• nor ••••"
    assert [each for each in ("hunter", "t0psecret", "17171717", "0000") if each in said] == []
    assert (await told(harness))["pin"] == "hunter2222"


async def test_the_last_changes_are_remembered_and_audited(harness: Harness) -> None:
    """Who, when, which keys with what they were; what was refused is no change."""
    await harness.load(shop())
    await setting(harness, {"price": 5, "pin": "1234"}, on_behalf_of="ada")
    await setting(harness, {"price": 0})
    await setting(harness, {"price": None})
    second, first = await harness.request(ListConfigurationChanges(plugin_id="shop"))
    assert (first.version, first.by, first.outcome) == (1, "ada via /test", "applied")
    assert [(one.key, one.before, one.after) for one in first.keys] == [
        ("pin", None, "••••"), ("price", None, 5),
    ]  # fmt: skip
    assert (second.by, [(one.key, one.before, one.after) for one in second.keys]) == (
        "/test", [("price", 5, None)],
    )  # fmt: skip
    assert [one.version for one in await harness.request(ListConfigurationChanges(limit=1))] == [2]
    await harness.quiet()
    audits = [one for one in harness.published(AuditRecorded) if one.action == "config.set"]
    assert [(one.plugin_id, one.subject) for one in audits] == [("/test", "shop")] * 2
    assert dict(audits[0].details) == {
        "by": "ada via /test", "outcome": "applied", "version": "1", "keys": "pin, price",
    }  # fmt: skip


async def test_the_history_is_bounded(harness: Harness) -> None:
    """Fifty changes; the version goes on counting."""
    await harness.load(shop())
    for price in range(2, 57):
        await setting(harness, {"price": price})
    changes = await harness.request(ListConfigurationChanges(plugin_id="shop", limit=1_000))
    assert (len(changes), changes[0].version, changes[-1].version) == (50, 55, 6)


# --- where the schema comes from ------------------------------------------------------------------------


class Limits(BaseModel, extra="forbid"):
    price: int = Field(1, gt=0)
    key: SecretStr = SecretStr("0000")


class ReadsModel(BasePlugin, plugin_id="shop", version="1", security_level="trusted"):
    """Says what it takes by what it reads."""

    async def configure(self, configuration: Mapping[str, JsonValue]) -> None:
        self.limits = self.read_config(Limits, configuration)


class SaysSchema(BasePlugin, plugin_id="shop", version="1", security_level="trusted"):
    """Says what it takes by a method."""

    async def configure(self, configuration: Mapping[str, JsonValue]) -> None: ...

    def get_configuration_schema(self) -> dict[str, JsonValue]:
        return {
            "properties": {"price": {"type": "integer", "exclusiveMinimum": 0}, "key": {"writeOnly": True}},
            "additionalProperties": False,
        }


@pytest.mark.parametrize("plugin", [ReadsModel, SaysSchema])
async def test_the_schema_may_be_said_by_code(harness: Harness, plugin: type[BasePlugin]) -> None:
    """By the model that is read, or by the method: known while the plugin is loaded."""
    await harness.load(plugin)
    found = await shown(harness)
    assert found.json_schema is not None
    assert set(found.json_schema["properties"]) == {"price", "key"}  # type: ignore[arg-type, call-overload]
    result = await setting(harness, {"price": 0, "prise": 1})
    assert {(one.key, one.fix) for one in result.problems} >= {("prise", "did you mean 'price'?")}
    assert {one.key for one in result.problems} == {"price", "prise"}
    assert (await setting(harness, {"price": 2, "key": "98765"})).outcome == "applied"
    assert (await values(harness))["key"] == "••••"


async def test_a_wrong_configuration_stops_the_load_with_every_problem(harness: Harness) -> None:
    """Before the plugin sees any of it."""
    plugin = shop()
    with pytest.raises(PluginStepFailed, match=r"price: expected at least 1, found 0.*") as caught:
        await harness.load(plugin, config={"price": 0, "currency": "DM"})
    assert "currency: expected one of" in str(caught.value)
    assert plugin.given == []
    [check] = [one for one in await harness.request(CheckConfiguration()) if one.plugin_id == "shop"]
    assert (check.has_schema, [one.key for one in check.problems]) == (True, ["currency", "price"])


async def test_an_unknown_plugin_is_told(harness: Harness) -> None:
    """By every one of the queries."""
    await harness.load(Plain)
    for query in (
        ShowConfiguration(plugin_id="plan"),
        CheckConfiguration(plugin_id="plan"),
        ListConfigurationChanges(plugin_id="plan"),
        SetConfiguration(plugin_id="plan"),
    ):
        with pytest.raises(ProviderFailed) as caught:
            await harness.request(query)  # type: ignore[arg-type]
        assert caught.value.info.matches("PluginNotFound")
        assert caught.value.info.fix == "did you mean 'plain'?"
