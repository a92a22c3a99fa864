"""`plugbus capability …`: what can be requested, and requesting it."""

from typing import Annotated

import typer

from .arguments import Data, Pairs, read_data
from .client import Client, with_client, word
from .output import AsJson, pretty, say, say_item, say_items, say_table

_MARGIN = 5.0
"""Seconds that the kernel may take to say that there was no answer in time."""

app = typer.Typer(help="Capabilities: list, request.")


@app.command("list")
@with_client
def list_capabilities(client: Client, as_json: AsJson = False) -> None:
    """List what can be requested, and who provides it."""
    items = client.get("/admin/capabilities")
    if as_json:
        say_items("capability.list", items)
        return
    rows = (
        (item["name"], ", ".join(p["plugin_id"] for p in item["providers"]), item.get("description", ""))
        for item in items
    )
    say_table(("CAPABILITY", "PROVIDERS", "DESCRIPTION"), rows)


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
