"""Settings: four sources, one order, and what a wrong one is told."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.bus import BusLimits
from contracts.errors import PlugbusError, SettingsError
from contracts.security import Permission, SecurityLevel
from kernel.manager import PluginManager
from kernel.settings import Settings, find_settings_file, load_settings, settings_table
from plugbus import BasePlugin, PluginStatus


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _write(text: str, folder: Path | None = None) -> Path:
    file = (folder or Path.cwd()) / "plugbus.toml"
    file.write_text(text, encoding="utf-8")
    return file


def _refusal(**sources: Any) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load_settings(**{"environ": {}, **sources})
    return caught.value


def test_without_any_source_the_defaults_hold() -> None:
    """No file, no variable, no flag: the documented defaults."""
    settings = load_settings(environ={})
    assert (settings.bus.url, settings.bus.namespace) == ("memory://", "plugbus")
    assert (settings.state_dir, settings.token, settings.plugins) == (None, None, {})
    assert settings.edge_plugins == ("gateway",)
    assert settings.deadlines.model_dump() == {
        "load": 30, "initialize": 30, "start": 30, "stop": 10, "shutdown": 10, "drain": 10, "configure": 10,
        "health": 5, "request": 1,
    }  # fmt: skip
    assert settings.plugin_paths == (Path.cwd() / "my_plugins",)


def test_flags_win_over_environment_over_file_over_defaults() -> None:
    """Of one key the nearest source counts, and `source_of` names it."""
    _write('log_level = "error"\n[bus]\nurl = "redis://file"\nnamespace = "file"\n[deadlines]\nload = 1\n')
    settings = load_settings(
        overrides={"bus.url": "redis://flag"},
        environ={"PLUGBUS_BUS__URL": "redis://variable", "PLUGBUS_BUS__NAMESPACE": "variable"},
    )
    assert settings.bus.url == "redis://flag"
    assert settings.bus.namespace == "variable"
    assert settings.deadlines.load == 1
    assert settings.source_of("bus.url") == "command line"
    assert settings.source_of("bus.namespace") == "PLUGBUS_BUS__NAMESPACE"
    assert settings.source_of("deadlines.load") == "plugbus.toml:6"
    assert settings.source_of("log_level") == "plugbus.toml:1"
    assert settings.source_of("deadlines.stop") == "default"


def test_flags_may_be_dotted_or_nested() -> None:
    """Both spellings of an override end at the same place."""
    settings = load_settings(
        overrides={"plugins": {"gateway": {"config": {"port": 1}}}, "plugins.gateway.config.host": "::1"},
        environ={},
    )
    assert settings.plugins["gateway"].config == {"port": 1, "host": "::1"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9000", 9000),
        ("true", True),
        ("0.5", 0.5),
        ("[1, 2]", [1, 2]),
        ("null", None),
        ("s3cret", "s3cret"),
        ('"9000"', "9000"),
        ("NaN", "NaN"),
        ("007", "007"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_plugin_configuration_from_the_environment_is_json_where_it_is_json(text: str, value: object) -> None:
    """Keys are lower-cased; values are JSON, or else text."""
    settings = load_settings(environ={"PLUGBUS_PLUGINS__HOST_MONITOR__CONFIG__EVERY": text})
    assert settings.plugins["host_monitor"].config == {"every": value}


def test_file_and_environment_complete_each_other_within_one_plugin() -> None:
    """Tables are merged key by key, not replaced."""
    _write(
        '[plugins.gateway.config]\nhost = "127.0.0.1"\nport = 1\n[plugins.gateway.config.tls]\nkey = "k"\n'
    )
    settings = load_settings(environ={"PLUGBUS_PLUGINS__GATEWAY__CONFIG__PORT": "2"})
    assert settings.plugins["gateway"].config == {"host": "127.0.0.1", "port": 2, "tls": {"key": "k"}}
    assert settings.source_of("plugins.gateway.config.tls.key") == "plugbus.toml:5"


def test_ranks_are_whole_numbers_of_capabilities(tmp_path: Path) -> None:
    """From the file and from a variable; what is no number, or no capability, is refused with its place."""
    (tmp_path / "plugbus.toml").write_text('[plugins.a]\nranks = { "pricing.quote" = 10, "a.b" = 1 }\n')
    variables = {"PLUGBUS_PLUGINS__A__RANKS__PRICING.QUOTE": "-3"}
    settings = load_settings(file=tmp_path / "plugbus.toml", environ=variables)
    assert settings.plugins["a"].ranks == {"pricing.quote": -3, "a.b": 1}
    for wrong in ('{ "Pricing" = 1 }', '{ "a.b" = true }', '{ "a.b" = 1.5 }', '{ "a.b" = "best" }', "7"):
        (tmp_path / "plugbus.toml").write_text(f"[plugins.a]\nranks = {wrong}\n")
        with pytest.raises(SettingsError) as caught:
            load_settings(file=tmp_path / "plugbus.toml", environ={})
        assert caught.value.where.endswith("plugbus.toml:2"), wrong


def test_lists_in_variables_are_json_or_separated_by_commas() -> None:
    """Enums are taken by value or by name."""
    settings = load_settings(
        environ={
            "PLUGBUS_PLUGINS__A__DENY": '["orders.**"]',
            "PLUGBUS_PLUGINS__A__ADD_PERMISSIONS": "network_access, EXECUTE_CODE",
            "PLUGBUS_PLUGINS__A__ALLOW_LEVEL": "TRUSTED",
            "PLUGBUS_PLUGINS__A__ENABLED": "false",
        }
    )
    plugin = settings.plugins["a"]
    assert plugin.deny == ("orders.**",)
    assert plugin.add_permissions == (Permission.NETWORK_ACCESS, Permission.EXECUTE_CODE)
    assert plugin.allow_level is SecurityLevel.TRUSTED
    assert plugin.enabled is False


def test_the_file_of_the_nearest_parent_is_found_and_its_paths_count_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`plugin_paths` and `state_dir` of a file are relative to the file; flags to the current folder."""
    file = _write('state_dir = "state"\nplugin_paths = ["mine", "/opt/theirs"]\n')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert find_settings_file() == file
    settings = load_settings(environ={})
    assert settings.file == file
    assert settings.state_dir == tmp_path / "state"
    assert settings.plugin_paths == (tmp_path / "mine", Path("/opt/theirs"))
    flagged = load_settings(environ={}, overrides={"plugin_paths": [Path("here")]})
    assert flagged.plugin_paths == (below / "here",)


def test_the_default_plugin_folder_lies_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`my_plugins` is looked for where `plugbus.toml` is."""
    _write("")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert load_settings(environ={}).plugin_paths == (tmp_path / "my_plugins",)


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    """`--config` of a missing file is refused with its name."""
    error = _refusal(file=tmp_path / "other.toml")
    assert error.where == "other.toml"
    assert "does not exist" in error.message


def test_a_file_that_is_not_toml_is_refused_with_the_line() -> None:
    """The parser's line and column are kept."""
    _write("[bus]\nurl = memory\n")
    error = _refusal()
    assert (error.where, "line 2" in error.message) == ("plugbus.toml", True)


@pytest.mark.parametrize(
    ("variable", "fix"),
    [
        ("PLUGBUS_BUS_URL", "did you mean 'PLUGBUS_BUS__URL'?"),
        ("PLUGBUS_STATEDIR", "did you mean 'PLUGBUS_STATE_DIR'?"),
        ("PLUGBUS_PORT", "did you mean 'PLUGBUS_PLUGINS__GATEWAY__CONFIG__PORT'?"),
        ("PLUGBUS_PLUGINS__GATEWAY__PORT", "did you mean 'PLUGBUS_PLUGINS__GATEWAY__CONFIG__PORT'?"),
        ("PLUGBUS_PLUGINS__GATEWAY__ENABLE", "did you mean 'PLUGBUS_PLUGINS__GATEWAY__ENABLED'?"),
        ("PLUGBUS_BUS", "set what is in it: PLUGBUS_BUS__URL"),
        ("PLUGBUS_PLUGINS__GATEWAY", "set what is in it: PLUGBUS_PLUGINS__GATEWAY__ENABLED"),
        ("PLUGBUS_PLUGINS", "set what is in it: PLUGBUS_PLUGINS__NAME"),
    ],
)
def test_an_unknown_variable_is_refused_with_what_was_meant(variable: str, fix: str) -> None:
    """The suggestion is spelled as a variable."""
    error = _refusal(environ={variable: "1"})
    assert (error.where, error.fix) == (variable, fix)


def test_an_unknown_key_of_the_file_is_refused_with_its_line() -> None:
    """File and line, and the key that was meant."""
    _write("[deadlines]\nload = 3\nstrat = 4\n")
    error = _refusal()
    assert error.message == "'deadlines.strat' is not a setting"
    assert (error.where, error.fix) == ("plugbus.toml:3", "did you mean 'deadlines.start'?")


def test_an_unknown_flag_is_refused() -> None:
    """What resembles nothing is told what there is."""
    error = _refusal(overrides={"xyz": 1})
    assert error.where == "command line"
    assert "bus, replica, state_dir" in error.fix


@pytest.mark.parametrize(
    "variable",
    [
        ("PLUGBUS_URL", "http://127.0.0.1:8000"),
        ("PLUGBUS_TEST_REDIS", "redis://"),
        ("PLUGBUS_SERVICE_HOST", "10.0.0.1"),
        ("PLUGBUS_SERVICE_PORT_HTTP", "8000"),
        ("PLUGBUS_PORT", "tcp://10.0.0.1:8000"),
        ("PLUGBUS_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("PLUGBUS_REDIS_SERVICE_PORT", "6379"),
        ("PLUGBUS_REDIS_PORT_6379_TCP", "tcp://10.0.0.2:6379"),
        ("PLUGBUS_TOKEN", ""),
        ("PLUGBUSX", "1"),
    ],
    ids=lambda variable: variable[0],
)
def test_variables_that_others_set_are_no_mistake(variable: tuple[str, str]) -> None:
    """The client's and the tests' own, what Kubernetes puts beside a service, and what is empty."""
    assert load_settings(environ=dict([variable])).describe() == load_settings(environ={}).describe()


def test_a_value_that_does_not_fit_names_what_was_expected_and_where() -> None:
    """The key, the value, the expectation, the place."""
    _write('[deadlines]\nload = "soon"\n')
    error = _refusal()
    assert error.message.startswith("'deadlines.load' = 'soon': should be a valid number")
    assert error.where == "plugbus.toml:2"


def test_all_problems_are_told_at_once_on_one_screen() -> None:
    """Many mistakes are one error of at most a screen."""
    error = _refusal(environ={f"PLUGBUS_WRONG_{number}": "x" for number in range(20)})
    assert len(error.explain().splitlines()) <= 24
    assert error.message.startswith("20 settings are wrong")
    assert error.message.endswith("and 14 more")


def test_values_of_several_sources_are_judged_together() -> None:
    """Each problem keeps its own place."""
    _write('log_level = "loud"\n')
    error = _refusal(environ={"PLUGBUS_BUS__URL": "memory", "PLUGBUS_PLUGINS__BAD-ID__ENABLED": "1"})
    places = {problem.where for problem in error.details["problems"]}
    assert places == {"plugbus.toml:1", "PLUGBUS_BUS__URL", "PLUGBUS_PLUGINS__BAD-ID__ENABLED"}


def test_a_table_where_a_value_belongs_and_the_other_way_round_are_refused() -> None:
    """Neither is a crash."""
    assert "'bus' is a table" in _refusal(overrides={"bus": "memory://"}).message
    assert "'token.x' is not a setting" in _refusal(overrides={"token.x": 1}).message


def test_of_the_limits_only_what_was_set_is_handed_on() -> None:
    """From every source, partitions as one number or by topic; the bus knows its own defaults."""
    _write("[bus.limits]\nretain = 7\n[bus.limits.partitions]\norders = 4\n")
    settings = load_settings(environ={"PLUGBUS_BUS__LIMITS__LOT": "9"}, overrides={"bus.limits.lease": 3})
    limits = settings.bus.limits.as_set()
    assert limits is not None
    assert limits.model_fields_set == {"retain", "partitions", "lot", "lease"}
    assert (limits.retain, limits.partitions, limits.lot, limits.lease) == (7, {"orders": 4}, 9, 3)
    assert type(limits) is BusLimits
    assert load_settings(environ={}, file=_write("")).bus.limits.as_set() is None


@pytest.mark.parametrize(
    ("environ", "partitions"),
    [
        ({"PARTITIONS": "4"}, 4),
        ({"PARTITIONS": '{"orders": 4}'}, {"orders": 4}),
        ({"PARTITIONS__ORDERS": "4", "PARTITIONS__BILLS": "2"}, {"orders": 4, "bills": 2}),
    ],
)
def test_partitions_are_a_number_or_a_table(environ: dict[str, str], partitions: object) -> None:
    """In variables too: as JSON, or with a variable for each topic."""
    given = {f"PLUGBUS_BUS__LIMITS__{name}": value for name, value in environ.items()}
    assert load_settings(environ=given).bus.limits.partitions == partitions


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("partitions = 0", "should be a whole number from 1, or a table"),
        ("partitions = true", "should be a whole number from 1, or a table"),
        ("partitions = 'many'", "should be a whole number from 1, or a table"),
        ("partitions = { orders = 0 }", "should be a whole number from 1, or a table"),
        ("partitions = { 'orders.placed' = 2 }", "'orders.placed' should be a topic"),
        ("partitions = { audit = 2 }", "'audit' should be a topic that is not reserved"),
        ("retain = -1", "should be greater than or equal to 0"),
    ],
)
def test_limits_that_do_not_fit_are_told_in_one_sentence(text: str, told: str) -> None:
    """With the line, however many forms the value might have had."""
    _write(f"[bus.limits]\n{text}\n")
    error = _refusal()
    assert told in error.message
    assert error.where == "plugbus.toml:2"
    assert len(error.explain().splitlines()) == 3


def test_an_unknown_limit_is_refused_with_what_was_meant() -> None:
    """In the spelling of its source."""
    error = _refusal(environ={"PLUGBUS_BUS__LIMITS__RETIAN": "1"})
    assert error.fix == "did you mean 'PLUGBUS_BUS__LIMITS__RETAIN'?"
    assert "'bus.limits' is a table" in _refusal(overrides={"bus.limits": 1}).message


@pytest.mark.parametrize("name", ["a b", "", "-a", "a:b", "x" * 64])
def test_the_name_of_a_replica_is_one_word(name: str) -> None:
    """It is part of the names of groups, and of keys."""
    _write(f'replica = "{name}"')
    assert "'replica'" in _refusal().message
    _write('replica = "shop-2.eu_1"')
    assert load_settings(environ={}).replica == "shop-2.eu_1"


def test_a_password_among_the_options_of_a_url_is_not_shown() -> None:
    """Some clients take it there as well."""
    settings = Settings.model_validate({"bus": {"url": "redis://h/0?a=1&password=hidden&b=2"}})
    assert settings.bus.display_url == "redis://h/0?a=1&password=••••&b=2"


def test_secrets_are_in_no_text() -> None:
    """Neither the settings' text, nor their description, nor an error shows a token or password."""
    environ = {
        "PLUGBUS_TOKEN": "hidden-1",
        "PLUGBUS_BUS__URL": "redis://user:hidden-2@host/0",
        "PLUGBUS_PLUGINS__WEBHOOKS__CONFIG__SECRET": "hidden-3",
        "PLUGBUS_PLUGINS__WEBHOOKS__CONFIG__AUTH__PASSWORD": "hidden-4",
    }
    settings = load_settings(environ=environ)
    error = _refusal(environ=environ, overrides={"token": ["hidden-5"], "log_level": "loud"})
    text = f"{settings!r} {settings} {settings.describe()} {settings.bus.display_url} {error.explain()}"
    assert "hidden" not in text
    assert settings.bus.display_url == "redis://user:••••@host/0"
    assert settings.token is not None
    assert settings.token.get_secret_value() == "hidden-1"


def test_the_token_may_come_from_a_file(tmp_path: Path) -> None:
    """Read when it is asked for, so a new one holds from the next start on; a line end is no part of it."""
    secret = tmp_path / "secret"
    settings = load_settings(environ={"PLUGBUS_TOKEN_FILE": str(secret)})
    for token in ("hidden-1", "hidden-2"):
        secret.write_text(f"{token}\n")
        found = settings.configured_token()
        assert found is not None
        assert found.get_secret_value() == token
    assert "hidden" not in f"{settings!r} {settings.describe()} {found!r}"


def test_a_relative_file_of_the_token_lies_beside_the_settings(tmp_path: Path) -> None:
    """As all paths of `plugbus.toml`."""
    _write('token_file = "secret"')
    Path("secret").write_text("abc")
    found = load_settings(environ={}).configured_token()
    assert found is not None
    assert found.get_secret_value() == "abc"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"hidden-1 hidden-2", b"hidden\xff"])
def test_a_file_without_one_token_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """The file and the setting are named, what it holds is not; no token is made in its place."""
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    settings = load_settings(environ={"PLUGBUS_TOKEN_FILE": str(secret)})
    with pytest.raises(SettingsError) as caught:
        settings.configured_token()
    text = caught.value.explain()
    assert str(secret) in text
    assert "PLUGBUS_TOKEN_FILE" in text
    assert "hidden" not in text


def test_a_token_and_its_file_are_not_both_set(tmp_path: Path) -> None:
    """Nobody has to guess which one holds."""
    error = _refusal(environ={"PLUGBUS_TOKEN": "hidden", "PLUGBUS_TOKEN_FILE": str(tmp_path / "secret")})
    assert "token" in error.message
    assert "hidden" not in error.explain()


# --- values from files ---------------------------------------------------------------------------------

URL, SECRET = "PLUGBUS_BUS__URL", "PLUGBUS_PLUGINS__WEBHOOKS__CONFIG__SECRET"


def test_a_variable_may_name_the_file_of_its_value(tmp_path: Path) -> None:
    """Of any setting; the line end behind the value is no part of it, what stands in it is not shown."""
    (tmp_path / "url").write_text("redis://user:hidden@host/0\n")
    (tmp_path / "deny").write_text("orders.**,bills.*")
    settings = load_settings(
        environ={f"{URL}_FILE": str(tmp_path / "url"), "PLUGBUS_PLUGINS__A__DENY_FILE": "deny"}
    )
    assert settings.bus.url == "redis://user:hidden@host/0"
    assert settings.source_of("bus.url") == f"{URL}_FILE"
    assert settings.plugins["a"].deny == ("orders.**", "bills.*")
    assert "hidden" not in f"{settings!r} {settings.describe()}"


def test_the_flag_wins_over_the_file_of_a_variable(tmp_path: Path) -> None:
    """The order of the sources is the same."""
    (tmp_path / "url").write_text("redis://file")
    settings = load_settings(overrides={"bus.url": "redis://flag"}, environ={f"{URL}_FILE": "url"})
    assert settings.bus.url == "redis://flag"


def test_a_plugin_is_given_what_the_file_holds(tmp_path: Path) -> None:
    """As text, also where it looks like a number, and in tables; read when the plugin is configured."""
    environ = {f"{SECRET}_FILE": "secret", "PLUGBUS_PLUGINS__WEBHOOKS__CONFIG__AUTH__KEY_FILE": "key"}
    settings = load_settings(environ=environ)
    (tmp_path / "secret").write_text("0123\r\n")
    (tmp_path / "key").write_text("hidden")
    found = settings.configuration("webhooks", {"limit": 1})
    assert found == {"limit": 1, "secret": "0123", "auth": {"key": "hidden"}}
    assert settings.configuration("other", {"limit": 1}) == {"limit": 1}
    assert "hidden" not in f"{settings!r} {settings.describe()}"


def test_a_key_that_is_called_so_is_what_it_is() -> None:
    """No file is read for `token_file`, nor for what the plugin itself has in its configuration."""
    environ = {
        "PLUGBUS_TOKEN_FILE": "absent",
        "PLUGBUS_PLUGINS__A__CONFIG__LOG_FILE": "absent",
        "PLUGBUS_PLUGINS__A__CONFIG__TLS__KEY_FILE": "absent",
    }
    settings = load_settings(environ=environ)
    assert settings.token_file == Path.cwd() / "absent"
    defaults: dict[str, Any] = {"log_file": "", "tls": {"key_file": ""}}
    assert settings.configuration("a", defaults) == {"log_file": "absent", "tls": {"key_file": "absent"}}


def test_in_plugbus_toml_a_key_of_a_plugin_is_what_it_is() -> None:
    """Only variables name files of values."""
    _write('[plugins.a.config]\nkey_file = "absent"')
    assert load_settings(environ={}).configuration("a", {}) == {"key_file": "absent"}


def test_a_value_and_its_file_are_not_both_set(tmp_path: Path) -> None:
    """Both variables are named, for ours and for a plugin's; nobody has to guess which one holds."""
    error = _refusal(environ={URL: "redis://hidden", f"{URL}_FILE": "url"})
    assert all(name in error.explain() for name in (f"{URL}_FILE and {URL} ", f"unset {URL}_FILE"))
    assert "hidden" not in error.explain()
    settings = load_settings(environ={SECRET: "hidden", f"{SECRET}_FILE": "secret"})
    with pytest.raises(SettingsError) as caught:
        settings.configuration("webhooks", {})
    assert f"{SECRET}_FILE and {SECRET} are both set" in caught.value.explain()
    assert "hidden" not in caught.value.explain()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"hidden\xff", "is no text"),
    ],
)
def test_a_file_that_gives_no_value_is_refused(tmp_path: Path, given: bytes | None, problem: str) -> None:
    """With variable, path, cause and fix, and without what it holds."""
    file = tmp_path / "value"
    if given is not None:
        file.write_bytes(given)
    ours = _refusal(environ={f"{URL}_FILE": str(file)})
    settings = load_settings(environ={f"{SECRET}_FILE": str(file)})
    with pytest.raises(SettingsError) as caught:
        settings.configuration("webhooks", {})
    for error, variable in ((ours, f"{URL}_FILE"), (caught.value, f"{SECRET}_FILE")):
        assert all(part in error.explain() for part in (variable, str(file), problem))
        assert str(file) in error.fix
        assert "hidden" not in error.explain()


def test_a_file_for_what_is_no_setting_is_refused() -> None:
    """It is not read either."""
    assert "PLUGBUS_COLOUR_FILE" in _refusal(environ={"PLUGBUS_COLOUR_FILE": "absent"}).message


async def test_a_plugin_whose_file_is_missing_says_so(tmp_path: Path) -> None:
    """It is not started, for that reason; once the file is there, the next start takes it."""

    class Billing(BasePlugin, plugin_id="billing", version="1.0.0", security_level="trusted"):
        """Shows what it was configured with."""

    variable = "PLUGBUS_PLUGINS__BILLING__CONFIG__KEY_FILE"
    environ = {
        variable: "key",
        "PLUGBUS_STATE_DIR": str(tmp_path / "state"),
    }
    async with PluginManager(load_settings(environ=environ)) as manager:
        handle = await manager.register_plugin(Billing)
        with pytest.raises(PlugbusError) as caught:
            await manager.start_plugin("billing")
        assert f"{variable} names the file key" in caught.value.explain()
        (tmp_path / "key").write_text("k\n")
        await manager.start_plugin("billing")
        assert handle.status is PluginStatus.STARTED


def test_constructing_settings_reads_nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedding application says what it wants; the environment does not interfere."""
    _write('log_level = "error"')
    monkeypatch.setenv("PLUGBUS_LOG_LEVEL", "debug")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert Settings().log_level == "info"
    assert Settings(log_level="warning").log_level == "warning"


def test_settings_are_frozen() -> None:
    """Nobody changes them behind another's back."""
    with pytest.raises(ValidationError):
        Settings().log_level = "debug"  # type: ignore[misc]


def test_every_setting_is_described_with_its_source() -> None:
    """`describe` lists each key once, as (key, value, source)."""
    settings = load_settings(environ={"PLUGBUS_LOG_LEVEL": "DEBUG"})
    described = {key: (value, source) for key, value, source in settings.describe()}
    assert described["log_level"] == ("debug", "PLUGBUS_LOG_LEVEL")
    assert described["deadlines.drain"] == (10.0, "default")


def test_the_table_names_every_setting_with_its_meaning() -> None:
    """The documentation is made from the model, so it cannot lag behind."""
    rows = settings_table().splitlines()[2:]
    assert any("`plugins.ID.config.KEY`" in row and "PLUGBUS_PLUGINS__ID__CONFIG__KEY" in row for row in rows)
    assert not [row for row in rows if "None" in row or row.rstrip("| ").endswith("|")]


def test_what_is_in_a_file_is_never_shown(tmp_path: Path) -> None:
    """Whoever names the wrong file does not publish the secret in it."""
    (tmp_path / "secret").write_text("example-secret\n")
    error = _refusal(environ={"PLUGBUS_BUS__URL_FILE": str(tmp_path / "secret")})
    assert "example-secret" not in str(error)
    assert "PLUGBUS_BUS__URL_FILE" in f"{error} {error.where}"
