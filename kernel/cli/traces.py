"""`plugbus trace …`: what led to what, as the telemetry plugin keeps it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from .client import Client, with_client, word
from .durations import span
from .output import AsJson, clean, local, say, say_item

app = typer.Typer(help="Traces of flows: show.")

Step = Mapping[str, Any]


@app.callback()
def trace() -> None:
    """Traces of flows: show."""


@app.command("show")
@with_client
def show(
    client: Client,
    id: Annotated[str, typer.Argument(metavar="EVENT_ID|TRACE_ID", help="Of an event, or of its trace.")],
    as_json: AsJson = False,
) -> None:
    """Show the tree of what led to what: durations, attempts, outcomes."""
    records = client.get(f"/admin/traces/{word(id)}")
    if as_json:
        say_item("trace.show", records)
        return
    steps = [{**step, "replica": record["replica"]} for record in records for step in record["steps"]]
    steps.sort(key=_start)
    for trace_id in dict.fromkeys(step["trace_id"] for step in steps):
        of_trace = [step for step in steps if step["trace_id"] == trace_id]
        say(f"trace {trace_id}, {local(of_trace[0]['start'])[:19]}")
        for line in tree(of_trace):
            say(line)
    for record in records:
        say(_kept(record))


def tree(steps: Sequence[Step]) -> Iterator[str]:
    """A line for each, below what caused it; what comes from elsewhere begins a tree of its own.

    `steps`: the earliest first. Where they happened on several kernels, each line tells on which.
    """
    is_shared = len({step["replica"] for step in steps}) > 1
    known = {step["span_id"] for step in steps}
    below: dict[str | None, list[Step]] = {}
    for step in steps:
        parent = step.get("parent_id")
        below.setdefault(parent if parent in known else None, []).append(step)
    begin = _start(steps[0])
    todo = [(step, 0) for step in reversed(below.get(None, []))]
    while todo:
        step, depth = todo.pop()
        yield _line(step, depth, begin) + (f" @{clean(step['replica'])}" if is_shared else "")
        todo += [(child, depth + 1) for child in reversed(below.get(step["span_id"], []))]


def _line(step: Step, depth: int, begin: datetime) -> str:
    after = (_start(step) - begin).total_seconds()
    what = " ".join(
        part for part in (
            step["name"], step.get("event_type"), step.get("group"),
            f"attempt {step['attempt']}" if step["attempt"] > 1 else "", _outcome(step),
        ) if part
    )  # fmt: skip
    return clean(f"{'  ' * depth}+{after * 1e3:.1f} ms  {step['duration'] * 1e3:.1f} ms  {what}")


def _outcome(step: Step) -> str:
    errors = f": {step['errors'][-1]}" if step["errors"] else ""
    if step["is_error"]:
        return f"ERROR {step['outcome']}{errors}".replace("  ", " ")
    return f"{step['outcome']}{errors}" if step["outcome"] else ""


def _kept(record: Mapping[str, Any]) -> str:
    age = ""
    if record.get("oldest"):
        seconds = (datetime.now().astimezone() - datetime.fromisoformat(record["oldest"])).total_seconds()
        age = f", the oldest {span(seconds)} old"
    dropped = f", {record['dropped']:,} dropped" if record["dropped"] else ""
    dropped += f", {record['lost']:,} not exported" if record.get("lost") else ""
    name = f"{clean(record['replica'])}: " if record["replica"] else ""
    return f"{name}{record['kept']:,} of at most {record['most']:,} spans kept{age}{dropped}"


def _start(step: Step) -> datetime:
    return datetime.fromisoformat(step["start"])
