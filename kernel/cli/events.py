"""`plugbus event …`: the catalogue, publishing events, reading along, replays."""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from .arguments import Data, File, Pairs, read_data
from .catalogue import list_types, show_schema
from .client import Client, with_client
from .errors import CommandError, ExitCode
from .event_diff import diff
from .output import AsJson, note, say, say_event, say_item, say_json_line
from .replay import replay
from .sse import ServerEvent

app = typer.Typer(help="Events: list, schema, diff, publish, tail, replay.")
app.command("list")(with_client(list_types))
app.command("schema")(with_client(show_schema))
app.command("diff")(with_client(diff))

SOURCE = "urn:plugbus:cli"
_PAUSE = 1.0
"""Seconds between two tries to connect again, where the kernel does not say."""


@app.command("publish")
@with_client
def publish(
    client: Client,
    type: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type, e.g. orders.placed.")],
    pairs: Pairs = None,
    data: Data = None,
    file: File = None,
    key: Annotated[str | None, typer.Option(help="Events of one key are handled in order.")] = None,
    id: Annotated[str | None, typer.Option(help="The same id and source again is the same event.")] = None,
    subject: Annotated[str | None, typer.Option(help="What the event is about.")] = None,
    source: Annotated[str, typer.Option(help="Who publishes.")] = SOURCE,
    version: Annotated[int, typer.Option(min=1, help="Version of the event's type.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Publish one event: plugbus event publish orders.placed order_id=41 total=220.5"""
    optional = {"partitionkey": key, "subject": subject}
    event = {
        "specversion": "1.0",
        "id": id or uuid.uuid4().hex,
        "source": source,
        "type": type,
        "datacontenttype": "application/json",
        "dataschema": f"urn:plugbus:{type}:{version}",
        **{name: value for name, value in optional.items() if value is not None},
        "data": read_data(pairs, data, file),
    }
    receipt = client.post("/events", event, content_type="application/cloudevents+json")
    if as_json:
        say_item("event.publish", receipt)
        return
    again = " (known already: nothing new was published)" if receipt.get("duplicate") else ""
    say(f"published {type} id={receipt['id']} position={receipt['position']}{again}")


@app.command("tail")
@with_client
def tail(
    client: Client,
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN", help="orders.placed, 'orders.*', 'orders.**'"),
    ] = None,
    as_json: AsJson = False,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many events.")] = None,
) -> None:
    """Print events as they come, one a line, until Ctrl-C. Without a pattern: all but the kernel's own."""
    seen = 0
    for event in _follow(client, patterns or ["**"]):
        if event.event == "gap":
            note(f"{json.loads(event.data)['missed']} events were skipped")
        elif event.event == "event":
            _say(json.loads(event.data), as_json)
            seen += 1
        if seen == limit:
            return


def _say(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json_line(event)
    else:
        say_event(event, json.dumps(event.get("data"), ensure_ascii=False, separators=(",", ":")))


def _follow(client: Client, patterns: list[str]) -> Iterator[ServerEvent]:
    """The events of the stream; a stream that ends is opened again after the last one that came."""
    last_id: str | None = None
    pause, connected, told = _PAUSE, False, False
    while True:
        try:
            with client.stream("/events/stream", last_id=last_id, pattern=patterns) as events:
                connected, told = True, False
                for event in events:
                    pause = event.retry or pause
                    last_id = event.id or last_id
                    yield event
        except CommandError as error:
            if not connected or error.exit_code is not ExitCode.UNREACHABLE:
                raise
        if not told:
            note("the stream ended; waiting for the kernel (Ctrl-C ends)")
        told = True
        client.forget()
        time.sleep(pause)


app.command("replay")(with_client(replay))
