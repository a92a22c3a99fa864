"""`plugbus group …`: what each handler's group holds; pausing, resuming and dropping it."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .client import Client, with_client, word
from .durations import per_second, span
from .errors import CommandError, usage
from .output import AsJson, clean, say, say_fields, say_item, say_items, say_table, short_name

app = typer.Typer(help="Groups, one for each handler: list, show, pause, resume, drop.")

Group = Annotated[str, typer.Argument(metavar="GROUP", help="The group's name, e.g. alerts.watch.")]

_COLUMNS = ("GROUP", "STATE", "WAITING", "OLDEST", "IN FLIGHT", "PARKED", "DEAD", "RATE", "OWNERS")


@app.command("list")
@with_client
def list_groups(client: Client, as_json: AsJson = False) -> None:
    """List all groups with what waits, runs, is parked and dead. --json has long names whole."""
    items = client.get("/admin/groups")
    if as_json:
        say_items("group.list", items)
        return
    if not items:
        say("no groups")
        return
    say_table(_COLUMNS, map(_row, items), cut=0, how=short_name)
    for item in items:
        _say_paused(item)


def _row(item: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        item["group"],
        "paused" if item.get("paused") is not None else item["state"],
        item["waiting"],
        span(item.get("oldest_age")),
        item["in_flight"],
        item["parked"],
        item["dead"],
        per_second(item.get("rate", 0.0)),
        len(item.get("owners", ())),
    )


def _say_paused(item: Mapping[str, Any]) -> None:
    if item.get("paused") is not None:
        why = f": {item['paused']}" if item["paused"] else ""
        say(clean(f"{item['group']} is paused{why} (plugbus group resume {item['group']})"))


@app.command("show")
@with_client
def show_group(client: Client, group: Group, as_json: AsJson = False) -> None:
    """Show everything that is known of one group."""
    item = client.get(f"/admin/groups/{word(group)}")
    if as_json:
        say_item("group.show", item)
    else:
        _say_group(item)


def _say_group(item: Mapping[str, Any]) -> None:
    owners = [f"{replica} ({count})" for replica, count in item.get("owners", {}).items()]
    counted = ("discarded", "expired", "filtered", "repeated", "dropped", "stale", "replaying")
    say_fields(
        {
            "group": item["group"],
            "plugin": item["plugin_id"],
            "patterns": item["patterns"],
            "state": item["state"],
            "paused": item.get("paused"),
            "waiting": f"{item['waiting']} (at most {item['peak']})",
            "oldest": span(item.get("oldest_age")),
            "in flight": item["in_flight"],
            "parked": item["parked"],
            "dead": item["dead"],
            "handled": f"{item['handled']} ({per_second(item.get('rate', 0.0))})",
            "failed attempts": item["failed"],
            **{name: item.get(name) or None for name in counted},
            "open breakers": item.get("open_breakers"),
            "owners (partitions)": owners,
        }
    )
    _say_paused(item)


@app.command("pause")
@with_client
def pause(
    client: Client,
    group: Group,
    reason: Annotated[str, typer.Option(help="Shown to whoever finds it paused.")] = "",
    as_json: AsJson = False,
) -> None:
    """Start nothing more of a group until it is resumed; it keeps its place."""
    item = client.post(f"/admin/groups/{word(group)}/pause", {"reason": reason})
    if as_json:
        say_item("group.pause", item)
    else:
        _say_paused(item)


@app.command("resume")
@with_client
def resume(client: Client, group: Group, as_json: AsJson = False) -> None:
    """Let a paused group go on."""
    item = client.post(f"/admin/groups/{word(group)}/resume")
    if as_json:
        say_item("group.resume", item)
    else:
        say(clean(f"{item['group']} goes on: {item['waiting']} waiting, {item['parked']} parked"))


@app.command("drop")
@with_client
def drop(
    client: Client,
    group: Group,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a group up that nobody handles: its place, its lot, its dead letters."""
    path = f"/admin/groups/{word(group)}"
    if not yes:
        _confirm(client, path, group)
    item = client.post(f"{path}/drop")
    if as_json:
        say_item("group.drop", item)
    else:
        say(clean(f"dropped {item['group']}: {_given_up(item)} given up"))


def _confirm(client: Client, path: str, group: str) -> None:
    if not sys.stdin.isatty():
        raise usage("dropping cannot be undone, and nobody is here to ask", "add --yes")
    if not typer.confirm(clean(f"drop {group} with {_given_up(client.get(path))} for good?")):
        raise CommandError("declined", "nothing was dropped")


def _given_up(item: Mapping[str, Any]) -> str:
    return f"{item['waiting']} waiting, {item['parked']} parked, {item['dead']} dead"
