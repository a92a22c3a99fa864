"""`plugbus bus …`: what the bus is, what is in force on it, and what it keeps."""

from collections.abc import Mapping
from typing import Any

import typer

from .client import Client, with_client
from .durations import per_second, span
from .output import AsJson, clean, json_line, say, say_fields, say_item, say_table, short

app = typer.Typer(help="The bus: info.")

DURABILITY = {
    "none": "none: what was published ends with the process",
    "weak": "weak: a crash of the server or of its machine may lose what was confirmed",
    "strong": "strong: what was confirmed is on disk",
}
_COLUMNS = ("TOPIC", "PARTITIONS", "EVENTS", "PEAK", "LIMIT", "RATE", "OLDEST", "HELD BY")
_FACT_WIDTH = 100


@app.callback()
def bus() -> None:
    """The bus: info."""


@app.command("info")
@with_client
def info(client: Client, as_json: AsJson = False) -> None:
    """Show what the backend is and promises, what is weak about it, and what each topic keeps."""
    item = client.get("/admin/bus")
    if as_json:
        say_item("bus.info", item)
        return
    say_fields(_fields(item))
    for warning in item["warnings"]:
        say(f"warning: {clean(warning)}")
    say_table(_COLUMNS, map(_row, item["topics"]))


def _fields(item: Mapping[str, Any]) -> dict[str, object]:
    others = [name for name in item["replicas"] if name != item["replica"]]
    return {
        "backend": " ".join(filter(None, (item["backend"], item["server"] and f"({item['server']})"))),
        "address": item["address"],
        "namespace": item["namespace"],
        "connected": "yes" if item["connected"] else "no: it does not answer",
        "durability": DURABILITY[item["durability"]] if item["connected"] else "not known",
        "replica": item["replica"],
        "other replicas": others,
        **{name: "yes" if has else "no" for name, has in item["features"].items()},
        **{name.replace("_", " "): fact(value) for name, value in item["details"].items()},
    }


def fact(value: object) -> str:
    """One fact of `details` on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return short(", ".join(f"{name}={_plain(each)}" for name, each in value.items()), _FACT_WIDTH)
    return short(_plain(value), _FACT_WIDTH)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json_line(value)


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
