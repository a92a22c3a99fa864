"""`plugbus graph`: how plugins, events and capabilities hang together."""

import enum
from collections.abc import Iterator
from typing import Annotated

import typer

from .client import Client, with_client
from .diagrams import Graph, dot, label, mermaid, warnings
from .output import AsJson, clean, say, say_item


class Format(enum.StrEnum):
    """How the graph is printed."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    JSON = "json"


class Part(enum.StrEnum):
    """Which part of it."""

    PLUGINS = "plugins"
    EVENTS = "events"
    CAPABILITIES = "capabilities"
    ALL = "all"


_TIES = {"dependency": "needs", "optional": "optional", "order": "after"}
_THROUGH = {
    "event": ("events", "publishes", "handled by"),
    "capability": ("capabilities", "provides", "requested by"),
}


@with_client
def graph(
    client: Client,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print it.")] = Format.TEXT,
    what: Annotated[Part, typer.Option(help="Which part of it.")] = Part.ALL,
    as_json: AsJson = False,
) -> None:
    """Show how plugins, events and capabilities hang together; warnings of what has no other side below."""
    item = client.get("/admin/graph", what=what.value)
    if as_json or format is Format.JSON:
        say_item("graph", item)
        return
    lines = {Format.MERMAID: mermaid, Format.DOT: dot}.get(format, text)
    for line in lines(item):
        say(line)


def text(graph: Graph) -> Iterator[str]:
    """The lines for people: plugins with what they start after, events and capabilities with both sides."""
    labels = {node["id"]: label(node) for node in graph["nodes"]}
    if graph["what"] in ("plugins", "all"):
        yield "plugins"
        yield from _plugins(graph, labels)
    for kind, (title, coming, going) in _THROUGH.items():
        if graph["what"] in (title, "all"):
            yield title
            yield from _through(graph, labels, kind, coming, going)
    told = warnings(graph)
    if told:
        yield "warnings"
        yield from (f"  {line}" for line in told)


def _plugins(graph: Graph, labels: dict[str, str]) -> Iterator[str]:
    for node in graph["nodes"]:
        if node["kind"] == "plugin":
            ties = [
                f"{_TIES[edge['kind']]} {labels[edge['target']]}"
                for edge in graph["edges"]
                if edge["source"] == node["id"] and edge["kind"] in _TIES
            ]
            yield f"  {labels[node['id']]}{': ' if ties else ''}{', '.join(ties)}"


def _through(graph: Graph, labels: dict[str, str], kind: str, coming: str, going: str) -> Iterator[str]:
    """`who → what → whom`, nobody where there is none."""
    for node in graph["nodes"]:
        if node["kind"] == kind:
            edges = graph["edges"]
            before = [labels[e["source"]] for e in edges if e["target"] == node["id"] and e["kind"] == coming]
            behind = [labels[e["target"]] for e in edges if e["source"] == node["id"] and e["kind"] == going]
            sides = (", ".join(before) or "nobody", labels[node["id"]], ", ".join(behind) or "nobody")
            yield clean(f"  {' → '.join(sides)}")
