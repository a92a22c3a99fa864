"""What has happened lately, for the bundle: log and spans, without what may be the data of events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..client import Client

LEFT_OUT = "…"
_KEPT = (
    "messaging.", "plugbus.", "server.", "rpc.", "error.type", "cloudevents.event_type",
    "http.route", "http.request.method", "http.response.status_code",
)  # fmt: skip
"""Beginnings of attributes whose values are names and numbers; others have URLs, or what a plugin likes."""
_OURS = frozenset({"messaging.system", "rpc.system.name", "plugbus.plugin.id", "http.route"})
"""What has one of them is a span of ours; what others call theirs may be anything."""


def log_text(client: Client) -> str:
    """The last lines of the kernel's log; they come without data."""
    record = client.get("/admin/log")
    if not record["most"]:
        return "The kernel is part of an application, whose log this is in.\n"
    dropped = [f"{record['dropped']} older lines had to go"] if record["dropped"] else []
    return "".join(f"{line}\n" for line in (*dropped, *map(_line, record["lines"])))


def _line(line: Mapping[str, str]) -> str:
    error = f" | {line['error']}" if line["error"] else ""
    names = ("plugin_id", "event_type", "event_id", "trace_id")
    more = "".join(f" {name.removesuffix('_id')}={line[name]}" for name in names if line[name])
    return f"{line['at']} {line['level']:<7} {line['logger']}: {line['text']}{error}{more}"


def last_spans(client: Client) -> dict[str, Any]:
    """What the plugin telemetry keeps, the newest of it; errors by their type."""
    record = client.get("/admin/traces")
    return {**record, "steps": list(_without_data(record["steps"]))}


def _without_data(steps: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for step in steps:
        attributes = {name: value for name, value in step["attributes"].items() if name.startswith(_KEPT)}
        name = step["name"] if _OURS & attributes.keys() else LEFT_OUT
        errors = [error.partition(":")[0] for error in step["errors"]]
        yield {**step, "name": name, "errors": errors, "attributes": attributes}


def groups_without_words(client: Client) -> list[dict[str, Any]]:
    """Why a group is paused may be an error of its handler, which quotes what it could not handle."""
    groups = client.get("/admin/groups")
    return [{**group, "paused": group["paused"] and LEFT_OUT} for group in groups]
