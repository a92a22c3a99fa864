"""`plugbus event diff`: whether one model of an event can read what another one writes."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from .client import Client, word
from .errors import ExitCode
from .output import AsJson, clean, say, say_item


def diff(
    client: Client,
    type: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type, e.g. orders.placed.")],
    start: Annotated[int | None, typer.Option("--from", min=1, help="The version that is written.")] = None,
    end: Annotated[int | None, typer.Option("--to", min=1, help="The version that reads it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions of an event type, and the models of its publishers and handlers.

    Exit code 1 if one of them cannot read what another one writes.
    """
    item = client.get(f"/admin/events/types/{word(type)}/diff", **{"from": start, "to": end})
    if as_json:
        say_item("event.diff", item)
    else:
        for line in told(item):
            say(clean(line))
    if not all(comparison["compatible"] for comparison in item["comparisons"]):
        raise typer.Exit(ExitCode.FAILED)


def told(item: Mapping[str, Any]) -> Iterator[str]:
    """A line for each difference, below the two that differ."""
    if not item["comparisons"]:
        versions = ", ".join(map(str, item["versions"]))
        yield f"{item['type']} (version {versions}): no publisher and handler with models of their own"
    for comparison in item["comparisons"]:
        writer, reader = comparison["writer"], comparison["reader"]
        if writer["version"] == reader["version"]:
            yield (
                f"{item['type']} version {writer['version']}, "
                f"published by {writer['plugin_id']}, handled by {reader['plugin_id']}"
            )
        else:
            yield f"{item['type']}, version {writer['version']} read as version {reader['version']}"
        yield from map(_line, comparison["differences"])
        if not comparison["differences"]:
            yield "  no difference"


def _line(difference: Mapping[str, Any]) -> str:
    mark = "✔" if difference["compatible"] else "✖"
    fix = f"; fix: {difference['fix']}" if difference["fix"] else ""
    return f"  {mark} {difference['field'] or '(whole)'}: {difference['text']}{fix}"
