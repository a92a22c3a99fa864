"""`plugbus bus …`: what the bus keeps."""

from collections.abc import Mapping
from typing import Any

import typer

from .client import Client, with_client
from .durations import per_second, span
from .output import AsJson, say_fields, say_item, say_table

app = typer.Typer(help="The bus: info.")

_COLUMNS = ("TOPIC", "PARTITIONS", "EVENTS", "PEAK", "LIMIT", "RATE", "OLDEST", "HELD BY")


@app.callback()
def bus() -> None:
    """The bus: info."""


@app.command("info")
@with_client
def info(client: Client, as_json: AsJson = False) -> None:
    """Show what the backend promises, and what each topic keeps and who holds it."""
    item = client.get("/admin/bus")
    if as_json:
        say_item("bus.info", item)
        return
    features = item["features"]
    say_fields(
        {"replica": item["replica"], **{name: "yes" if has else "no" for name, has in features.items()}}
    )
    say_table(_COLUMNS, map(_row, item["topics"]))


def _row(topic: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        topic["topic"],
        topic["partitions"],
        topic["events"],
        topic["peak"],
        topic["limit"],
        per_second(topic.get("rate", 0.0)),
        span(topic.get("oldest_age")),
        topic.get("holder"),
    )
