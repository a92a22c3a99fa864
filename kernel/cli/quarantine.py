"""`plugbus plugin quarantine …`: plugins that are not started until somebody has looked."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .client import Client, with_client, word
from .output import AsJson, clean, say, say_item, say_items, short

app = typer.Typer(help="Plugins that are not started until they are released: list, add, release.")

PluginId = Annotated[str, typer.Argument(metavar="PLUGIN", help="The plugin's id.")]

_WIDTH = 200
_TIMEOUT = 130.0
"""Seconds; the kernel has deadlines of its own for each step, and answers sooner."""


@app.command("list")
@with_client
def list_quarantine(client: Client, as_json: AsJson = False) -> None:
    """List the plugins in quarantine, and what they did."""
    items = client.get("/admin/quarantine")
    if as_json:
        say_items("plugin.quarantine.list", items)
        return
    for item in items:
        _say_entry(item)
    if not items:
        say("no plugin is in quarantine")


@app.command("add")
@with_client
def add(
    client: Client,
    plugin_id: PluginId,
    reason: Annotated[str, typer.Option(help="Shown to whoever finds it there.")] = "an operator asked",
    as_json: AsJson = False,
) -> None:
    """Stop a plugin, and do not start it until it is released; over restarts of the kernel too."""
    path = f"/admin/plugins/{word(plugin_id)}/quarantine"
    change = client.post(path, {"reason": reason}, wait=_TIMEOUT)
    if as_json:
        say_item("plugin.quarantine.add", change)
    elif change["outcome"] == "accepted":
        say(clean(f"{plugin_id}: accepted; it is stopped first"))
    else:
        _say_entry(change["entry"])


@app.command("release")
@with_client
def release(client: Client, plugin_id: PluginId, as_json: AsJson = False) -> None:
    """Let a plugin be started again; its failed starts are forgotten."""
    change = client.post(f"/admin/plugins/{word(plugin_id)}/quarantine/release")
    if as_json:
        say_item("plugin.quarantine.release", change)
    elif change["outcome"] == "unchanged":
        say(clean(f"{plugin_id} is not in quarantine"))
    else:
        say(clean(f"{plugin_id} is released; to start it: plugbus plugin start {plugin_id}"))


def _say_entry(entry: Mapping[str, Any]) -> None:
    when = str(entry["since"])[:19].replace("T", " ")
    say(short(clean(f"✖ {entry['plugin_id']}  since {when} by {entry['by']}: {entry['reason']}"), _WIDTH))
    say(clean(f"    fix: mend it, then: plugbus plugin quarantine release {entry['plugin_id']}"))
