"""The graph of plugins, events and capabilities, and what in it does not meet its other side. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from contracts.bus import CatalogEntry, ProviderInfo
from contracts.messages.graph import GraphEdge, GraphNode, GraphPart, GraphWarning, PluginGraph
from contracts.patterns import covered, is_type_name, overlaps

from .registry import PluginRecord
from .ties import ties_of
from .traffic import ANYTHING, Handling, Speech, handlers_of, is_reserved, providers_of, publishers_of

NodeKind: TypeAlias = Literal["plugin", "kernel", "event", "group", "capability"]
EdgeKind: TypeAlias = Literal[
    "dependency", "optional", "order", "publishes", "handled by", "of", "provides", "requested by"
]
Mark: TypeAlias = Literal["unheard", "unpublished", "unprovided"]
MISSING = "missing"
_OURS = ("kernel", "bus")
_ALIKE = 3
"""So many types that one pattern stands for are told one by one."""
_KINDS = ("plugin", "kernel", "event", "group", "capability")


class GraphBuilder:
    """Collects nodes and edges, each once, whoever names them."""

    def __init__(self, records: Iterable[PluginRecord]) -> None:
        self._records = {record.plugin_id: record for record in records}
        self._nodes: dict[str, GraphNode] = {}
        self._edges: set[tuple[str, str, EdgeKind]] = set()
        self._warnings: list[GraphWarning] = []

    def graph(self, what: GraphPart) -> PluginGraph:
        """All that was added, in an order that depends on nothing but the names."""
        edges = sorted(self._edges)
        return PluginGraph(
            what=what,
            nodes=tuple(sorted(self._nodes.values(), key=lambda node: (_KINDS.index(node.kind), node.name))),
            edges=tuple(GraphEdge(source=start, target=end, kind=kind) for start, end, kind in edges),
            warnings=tuple(sorted(self._warnings, key=lambda one: (one.code, one.node))),
        )

    def _node(self, kind: NodeKind, name: str, status: str = "", *marks: Mark) -> str:
        id = f"{kind}:{name}"
        if id not in self._nodes:
            self._nodes[id] = GraphNode(id=id, kind=kind, name=name, status=status, marks=marks)
        return id

    def _plugin(self, plugin_id: str, otherwise: str = "") -> str:
        record = self._records.get(plugin_id)
        if record is None and plugin_id in _OURS:
            return self._node("kernel", plugin_id)
        return self._node("plugin", plugin_id, record.status.value if record else otherwise)

    def _edge(self, source: str, target: str, kind: EdgeKind) -> None:
        self._edges.add((source, target, kind))

    def _warn(self, node: str, code: Literal[Mark, "missing"], text: str, fix: str) -> None:
        self._warnings.append(GraphWarning(node=node, code=code, text=text, fix=fix))

    # --- plugins --------------------------------------------------------------------------------------------

    def add_plugins(self) -> None:
        """Every plugin that was found, and what it starts after."""
        for plugin_id, record in self._records.items():
            node = self._plugin(plugin_id)
            for other, (tie, _) in ties_of(record.metadata).items():
                if other not in self._records and tie != "dependency":
                    continue  # a wish that cannot be met is nothing to look at
                self._edge(node, needed := self._plugin(other, MISSING), tie)
                if other not in self._records:
                    text = f"{plugin_id} needs {other}, which is not installed"
                    self._warn(needed, "missing", text, f"install {other}, or remove the dependency")

    # --- events ---------------------------------------------------------------------------------------------

    def add_events(
        self,
        speeches: Sequence[Speech],
        idle: Sequence[Speech],
        handlings: Sequence[Handling],
        own: Sequence[CatalogEntry],
    ) -> None:
        """Publisher → type → group. Of what kernel and bus say only what a plugin handles, as it names it."""
        patterns = sorted({pattern for one in handlings for pattern in one.patterns})
        names = _without_alike(speeches, handlings)
        for name in names:
            self._add_event(name, speeches, idle, handlings, own)
        for pattern in patterns:
            if is_reserved(pattern) or not any(overlaps(pattern, name) for name in names):
                self._add_event(pattern, speeches, idle, handlings, own)

    def _add_event(
        self,
        name: str,
        speeches: Sequence[Speech],
        idle: Sequence[Speech],
        handlings: Sequence[Handling],
        own: Sequence[CatalogEntry],
    ) -> None:
        groups = [one for one in handlings if any(_meet(pattern, name) for pattern in one.patterns)]
        publishers = publishers_of(name, speeches, own)
        if not publishers and name == ANYTHING:
            return
        marks: tuple[Mark, ...] = () if publishers else ("unpublished",)
        node = self._node("event", name, "", *(marks if groups else ("unheard",)))
        for publisher in publishers:
            self._edge(self._plugin(publisher), node, "publishes")
        for one in groups:
            self._edge(node, self._node("group", one.group, one.state), "handled by")
        if not groups:
            text = f"{name} is published by {', '.join(publishers)} and handled by nobody"
            self._warn(
                node, "unheard", text, f"handle it with @on; plugbus event tail '{name}' shows what comes"
            )
        if not publishers:
            self._warn(
                node,
                "unpublished",
                f"{name} is handled by {', '.join(sorted(one.group for one in groups))}, "
                "and no plugin that is loaded says that it publishes it",
                _publish_fix(name, idle),
            )

    def add_groups(self, handlings: Iterable[Handling]) -> None:
        """Group → plugin, so that a graph of everything hangs together."""
        for one in handlings:
            if f"group:{one.group}" in self._nodes:
                self._edge(f"group:{one.group}", self._plugin(one.plugin_id), "of")

    # --- capabilities ---------------------------------------------------------------------------------------

    def add_capabilities(
        self, speeches: Sequence[Speech], idle: Sequence[Speech], providers: Sequence[ProviderInfo]
    ) -> None:
        """Provider → capability → requester. Of the kernel's own only what a plugin requests."""
        asked = sorted({name for speech in speeches for name in speech.requests} - {ANYTHING})
        provided = {info.capability for info in providers if not is_reserved(info.capability)}
        for name in sorted(provided):
            self._add_capability(name, speeches, providers)
        for name in asked:
            if name in provided or (any(covered((name,), one) for one in provided)):
                continue
            node = self._add_capability(name, speeches, providers)
            if not providers_of(name, providers) and is_type_name(name):
                self._unprovided(node, name, speeches, idle)

    def _add_capability(
        self, name: str, speeches: Sequence[Speech], providers: Sequence[ProviderInfo]
    ) -> str:
        found = providers_of(name, providers)
        marks: tuple[Mark, ...] = ("unprovided",) if not found and is_type_name(name) else ()
        node = self._node("capability", name, "", *marks)
        for provider in found:
            self._edge(self._plugin(provider), node, "provides")
        for speech in speeches:
            if any(one != ANYTHING and _meet(one, name) for one in speech.requests):
                self._edge(node, self._plugin(speech.plugin_id), "requested by")
        return node

    def _unprovided(self, node: str, name: str, speeches: Sequence[Speech], idle: Sequence[Speech]) -> None:
        askers = sorted(speech.plugin_id for speech in speeches if covered(speech.requests, name))
        could = sorted(speech.plugin_id for speech in idle if covered(speech.provides, name))
        fix = f"plugbus plugin start {could[0]}" if could else "install or start a plugin that provides it"
        self._warn(
            node, "unprovided", f"{name} is requested by {', '.join(askers)} and provided by nobody", fix
        )


def _without_alike(speeches: Sequence[Speech], handlings: Sequence[Handling]) -> list[str]:
    """What is published; one pattern for many types that a manifest grants by it, if all go the same way."""
    names = {name for speech in speeches for name in speech.publishes} - {ANYTHING}
    for wide in sorted({wide for speech in speeches for wide in speech.wide} - {ANYTHING}):
        types = sorted(name for name in names if covered((wide,), name))
        ways = {
            (
                tuple(publishers_of(name, speeches, ())),
                tuple(sorted(one.group for one in handlers_of(name, handlings))),
            )
            for name in types
        }
        if len(types) > _ALIKE and len(ways) == 1:
            names = names.difference(types) | {wide}
    return sorted(names)


def _meet(pattern: str, name: str) -> bool:
    """Whether a pattern that a plugin names has to do with the node `name`.

    A node of a reserved topic is a pattern as somebody wrote it: only whoever names all of it belongs there,
    so that `plugin.**` does not lead to the handler of `plugin.failed`, but the other way round.
    """
    return covered((pattern,), name) if is_reserved(name) else overlaps(pattern, name)


def _publish_fix(name: str, idle: Sequence[Speech]) -> str:
    if is_reserved(name):
        return "plugbus event list 'plugin.**' (or kernel, bus, audit) names what there is"
    if could := publishers_of(name, idle, ()):
        return f"plugbus plugin start {could[0]}"
    return (
        f'where a plugin does, publishes = ["{name}"] in its manifest says so; else it comes from outside '
        "only (POST /events)"
    )
