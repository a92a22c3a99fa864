"""`plugbus capability …`: what can be requested, of whom, and requesting it."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .arguments import Data, Pairs, read_data
from .client import Client, with_client, word
from .output import AsJson, pretty, say, say_fields, say_item, say_items, say_table

_MARGIN = 5.0
"""Seconds that the kernel may take to say that there was no answer in time."""

app = typer.Typer(help="Capabilities: list, show, request.")


@app.command("list")
@with_client
def list_capabilities(client: Client, as_json: AsJson = False) -> None:
    """List what can be requested, and who provides it."""
    items = client.get("/admin/capabilities")
    if as_json:
        say_items("capability.list", items)
        return
    rows = (
        (item["name"], ", ".join(map(_ranked, item["providers"])), item.get("description", ""))
        for item in items
    )
    say_table(("CAPABILITY", "PROVIDERS", "DESCRIPTION"), rows)


@app.command("show")
@with_client
def show_capability(
    client: Client,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The capability, e.g. alerts.active.")],
    as_json: AsJson = False,
) -> None:
    """Show who provides a capability, in the order in which they are asked, and how to ask."""
    item = client.get(f"/admin/capabilities/{word(name)}")
    if as_json:
        say_item("capability.show", item)
        return
    say_fields(
        {
            "capability": item["name"],
            "description": item.get("description"),
            "not started": item.get("idle"),
        }
    )
    rows = (
        (number, p["plugin_id"], p.get("rank", 0), p["replica"], p["reach"])
        for number, p in enumerate(item["providers"], 1)
    )
    say_table(("", "PLUGIN", "RANK", "REPLICA", "REACH"), rows)
    for title, key in (("query:", "query_schema"), ("answer:", "answer_schema")):
        if item.get(key):
            say(title)
            say(pretty(item[key]))


def _ranked(provider: Mapping[str, Any]) -> str:
    """A provider, with its rank where it has another one than all have by default."""
    rank = provider.get("rank", 0)
    return f"{provider['plugin_id']} ({rank})" if rank else str(provider["plugin_id"])


@app.command("request")
@with_client
def request(
    client: Client,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The capability, e.g. alerts.active.")],
    pairs: Pairs = None,
    data: Data = None,
    timeout: Annotated[float, typer.Option(min=0.01, max=300, help="Seconds to wait for the answer.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Request a capability and print the answer: plugbus capability request pricing.quote sku=a"""
    path = f"/admin/capabilities/{word(name)}"
    answer = client.post(path, read_data(pairs, data), wait=timeout + _MARGIN, timeout=timeout)
    if as_json:
        say_item("capability.request", answer)
    else:
        say(pretty(answer))
