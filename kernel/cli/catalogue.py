"""`plugbus event list` and `schema`: the types of events, who publishes and who handles them."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .client import Client
from .errors import CommandError, ExitCode
from .output import AsJson, pretty, say, say_item, say_items, say_table, short


def list_types(
    client: Client,
    pattern: Annotated[
        str | None, typer.Argument(metavar="PATTERN", help="orders.placed, 'orders.*', 'orders.**'")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List event types with who publishes and handles them. Without a pattern: all but the kernel's own."""
    items = client.get("/admin/events/types", pattern=pattern or "**")
    if as_json:
        say_items("event.list", items)
    elif not items:
        say("no event types")
    else:
        say_table(("TYPE", "VERSION", "PUBLISHED BY", "HANDLED BY", "DESCRIPTION"), map(_row, items))


def _row(item: Mapping[str, Any]) -> tuple[Any, ...]:
    description = next(iter(item.get("description", "").splitlines()), "")
    return (
        item["type"],
        item["version"],
        short(", ".join(item["publishers"]) or "-", 30),
        short(", ".join(item["handlers"]) or "-", 40),
        short(description, 40),
    )


def show_schema(
    client: Client,
    type: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type, e.g. orders.placed.")],
    version: Annotated[int | None, typer.Option(min=1, help="Which version; else the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the JSON Schema of an event type."""
    items = client.get("/admin/events/types")
    versions = {item["version"]: item for item in items if item["type"] == type}
    if not versions:
        raise _unknown_type(type, {item["type"] for item in items})
    if version is not None and version not in versions:
        raise _not_found(
            f"{type} has no version {version}", f"it has {', '.join(map(str, sorted(versions)))}"
        )
    item = versions[max(versions) if version is None else version]
    if as_json:
        say_item("event.schema", item)
    else:
        say(pretty(item["json_schema"]))


def _unknown_type(type: str, known: set[str]) -> CommandError:
    near = difflib.get_close_matches(type, sorted(known), n=3)
    meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return _not_found(
        f"no plugin that is started declares the event type {type!r}", f"{meant}plugbus event list"
    )


def _not_found(message: str, fix: str) -> CommandError:
    return CommandError("event-type-not-found", message, fix=fix, exit_code=ExitCode.NOT_FOUND)
