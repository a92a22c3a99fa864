"""`plugbus plugin …`: what is there, why, and what it takes; starting and stopping it."""

import enum
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .client import Client, with_client, word
from .explain import explain
from .output import AsJson, clean, pretty, say, say_fields, say_item, say_items, say_table, short
from .quarantine import app as quarantine_app

app = typer.Typer(help="Plugins: list, top, show, explain, start, stop, enable, disable, quarantine.")

Along = Annotated[bool, typer.Option("--with-dependents", help="Stop those that need it too, before it.")]
PluginId = Annotated[str, typer.Argument(metavar="PLUGIN", help="The plugin's id.")]

app.add_typer(quarantine_app, name="quarantine")


class Status(enum.StrEnum):
    """`contracts.plugin.PluginStatus`, which is not imported for `--help`."""

    UNLOADED = "unloaded"
    LOADED = "loaded"
    INITIALIZED = "initialized"
    STARTED = "started"
    STOPPED = "stopped"
    ERROR = "error"


class Level(enum.StrEnum):
    """`contracts.security.SecurityLevel`."""

    UNRESTRICTED = "unrestricted"
    TRUSTED = "trusted"
    SANDBOXED = "sandboxed"
    ISOLATED = "isolated"


_MARKS = {"started": "✔", "error": "✖"}
_WITH_DEPENDENTS = {"with_dependents": "true"}
_REASON_WIDTH = 200
_REASON_LINES = 10
_TRACEBACK_LINES = 12
_COMMAND_TIMEOUT = 130.0
"""Seconds; the kernel has deadlines of its own for each step, and answers sooner."""


@app.command("list")
@with_client
def list_plugins(
    client: Client,
    tag: Annotated[list[str] | None, typer.Option(help="Only plugins that have it; may be repeated.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only plugins that stand there.")] = None,
    level: Annotated[Level | None, typer.Option(help="Only plugins that run at this level.")] = None,
    handles: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Only plugins that handle this event type.")
    ] = None,
    provides: Annotated[
        str | None, typer.Option(metavar="CAPABILITY", help="Only plugins that provide it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List all plugins, or those of which all that is said is true; refused ones with their reason."""
    asked = {"tag": tag or None, "status": status, "level": level, "handles": handles, "provides": provides}
    items = client.get("/admin/plugins", **asked)
    if as_json:
        say_items("plugin.list", items)
        return
    if not items:
        say("no plugin is like that")
        return
    columns = ("", "PLUGIN", "VERSION", "STATUS", "LEVEL", "HANDLERS", "CAPABILITIES", "SOURCE")
    say_table(columns, map(_row, items))
    for item in items:
        say_reason(item)
        if _is_unwell(item):
            line = clean(f"{item['plugin_id']}: {_health(item)}")
            say(f"! {short(line, _REASON_WIDTH)}")


@app.command("top")
@with_client
def top(client: Client, as_json: AsJson = False) -> None:
    """List started plugins by the time that they took of the event loop."""
    items = [item for item in client.get("/admin/plugins") if item.get("metrics")]
    items.sort(key=lambda item: -item["metrics"]["loop_seconds"])
    if as_json:
        say_items("plugin.top", items)
        return
    columns = (
        "PLUGIN", "LOOP", "SHARE", "HANDLERS", "HANDLED", "FAILED", "PUBLISHED", "CALLS", "PENDING", "TASKS",
        "STALLS",
    )  # fmt: skip
    say_table(columns, map(_taken, items))


def _taken(item: Mapping[str, Any]) -> tuple[Any, ...]:
    figures = item["metrics"]
    share = figures["loop_seconds"] / figures["seconds"] if figures["seconds"] else 0.0
    pending = figures["pending"]
    return (
        item["plugin_id"],
        f"{figures['loop_seconds']:.3f} s",
        f"{share:.1%}",
        f"{figures['handler_seconds']:.3f} s",
        *(figures[name] for name in ("handled", "failed", "published", "calls")),
        "?" if pending is None else pending,
        figures["tasks"],
        figures["stalls"],
    )


@app.command("show")
@with_client
def show_plugin(client: Client, plugin_id: PluginId, as_json: AsJson = False) -> None:
    """Show everything that is known of one plugin."""
    item = client.get(f"/admin/plugins/{word(plugin_id)}")
    if as_json:
        say_item("plugin.show", item)
        return
    metadata = item.get("metadata") or {}
    security = item.get("security") or {}
    say_fields(
        {
            "plugin": item["plugin_id"],
            "name": item["name"],
            "version": item["version"],
            "description": metadata.get("description"),
            "status": _status(item),
            "generation": item.get("generation"),
            "level": _level(item),
            "permissions": sorted(security.get("permissions", ())),
            "limits enforced": item.get("limits_enforced"),
            "capabilities": item.get("capabilities"),
            "routes": f"/plugins/{item['plugin_id']}" if item.get("has_routes") else None,
            "source": item.get("source"),
            "needed by": item.get("needed_by"),
            "also found in": item.get("shadowed"),
            "health": _health(item),
            "load": _load(item),
        }
    )
    if stall := item.get("last_stall"):
        say(f"! blocked the event loop for {stall['seconds']:.1f} s ({stall['at']}):")
        for line in stall["stack"]:
            say(f"    at {clean(line)}")
    for handler in item.get("handlers", ()):
        say(clean(f"  {handler['group']}  ← {', '.join(handler['patterns'])}{_options(handler)}"))
    say_reason(item)
    for line in item.get("traceback", "").splitlines()[-_TRACEBACK_LINES:]:
        say(f"  {clean(line)}")
    if metadata.get("configuration_schema"):
        say("configuration schema:")
        say(pretty(metadata["configuration_schema"]))


def _health(item: Mapping[str, Any]) -> str | None:
    """How it is, why, and since how many answers."""
    health = item.get("health") or {}
    failures = health.get("failures", 0)
    row = f" ({failures} in a row)" if failures > 1 else ""
    message = f": {health['message']}" if health.get("message") else ""
    return f"{health['status']}{row}{message}" if health else None


def _load(item: Mapping[str, Any]) -> str | None:
    """What it has done and taken, in a line."""
    if not (figures := item.get("metrics")):
        return None
    memory = figures["memory_bytes"]
    told = f"{memory / 2**20:.0f} MiB" if memory is not None else "not known in process"
    pending = "?" if figures["pending"] is None else figures["pending"]
    return (
        f"loop {figures['loop_seconds']:.3f} s, handlers {figures['handler_seconds']:.3f} s, "
        f"{figures['handled']} handled, {figures['failed']} failed, {pending} pending, "
        f"{figures['tasks']} tasks, {figures['stalls']} stalls, memory {told}"
    )


def _is_unwell(item: Mapping[str, Any]) -> bool:
    health = item.get("health") or {"status": "healthy"}
    return str(health["status"]) != "healthy"


def _options(handler: Mapping[str, Any]) -> str:
    """What a handler asks for beyond the defaults."""
    said = [f"{name}={_option(value)}" for name, value in handler.get("options", {}).items()]
    if handler.get("filtered"):
        said.append("where=…")
    return f"  ({', '.join(said)})" if said else ""


def _option(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}={_option(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_option, value)) + "]"
    return str(value)


app.command("explain")(with_client(explain))


@app.command("start")
@with_client
def start_plugin(client: Client, plugin_id: PluginId, as_json: AsJson = False) -> None:
    """Start a plugin that is stopped, unloaded or failed."""
    _command(client, plugin_id, "start", as_json)


@app.command("stop")
@with_client
def stop_plugin(client: Client, plugin_id: PluginId, along: Along = False, as_json: AsJson = False) -> None:
    """Stop a plugin; its groups keep their place."""
    _command(client, plugin_id, "stop", as_json, **(_WITH_DEPENDENTS if along else {}))


@app.command("enable")
@with_client
def enable_plugin(client: Client, plugin_id: PluginId, as_json: AsJson = False) -> None:
    """Start a plugin now and whenever the kernel starts, whatever plugbus.toml says."""
    _command(client, plugin_id, "enable", as_json)


@app.command("disable")
@with_client
def disable_plugin(
    client: Client, plugin_id: PluginId, along: Along = False, as_json: AsJson = False
) -> None:
    """Stop a plugin, and do not start it when the kernel starts, whatever plugbus.toml says."""
    _command(client, plugin_id, "disable", as_json, **(_WITH_DEPENDENTS if along else {}))


def _command(client: Client, plugin_id: str, verb: str, as_json: bool, **parameters: str) -> None:
    result = client.post(f"/admin/plugins/{word(plugin_id)}/{verb}", wait=_COMMAND_TIMEOUT, **parameters)
    if as_json:
        say_item(f"plugin.{verb}", result)
        return
    how = {"accepted": " (accepted; it goes on by itself)", "unchanged": " already"}
    say(f"{plugin_line(result['plugin'])}{how.get(result['outcome'], '')}")
    say_reason(result["plugin"])


def plugin_line(item: Mapping[str, Any]) -> str:
    """One plugin on one line."""
    mark, plugin_id, version, status, *_ = _row(item)
    return clean(f"{mark} {plugin_id}  {version}  {status}")


def say_reason(item: Mapping[str, Any]) -> None:
    """Why a plugin failed or was refused, and what to do; nothing where all is well."""
    reason = item.get("reason")
    if reason is None or item["status"] != "error":
        return
    first, *more = (f"{item['plugin_id']}: {reason['code']}: {reason['text']}").splitlines()
    say(f"✖ {short(clean(first), _REASON_WIDTH)}")
    for line in more[:_REASON_LINES]:  # a manifest with several problems names each on a line
        say(f"    {short(clean(line.strip()), _REASON_WIDTH)}")
    if reason.get("place"):
        say(f"    at:  {clean(reason['place'])}")
    if reason.get("next_step"):
        say(f"    fix: {clean(reason['next_step'])}")


def _row(item: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        "!" if _is_unwell(item) else _MARKS.get(item["status"], "·"),
        item["plugin_id"],
        item["version"],
        _status(item),
        _level(item),
        item.get("subscriptions", 0),
        ", ".join(item.get("capabilities", ())),
        item.get("source", ""),
    )


def _status(item: Mapping[str, Any]) -> str:
    busy = item.get("activity") not in (None, "", "none")
    status = f"{item['status']}, {item['activity']}" if busy else item["status"]
    reason = item.get("reason")
    return f"{status} ({reason['code']})" if reason else status


def _level(item: Mapping[str, Any]) -> str:
    requested, effective = item["level_requested"], item["level_effective"]
    return effective if requested == effective or not effective else f"{effective} (asked: {requested})"
