"""`plugbus config …`: what plugins are configured with and where it came from; checking and changing it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import File, read_data
from .client import Client, with_client, word
from .errors import CommandError, ExitCode, usage
from .output import (
    AsJson,
    clean,
    json_line,
    local,
    note,
    say,
    say_item,
    say_items,
    say_table,
    short,
)

if TYPE_CHECKING:
    from ..settings import Settings

app = typer.Typer(help="Configuration of plugins: show, explain, set, check, history.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The plugin's id, e.g. alerts.")]
SettingsFile = Annotated[Path | None, typer.Option("--config", help="Settings file (plugbus.toml).")]
StateDir = Annotated[Path | None, typer.Option("--state-dir", help="The state folder.")]

_WIDEST = 60


@app.command("show")
@with_client
def show(
    client: Client,
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One plugin; all without.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show every key with its value and where that came from; secrets are masked."""
    items = _configurations(client, id)
    if as_json:
        say_items("config.show", items)
        return
    rows = [
        (f"{item['plugin_id']}.{value['key']}", _text(value["value"]), value["source"])
        for item in items
        for value in item["values"]
    ]
    say_table(("KEY", "VALUE", "FROM"), rows)
    for item in items:
        for line in _remarks(item):
            note(line)


@app.command("explain")
@with_client
def explain(
    client: Client,
    key: Annotated[
        str, typer.Argument(metavar="ID[.KEY]", help="A plugin or one of its keys; or a setting, as bus.url.")
    ],
    as_json: AsJson = False,
) -> None:
    """Tell where each value came from, and what it hides."""
    plugin_id, _, rest = key.partition(".")
    if (told := _settings_called(client, key)) is not None:
        _say_settings(told, as_json)
        return
    [item] = _configurations(client, plugin_id)
    values = [v for v in item["values"] if not rest or f"{v['key']}.".startswith(f"{rest}.")]
    if rest and not values:
        raise _no_key(plugin_id, rest, [value["key"] for value in item["values"]])
    if as_json:
        say_item("config.explain", {**item, "values": values})
        return
    for value in values:
        _say_value(plugin_id, value)
    for line in _remarks(item):
        note(line)


@app.command("set")
@with_client
def set_values(
    client: Client,
    id: Id,
    pairs: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE…", help="JSON, or else text; dots lead into tables."),
    ] = None,
    unset: Annotated[
        list[str] | None, typer.Option("--unset", metavar="KEY", help="Take back what was set; repeatable.")
    ] = None,
    file: File = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take back everything else that was set.")
    ] = False,
    if_version: Annotated[
        int | None, typer.Option("--if-version", min=0, help="Only if nobody has changed it since.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check.")] = False,
    as_json: AsJson = False,
) -> None:
    """Change the configuration of a plugin while it runs; kept over restarts."""
    body = _nested({**read_data(pairs, None, file), **dict.fromkeys(unset or (), None)})
    if not body and not replace:
        raise usage("nothing to set", "plugbus config set ID KEY=VALUE, or --unset KEY")
    headers = {} if if_version is None else {"If-Match": f'"{if_version}"'}
    parameters = {"dry_run": "true"} if dry_run else {}
    write = client.put if replace else client.patch
    result = write(f"/admin/config/{word(id)}", body, headers=headers, **parameters)
    if as_json:
        say_item("config.set", result)
    else:
        _say_result(id, result)


@app.command("check")
def check(config: SettingsFile = None, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Check plugbus.toml, environment and what was set live against the plugins' schemas; needs no kernel."""
    problems, unchecked = _found(config, state_dir)
    if as_json:
        say_item("config.check", {"problems": problems, "unchecked": unchecked})
    else:
        for problem in problems:
            _say_problem(problem)
        if unchecked:
            note(f"not checked, because only their code says what they take: {', '.join(unchecked)}")
        if not problems:
            say("nothing is wrong")
    if problems:
        raise typer.Exit(ExitCode.CONFIG)


@app.command("history")
@with_client
def history(
    client: Client,
    id: Id,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the last changes: when, by whom, which keys."""
    items = client.get(f"/admin/config/{word(id)}/history", limit=limit)
    if as_json:
        say_items("config.history", items)
        return
    if not items:
        say("nothing was set while it ran")
        return
    rows = [
        (item["version"], local(item["at"])[:19], item["by"], item["outcome"], "; ".join(_changes(item)))
        for item in items
    ]
    say_table(("VERSION", "WHEN", "BY", "OUTCOME", "KEYS"), rows, cut=4)


# --- where it is asked ---------------------------------------------------------------------------------


def _configurations(client: Client, plugin_id: str | None) -> list[Any]:
    """As the running kernel says; where none runs here, as the next start would take it."""
    try:
        if plugin_id is None:
            return list(client.get("/admin/config"))
        return [client.get(f"/admin/config/{word(plugin_id)}")]
    except CommandError as error:
        if error.exit_code != ExitCode.UNREACHABLE or client.where.url:
            raise
    import asyncio

    found = asyncio.run(_view(_settings(client.where.config, client.where.state_dir)).show(plugin_id))
    note("no kernel runs here: this is what the next start would take")
    return [item.model_dump(mode="json") for item in found]


def _settings(config: Path | None, state_dir: Path | None) -> "Settings":
    from ..settings import load_settings

    return load_settings(file=config, overrides={"state_dir": state_dir} if state_dir else {})


def _view(settings: "Settings") -> Any:
    """The plugins that the settings lead to, without running any of their code."""
    import logging

    from ..configuration.layers import ConfigurationLayers
    from ..configuration.live import LiveStore
    from ..configuration.showing import ConfigurationView
    from ..finding import PluginFinder
    from ..registry import PluginRegistry
    from ..state import StateFolder

    silent = logging.getLogger("plugbus.config")
    silent.disabled = True  # what is refused is told by its record
    registry = PluginRegistry(settings.deadlines.health)
    PluginFinder(settings, "run", (), silent).find(registry)
    state = StateFolder.locate(settings.state_dir, settings.file).path
    return ConfigurationView(ConfigurationLayers(settings, LiveStore(state)), registry)


def _settings_called(client: Client, key: str) -> list[tuple[str, Any, str]] | None:
    """Plugbus's own settings that `key` names, as (key, value, source)."""
    from ..settings import Settings

    if key.partition(".")[0] not in Settings.model_fields:
        return None
    described = _settings(client.where.config, client.where.state_dir).describe()
    found = [each for each in described if f"{each[0]}.".startswith(f"{key}.")]
    if not found:
        raise _no_key("", key, [each[0] for each in described])
    return found


# --- checking ------------------------------------------------------------------------------------------


def _found(config: Path | None, state_dir: Path | None) -> tuple[list[dict[str, str]], list[str]]:
    """What is wrong, and the plugins of which nothing is known."""
    import asyncio

    from contracts.errors import SettingsError

    try:
        settings = _settings(config, state_dir)
    except SettingsError as error:
        listed = error.details.get("problems") or ()
        told = [(one.text, one.where, one.fix) for one in listed] or [(error.message, error.where, error.fix)]
        return [_problem("", text, where, fix) for text, where, fix in told], []
    shown = asyncio.run(_view(settings).show(None))
    problems = [*_strangers(settings, [each.plugin_id for each in shown])]
    for each in shown:
        for one in each.problems:
            found = f", found {one.found}" if one.found else ""
            text = f"{one.key}: expected {one.expected}{found}" if one.key else one.expected
            problems.append(_problem(each.plugin_id, text, _place(each, one.key), one.fix))
    unchecked = [
        each.plugin_id for each in shown if each.json_schema is None and each.plugin_id in settings.plugins
    ]
    return problems, unchecked


def _place(configuration: Any, key: str) -> str:
    """Where the value of a key, or the first in the table of that name, came from."""
    sources = (one.source for one in configuration.values if f"{one.key}.".startswith(f"{key}."))
    return next(sources, "") if key else ""


def _strangers(settings: "Settings", known: list[str]) -> Iterator[dict[str, str]]:
    """Plugins that are configured and that nobody has."""
    from ..configuration.schema import did_you_mean

    for plugin_id in settings.plugins:
        if plugin_id not in known:
            keys = [key for key, _, _ in settings.describe() if key.startswith(f"plugins.{plugin_id}.")]
            where = next((place for key in keys if (place := settings.source_of(key)) != "default"), "")
            yield _problem(plugin_id, "no plugin is called so", where, did_you_mean(plugin_id, known))


def _problem(plugin_id: str, text: str, where: str, fix: str) -> dict[str, str]:
    return {"plugin_id": plugin_id, "problem": text, "where": where, "fix": fix}


def _say_problem(problem: Mapping[str, str]) -> None:
    name = f"{problem['plugin_id']}: " if problem["plugin_id"] else ""
    say(clean(f"{name}{problem['problem']}"))
    for label in ("where", "fix"):
        if problem[label]:
            say(clean(f"  {'at: ' if label == 'where' else 'fix:'} {problem[label]}"))


# --- saying --------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    return short(value if isinstance(value, str) else json_line(value), _WIDEST)


def _say_value(plugin_id: str, value: Mapping[str, Any]) -> None:
    say(clean(f"{plugin_id}.{value['key']} = {_text(value['value'])}"))
    when = f", {local(value['set_at'])[:19]}" if value.get("set_at") else ""
    say(clean(f"  from {value['layer']}: {value['source']}{when}"))
    for hidden in value["hides"]:
        say(clean(f"  hides {_text(hidden['value'])} from {hidden['layer']}: {hidden['source']}"))


def _say_settings(found: list[tuple[str, Any, str]], as_json: bool) -> None:
    if as_json:
        items = [{"key": key, "value": value, "source": source} for key, value, source in found]
        say_items("config.explain", items)
        return
    for key, value, source in found:
        say(clean(f"{key} = {_text(value)}"))
        say(clean(f"  from {source}"))


def _remarks(item: Mapping[str, Any]) -> Iterator[str]:
    id = item["plugin_id"]
    for problem in item["problems"]:
        key = f"{id}.{problem['key']}" if problem["key"] else id
        found = f", found {problem['found']}" if problem["found"] else ""
        yield clean(f"{key}: expected {problem['expected']}{found} ({problem['fix']})")
    if item["restart_required"]:
        yield clean(f"{id} still works with another configuration: {item['restart_with']}")


def _say_result(id: str, result: Mapping[str, Any]) -> None:
    told = {
        "applied": "applied to the running plugin",
        "restart_required": "kept; the plugin takes it at its next start",
        "stored": "kept; the plugin takes it when it starts",
        "unchanged": "nothing to change",
        "valid": "nothing is wrong; nothing was changed",
    }
    version = result["configuration"]["version"]
    say(clean(f"{id}: {told.get(result['outcome'], result['outcome'])} (version {version})"))
    for line in _changes(result):
        say(clean(f"  {line}"))
    if result["fix"]:
        say(clean(f"  now: {result['fix']}"))


def _changes(item: Mapping[str, Any]) -> Iterator[str]:
    for each in item["keys"]:
        before, after = (
            "as below" if value is None else _text(value) for value in (each["before"], each["after"])
        )
        yield f"{each['key']}: {before} → {after}"


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested tables."""
    from ..settings_sources import overlaid

    tree: dict[str, Any] = {}
    for key, value in values.items():
        inner = value
        for name in reversed(key.split(".")):
            inner = {name: inner}
        tree = overlaid(tree, inner)
    return tree


def _no_key(plugin_id: str, key: str, known: list[str]) -> CommandError:
    from ..configuration.schema import did_you_mean

    what = f"plugin {plugin_id!r} has no value for" if plugin_id else "there is no setting"
    return CommandError(
        "unknown-key", f"{what} {key!r}", fix=did_you_mean(key, known), exit_code=ExitCode.NOT_FOUND
    )
