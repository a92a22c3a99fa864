"""A graph as text for Mermaid and for Graphviz. Pure; valid whatever the names are."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .output import clean

Graph = Mapping[str, Any]
Node = Mapping[str, Any]

_WISHES = ("optional", "order")
_MERMAID_SHAPES = {
    "plugin": ('["', '"]'), "kernel": ('[("', '")]'), "event": ('(["', '"])'),
    "group": ('[["', '"]]'), "capability": ('{{"', '"}}'),
}  # fmt: skip
_DOT_SHAPES = {
    "plugin": "box",
    "kernel": "cylinder",
    "event": "ellipse",
    "group": "box3d",
    "capability": "hexagon",
}
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _.-")


def mermaid(graph: Graph) -> Iterator[str]:
    """The lines of a flowchart; warnings as comments below."""
    ids = _ids(graph)
    yield "flowchart LR"
    for node in graph["nodes"]:
        opening, closing = _MERMAID_SHAPES[node["kind"]]
        yield f"  {ids[node['id']]}{opening}{_entities(label(node))}{closing}"
    for edge in graph["edges"]:
        arrow = "-.->" if edge["kind"] in _WISHES else "-->"
        yield f'  {ids[edge["source"]]} {arrow}|"{_entities(edge["kind"])}"| {ids[edge["target"]]}'
    marked = [ids[node["id"]] for node in graph["nodes"] if is_marked(node)]
    if marked:
        yield "  classDef warning stroke:#d33,stroke-width:2px,stroke-dasharray:5 3"
        yield f"  class {','.join(marked)} warning"
    # Braces in a comment would begin a directive.
    yield from (f"%% {line}".translate({ord("{"): "(", ord("}"): ")"}) for line in warnings(graph))


def dot(graph: Graph) -> Iterator[str]:
    """The lines of a digraph; warnings as comments below."""
    ids = _ids(graph)
    yield "digraph plugbus {"
    yield "  rankdir=LR;"
    for node in graph["nodes"]:
        style = ', color="red", style="dashed"' if is_marked(node) else ""
        yield f"  {ids[node['id']]} [label={_quoted(label(node))}, shape={_DOT_SHAPES[node['kind']]}{style}];"
    for edge in graph["edges"]:
        style = ', style="dashed"' if edge["kind"] in _WISHES else ""
        yield f"  {ids[edge['source']]} -> {ids[edge['target']]} [label={_quoted(edge['kind'])}{style}];"
    yield "}"
    yield from (f"// {line}" for line in warnings(graph))


def warnings(graph: Graph) -> list[str]:
    """One line for each."""
    return [
        clean(f"{one['code']}: {one['text']}" + (f"; fix: {one['fix']}" if one["fix"] else ""))
        for one in graph["warnings"]
    ]


def label(node: Node) -> str:
    """What a node is called, and what is to be known of it at once."""
    notes = [*([node["status"]] if node["status"] not in ("", "started", "active") else []), *node["marks"]]
    return clean(f"{node['name']} ({', '.join(notes)})" if notes else node["name"])


def is_marked(node: Node) -> bool:
    """Whether a warning is about it."""
    return bool(node["marks"]) or node["status"] == "missing"


def _ids(graph: Graph) -> dict[str, str]:
    """Names of our own: those of the nodes may be words of the language, or hold any character."""
    nodes: Sequence[Node] = graph["nodes"]
    return {node["id"]: f"n{number}" for number, node in enumerate(nodes, 1)}


def _entities(text: str) -> str:
    """Every character that could mean something as Mermaid's entity for it."""
    return "".join(one if one in _PLAIN else f"#{ord(one)};" for one in text)


def _quoted(text: str) -> str:
    """A string of the DOT language; a backslash or an ampersand alone would begin something else."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
    return f'"{escaped}"'
