"""How plugins hang together, as nodes and edges: by dependencies, events and capabilities."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from ..query import Query

GraphPart = Literal["plugins", "events", "capabilities", "all"]


class GraphNode(BaseModel):
    """Something that hangs together with others."""

    model_config = ConfigDict(frozen=True)

    id: str
    """`KIND:NAME`, unique in the graph."""
    kind: Literal["plugin", "kernel", "event", "group", "capability"]
    """`kernel`: the kernel or the bus, which publish and provide as plugins do."""
    name: str
    """A plugin's id; a type of events, a capability, or a pattern of them; a handler's group."""
    status: str = ""
    """Of a plugin: how it stands, `missing` where it was not found, empty where only other replicas have it.
    Of a group: `active`, `dormant`, `ephemeral`."""
    marks: tuple[Literal["unheard", "unpublished", "unprovided"], ...] = ()
    """An event that is published and handled by nobody; that is handled and published by nobody; a
    capability that is requested and provided by nobody."""


class GraphEdge(BaseModel):
    """From one node to another."""

    model_config = ConfigDict(frozen=True)

    source: str
    target: str
    kind: Literal[
        "dependency", "optional", "order", "publishes", "handled by", "of", "provides", "requested by"
    ]
    """From a plugin to one that it starts after (the first three), to what it publishes or provides; from an
    event to a group, from a group to its plugin; from a capability to a plugin."""


class GraphWarning(BaseModel):
    """Something that does not meet its other side."""

    model_config = ConfigDict(frozen=True)

    node: str
    code: Literal["unheard", "unpublished", "unprovided", "missing"]
    text: str
    fix: str = ""


class PluginGraph(BaseModel):
    """Nodes by kind and name, edges by their ends: the same plugins give the same graph."""

    model_config = ConfigDict(frozen=True)

    what: GraphPart
    nodes: tuple[GraphNode, ...] = ()
    edges: tuple[GraphEdge, ...] = ()
    warnings: tuple[GraphWarning, ...] = ()


class ShowGraph(Query[PluginGraph], capability="kernel.graph.show"):
    """How the plugins hang together, and what does not meet its other side."""

    what: GraphPart = "all"
